import math
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.config import Experiment, ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.config.model import OUTPUT_STRIDES
from deeplab_tf.data.catalog import DatasetInfo, numbered_classes
from deeplab_tf.evaluation import tables
from deeplab_tf.messages import UserError
from deeplab_tf.reporting import made, results
from deeplab_tf.reporting.scored import ImageScore, Scored


def image(number, miou):
    return ImageScore(number, f"i{number}", 4, 5, 20, miou)


def test_best_and_worst_do_not_share_images():
    scores = [0.5, math.nan, 0.1, 0.9, 0.5]
    scored = Scored(None, {}, [image(i, miou) for i, miou in enumerate(scores)], None)
    worst, best = scored.extremes(3)
    assert [i.number for i in worst] == [2, 0]
    assert [i.number for i in best] == [3, 4]
    assert [[i.number for i in group] for group in scored.extremes(1)] == [[2], [3]]
    assert scored.extremes(0) == ([], [])


def test_one_image_is_shown_once_and_none_without_headings():
    one = Scored(None, {}, [image(0, 0.5)], None)
    assert [len(group) for group in one.extremes(4)] == [1, 0]
    scored = Scored(Path("eval"), {}, [image(0, math.nan)], None)
    assert not list(results.images(scored, {}, [], scored.extremes(4)).iter("h3"))


def test_a_confusion_matrix_survives_its_file():
    matrix = np.array([[3, 0], [2**40, 1]])
    names = ["a,b", 'c "d"\n']
    np.testing.assert_array_equal(
        tables.parse_confusion_matrix(tables.confusion_matrix(matrix, names), names), matrix
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it lists other classes"),
        ("label,a,c\na,1,2\nc,3,4\n", "it lists other classes"),
        ("label,a,b\na,1,2\n", "it lists other classes"),
        ("label,a,b\na,1\nb,3,4\n", "a line has too few or too many"),
        ("label,a,b\na,1,x\nb,3,4\n", "invalid literal"),
        ("label,a,b\na,1,-1\nb,3,4\n", "negative"),
        ("label,a,b\na,1,99999999999999999999\nb,3,4\n", "too large"),
    ],
)
def test_a_damaged_matrix_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        tables.parse_confusion_matrix(text, ["a", "b"])


@pytest.mark.parametrize("classes", [24, 25, 150])
def test_a_matrix_of_any_size_is_a_table_and_a_list(classes):
    """Class 2 is taken for class 5 in 30 of 1000 pixels, for class 6 in 4: the only confusions."""
    matrix = 1000 * np.eye(classes, dtype=np.int64)
    matrix[2, 2], matrix[2, 5], matrix[2, 6] = 966, 30, 4
    info = DatasetInfo(name="n", classes=numbered_classes(classes))
    section = results.confusion(Scored(None, {}, [], matrix), info, None)
    shown, confusions = section.iter("table")
    rows = ["|".join(row.itertext()) for row in confusions.find("tbody")]
    names = info.class_names
    expected = [f"{names[2]}|{names[5]}|3.00|88.24|30", f"{names[2]}|{names[6]}|0.40|11.76|4"]
    assert rows == expected

    assert [cell.text for cell in shown.find("thead")[0]][1:] == names
    assert len(shown.find("tbody")) == classes
    cells = ["".join(cell.itertext()) for cell in shown.find("tbody")[2]]
    if classes == 24:
        assert cells[:8] == [names[2], "0.0", "0.0", "96.6", "0.0", "0.0", "3.0", "0.4"]
    else:  # whole percents, and nothing below a half
        assert cells[:8] == [names[2], "", "", "97", "", "", "3", ""]
    assert len(cells) == classes + 1


def test_classes_without_pixels_have_no_shares():
    info = DatasetInfo(name="n", classes=numbered_classes(2))
    section = results.confusion(Scored(None, {}, [], np.array([[5, 0], [0, 0]])), info, None)
    assert "".join(next(section.iter("tbody"))[1].itertext()).endswith("n/an/a")
    assert "No pixel is predicted as another class." in "".join(section.itertext())


@pytest.mark.parametrize("stride", OUTPUT_STRIDES)
def test_a_plain_network_of_each_kind_departs_from_nothing(stride):
    """What follows from the kind of network is no choice of a run."""
    for variant in BACKBONES:
        try:
            model = ModelConfig(model_variant=variant, output_stride=stride)
        except UserError:
            continue
        rows = list(made.recipe(Experiment(model=model)).iter("tbody"))[0]
        shown = [row[0].text for row in rows]
        # The defaults are mobilenet_v2 at 16.
        assert shown == ["--model_variant"] + ["--output_stride"] * (stride != 16)

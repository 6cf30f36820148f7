import numpy as np
import pytest

from datasets import build_cityscapes_data
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError
from tests import trees

# cityscapesScripts, helpers/labels.py: id -> trainId; all others are ignored.
TRAIN_IDS = dict(zip([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33], range(19), strict=True))


@pytest.fixture
def raw(tmp_path):
    trees.cityscapes(tmp_path)
    return tmp_path


def build(raw, **settings):
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(raw), output_dir=str(raw / "out"), num_processes=1, **settings
        )
    )


def labels(raw, split):
    return {name: label for name, (_, label) in trees.read_back(raw / "out", split).items()}


def test_label_ids_become_train_ids(raw):
    build(raw)
    found = labels(raw, "train_fine")
    assert list(found) == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "zurich_000002_000019",
    ]
    ids = trees.label_of(trees.CITYSCAPES_IDS, 0)
    expected = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(ids)
    np.testing.assert_array_equal(found["aachen_000000_000019"], expected)
    assert set(np.unique(expected)) == {*range(19), 255}
    assert list(labels(raw, "val_fine")) == ["munster_000001_000019", "munster_000003_000019"]


def test_files_that_are_no_images_of_the_set_are_left_out_and_counted(raw, capsys):
    folder = raw / "leftImg8bit" / "val" / "munster"
    for name in ("._munster_000001_000019_leftImg8bit.png", "munster_000001_000019_other.png"):
        (folder / name).write_bytes(b"")
    build(raw, splits=("val_fine",))
    assert len(labels(raw, "val_fine")) == 2
    told = "val: 2 images; left out: 1 hidden (.*), 1 without _leftImg8bit.png."
    assert told in capsys.readouterr().err


def test_the_test_split_has_no_labels(raw):
    build(raw)
    assert labels(raw, "test_fine") == {"berlin_000000_000019": None, "berlin_000002_000019": None}
    info = catalog.load("cityscapes", raw / "out")
    with pytest.raises(UserError, match="'test_fine' in .* has no labels"):
        records.open_split(raw / "out", "test_fine", info)


def test_coarse_labels_come_with_the_extra_images(raw):
    build(raw, splits=("train_coarse", "trainval_fine", "trainval_coarse"))
    assert list(labels(raw, "train_coarse")) == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "zurich_000002_000019",
        "erlangen_000003_000019",
    ]
    expected = trees.label_of([TRAIN_IDS.get(i, 255) for i in trees.CITYSCAPES_IDS[::-1]], 3)
    np.testing.assert_array_equal(labels(raw, "train_coarse")["erlangen_000003_000019"], expected)
    assert len(labels(raw, "trainval_fine")) == 5
    assert len(labels(raw, "trainval_coarse")) == 6
    coarse, fine = (labels(raw, f"trainval_{kind}") for kind in ("coarse", "fine"))
    assert (coarse["munster_000001_000019"] != fine["munster_000001_000019"]).any()


def test_an_id_that_does_not_exist_is_refused(raw):
    mask = raw / "gtFine/val/munster/munster_000001_000019_gtFine_labelIds.png"
    trees.write_mask(mask, trees.label_of([7, 34], 1))
    with pytest.raises(UserError, match=r"munster_000001_000019_gtFine_labelIds\.png .* value 34"):
        build(raw)


@pytest.mark.parametrize(
    ("gone", "splits", "message"),
    [
        ("leftImg8bit", "train_fine", "log in at .*leftImg8bit_trainvaltest.zip and gtFine"),
        ("gtFine", "val_fine", r"_gtFine_labelIds.png does not exist; log in at"),
        ("leftImg8bit/train_extra", "train_coarse", "leftImg8bit_trainextra.zip and gtCoarse.zip"),
    ],
)
def test_a_missing_part_names_the_archives(raw, gone, splits, message):
    (raw / gone).rename(raw / "gone")
    with pytest.raises(UserError, match=message):
        build(raw, splits=(splits,))
    assert not (raw / "out").exists()

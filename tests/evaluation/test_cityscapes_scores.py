"""Our scores of Cityscapes' files are those that cityscapesscripts prints, class by class."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.conversion import masks
from deeplab_tf.data import catalog
from deeplab_tf.evaluation import metrics
from tests.golden import cityscapes

GOLDEN = json.loads((Path(cityscapes.__file__).parent / "cityscapes_scores.json").read_text())


def test_scores_equal_those_of_cityscapesscripts():
    info = catalog.load("cityscapes", "")
    # As build_cityscapes_data reads the masks: all other label ids are ignored.
    coding = masks.MaskCoding(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        index_map=tuple(catalog.index_map(info, size=34, others=info.ignore_label)),
    )

    def train_ids(label_ids, name):
        file = io.BytesIO()
        Image.fromarray(label_ids).save(file, "PNG")
        return masks.decode_mask(file.getvalue(), name, coding)

    matrix = np.zeros([19, 19], np.int64)
    for number in range(cityscapes.IMAGES):
        label, prediction = map(train_ids, cityscapes.maps(number), ("label", "prediction"))
        assert (label == info.ignore_label).any()
        matrix += metrics.confusion_matrix(
            tf.constant(label),
            tf.constant(prediction),
            num_classes=info.num_classes,
            ignore_label=info.ignore_label,
        ).numpy()

    scores = metrics.scores(matrix)
    assert [name.replace("_", " ") for name in info.class_names] == list(GOLDEN["classes"])
    expected = [np.nan if iou is None else iou for iou in GOLDEN["classes"].values()]
    np.testing.assert_allclose(scores.iou, expected, rtol=1e-12)
    assert np.isnan(scores.iou[info.class_names.index("train")])
    assert scores.iou[info.class_names.index("bus")] == 0
    assert scores.miou == pytest.approx(GOLDEN["average"], rel=1e-12)

"""Scores of each image: in the data set's order, whatever the batches and replicas."""

import csv
import io

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation import evaluator
from deeplab_tf.evaluation.per_image import ImageScores
from tests.conftest import STRATEGIES, two_replicas, write_shapes

NAMES = ["sky", "sea", "name,\nodd"]


def counted(numbers, names, matrices, size=(2, 5)):
    batch = pipeline.EvalBatch(names, np.zeros([len(names), *size, 3]), None, np.array(numbers))
    return evaluator.CountedBatch(batch, np.array(matrices, np.int64), None)


@pytest.fixture
def by_hand():
    """Four images; the last two come first."""
    scores = ImageScores(4, NAMES)
    nothing = np.zeros([3, 3])
    half = [[2, 2, 0], [0, 0, 0], [0, 0, 0]]  # sky 2 of 4, sea 0 of 2: mIoU 1/4
    right = [[4, 0, 0], [0, 6, 0], [0, 0, 0]]
    scores.add(counted([3, 2], ["b", "c"], [half, nothing]))
    scores.add(counted([0], ["d"], [right], size=(7, 3)))
    scores.add(counted([1], ["a"], [half]))
    return scores


def test_a_line_for_each_image(by_hand):
    heading, *rows = csv.reader(io.StringIO(by_hand.table()))
    assert heading == [
        *("number", "name", "height", "width", "valid_pixels", "pixel_accuracy", "miou"),
        *("iou_sky", "iou_sea", "iou_name,\\nodd"),
    ]
    assert rows == [
        ["000000", "d", "7", "3", "10", "1.000000", "1.000000", "1.000000", "1.000000", ""],
        ["000001", "a", "2", "5", "4", "0.500000", "0.250000", "0.500000", "0.000000", ""],
        ["000002", "c", "2", "5", "0", "", "", "", "", ""],
        ["000003", "b", "2", "5", "4", "0.500000", "0.250000", "0.500000", "0.000000", ""],
    ]


def test_the_worst_images_come_first_and_equal_ones_by_name(by_hand):
    assert [(image.name, image.number) for image in by_hand.worst(9)] == [
        ("a", 1),
        ("b", 3),
        ("d", 0),
    ]
    assert [image.name for image in by_hand.worst(1)] == ["a"] and by_hand.worst(0) == []


def test_boundary_scores_have_a_column_of_means():
    scores = ImageScores(2, NAMES)
    boundary = np.array([[0.5, np.nan, np.nan], [1.0, 0.2, np.nan]])
    rows = list(csv.DictReader(io.StringIO(scores.table(boundary=boundary))))
    assert [row["boundary_f_score"] for row in rows] == ["0.500000", "0.600000"]


class Stripes:
    """Predicts a class for each column of an image: what it predicts is known without a network."""

    num_classes = 7

    def predict(self, images):
        columns = tf.range(tf.shape(images)[2]) // 9 % 7
        return tf.cast(tf.zeros_like(images[..., 0], tf.int32) + columns, tf.uint8), None

    def labels(self, images):
        return self.predict(tf.constant(images))[0]

    def require_fitting(self, images):
        pass


@pytest.mark.parametrize(("replicas", "batch_size"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_every_image_counts_once_in_the_order_of_the_data_set(
    shapes_dir, tmp_path, replicas, batch_size
):
    # Two shards, each image under two names; images of one size share a batch.
    write_shapes(shapes_dir, tmp_path, "val", times=2)
    info = catalog.load("", tmp_path)
    table = records.open_split(tmp_path, "val", info)
    scores = ImageScores(len(table), info.class_names)
    seen = []

    def watch(batch):
        scores.add(batch)
        seen.append(batch.predictions.numpy().shape == batch.batch.images.shape[:3])

    strategy = two_replicas() if replicas == 2 else STRATEGIES[1]()
    result = evaluator.evaluate(
        Stripes(),
        table,
        info,
        split="val",
        batch_size=batch_size,
        watch=watch,
        workers=Workers.of(strategy),
    )
    assert all(seen) and result.images == 10

    rows = list(csv.DictReader(io.StringIO(scores.table())))
    for index, row in enumerate(rows):
        record = records.parse(table.read(tf.constant(index)))
        label = record["label"].numpy()[..., 0]
        predicted = np.broadcast_to(np.arange(label.shape[1]) // 9 % 7, label.shape)
        valid = label != 255
        assert row["name"] == record["name"].numpy().decode()
        assert [int(row[side]) for side in ("height", "width")] == list(label.shape)
        assert int(row["valid_pixels"]) == valid.sum()
        expected = []
        for number, name in enumerate(info.class_names):
            both = (label == number) & (predicted == number) & valid
            either = ((label == number) | (predicted == number)) & valid
            if either.any():
                expected.append(both.sum() / either.sum())
                assert float(row[f"iou_{name}"]) == pytest.approx(expected[-1], abs=1e-6)
            else:
                assert row[f"iou_{name}"] == ""
        assert float(row["miou"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert sum(int(row["valid_pixels"]) for row in rows) == result.matrix.sum()

"""Boundary F-scores of shapes drawn by hand, and by DAVIS' rule with dilated outlines."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from deeplab_tf.data import catalog, pipeline
from deeplab_tf.evaluation import boundaries, evaluator


def score(label, prediction, *, classes=2, tolerance=0.01):
    return boundaries.f_scores(
        np.asarray(label, np.uint8),
        np.asarray(prediction, np.uint8),
        num_classes=classes,
        ignore_label=255,
        tolerance=tolerance,
    )


def square(top, left, side=20, size=(60, 80)):
    """A square on a map whose diagonal is 100 pixels: a tolerance of 0.01 is one pixel."""
    classes = np.zeros(size, np.uint8)
    classes[top : top + side, left : left + side] = 1
    return classes


def test_the_same_outline_is_right():
    np.testing.assert_array_equal(score(square(10, 10), square(10, 10)), [1, 1])


def test_an_outline_within_the_tolerance_is_right():
    label, prediction = square(10, 10), square(10, 13)
    assert score(label, prediction, tolerance=0.03).tolist() == [1, 1]
    # One pixel of tolerance. An outline has 21 pixels on each of its sides, 80 in all. Its top and
    # bottom lie on the other's, except for what is more than one pixel to its left: of 21 pixels,
    # columns 9 to 29 against 12 to 32, columns 9 and 10. The left side is 3 pixels away. So is the
    # right side, but its rows 9 and 29 are at top and bottom, and the rows next to them lie within
    # one pixel of the other's.
    # So of the label's pixels: top and bottom 2 * 19, and on the right the rows 10 and 28.
    expected = (2 * 19 + 2) / 80
    assert score(label, prediction)[1] == pytest.approx(expected)


def test_a_class_on_one_side_only_is_wrong_and_an_absent_one_has_no_score():
    result = score(square(10, 10), np.zeros([60, 80]), classes=3)
    assert result[:2].tolist() == [0, 0] and np.isnan(result[2])


def test_an_ignored_area_has_no_boundary():
    label = square(10, 10)
    label[:, 40:] = 255
    prediction = label.copy()
    prediction[:, 40:] = np.arange(40) % 2  # what is predicted there does not count
    assert score(label, prediction).tolist() == [1, 1]


def test_a_class_whose_outline_is_ignored_has_no_score():
    label = np.full([60, 80], 255)
    label[10:30, 10:30] = 1
    assert np.isnan(score(label, square(5, 5, side=30))).all()
    # Nor if the prediction has outlines; but class 0, which is only predicted, is wrong.
    result = score(label, square(20, 20))
    assert result[0] == 0 and np.isnan(result[1])
    assert np.isnan(score(np.ones([9, 9]), np.ones([9, 9]))).all()


def test_a_split_has_the_means_of_its_images_and_says_what_is_ignored():
    info = catalog.DatasetInfo(name="x", classes=catalog.load("camvid", "").classes[:3])
    scores = boundaries.BoundaryScores(3, info, tolerance=0.01)
    framed = np.full([60, 80], 255, np.uint8)
    framed[10:30, 10:30] = 1
    labels = np.stack([square(10, 10), square(10, 10), framed])
    predictions = np.stack([square(10, 10), square(10, 13), framed])
    batch = pipeline.EvalBatch(["a"] * 3, None, labels[..., np.newaxis], np.array([2, 0, 1]))
    scores.add(evaluator.CountedBatch(batch, None, tf.constant(predictions)))
    assert scores.scores[2, 1] == 1 and np.isnan(scores.scores[1, 1])
    np.testing.assert_allclose(scores.of_classes, [(1 + 0.5) / 2, (1 + 0.5) / 2, np.nan])
    # 20 rows with two steps to the right in each map.
    assert scores.ignored_share == pytest.approx(1 / 3)


def test_a_class_without_an_outline_that_counts_has_no_score_in_a_split():
    """All that is predicted of it would be wrong, as of framed shapes where others are labelled."""
    info = catalog.DatasetInfo(name="x", classes=catalog.load("camvid", "").classes[:3])
    scores = boundaries.BoundaryScores(2, info, tolerance=0.01)
    framed = np.full([60, 80], 255, np.uint8)
    framed[5:55, 5:75] = 0
    framed[8:32, 8:32] = 255
    framed[10:30, 10:30] = 1
    plain = np.zeros([60, 80], np.uint8)
    labels = np.stack([framed, plain])[..., np.newaxis]
    # Class 1 is wrongly predicted where the label has only class 0.
    predictions = tf.constant(np.stack([square(10, 10), square(40, 40, side=10)]))
    batch = pipeline.EvalBatch(["a"] * 2, None, labels, np.arange(2))
    scores.add(evaluator.CountedBatch(batch, None, predictions))
    assert np.isnan(scores.of_classes).all() and np.isnan(scores.scores).all()
    # As soon as one label shows where its outline is, it has a score.
    more = boundaries.BoundaryScores(2, info, tolerance=0.01)
    labels[0, ..., 0] = square(10, 10)
    more.add(evaluator.CountedBatch(batch, None, predictions))
    np.testing.assert_array_equal(more.scores, [[1, 1, np.nan], [np.nan, 0, np.nan]])


def test_an_ignored_label_that_is_a_class_has_no_score_in_a_split():
    """As class 0 of ade20k_151, which the network may still predict."""
    classes = catalog.load("camvid", "").classes[:3]
    info = catalog.DatasetInfo(name="x", classes=classes, ignore_label=0)
    label = np.zeros([60, 80], np.uint8)
    label[10:50, 10:40], label[10:50, 40:70] = 1, 2
    prediction = label.copy()
    prediction[20:30, 20:30] = 0
    scores = boundaries.BoundaryScores(1, info, tolerance=0.01)
    batch = pipeline.EvalBatch(["a"], None, label[np.newaxis, ..., np.newaxis], np.arange(1))
    scores.add(evaluator.CountedBatch(batch, None, tf.constant(prediction[np.newaxis])))
    assert np.isnan(scores.of_classes[0]) and scores.of_classes[2] == 1


def davis(label, prediction, index, radius):
    """F of one class by `db_eval_boundary`, with outlines dilated by a disk."""

    def outline(mask):
        rest = np.zeros([4, *mask.shape], bool)
        rest[0, :, :-1] = mask[:, 1:] ^ mask[:, :-1]
        rest[1, :-1] = mask[1:] ^ mask[:-1]
        rest[2, :-1, :-1] = mask[1:, 1:] ^ mask[:-1, :-1]
        return rest.any(axis=0)

    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    ours, theirs = outline(prediction == index), outline(label == index)
    precision = (ours & ndimage.binary_dilation(theirs, disk)).sum() / ours.sum()
    recall = (theirs & ndimage.binary_dilation(ours, disk)).sum() / theirs.sum()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(4))
def test_maps_of_blobs_score_as_in_davis(seed):
    rng = np.random.default_rng(seed)
    height, width = 90 + seed, 120  # the diagonal is at least 150: radius 3
    smooth = [ndimage.gaussian_filter(rng.normal(size=(4, height, width)), (0, 6, 6)) for _ in "ab"]
    label = smooth[0].argmax(0)
    prediction = (smooth[0] + 0.3 * smooth[1]).argmax(0)
    result = score(label, prediction, classes=4, tolerance=3 / 160)
    for index in range(4):
        assert result[index] == pytest.approx(davis(label, prediction, index, 3))
    assert 0.2 < result.min() < result.max() < 1

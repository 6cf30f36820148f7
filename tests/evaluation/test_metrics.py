import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.evaluation import metrics, report


def count(labels, predictions, num_classes):
    return metrics.confusion_matrix(
        tf.constant(labels), tf.constant(predictions), num_classes=num_classes, ignore_label=255
    ).numpy()


def test_miou_of_a_hand_worked_case():
    # class 0: 1 of 3, class 1: 2 of 3, class 2: 0 of 1; the pixel 255 does not count
    result = metrics.scores(count([0, 0, 1, 1, 2, 255], [0, 1, 1, 1, 0, 2], 3))
    np.testing.assert_allclose(result.iou, [1 / 3, 2 / 3, 0])
    assert result.miou == pytest.approx(1 / 3)
    assert result.pixel_accuracy == pytest.approx(3 / 5)
    assert result.mean_accuracy == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_scores_agree_with_sets_of_pixels():
    """IoU by its definition on sets, with ignored pixels and absent classes."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.choice([0, 1, 3, 6, 255], 4000), rng.choice([0, 1, 2, 6], 4000)
    matrix = count(labels, predictions, 8)
    assert matrix.dtype == np.int64
    result = metrics.scores(matrix)
    valid = labels != 255
    for index in range(8):
        labelled = set(np.flatnonzero(valid & (labels == index)))
        predicted = set(np.flatnonzero(valid & (predictions == index)))
        if labelled | predicted:
            expected = len(labelled & predicted) / len(labelled | predicted)
            assert result.iou[index] == pytest.approx(expected)
        else:
            assert np.isnan(result.iou[index])  # 4, 5 and 7
    assert result.miou == pytest.approx(np.nanmean(result.iou))
    assert result.pixel_accuracy == pytest.approx((labels == predictions)[valid].mean())


def test_matrices_add_over_batches():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, [2, 6, 30])
    whole = count(labels, predictions, 5)
    parts = sum(count(a, b, 5) for a, b in zip(labels, predictions, strict=True))
    np.testing.assert_array_equal(whole, parts)


def test_counts_are_exact_beyond_single_precision():
    matrix = np.array([[2**24 + 1, 1], [0, 2**40]], np.int64)
    result = metrics.scores(matrix)
    assert result.iou[0] == (2**24 + 1) / (2**24 + 2)


def test_only_ignored_pixels_give_no_score():
    result = metrics.scores(count([255, 255], [0, 1], 2))
    assert np.isnan(result.miou) and np.isnan(result.pixel_accuracy)


def test_the_mean_says_over_how_many_classes_it_is():
    # class 0 is right, 1 is only predicted, 2 is only labelled, 3 is nowhere
    matrix = count([0, 0, 2, 2], [0, 1, 0, 0], 4)
    result = metrics.scores(matrix)
    assert result.miou == pytest.approx((1 / 4 + 0 + 0) / 3)
    lines = report.table(result, ["a", "b", "c", "d"], matrix).splitlines()
    assert [line.split() for line in lines if line[0] in "dm"][:2] == [
        ["d", "n/a", "0.00"],
        ["mIoU", "over", "3", "of", "4", "classes", "8.33"],
    ]
    assert metrics.scores(np.eye(4, dtype=np.int64)).miou_name == "mIoU"

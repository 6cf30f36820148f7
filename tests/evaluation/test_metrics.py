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
        ["d", "n/a", "n/a", "n/a", "n/a", "0.00"],
        ["mIoU", "over", "3", "of", "4", "classes", "8.33"],
    ]
    assert metrics.scores(np.eye(4, dtype=np.int64)).miou_name == "mIoU"


def by_pixels(labels, predictions, index):
    """Hits, labelled and predicted pixels of a class, from the maps themselves."""
    valid = labels != 255
    labelled, predicted = valid & (labels == index), valid & (predictions == index)
    return [int(np.sum(pixels)) for pixels in (labelled & predicted, labelled, predicted)]


@pytest.mark.parametrize("seed", range(5))
def test_all_scores_agree_with_counts_of_pixels(seed):
    rng = np.random.default_rng(seed)
    # Classes 4 and 7 are nowhere, 2 is only predicted, 3 is only labelled.
    labels = rng.choice([0, 1, 3, 5, 6, 255], [3, 20, 30], p=[0.3, 0.2, 0.1, 0.2, 0.1, 0.1])
    predictions = rng.choice([0, 1, 2, 5, 6], labels.shape)
    matrix = count(labels, predictions, 8)
    result = metrics.scores(matrix)

    f1, precision, recall, weighted = [], [], [], 0.0
    pixels = np.count_nonzero(labels != 255)
    for index in range(8):
        hits, labelled, predicted = by_pixels(labels, predictions, index)
        assert matrix.sum(axis=1)[index] == labelled
        misses, false_alarms = labelled - hits, predicted - hits
        if labelled + predicted:
            f1.append(hits / (hits + (misses + false_alarms) / 2))
            weighted += labelled / pixels * hits / (hits + misses + false_alarms)
            assert result.f1[index] == pytest.approx(f1[-1])
        for found, among, kept in (
            (result.precision, predicted, precision),
            (result.recall, labelled, recall),
        ):
            if among:
                kept.append(hits / among)
                assert found[index] == pytest.approx(kept[-1])
            else:
                assert np.isnan(found[index])
    assert [len(kept) for kept in (f1, precision, recall)] == [6, 5, 5]
    assert result.mean_f1 == pytest.approx(sum(f1) / 6)
    assert result.mean_precision == pytest.approx(sum(precision) / 5)
    assert result.mean_accuracy == pytest.approx(sum(recall) / 5)
    assert result.frequency_weighted_iou == pytest.approx(weighted)


def test_scores_are_those_of_mmsegmentation():
    """Its IoUMetric: histograms of the areas of each image, added up (`intersect_and_union`)."""
    rng = np.random.default_rng(1)
    areas = np.zeros([3, 9])
    matrix = np.zeros([9, 9], np.int64)
    for _ in range(4):
        labels, predictions = rng.integers(0, 8, [2, 40, 30])  # class 8 is nowhere
        predictions = np.where(rng.random(labels.shape) < 0.6, labels, predictions)
        labels[rng.random(labels.shape) < 0.2] = 255
        matrix += count(labels, predictions, 9)

        kept = labels != 255
        label, predicted = labels[kept], predictions[kept]
        for area, values in enumerate((predicted[predicted == label], predicted, label)):
            areas[area] += np.histogram(values, bins=9, range=(0, 8))[0]  # as torch.histc

    intersect, predicted, labelled = areas
    with np.errstate(invalid="ignore"):
        iou = intersect / (predicted + labelled - intersect)
        dice = 2 * intersect / (predicted + labelled)
        precision, recall = intersect / predicted, intersect / labelled
    result = metrics.scores(matrix)
    np.testing.assert_allclose(result.iou, iou)
    np.testing.assert_allclose(result.f1, dice)
    np.testing.assert_allclose(result.f1, 2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(result.precision, precision)
    np.testing.assert_allclose(result.recall, recall)
    assert result.pixel_accuracy == pytest.approx(intersect.sum() / labelled.sum())  # aAcc
    assert result.mean_accuracy == pytest.approx(np.nanmean(recall))  # mAcc
    assert result.miou == pytest.approx(np.nanmean(iou)) and np.isnan(result.iou[8])


def test_each_image_of_a_batch_has_its_own_matrix():
    rng = np.random.default_rng(2)
    labels, predictions = rng.choice([0, 1, 2, 3, 255], [4, 6, 9]), rng.integers(0, 4, [4, 6, 9])
    labels[2] = 255
    found = metrics.confusion_matrices(
        tf.constant(labels), tf.constant(predictions), num_classes=4, ignore_label=255
    ).numpy()
    assert found.shape == (4, 4, 4) and found.dtype == np.int64 and not found[2].any()
    for matrix, label, predicted in zip(found, labels, predictions, strict=True):
        expected = np.zeros([4, 4], int)
        np.add.at(expected, (label[label != 255], predicted[label != 255]), 1)
        np.testing.assert_array_equal(matrix, expected)

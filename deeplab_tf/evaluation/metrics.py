"""Scores of a whole split from one integer confusion matrix (Long et al. 2015, sec. 5).

Classes that occur neither in labels nor in predictions have no IoU and are left out of the mean;
a class that is only ever predicted wrongly counts as 0.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


def confusion_matrix(
    labels: tf.Tensor, predictions: tf.Tensor, *, num_classes: int, ignore_label: int
) -> tf.Tensor:
    """Counts pixels by (label, prediction), int64 [num_classes, num_classes].

    Args:
      labels, predictions: integers of one shape; pixels labelled `ignore_label` do not count.
    """
    labels = tf.reshape(tf.cast(labels, tf.int64), [-1])
    predictions = tf.reshape(tf.cast(predictions, tf.int64), [-1])
    pairs = tf.boolean_mask(labels * num_classes + predictions, labels != ignore_label)
    size = num_classes * num_classes
    counts = tf.math.bincount(
        tf.cast(pairs, tf.int32), minlength=size, maxlength=size, dtype=tf.int64
    )
    return tf.reshape(counts, [num_classes, num_classes])


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; NaN where there is nothing to score. iou: float64 [classes]."""

    iou: np.ndarray
    miou: float
    pixel_accuracy: float
    mean_accuracy: float

    @property
    def num_scored(self) -> int:
        """Number of classes in the mean: those that occur in labels or predictions."""
        return int(np.count_nonzero(~np.isnan(self.iou)))

    @property
    def miou_name(self) -> str:
        """What the mean is to be called: it says so where classes are left out."""
        classes = len(self.iou)
        left_out = self.num_scored < classes
        return f"mIoU over {self.num_scored} of {classes} classes" if left_out else "mIoU"


def scores(matrix: np.ndarray) -> Scores:
    """Turns a confusion matrix, int64 [label, prediction], into scores."""
    hits = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (labelled + predicted - hits)
        recall = hits / labelled
        accuracy = hits.sum() / matrix.sum()
    return Scores(iou, _mean_of_numbers(iou), float(accuracy), _mean_of_numbers(recall))


def _mean_of_numbers(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")

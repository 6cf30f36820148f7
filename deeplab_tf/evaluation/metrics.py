"""Scores of a whole split from one integer confusion matrix (Long et al. 2015, sec. 5).

With the hits, the labelled and the predicted pixels of a class:

    IoU       = hits / (labelled + predicted - hits)
    F1 (Dice) = 2 hits / (labelled + predicted)
    precision = hits / predicted
    recall    = hits / labelled, which is also called the class's accuracy

A class that occurs neither in labels nor in predictions has none of them, and the means leave it
out. A class that occurs only in predictions, all of them wrong, has IoU and F1 0, but no recall;
one that is never predicted has no precision. These are the definitions of mmsegmentation's
mIoU, mDice, mPrecision, mRecall = mAcc, and aAcc, the pixel accuracy. Only its mFscore is
another mean of F1: it leaves out the classes without any hit, which mDice counts as 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.models.inputs import InputError, after, is_valid, require_in_step
from deeplab_tf.models.layers import NAMESPACE


def confusion_matrix(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    *,
    num_classes: int,
    ignore_label: int | None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Counts pixels by (label, prediction), int64 [num_classes, num_classes].

    Args:
      labels, predictions: integers, both of the same shape.
      ignore_label: pixels with this label do not count; None if all pixels count.
      weights: float64 of the same shape; each pixel counts as its weight instead of 1. The result
        is then float64, which is exact for whole numbers up to 2^53.
    """
    size = num_classes * num_classes
    pairs = _pair_numbers(labels, predictions, num_classes, ignore_label)
    counts = _counted(
        tf.reshape(pairs, [-1]),
        tf.constant(size + 1),
        tf.zeros([0], tf.int64) if weights is None else tf.reshape(weights, [-1]),
    )
    return tf.reshape(counts[:size], [num_classes, num_classes])


def confusion_matrices(
    labels: tf.Tensor, predictions: tf.Tensor, *, num_classes: int, ignore_label: int | None
) -> tf.Tensor:
    """Counts the pixels of each image by (label, prediction): int64 [B, num_classes, num_classes].

    Args:
      labels, predictions: integers, both of the same shape [B, H, W].
      ignore_label: as for `confusion_matrix`.
    """
    size = num_classes * num_classes
    images = tf.shape(labels)[0]
    pairs = _pair_numbers(labels, predictions, num_classes, ignore_label)
    # Each image has bins of its own, so that all are counted at once.
    bins = pairs + (size + 1) * tf.range(images)[:, tf.newaxis, tf.newaxis]
    counts = _counted(tf.reshape(bins, [-1]), images * (size + 1), tf.zeros([0], tf.int64))
    matrices = tf.reshape(counts, [images, size + 1])[:, :size]
    return tf.reshape(matrices, [images, num_classes, num_classes])


def _pair_numbers(labels, predictions, num_classes, ignore_label):
    """Returns the number of each pixel's pair (label, prediction), int32 of the labels' shape.

    Ignored pixels get one more number, after the pairs' numbers; it is not counted in the end. (XLA
    has no boolean_mask.)
    """
    labels, predictions = tf.cast(labels, tf.int64), tf.cast(predictions, tf.int64)
    pairs = labels * num_classes + predictions
    if ignore_label is not None:
        others = tf.constant(num_classes * num_classes, tf.int64)
        pairs = tf.where(tf.equal(labels, ignore_label), others, pairs)
    return tf.cast(pairs, tf.int32)


def _counted(numbers, size, weights):
    """Returns how often each of 0..size - 1 is among the numbers, [size]."""
    # Not tf.math.bincount: the size of its result depends on the values, which XLA cannot compile.
    return tf.raw_ops.DenseBincount(input=numbers, size=size, weights=weights)


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; NaN where there is nothing to score.

    iou, f1, precision, recall: of each class, float64 [classes].
    miou, mean_f1, mean_precision, mean_accuracy: their means over the classes that have a value;
      the mean accuracy is the mean recall.
    frequency_weighted_iou: mean IoU in which each class weighs as many pixels as are labelled so.
    """

    iou: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    miou: float
    mean_f1: float
    mean_precision: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float

    @property
    def num_scored(self) -> int:
        """Number of classes in the mean: the classes that occur in labels or predictions."""
        return int(np.count_nonzero(~np.isnan(self.iou)))

    @property
    def miou_name(self) -> str:
        """Name of the mean for tables and logs; it says if classes are left out."""
        classes = len(self.iou)
        left_out = self.num_scored < classes
        return f"mIoU over {self.num_scored} of {classes} classes" if left_out else "mIoU"


def scores(matrix: np.ndarray) -> Scores:
    """Turns a confusion matrix, int64 [label, prediction], into scores."""
    hits = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (labelled + predicted - hits)
        f1 = 2 * hits / (labelled + predicted)
        precision, recall = hits / predicted, hits / labelled
        pixel_accuracy = hits.sum() / matrix.sum()
        weighted_iou = (labelled * np.nan_to_num(iou)).sum() / matrix.sum()
    return Scores(
        iou,
        f1,
        precision,
        recall,
        miou=mean_of_numbers(iou),
        mean_f1=mean_of_numbers(f1),
        mean_precision=mean_of_numbers(precision),
        mean_accuracy=mean_of_numbers(recall),
        frequency_weighted_iou=float(weighted_iou),
        pixel_accuracy=float(pixel_accuracy),
    )


def mean_of_numbers(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


class _ConfusionMetric(tf.keras.metrics.Metric):
    """A Keras metric computed from the confusion matrix of all pixels seen since the last reset.

    Args:
      num_classes: number of classes.
      ignore_label: label of pixels that do not count; None if all pixels count.
    """

    def __init__(
        self, num_classes: int, *, ignore_label: int | None = 255, name: str, dtype: Any = None
    ):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        # float64 is exact for whole numbers up to 2^53 (float32, Keras' default, up to 2^24), and
        # can hold sample weights too.
        self.matrix = self.add_weight(
            "confusion_matrix", [num_classes] * 2, dtype=tf.float64, initializer="zeros"
        )

    @tf.autograph.experimental.do_not_convert  # AutoGraph would wrap the errors raised here
    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch.

        Args:
          y_true: class numbers, [B, H, W, 1] or [B, H, W].
          y_pred: scores [B, H, W, num_classes], or class numbers of the labels' shape.
          sample_weight: what each pixel counts as, broadcast to [B, H, W]; bool for a mask, as
            Keras passes it.
        """
        labels = _without_last(tf.convert_to_tensor(y_true))
        predictions = tf.convert_to_tensor(y_pred)
        if predictions.shape.rank > labels.shape.rank:
            are_scores = predictions.shape[-1] == self.num_classes
            predictions = tf.argmax(predictions, -1) if are_scores else _without_last(predictions)
        if not labels.shape.is_compatible_with(predictions.shape):
            raise InputError(
                f"{self.name} got labels {labels.shape} and predictions {predictions.shape}; give "
                f"class numbers of one shape, or scores with {self.num_classes} channels."
            )

        valid, weights = is_valid(labels, self.ignore_label), None
        if sample_weight is not None:
            weights = _broadcast(tf.convert_to_tensor(sample_weight), labels)
            if weights.dtype.is_bool:
                valid, weights = valid & weights, None
            else:
                weights = tf.cast(weights, tf.float64)

        checks = [
            self._require_classes("label", labels, valid),
            self._require_classes("prediction", predictions, valid),
        ]
        counts = confusion_matrix(
            tf.where(valid, tf.cast(labels, tf.int64), self.num_classes),
            predictions,
            num_classes=self.num_classes,
            ignore_label=self.num_classes,
            weights=weights,
        )
        with after(*checks):
            self.matrix.assign_add(tf.cast(counts, tf.float64))

    def reset_state(self):
        self.matrix.assign(tf.zeros_like(self.matrix))

    def _require_classes(self, kind, values, valid):
        inside = tf.where(valid, tf.cast(values, tf.int64), 0)
        low, high = tf.reduce_min(inside), tf.reduce_max(inside)
        return require_in_step(
            (low >= 0) & (high < self.num_classes),
            f"{self.name} got the {kind}",
            tf.where(low < 0, low, high),
            f"class numbers are 0 to {self.num_classes - 1}",
        )

    def get_config(self):
        arguments = {"num_classes": self.num_classes, "ignore_label": self.ignore_label}
        return super().get_config() | arguments


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class MeanIoU(_ConfusionMetric):
    """Mean intersection over union, for `compile(metrics=[MeanIoU(num_classes)])`.

    0..1, computed as in `scores`: classes that occur neither in labels nor in predictions are left
    out. NaN before any pixel is counted. The counts are exact and include all replicas.
    """

    def __init__(self, num_classes: int, *, name: str = "mean_iou", **kwargs: Any):
        super().__init__(num_classes, name=name, **kwargs)

    def result(self):
        hits = tf.linalg.diag_part(self.matrix)
        union = tf.reduce_sum(self.matrix, 0) + tf.reduce_sum(self.matrix, 1) - hits
        present = tf.reduce_sum(tf.cast(union > 0, tf.float64))
        return tf.cast(tf.reduce_sum(tf.math.divide_no_nan(hits, union)) / present, tf.float32)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class PixelAccuracy(_ConfusionMetric):
    """Share of the pixels that are classified correctly, 0..1; NaN before any pixel is counted."""

    def __init__(self, num_classes: int, *, name: str = "pixel_accuracy", **kwargs: Any):
        super().__init__(num_classes, name=name, **kwargs)

    def result(self):
        hits = tf.linalg.trace(self.matrix)
        return tf.cast(hits / tf.reduce_sum(self.matrix), tf.float32)


def _without_last(values):
    """Returns [B, H, W] for [B, H, W, 1]; other shapes stay as they are."""
    return values[..., 0] if values.shape.rank == 4 and values.shape[-1] == 1 else values


def _broadcast(weights, labels):
    """Returns weights [B], [B, H, W] or [B, H, W, 1] in the shape of labels [B, H, W]."""
    weights = _without_last(weights)
    while weights.shape.rank < labels.shape.rank:
        weights = weights[..., tf.newaxis]
    return tf.broadcast_to(weights, tf.shape(labels))

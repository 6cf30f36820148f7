"""Scores a split: every image exactly once, at the labels' native resolution."""

import collections
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab_tf.config import UserError
from deeplab_tf.data import pipeline, records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.predictor import Predictor


@dataclass(frozen=True)
class Evaluation:
    """A split's scores and the confusion matrix they follow from, int64 [label, prediction]."""

    split: str
    images: int
    matrix: np.ndarray
    scores: metrics.Scores

    def to_json(self, info: DatasetInfo, step: int) -> dict:
        """Returns what results.json and metrics.jsonl hold; scores without a value are null."""
        return {
            "step": step,
            "split": self.split,
            "images": self.images,
            "miou": _number(self.scores.miou),
            "pixel_accuracy": _number(self.scores.pixel_accuracy),
            "mean_accuracy": _number(self.scores.mean_accuracy),
            "per_class": {
                name: _number(iou)
                for name, iou in zip(info.class_names, self.scores.iou, strict=True)
            },
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def evaluate(
    predictor: Predictor,
    table: records.RecordTable,
    info: DatasetInfo,
    *,
    split: str,
    batch_size: int = 1,
    progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Predicts all records of a split and counts its pixels.

    Args:
      progress: called with the number of images of each batch done.
    Raises:
      UserError: if an image was seen twice or not at all, or has a label outside the class list.
    """
    classes, ignore_label = info.num_classes, info.ignore_label

    @tf.function(reduce_retracing=True)
    def count(labels, predictions):
        return metrics.confusion_matrix(
            labels[..., 0], predictions, num_classes=classes, ignore_label=ignore_label
        )

    matrix = np.zeros([classes, classes], np.int64)
    seen: collections.Counter[str] = collections.Counter()
    batches = pipeline.eval_batches(
        table, batch_size=batch_size, num_classes=classes, ignore_label=ignore_label
    )
    for batch in batches:
        matrix += count(batch.labels, predictor.labels(batch.images)).numpy()
        seen.update(batch.names)
        progress(len(batch.names))
    _require_each_once(seen, len(table), split)
    return Evaluation(split, len(table), matrix, metrics.scores(matrix))


def _require_each_once(seen: collections.Counter, expected: int, split: str) -> None:
    twice = [name for name, times in seen.items() if times > 1]
    if twice or seen.total() != expected:
        problem = (
            f"{twice[0]!r} more than once" if twice else f"{seen.total()} of {expected} images"
        )
        raise UserError(
            f"The split {split!r} gave {problem}; scores count every image exactly once. "
            "Build the data set again."
        )

"""Scores a split: every image exactly once, at the labels' native resolution."""

import collections
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab_tf.data import pipeline, records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation import memory, metrics
from deeplab_tf.evaluation.predictor import Predictor, label_dtype
from deeplab_tf.messages import UserError

_SECONDS_BETWEEN_MEETINGS = 1.0


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
            "classes_in_miou": self.scores.num_scored,
            "num_classes": info.num_classes,
            "pixel_accuracy": _number(self.scores.pixel_accuracy),
            "mean_accuracy": _number(self.scores.mean_accuracy),
            "per_class": {
                name: _number(iou)
                for name, iou in zip(info.class_names, self.scores.iou, strict=True)
            },
        }


def require_labels(result: Evaluation, info: DatasetInfo, *, where: str) -> None:
    """Raises UserError if all pixels of a split are ignored: then there is no score."""
    if not result.matrix.any():
        raise UserError(nothing_to_score(result, info, where=where))


def nothing_to_score(result: Evaluation, info: DatasetInfo, *, where: str) -> str:
    """Says that all pixels of a split are ignored."""
    return (
        f"All labels of the {result.images} images of {result.split!r} in {where} are ignored "
        f"({info.ignore_label}), so there is nothing to score; give another --eval_split, or build "
        "the records again from masks that hold the classes."
    )


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
    workers: Workers | None = None,
    meet: Callable[[bool], bool] = bool,
) -> Evaluation:
    """Predicts all records of a split and counts its pixels.

    Args:
      progress: called with the number of images of each batch done.
      workers: the hosts and replicas that share the images, all of which call this; by default
        this process and the strategy in force.
      meet: called about once a second, equally often on every worker, with whether this worker
        has images left; returns whether any has. What it raises ends the evaluation.
    Raises:
      UserError: if a host saw an image twice, an image was not seen, or a label is outside the
        class list.
    """
    classes, ignore_label = info.num_classes, info.ignore_label
    workers = workers or Workers.of(tf.distribute.get_strategy())
    count = _counter(predictor, workers, num_classes=classes, ignore_label=ignore_label)
    matrix = np.zeros([classes, classes], np.int64)
    seen: collections.Counter[str] = collections.Counter()
    batches = memory.trimmed(
        pipeline.eval_batches(
            table.share(workers.index, workers.count),
            batch_size=batch_size,
            num_classes=classes,
            ignore_label=ignore_label,
        )
    )
    working = True
    while meet(working):
        until = time.monotonic() + _SECONDS_BETWEEN_MEETINGS
        while working and time.monotonic() < until:
            group = list(itertools.islice(batches, workers.local_replicas))
            working = bool(group)
            if group:
                matrix += count(group)
            for batch in group:
                seen.update(batch.names)
                progress(len(batch.names))
    matrix = workers.total(matrix)
    _require_each_once(seen, int(workers.total(seen.total())), len(table), split)
    return Evaluation(split, len(table), matrix, metrics.scores(matrix))


def _counter(
    predictor: Predictor, workers: Workers, *, num_classes: int, ignore_label: int
) -> Callable[[list[pipeline.EvalBatch]], np.ndarray]:
    """Returns a function of one batch for each replica, to their confusion matrix.

    Traced once for all sizes: a new size must not cost a new trace.
    """
    counted = _counted(num_classes, ignore_label)
    if workers.strategy.num_replicas_in_sync == 1:
        return lambda group: counted(group[0].labels, predictor.labels(group[0].images)).numpy()

    replicas = workers.local_replicas
    signature = [
        [tf.TensorSpec([None, None, None, channels], tf.uint8)] * replicas for channels in (3, 1)
    ]

    @tf.function(input_signature=signature, autograph=False)
    def predict_and_count(images, labels):
        def in_replica():
            context = tf.distribute.get_replica_context()
            own = tf.get_static_value(context.replica_id_in_sync_group) % replicas
            return counted(labels[own], predictor.predict(images[own])[0])

        return tf.add_n(
            workers.strategy.experimental_local_results(workers.strategy.run(in_replica))
        )

    def count(group):
        images = [batch.images for batch in group]
        labels = [batch.labels for batch in group]
        # Every replica needs an image: convolutions of none give wrong shapes on CPUs.
        idle = replicas - len(group)
        images += [images[0]] * idle
        labels += [np.full_like(labels[0], ignore_label)] * idle
        return predict_and_count(images, labels).numpy()

    return count


@functools.cache  # evaluations during a training share one trace
def _counted(num_classes, ignore_label):
    signature = [
        tf.TensorSpec([None, None, None, 1], tf.uint8),
        tf.TensorSpec([None, None, None], label_dtype(num_classes)),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def counted(labels, predictions):
        return metrics.confusion_matrix(
            labels[..., 0], predictions, num_classes=num_classes, ignore_label=ignore_label
        )

    return counted


def _require_each_once(seen: collections.Counter, total: int, expected: int, split: str) -> None:
    twice = [name for name, times in seen.items() if times > 1]
    if twice or total != expected:
        problem = f"{twice[0]!r} more than once" if twice else f"{total} of {expected} images"
        raise UserError(
            f"The split {split!r} gave {problem}; scores count every image exactly once. "
            "Build the data set again."
        )

"""Scores a split: every image exactly once, at the resolution of its label."""

import collections
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.data import pipeline, records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation import memory, metrics
from deeplab_tf.evaluation.predictor import Predictor, label_dtype
from deeplab_tf.messages import UserError, counted

# The single numbers in results.json, metrics.jsonl and TensorBoard, as `Scores` calls them.
MEANS = (
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_f1",
    "mean_precision",
    "frequency_weighted_iou",
)
_SECONDS_BETWEEN_MEETINGS = 1.0  # of all workers; see `meet` in `evaluate`


class CountedBatch(NamedTuple):
    """A batch with what was counted in it.

    matrices: confusion matrix of each image, int64 [B, classes, classes]. predictions: labels, [B,
    H, W] of `label_dtype`, where they were computed.
    """

    batch: pipeline.EvalBatch
    matrices: np.ndarray
    predictions: tf.Tensor


@dataclass(frozen=True)
class Evaluation:
    """The scores of a split.

    images: number of images. matrix: confusion matrix that the scores follow from, int64
    [label, prediction].
    """

    split: str
    images: int
    matrix: np.ndarray
    scores: metrics.Scores

    def to_json(self, info: DatasetInfo, step: int) -> dict:
        """Returns the content of results.json and of a line of metrics.jsonl.

        A score without a value is null.
        """

        def per_class(values):
            return dict(zip(info.class_names, map(number, values), strict=True))

        return {
            "step": step,
            "split": self.split,
            "images": self.images,
            "miou": number(self.scores.miou),
            "classes_in_miou": self.scores.num_scored,
            "num_classes": info.num_classes,
            **{name: number(getattr(self.scores, name)) for name in MEANS if name != "miou"},
            "per_class": per_class(self.scores.iou),
            "per_class_f1": per_class(self.scores.f1),
            "per_class_precision": per_class(self.scores.precision),
            "per_class_recall": per_class(self.scores.recall),
            "pixels_per_class": dict(
                zip(info.class_names, self.matrix.sum(axis=1).tolist(), strict=True)
            ),
        }


def require_labels(result: Evaluation, info: DatasetInfo, *, where: str) -> None:
    """Raises UserError if all pixels of a split are ignored, since then there is no score.

    Args:
      where: folder of the records, for the error.
    """
    if not result.matrix.any():
        raise UserError(nothing_to_score(result, info, where=where))


def nothing_to_score(result: Evaluation, info: DatasetInfo, *, where: str) -> str:
    """Returns the sentence that says that all pixels of a split are ignored."""
    return (
        f"All labels of the {counted(result.images, 'image')} of {result.split!r} in {where} are "
        f"ignored ({info.ignore_label}), so there is nothing to score; give another "
        "--eval_split, or build the records again from masks that hold the classes."
    )


def number(value: float) -> float | None:
    """Returns a score as JSON holds it: null if it has no value."""
    return None if np.isnan(value) else float(value)


def evaluate(
    predictor: Predictor,
    table: records.RecordTable,
    info: DatasetInfo,
    *,
    split: str,
    batch_size: int = 1,
    progress: Callable[[int], None] = lambda images: None,
    watch: Callable[[CountedBatch], None] = lambda _: None,
    workers: Workers | None = None,
    meet: Callable[[bool], bool] = bool,
) -> Evaluation:
    """Predicts all records of a split and counts their pixels.

    Args:
      split: the name of the split, for the result and for errors.
      progress: called after each batch with its number of images.
      watch: called with each batch of this worker, in any order.
      workers: the hosts and replicas that share the images; each host must call this function. By
        default, this process and the strategy in force.
      meet: called about once a second, equally often on every worker; the argument says whether
        this worker has images left, and the result whether any worker has. An error that it raises
        ends the evaluation.
    Raises:
      UserError: if a host saw an image twice, an image was not seen, or a label is not a class.
    """
    classes, ignore_label = info.num_classes, info.ignore_label
    workers = workers or Workers.of(tf.distribute.get_strategy())
    count = _counter(predictor, workers, info)

    matrix = np.zeros([classes, classes], np.int64)
    times_seen: collections.Counter[tuple] = collections.Counter()
    share = table.share(workers.index, workers.count)
    batches = memory.trimmed(
        pipeline.eval_batches(
            share,
            batch_size=batch_size,
            num_classes=classes,
            ignore_label=ignore_label,
            image_kind=info.image_kind,
        )
    )

    # A worker that has finished its images goes on meeting the others until all have finished.
    has_images = True
    while meet(has_images):
        until = time.monotonic() + _SECONDS_BETWEEN_MEETINGS
        while has_images and time.monotonic() < until:
            group = list(itertools.islice(batches, workers.local_replicas))
            has_images = bool(group)
            for one in count(group) if group else ():
                matrix += one.matrices.sum(axis=0)
                times_seen.update(_records_of(one.batch, share))
                watch(one)
                progress(len(one.batch.names))

    matrix = workers.total(matrix)
    total = int(workers.total(times_seen.total()))
    _require_each_once(times_seen, total, len(table), split)
    return Evaluation(split, len(table), matrix, metrics.scores(matrix))


def _counter(
    predictor: Predictor, workers: Workers, info: DatasetInfo
) -> Callable[[list[pipeline.EvalBatch]], list[CountedBatch]]:
    """Returns a function that predicts and counts up to one batch per replica.

    It is traced once for images of any size, so that a new size does not cost a new trace.
    """
    matrices_of = _matrices_of(info.num_classes, info.ignore_label)

    def count_here(group):
        (batch,) = group
        predictions = predictor.labels(batch.images)
        return [CountedBatch(batch, matrices_of(batch.labels, predictions).numpy(), predictions)]

    if workers.strategy.num_replicas_in_sync == 1:
        return count_here

    replicas = workers.local_replicas
    kind = info.image_kind
    images_spec = tf.TensorSpec([None, None, None, kind.channels], tf.as_dtype(kind.dtype))
    labels_spec = tf.TensorSpec([None, None, None, 1], tf.uint8)
    signature = [[spec] * replicas for spec in (images_spec, labels_spec)]

    @tf.function(input_signature=signature, autograph=False)
    def predict_and_count(images, labels):
        def in_replica():
            context = tf.distribute.get_replica_context()
            index = tf.get_static_value(context.replica_id_in_sync_group) % replicas
            predictions = predictor.predict(images[index])[0]
            return matrices_of(labels[index], predictions), predictions

        matrices, predictions = workers.strategy.run(in_replica)
        local_results = workers.strategy.experimental_local_results
        return local_results(matrices), local_results(predictions)

    def count(group):
        images = [batch.images for batch in group]
        for batch in images:
            predictor.require_fitting(batch)
        labels = [batch.labels for batch in group]
        # Every replica needs an image, since on CPUs a convolution of no images gives a wrong
        # shape. Replicas without a batch get the first one again, and their counts are left out.
        idle = replicas - len(group)
        images += [images[0]] * idle
        labels += [labels[0]] * idle
        found = zip(group, *predict_and_count(images, labels), strict=False)
        return [CountedBatch(batch, matrices.numpy(), where) for batch, matrices, where in found]

    return count


@functools.cache  # all evaluations during training share one trace
def _matrices_of(num_classes, ignore_label):
    """Returns the compiled function from labels and predictions to a matrix for each image."""
    signature = [
        tf.TensorSpec([None, None, None, 1], tf.uint8),
        tf.TensorSpec([None, None, None], label_dtype(num_classes)),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def matrices_of(labels, predictions):
        return metrics.confusion_matrices(
            labels[..., 0], predictions, num_classes=num_classes, ignore_label=ignore_label
        )

    return matrices_of


def _records_of(batch: pipeline.EvalBatch, table: records.RecordTable) -> list[tuple]:
    """Returns the name, shard and offset of each image: two records may have the same name."""
    numbers = batch.numbers
    places = (table.file_index[numbers].tolist(), table.offsets[numbers].tolist())
    return list(zip(batch.names, *places, strict=True))


def _require_each_once(
    times_seen: collections.Counter, total: int, expected: int, split: str
) -> None:
    """Raises UserError if this worker saw an image twice, or all workers not `expected` images.

    Args:
      times_seen: how often this worker saw each of the `_records_of` its batches.
      total: number of images that all workers saw.
    """
    twice = [name for (name, *_), times in times_seen.items() if times > 1]
    if twice or total != expected:
        problem = (
            f"{twice[0]!r} more than once" if twice else f"{total} of {counted(expected, 'image')}"
        )
        raise UserError(
            f"The split {split!r} gave {problem}; scores count every image exactly once. "
            "Build the data set again."
        )

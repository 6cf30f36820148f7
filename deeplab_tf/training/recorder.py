"""Writes what a run measures to metrics.jsonl, TensorBoard and the tracker."""

import math

import numpy as np
import tensorflow as tf

from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation.evaluator import Evaluation
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training.trackers import Tracker


class Recorder:
    """Takes the values of training and validation.

    Args:
      run: the run's folder; on workers other than the chief, it writes nothing.
      writer: of TensorBoard's file; it writes nothing on workers other than the chief.
      tracker: of --tracker; as above.
    """

    def __init__(self, run: RunDir, writer: tf.summary.SummaryWriter, tracker: Tracker):
        self._run, self.writer, self._tracker = run, writer, tracker

    def recipe(self, settings: dict[str, str], *, step: int) -> None:
        """Shows the run's settings as a table, as text in TensorBoard."""
        rows = [f"| --{name} | {_in_table(value)} |" for name, value in settings.items()]
        table = "\n".join(["| setting | value |", "|---|---|", *rows])
        with self.writer.as_default(step=step):
            tf.summary.text("experiment.flags", table)
        self.writer.flush()  # so that it can be read from the start

    def training(self, step: int, values: dict[str, float]) -> None:
        """Takes the values of some training steps, by name."""
        self._run.metrics.record({"step": step} | values)
        self._scalars(step, {f"train/{name}": value for name, value in values.items()})

    def validation(self, entry: dict, result: Evaluation, info: DatasetInfo) -> None:
        """Takes the scores of a validation, and shows its confusion matrix in TensorBoard.

        Args:
          entry: what metrics.jsonl notes of it.
        """
        self._run.metrics.record(entry)
        self._run.metrics.note_best()
        step = entry["step"]

        scores = result.scores
        values = {
            f"eval/{name}": float(getattr(scores, name))
            for name in ("miou", "pixel_accuracy", "mean_accuracy")
        }
        values |= {
            f"eval/iou/{name}": float(iou)
            for name, iou in zip(info.class_names, scores.iou, strict=True)
        }
        # A class that does not occur has no score; a curve of it would be one of NaN.
        self._scalars(
            step, {name: value for name, value in values.items() if not math.isnan(value)}
        )

        picture = np.asarray(report.confusion_picture(result.matrix, info.class_names))
        with self.writer.as_default(step=step):
            tf.summary.image(
                "eval/confusion_matrix",
                picture[np.newaxis],
                description="Of the pixels of each class in the label (row), the share in % that "
                "is predicted as each class (column). Rows of classes without a pixel are grey.",
            )

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        with self.writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._tracker.log(step, values)


def _in_table(value: str) -> str:
    """Returns a value as the cell of a Markdown table, where | would begin the next cell."""
    escaped = value.replace("|", "&#124;").replace("`", "&#96;")
    return f"`{escaped}`" if escaped == value and value else escaped

"""Scores the model during training: records the scores, and tells them in a few lines."""

import shutil
from collections.abc import Callable

import numpy as np

from deeplab_tf.config import Experiment, flags
from deeplab_tf.data import records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation import evaluator
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.evaluation.short_table import short_table
from deeplab_tf.messages import counted
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.runs import averaging
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training import pictures
from deeplab_tf.training.progress import say
from deeplab_tf.training.recorder import Recorder

_WIDTH = 100  # letters in a line of scores, or fewer on a narrower terminal


class Scoring:
    """Called with a step, scores the model on the validation split; every worker must call it.

    Args:
      table: the records of the split.
      predict: images, [1, H, W, C] -> labels [1, H, W], for pictures; called by the chief.
      show: shows a text while the model is scored; "" ends it.
      meet: as in `evaluator.evaluate`.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: DeepLab,
        info: DatasetInfo,
        table: records.RecordTable,
        run: RunDir,
        recorder: Recorder,
        *,
        workers: Workers,
        predictor: Predictor,
        predict: Callable[[np.ndarray], np.ndarray],
        show: Callable[[str], None],
        meet: Callable[[bool], bool],
    ):
        self._experiment, self._model, self._info, self._table = experiment, model, info, table
        self._run, self._recorder, self._workers = run, recorder, workers
        self._predictor, self._predict = predictor, predict
        self._show, self._meet = show, meet
        self._examples: list[pictures.Example] | None = None

    def __call__(self, step: int) -> None:
        with averaging.averaged(self._model):
            result = self._evaluate()
            pages = self._draw()
        self._show("")
        if not self._workers.is_chief:
            return

        inference = flags.inference_settings(self._experiment, self._experiment.model)
        entry = result.to_json(self._info, step) | {"inference": inference}
        before = self._run.metrics.best(like=entry)
        has_others = not before and bool(self._run.metrics.best())
        self._recorder.validation(entry, result, self._info)
        self._run.checkpoints.prune(keep=self._experiment.train.keep_checkpoints)
        if pages is not None:
            with self._recorder.writer.as_default(step=step):
                pictures.write("eval/image_label_prediction", pages)
        say(f"step {step}  {self._described(result, before, has_others=has_others)}")

    def _evaluate(self) -> evaluator.Evaluation:
        evaluation = self._experiment.eval
        own = len(self._table.share(self._workers.index, self._workers.count))
        seen = 0

        def count(images: int) -> None:
            nonlocal seen
            seen += images
            self._show(f"validating {seen} of {counted(own, 'image')}")

        count(0)
        return evaluator.evaluate(
            self._predictor,
            self._table,
            self._info,
            split=evaluation.eval_split,
            batch_size=evaluation.eval_batch_size,
            progress=count,
            workers=self._workers,
            meet=self._meet,
        )

    def _draw(self) -> np.ndarray | None:
        """Returns pictures of the same images each time, as `pictures.draw` does; None for none."""
        number = self._experiment.train.summary_images
        if not number or not self._workers.is_chief:
            return None
        if self._examples is None:
            self._examples = pictures.read_examples(self._table, number, self._info.image_kind)
        return pictures.draw(self._examples, self._predict, self._info)

    def _described(self, result: evaluator.Evaluation, before: dict, *, has_others: bool) -> str:
        """Returns the scores in a few lines, and whether they are the best.

        Args:
          before: the best comparable validation before this one, as `MetricsLog.best` returns it.
          has_others: whether there are only scores before it that are not comparable.
        """
        train, scores = self._experiment.train, result.scores
        if not result.matrix.any():
            folder = self._experiment.data.dataset_dir
            return evaluator.nothing_to_score(result, self._info, where=folder)

        text = f"{result.split} {scores.miou_name} {scores.miou:.4f}"
        if not before:
            text += ", the first" + (" with these records and settings" if has_others else "")
        elif scores.miou > before["miou"]:
            text += f", the best so far (before: {before['miou']:.4f} at step {before['step']})"
        else:
            text += f", not the best ({before['miou']:.4f} at step {before['step']})"

        if train.early_stopping_patience:
            waited = self._run.metrics.without_improvement(train.early_stopping_min_delta)
            if waited:
                text += f"; {waited} of {train.early_stopping_patience} without improvement"
        return f"{text}\n{short_table(scores.iou, self._info.class_names, width=_columns())}"


def _columns() -> int:
    """Returns how many letters a line should have at most."""
    # A terminal that does not know its width has 0 columns under Python 3.10.
    columns = shutil.get_terminal_size(fallback=(_WIDTH, 24)).columns or _WIDTH
    return min(columns, _WIDTH)

"""What happens between the steps of a run: logging, saving, validation, and their pictures."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.config import Experiment
from deeplab_tf.data import records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation.predictor import Predictor, build_predictor
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.runs import averaging
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training import callbacks, pictures
from deeplab_tf.training.pace import Pace
from deeplab_tf.training.progress import ProgressBar, say
from deeplab_tf.training.recorder import Recorder
from deeplab_tf.training.scoring import Scoring
from deeplab_tf.training.signals import StopOnSignal
from deeplab_tf.training.training_log import TrainingLog


class BetweenSteps:
    """The callbacks of a run.

    Args:
      eval_table: the records of the validation split; None for no validation.
      save: saves the checkpoint of a step, and keeps as many as `keep` says.
      first_batch: returns the images and labels of the first step.
    Attributes:
      callbacks: in the order in which Keras calls them.
    """

    def __init__(
        self,
        experiment: Experiment,
        info: DatasetInfo,
        model: DeepLab,
        *,
        workers: Workers,
        run: RunDir,
        eval_table: records.RecordTable | None,
        recorder: Recorder,
        stop: StopOnSignal,
        save: Callable[..., None],
        first_batch: Callable[[], tuple[np.ndarray, np.ndarray]],
    ):
        self._experiment, self._info, self._model = experiment, info, model
        self._workers, self._run, self._recorder, self._stop = workers, run, recorder, stop
        config = experiment.train
        last_step = config.training_number_of_steps
        pauses = {"save": config.save_interval_steps, "validation": config.eval_interval_steps}
        pace = Pace(last_step, pauses=pauses)
        self._bar = self._progress_bar(pace)

        training_log = TrainingLog(
            recorder.training,
            pace=pace,
            log_steps=config.log_steps,
            batch_size=config.train_batch_size,
            last_step=last_step,
            tell=say if workers.is_chief else lambda line: None,
            print_lines=self._bar is None,
        )

        predictor = build_predictor(model, experiment.data, experiment.eval, info.image_kind)
        saver = callbacks.Saver(
            self._saving(predictor, save, first_batch),
            pace,
            save_interval_steps=config.save_interval_steps,
            show=self._show,
        )

        self._validation = None
        if eval_table is not None:
            self._validation = callbacks.Validation(
                self._scoring(predictor, eval_table),
                self.is_enough,
                saver,
                pace,
                eval_interval_steps=config.eval_interval_steps,
                last_step=last_step,
            )

        # A loss that is not finite ends the run before the step is logged or saved.
        chosen = [
            callbacks.StopOnNonFiniteLoss(run),
            training_log,
            self._bar,
            self._validation,
            saver,
        ]
        self.callbacks = [callback for callback in chosen if callback is not None]

    def catch_up(self, step: int) -> None:
        """Scores the restored checkpoint of a step, if it should have been scored."""
        if self._validation:
            self._validation.catch_up(step)

    def is_enough(self) -> bool:
        """Whether --early_stopping_patience ends the run now; each worker must call this."""
        train = self._experiment.train
        if not train.early_stopping_patience:
            return False
        ends = self._workers.is_chief and self._run.stopped_early(train)
        return bool(self._workers.of_chief(int(ends)))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Leaves a terminal in order, whatever ends the block."""
        try:
            yield
        finally:
            if self._bar:
                self._bar.close()

    def _show(self, text: str) -> None:
        if self._bar:
            self._bar.show(text)

    def _progress_bar(self, pace: Pace) -> ProgressBar | None:
        """Returns the progress bar, if there is a terminal to show it on."""
        if not (sys.stderr and sys.stderr.isatty() and self._workers.is_chief):
            return None
        config = self._experiment.train
        return ProgressBar(
            pace, batch_size=config.train_batch_size, last_step=config.training_number_of_steps
        )

    def _scoring(self, predictor: Predictor, table: records.RecordTable) -> Scoring:
        return Scoring(
            self._experiment,
            self._model,
            self._info,
            table,
            self._run,
            self._recorder,
            workers=self._workers,
            predictor=predictor,
            predict=self._on_one_replica(predictor),
            show=self._show,
            meet=self._stop.meet,
        )

    def _saving(
        self,
        predictor: Predictor,
        save: Callable[..., None],
        first_batch: Callable[[], tuple[np.ndarray, np.ndarray]],
    ) -> Callable[[int], None]:
        """Returns the function that saves a step and shows TensorBoard some predictions."""
        config = self._experiment.train
        examples: list[pictures.Example] = []
        if config.summary_images and self._workers.is_chief:
            images, labels = first_batch()
            # The predictor takes images as they are before scaling.
            crops = self._info.image_kind.unscaled(images[: config.summary_images])
            examples = list(map(pictures.Example, crops, labels[..., 0].astype(np.uint8)))

        evaluation = self._experiment.eval
        if evaluation.inference_mode == "whole" and evaluation.eval_crop_size:
            # Training crops may be larger than the size that images are padded to for scoring.
            evaluation = dataclasses.replace(evaluation, eval_crop_size=())
            data, kind = self._experiment.data, self._info.image_kind
            predictor = build_predictor(self._model, data, evaluation, kind)
        predict = self._on_one_replica(predictor)

        def save_and_draw(step: int) -> None:
            self._require_finite_weights(step)
            save(step, keep=config.keep_checkpoints)
            if examples and not self._stop.received:
                with averaging.averaged(self._model):
                    pages = pictures.draw(examples, predict, self._info)
                with self._recorder.writer.as_default(step=step):
                    pictures.write("train/image_label_prediction", pages)

        return save_and_draw

    def _on_one_replica(self, predictor: Predictor) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from images, [B, H, W, C], to labels, for one worker only."""
        strategy = self._workers.strategy
        if strategy.num_replicas_in_sync == 1:
            return lambda images: predictor.labels(images).numpy()

        @tf.function(input_signature=[predictor.images_spec()], autograph=False)
        def predict_in_replica(images):
            # Called outside a replica, this would gather each moving average from all hosts, but
            # only the chief is here.
            labels = strategy.run(lambda: predictor.predict(images)[0])
            return strategy.experimental_local_results(labels)[0]

        return lambda images: predict_in_replica(images).numpy()

    def _require_finite_weights(self, step: int) -> None:
        for variable in self._model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(variable)):
                raise UserError(
                    f"The weights {variable.name} are no longer finite at step {step}, which was "
                    f"not saved; {self._run.checkpoints.last_good()}. Lower "
                    "--base_learning_rate (with adam: --adam_learning_rate)."
                )

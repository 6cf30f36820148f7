"""Callbacks that count steps, where Keras counts epochs: saving, validation, a ruined loss.

`step` is always the number of steps done. The optimizer counts it, and so it includes the steps
that loss scaling skips.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training.pace import Pace


class StepCallback(tf.keras.callbacks.Callback):
    """Calls `on_step(step, logs)` each time that Keras has run one or more steps in one call.

    `step` goes on counting when a run is resumed.
    """

    def __init__(self):
        super().__init__()
        self.step = self._first = 0

    def on_train_begin(self, logs=None):
        self.step = self._first = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch, logs=None):
        # `batch` counts from 0 since this `fit` began, and is the last one of this call.
        self.step = self._first + batch + 1
        self.on_step(self.step, logs or {})

    def on_step(self, step: int, logs: dict) -> None:
        """Receives the number of steps done, and the latest loss and learning rate."""


class StopOnNonFiniteLoss(StepCallback):
    """Ends the run when the loss is NaN or infinite, before the ruined weights can be saved."""

    def __init__(self, run: RunDir):
        super().__init__()
        self._run = run

    def on_step(self, step, logs):
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"The loss became {logs['loss']} at step {step}; "
                f"{self._run.checkpoints.last_good()}. Lower --base_learning_rate (with adam: "
                "--adam_learning_rate), or look at the data with deeplab_tf.inspect_data."
            )


class Saver(StepCallback):
    """Saves a checkpoint every `save_interval_steps`, and when training ends early or late.

    Args:
      save: saves the weights under the step's number.
      show: shows a text while it does so; "" ends it.
    """

    def __init__(
        self,
        save: Callable[[int], None],
        pace: Pace,
        *,
        save_interval_steps: int,
        show: Callable[[str], None] = lambda text: None,
    ):
        super().__init__()
        self._save, self._pace, self._interval = save, pace, save_interval_steps
        self._show, self._saved = show, -1

    def on_step(self, step, logs):
        if step % self._interval == 0:
            self.save_once(step)

    def on_train_end(self, logs=None):
        self.save_once(self.step)

    def save_once(self, step: int) -> None:
        """Saves the present weights under `step`, unless this was done already."""
        if self._saved != step:
            self._show("saving")
            with self._pace.pause("save"):
                self._save(step)
            self._show("")
            self._saved = step


class Validation(StepCallback):
    """Scores the model every `eval_interval_steps` and after the last step, once it is saved.

    Args:
      validate: scores the model of a step.
      is_enough: returns whether the scores so far say that training should end.
    """

    def __init__(
        self,
        validate: Callable[[int], None],
        is_enough: Callable[[], bool],
        saver: Saver,
        pace: Pace,
        *,
        eval_interval_steps: int,
        last_step: int,
    ):
        super().__init__()
        self._validate, self._is_enough = validate, is_enough
        self._saver, self._pace = saver, pace
        self._interval, self._last_step = eval_interval_steps, last_step

    def on_step(self, step, logs):
        if step % self._interval == 0 or step == self._last_step:
            self._saver.save_once(step)
            with self._pace.pause("validation"):
                self._validate(step)
            self.model.stop_training |= self._is_enough()

    def catch_up(self, step: int) -> None:
        """Scores the restored checkpoint, for a run that stopped between saving and scoring it."""
        if step and (step % self._interval == 0 or step == self._last_step):
            self._validate(step)

"""What Keras and TensorFlow Addons lack: step-counted logging, saving, validation and stopping.

`step` is always the number of steps done, which is what the optimizer counts (with those that loss
scaling leaves out).
"""

import datetime
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.config import UserError
from deeplab_tf.distribution import Workers
from deeplab_tf.training.run_dir import RunDir


class StepCallback(tf.keras.callbacks.Callback):
    """Calls `on_step(step, logs)` after each call of training steps.

    `step` counts over resumed runs.
    """

    def __init__(self):
        super().__init__()
        self.step = self._first = 0

    def on_train_begin(self, logs=None):
        self.step = self._first = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch, logs=None):
        self.step = self._first + batch + 1  # `batch` is the last of this call
        self.on_step(self.step, logs or {})

    def on_step(self, step: int, logs: dict) -> None:
        """Called with the steps done and the step's loss and learning rate."""


class StopOnNonFiniteLoss(StepCallback):
    """Ends the run before weights made by a NaN or infinite loss can be saved."""

    def __init__(self, run: RunDir):
        super().__init__()
        self._run = run

    def on_step(self, step, logs):
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"The loss became {logs['loss']} at step {step}; {self._run.last_good()}. Lower "
                "--base_learning_rate, or look at the data with the masks beside the images."
            )


class TrainingLog(StepCallback):
    """Writes mean loss, learning rate and speed to metrics.jsonl, TensorBoard and the log.

    Speed and remaining time count the training steps, without saving and validating.
    """

    def __init__(
        self,
        run: RunDir,
        writer: tf.summary.SummaryWriter,
        *,
        log_steps: int,
        batch_size: int,
        last_step: int,
        print_lines: bool,
    ):
        super().__init__()
        self._run, self._writer = run, writer
        self._log_steps, self._batch_size, self._last_step = log_steps, batch_size, last_step
        self._print_lines = print_lines
        self._logged, self._seconds, self._began = 0, 0.0, 0.0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._logged = self.step

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.monotonic()

    def on_step(self, step, logs):
        self._seconds += time.monotonic() - self._began
        if step % self._log_steps and step != self._last_step:
            return
        seconds = self._seconds / (step - self._logged)
        self._logged, self._seconds = step, 0.0
        entry = {
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "images_per_second": self._batch_size / seconds,
        }
        self.model.reset_metrics()  # the loss is the mean since the last line
        self._run.record({"step": step} | entry)
        with self._writer.as_default(step=step):
            for name, value in entry.items():
                tf.summary.scalar(f"train/{name}", value)
        if self._print_lines:
            eta = datetime.timedelta(seconds=round(seconds * (self._last_step - step)))
            print(
                f"step {step}/{self._last_step}  loss {entry['loss']:.4f}  "
                f"lr {entry['learning_rate']:.6f}  {entry['images_per_second']:.2f} images/s  "
                f"ETA {eta}",
                flush=True,
            )


class Saver(StepCallback):
    """Saves a checkpoint every few steps and at the end, however the end came."""

    def __init__(self, save: Callable[[int], None], *, save_interval_steps: int):
        super().__init__()
        self._save, self._interval = save, save_interval_steps
        self._saved = -1

    def on_step(self, step, logs):
        if step % self._interval == 0:
            self.save_once(step)

    def on_train_end(self, logs=None):
        self.save_once(self.step)

    def save_once(self, step: int) -> None:
        """Saves the weights, which are those after `step`, unless that was done."""
        if self._saved != step:
            self._save(step)
            self._saved = step


class Validation(StepCallback):
    """Scores the model every few steps, each time after saving it."""

    def __init__(
        self,
        validate: Callable[[int], None],
        run: RunDir,
        saver: Saver,
        *,
        eval_interval_steps: int,
        last_step: int,
    ):
        super().__init__()
        self._validate, self._run, self._saver = validate, run, saver
        self._interval, self._last_step = eval_interval_steps, last_step

    def on_step(self, step, logs):
        if step % self._interval == 0 or step == self._last_step:
            self._saver.save_once(step)
            self._validate(step)

    def catch_up(self, step: int) -> None:
        """Scores the restored checkpoint of a run that was stopped before that was done."""
        if step and (step % self._interval == 0 or step == self._last_step):
            self._validate(step)


class Interrupted(Exception):
    """Ends a validation when a signal has arrived; the resumed run makes up for it."""


class StopOnSignal(StepCallback):
    """Ends training after the step in progress when SIGINT or SIGTERM arrives.

    All workers stop at the same step, whichever of them a signal reaches.
    """

    def __init__(self, workers: Workers):
        super().__init__()
        self._workers = workers
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        print(f"{self.received.name}: saving after this step; again to quit at once.", flush=True)
        signal.signal(number, self._previous[number])

    def on_step(self, step, logs):
        self.model.stop_training |= self._agree(False)[0]

    def _agree(self, working: bool) -> tuple[bool, bool]:
        """Returns whether any worker has told of a signal, and whether any works.

        One that arrives meanwhile waits for the next call: no worker may act on it alone.
        """
        news = np.zeros([self._workers.count, 2], np.int32)
        news[self._workers.index] = self.received or 0, working
        highest, works = self._workers.total(news).max(axis=0)
        if highest:
            self.received = signal.Signals(highest)
        return bool(highest), bool(works)

    def meet(self, working: bool) -> bool:
        """Raises Interrupted on all workers once one has received a signal.

        Args:
          working: whether this worker has something left to do.
        Returns:
          Whether any worker has.
        """
        stopped, works = self._agree(working)
        if stopped:
            raise Interrupted
        return works


def progress_bar(batch_size: int, last_step: int) -> tf.keras.callbacks.Callback | None:
    """Returns TensorFlow Addons' progress bar with step, loss, learning rate and images/s.

    None where TensorFlow Addons has no wheel (aarch64 Linux, Windows): the log lines remain.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its end-of-life notice, on each import
            from tensorflow_addons.callbacks import TQDMProgressBar
    except ImportError:
        return None

    class ProgressBar(TQDMProgressBar):
        """Shows the newest values, where the base class averages over the whole run."""

        latest: dict = {}

        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            self._first = (int(self.model.optimizer.iterations.numpy()), time.monotonic())

        def on_batch_end(self, batch, logs=None):
            self.latest = dict(logs or {})
            skipped = batch - self.steps_so_far  # steps run in one call with the last
            self.steps_so_far += skipped
            self.steps_to_update += skipped
            super().on_batch_end(batch, self.latest)

        def on_epoch_end(self, epoch, logs=None):
            if self.model.stop_training:  # the base class would fill the bar to its end
                self.epoch_progress_tqdm.close()
            else:
                super().on_epoch_end(epoch, logs)

        def format_metrics(self, logs=None, factor=1):
            first, since = self._first
            step = first + self.steps_so_far
            rate = self.steps_so_far * batch_size / max(time.monotonic() - since, 1e-9)
            return (
                f"step {step}/{last_step} - loss {self.latest.get('loss', float('nan')):.4f} - "
                f"lr {self.latest.get('learning_rate', float('nan')):.6f} - {rate:.2f} images/s"
            )

    return ProgressBar(show_overall_progress=False)

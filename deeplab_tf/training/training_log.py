"""What a run records every --log_steps: losses, learning rate, gradient norm, speed."""

import collections
import math
import time
from collections.abc import Callable

import numpy as np

from deeplab_tf.messages import counted
from deeplab_tf.training.callbacks import StepCallback
from deeplab_tf.training.pace import WARM_UP_CALLS, Pace, duration

# Of what `DeepLab.train_step` returns with detailed_logs.
_MEANS = ("main_loss", "auxiliary_loss", "gradient_norm")


class StepDetails:
    """Means, over some steps, of values that describe one step each.

    If a call runs several steps, only the last one's values are known.
    """

    def __init__(self):
        self._num_calls = 0
        self._reset()

    def _reset(self) -> None:
        self._values: dict[str, list[float]] = collections.defaultdict(list)
        self._waited, self._seconds = 0.0, 0.0

    def add(self, logs: dict, *, began: float, seconds: float, steps: int) -> None:
        """Adds a call.

        Args:
          logs: what the last step returned.
          began: when the call began, in seconds since 1970.
          seconds: how long it took.
          steps: how many steps it ran.
        """
        self._num_calls += 1
        for name in _MEANS:
            if name in logs:
                self._values[name].append(float(logs[name]))

        # The first calls trace the graph before they ask for images. With several steps in a call,
        # the last one's images say nothing about the others' wait.
        if "input_ready" in logs and steps == 1 and self._num_calls > WARM_UP_CALLS:
            self._waited += min(max(float(logs["input_ready"]) - began, 0.0), seconds)
            self._seconds += seconds

    def take(self) -> dict[str, float]:
        """Returns the means since the last call, by name; `input_wait` is a share of the time.

        A mean that is not finite is left out: loss scaling skips steps with infinite gradients.
        """
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        if self._seconds:
            means["input_wait"] = self._waited / self._seconds
        self._reset()
        return {name: value for name, value in means.items() if math.isfinite(value)}


class TrainingLog(StepCallback):
    """Tells mean loss, learning rate, speed and more every `log_steps`.

    The speed counts only training steps; the remaining time includes saves and validations.

    Args:
      record: takes the step and the values by name.
      tell: prints a line.
      print_lines: whether each record is printed too.
    """

    def __init__(
        self,
        record: Callable[[int, dict[str, float]], None],
        *,
        pace: Pace,
        log_steps: int,
        batch_size: int,
        last_step: int,
        tell: Callable[[str], None],
        print_lines: bool,
    ):
        super().__init__()
        self._record, self._pace = record, pace
        self._log_steps, self._batch_size, self._last_step = log_steps, batch_size, last_step
        self._tell, self._print_lines, self._has_estimated = tell, print_lines, False
        self._details = StepDetails()
        self._logged, self._counted, self._seconds = 0, 0, 0.0
        self._began, self._began_at = 0.0, 0.0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._logged = self._counted = self.step

    def on_train_batch_begin(self, batch, logs=None):
        self._began, self._began_at = time.monotonic(), time.time()

    def on_step(self, step, logs):
        seconds = time.monotonic() - self._began
        self._seconds += seconds
        steps = step - self._counted
        self._pace.add_call(steps, seconds)
        self._details.add(logs, began=self._began_at, seconds=seconds, steps=steps)
        self._counted = step
        if self._pace.is_steady() and not self._has_estimated and step < self._last_step:
            self._has_estimated = True
            self._tell(self._estimate(step))

        if step % self._log_steps == 0 or step == self._last_step:
            self._log(step, logs)

    def _log(self, step: int, logs: dict) -> None:
        seconds = self._seconds / (step - self._logged)
        self._logged, self._seconds = step, 0.0
        entry = {
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "images_per_second": self._batch_size / seconds,
        }
        self.model.reset_metrics()  # each logged loss is the mean since the previous line
        self._record(step, entry | self._details.take())

        if self._print_lines:
            left = self._pace.seconds_left(step)
            eta = "" if math.isnan(left) else f"  ETA {duration(left)}"
            self._tell(
                f"step {step}/{self._last_step}  loss {entry['loss']:.4f}  "
                f"lr {entry['learning_rate']:.6f}  {entry['images_per_second']:.2f} images/s{eta}"
            )

    def _estimate(self, step: int) -> str:
        left, each = self._last_step - step, self._pace.seconds_per_step()
        text = (
            f"time        about {duration(self._pace.seconds_left(step))} for the "
            f"{counted(left, 'step')} left, {each:.2g} s each"
        )

        untimed = self._pace.untimed_pauses(step)
        if not untimed:
            return f"{text}."
        pauses = " and ".join(counted(number, name) for name, number in untimed.items())
        return f"{text}, plus {pauses}, which ETA includes once the first of each is timed."

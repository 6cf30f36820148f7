"""What a terminal shows while a run trains: one moving line, and lines that pass above it."""

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from deeplab_tf.training.callbacks import StepCallback
from deeplab_tf.training.pace import Pace

_ERASE_LINE = "\r\x1b[2K"
_SPARE_COLUMNS = 2  # for the ^C that a terminal shows; in the last column it would begin a line
_SECONDS_BETWEEN_LOOKS = 0.2
_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining_time}{postfix}]"


def say(line: str) -> None:
    """Prints a line at once; a progress bar on the same terminal makes room for it."""
    if sys.stdout:  # None if the program was started without one
        tqdm.write(line)
        sys.stdout.flush()


class _Bar(tqdm):
    """A bar whose remaining time the caller knows, and that leaves nothing of itself behind."""

    remaining_time = "?"

    def __init__(self, **kwargs: Any):
        super().__init__(dynamic_ncols=True, bar_format=_FORMAT, **kwargs)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `_FORMAT` is filled with, and the columns that it may fill."""
        values = super().format_dict
        columns = values["ncols"] and max(values["ncols"] - _SPARE_COLUMNS, 1)
        return values | {"ncols": columns, "remaining_time": self.remaining_time}

    def clear(self, nolock: bool = False) -> None:
        """Erases the line, with what the terminal has added to it, such as ^C."""
        if self.disable:
            return
        if not nolock:
            self._lock.acquire()
        self.fp.write(_ERASE_LINE)
        self.fp.flush()
        if not nolock:
            self._lock.release()


class ProgressBar(StepCallback):
    """Shows steps, remaining time, loss, learning rate and images/s in one line on standard error.

    The remaining time includes saves and validations; a + after it says that some are still to be
    timed.
    """

    def __init__(self, pace: Pace, *, batch_size: int, last_step: int):
        super().__init__()
        self._pace, self._batch_size, self._last_step = pace, batch_size, last_step
        self._bar: _Bar | None = None
        self._text, self._shown = "", 0.0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._bar = _Bar(total=self._last_step, initial=self.step, unit=" steps")

    def on_step(self, step, logs):
        rate = self._batch_size / self._pace.seconds_per_step()
        speed = "" if math.isnan(rate) else f", {rate:.2f} images/s"
        self._text = f"loss {logs['loss']:.4f}, lr {logs['learning_rate']:.6f}{speed}"
        if self._bar is not None:
            self._bar.remaining_time = self._remaining(step)
            self._bar.set_postfix_str(self._text, refresh=False)
            self._bar.update(step - self._bar.n)

    def show(self, text: str) -> None:
        """Shows in place of the loss what training pauses for; "" shows the loss again."""
        if self._bar is None:
            return
        self._bar.set_postfix_str(text or self._text, refresh=False)
        now = time.monotonic()
        if not text or now - self._shown > _SECONDS_BETWEEN_LOOKS:
            self._shown = now
            self._bar.refresh()

    def on_train_end(self, logs=None):
        self.close()

    def close(self) -> None:
        """Leaves the last state of the bar on the terminal; what comes next begins a new line."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def _remaining(self, step: int) -> str:
        left = self._pace.seconds_left(step)
        if math.isnan(left):
            return "?"
        return tqdm.format_interval(left) + ("+" if self._pace.untimed_pauses(step) else "")

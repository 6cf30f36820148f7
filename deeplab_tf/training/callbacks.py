"""Callbacks that count steps, where Keras counts epochs: logging, saving, validation, stopping.

`step` is always the number of steps done. The optimizer counts it, and so it includes the steps
that loss scaling skips.
"""

import collections
import contextlib
import datetime
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from deeplab_tf.distribution import Workers
from deeplab_tf.messages import UserError, counted
from deeplab_tf.runs.run_dir import RunDir


def say(line: str) -> None:
    """Prints a line at once; a progress bar on the same terminal makes room for it."""
    if sys.stdout:  # None if the program was started without one
        tqdm.write(line)
        sys.stdout.flush()


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


class Pace:
    """Estimates how long the rest of a run will take, from what its steps and pauses took so far.

    Args:
      last_step: number of steps of the whole run.
      pauses: what training pauses for (a save, a validation), and after how many steps each time;
        0 means never. Each of them also comes after the last step.
    """

    # Keras traces the graph in the first call, and once more in the second if a call has several
    # steps. So these two say nothing about the speed of the others.
    _WARM_UP_CALLS = 2
    _ENOUGH_CALLS = 3

    def __init__(self, last_step: int, *, pauses: dict[str, int]):
        self._last_step = last_step
        self._intervals = {name: interval for name, interval in pauses.items() if interval}
        self._num_calls = 0
        self._calls: collections.deque[tuple[int, float]] = collections.deque(maxlen=100)
        self._pauses: dict[str, list[float]] = {name: [] for name in pauses}

    def add_call(self, steps: int, seconds: float) -> None:
        """Records how long a call took, and how many training steps it ran."""
        self._num_calls += 1
        if self._num_calls > self._WARM_UP_CALLS:
            self._calls.append((steps, seconds))

    @contextlib.contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Records the time that its block takes as a pause of this name."""
        began = time.monotonic()
        yield
        self._pauses[name].append(time.monotonic() - began)

    def is_steady(self) -> bool:
        """Returns whether there were enough calls for an estimate."""
        return len(self._calls) >= self._ENOUGH_CALLS

    def seconds_per_step(self) -> float:
        """Returns the mean over the latest 100 calls; NaN before the first one that counts."""
        steps = sum(steps for steps, _ in self._calls)
        return sum(seconds for _, seconds in self._calls) / steps if steps else math.nan

    def untimed_pauses(self, step: int) -> dict[str, int]:
        """Returns how many pauses are to come, for each kind of pause that was not timed yet."""
        counts = {name: self._pauses_after(step, name) for name in self._intervals}
        return {name: n for name, n in counts.items() if n and not self._pauses[name]}

    def seconds_left(self, step: int) -> float:
        """Returns the seconds from `step` to the run's end, without `untimed_pauses`.

        It is NaN as long as no step was timed.
        """
        total = (self._last_step - step) * self.seconds_per_step()
        for name in self._intervals:
            if self._pauses[name]:
                # Not the mean: the first pause also traces a graph, so it takes longer.
                latest = self._pauses[name][-1]
                total += self._pauses_after(step, name) * latest
        return total

    def _pauses_after(self, step: int, name: str) -> int:
        interval = self._intervals[name]
        at_the_end = self._last_step > step and self._last_step % interval != 0
        return max(self._last_step // interval - step // interval, 0) + at_the_end


class TrainingLog(StepCallback):
    """Writes mean loss, learning rate and speed to metrics.jsonl, TensorBoard and the log.

    The speed is that of the training steps only; the remaining time includes saves and validations.
    """

    def __init__(
        self,
        run: RunDir,
        writer: tf.summary.SummaryWriter,
        *,
        pace: Pace,
        log_steps: int,
        batch_size: int,
        last_step: int,
        tell: Callable[[str], None],
        print_lines: bool,
    ):
        super().__init__()
        self._run, self._writer, self._pace = run, writer, pace
        self._log_steps, self._batch_size, self._last_step = log_steps, batch_size, last_step
        self._tell, self._print_lines, self._has_estimated = tell, print_lines, False
        self._logged, self._counted, self._seconds, self._began = 0, 0, 0.0, 0.0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._logged = self._counted = self.step

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.monotonic()

    def on_step(self, step, logs):
        seconds = time.monotonic() - self._began
        self._seconds += seconds
        self._pace.add_call(step - self._counted, seconds)
        self._counted = step
        if self._pace.is_steady() and not self._has_estimated and step < self._last_step:
            self._has_estimated = True
            self._tell(self._estimate(step))

        if step % self._log_steps and step != self._last_step:
            return

        seconds = self._seconds / (step - self._logged)
        self._logged, self._seconds = step, 0.0
        entry = {
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "images_per_second": self._batch_size / seconds,
        }
        self.model.reset_metrics()  # each logged loss is the mean since the previous line

        self._run.metrics.record({"step": step} | entry)
        with self._writer.as_default(step=step):
            for name, value in entry.items():
                tf.summary.scalar(f"train/{name}", value)

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
            f"time        about {duration(self._pace.seconds_left(step))} for the {left} steps "
            f"left, {each:.2g} s each"
        )

        untimed = self._pace.untimed_pauses(step)
        if not untimed:
            return f"{text}."
        pauses = " and ".join(counted(number, name) for name, number in untimed.items())
        return f"{text}, plus {pauses}, which ETA includes once the first of each is timed."


def duration(seconds: float) -> str:
    """Returns a time as hours:minutes:seconds, such as 1:04:30."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Saver(StepCallback):
    """Saves a checkpoint every `save_interval_steps`, and when training ends early or late."""

    def __init__(self, save: Callable[[int], None], pace: Pace, *, save_interval_steps: int):
        super().__init__()
        self._save, self._pace, self._interval = save, pace, save_interval_steps
        self._saved = -1

    def on_step(self, step, logs):
        if step % self._interval == 0:
            self.save_once(step)

    def on_train_end(self, logs=None):
        self.save_once(self.step)

    def save_once(self, step: int) -> None:
        """Saves the present weights as those after `step`, unless this was done already."""
        if self._saved != step:
            with self._pace.pause("save"):
                self._save(step)
            self._saved = step


class Validation(StepCallback):
    """Scores the model every `eval_interval_steps` and after the last step, once it is saved."""

    def __init__(
        self,
        validate: Callable[[int], None],
        saver: Saver,
        pace: Pace,
        *,
        eval_interval_steps: int,
        last_step: int,
    ):
        super().__init__()
        self._validate, self._saver, self._pace = validate, saver, pace
        self._interval, self._last_step = eval_interval_steps, last_step

    def on_step(self, step, logs):
        if step % self._interval == 0 or step == self._last_step:
            self._saver.save_once(step)
            with self._pace.pause("validation"):
                self._validate(step)

    def catch_up(self, step: int) -> None:
        """Scores the restored checkpoint, for a run that stopped between saving and scoring it."""
        if step and (step % self._interval == 0 or step == self._last_step):
            self._validate(step)


class Interrupted(Exception):
    """Ends a validation when a signal has arrived; the resumed run does it again in full."""


class _Watched:
    """A text stream whose faults are told to `note` in place of being raised."""

    def __init__(self, stream: TextIO, note: Callable[[OSError], None]):
        self._stream, self._note = stream, note

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as fault:
            self._note(fault)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as fault:
            self._note(fault)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class StopOnSignal(StepCallback):
    """Ends training after the step in progress when it is told to, or nothing takes its output.

    It is told by SIGINT, SIGTERM, or SIGHUP unless that is ignored (nohup). Output that cannot be
    written, to a closed pipe, terminal or full disk, counts as SIGPIPE.

    All workers stop at the same step, no matter which of them received the signal. If one stopped
    before the others, they would wait for it in the next step.

    Attributes:
      received: the signal; None if there was none.
      fault: why output could not be written; None if it could.
    """

    def __init__(self, workers: Workers):
        super().__init__()
        self._workers = workers
        self.received: signal.Signals | None = None
        self.fault: OSError | None = None
        self._previous: dict[int, Any] = {}
        self._streams = contextlib.ExitStack()

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            is_ignored = signal.getsignal(number) == signal.SIG_IGN
            if not (number == signal.SIGHUP and is_ignored):
                self._previous[number] = signal.signal(number, self._note)

        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            if stream:
                self._streams.enter_context(redirect(_Watched(stream, self._note_fault)))
        return self

    def __exit__(self, *_):
        self._streams.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.received = signal.Signals(number)

        # The second signal gets the previous handler, which ends the process at once.
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            say(f"{self.received.name}: saving after this step; send it again to quit at once.")
        signal.signal(number, self._previous[number])

    def _note_fault(self, fault: OSError) -> None:
        self.fault = self.fault or fault
        self.received = self.received or signal.SIGPIPE

    def on_step(self, step, logs):
        self.model.stop_training |= self._agree(False)[0]

    def _agree(self, working: bool) -> tuple[bool, bool]:
        """Returns whether any worker has received a signal, and whether any is still working.

        A signal that arrives during the call waits for the next one, so that all workers act on it
        together.
        """
        states = np.zeros([self._workers.count, 2], np.int32)
        states[self._workers.index] = self.received or 0, working
        signal_number, any_works = self._workers.total(states).max(axis=0)

        if signal_number:
            self.received = signal.Signals(signal_number)
        return bool(signal_number), bool(any_works)

    def meet(self, working: bool) -> bool:
        """Raises Interrupted on all workers once one has received a signal.

        Args:
          working: whether this worker has something left to do.
        Returns:
          Whether any worker has something left to do.
        """
        has_signal, any_works = self._agree(working)
        if has_signal:
            raise Interrupted
        return any_works


class ProgressBar(StepCallback):
    """Shows steps, loss, learning rate and images/s in one line on standard error."""

    def __init__(self, batch_size: int, last_step: int):
        super().__init__()
        self._batch_size, self._last_step = batch_size, last_step

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._since = time.monotonic()
        self._bar = tqdm(
            total=self._last_step, initial=self.step, unit=" steps", dynamic_ncols=True
        )

    def on_step(self, step, logs):
        rate = (step - self._first) * self._batch_size / max(time.monotonic() - self._since, 1e-9)
        text = f"loss {logs['loss']:.4f}, lr {logs['learning_rate']:.6f}, {rate:.2f} images/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def on_train_end(self, logs=None):
        self._bar.close()

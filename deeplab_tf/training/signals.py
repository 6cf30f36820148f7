"""Ends training at a signal, or when nothing takes its output, with everything saved."""

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from deeplab_tf.distribution import Workers
from deeplab_tf.training.callbacks import StepCallback
from deeplab_tf.training.progress import say


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

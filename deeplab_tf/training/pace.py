"""Estimates how long the rest of a run will take."""

import collections
import contextlib
import datetime
import math
import time
from collections.abc import Iterator

# Keras traces the graph in the first call, and once more in the second if a call has several
# steps. So these two say nothing about the speed of the others.
WARM_UP_CALLS = 2


class Pace:
    """Estimates how long the rest of a run will take, from what its steps and pauses took so far.

    Args:
      last_step: number of steps of the whole run.
      pauses: what training pauses for (a save, a validation), and after how many steps each time;
        0 means never. Each of them also comes after the last step.
    """

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
        if self._num_calls > WARM_UP_CALLS:
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


def duration(seconds: float) -> str:
    """Returns a time as hours:minutes:seconds, such as 1:04:30."""
    return str(datetime.timedelta(seconds=round(seconds)))

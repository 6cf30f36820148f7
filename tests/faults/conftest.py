"""The fixture of the fuzzers: many small tries from seeds; a failed one can be repeated.

`make test` runs a few tries of each fuzzer, always the same ones; `make slow` runs thirty times as
many; `make fuzz MINUTES=10` runs new ones for that long. A failed try names its seed, and keeps
what it wrote in runs/fuzz. FUZZ_SEED=N before a test command runs only that try.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[2] / "runs" / "fuzz"
SECONDS_OF_A_TRY = 60


@pytest.fixture(params=[1, pytest.param(30, marks=pytest.mark.slow)], ids=["few", "many"])
def fuzz(request, tmp_path):
    """Runs `attempt(rng, folder)` again and again: `rng` is seeded, `folder` is new and empty.

    Give the number of tries that take a second or two. An attempt fails by raising anything, or by
    taking a minute.
    """

    def run(attempt: Callable[[random.Random, Path], None], *, tries: int) -> None:
        for seed in _seeds(tries * request.param, request):
            folder = tmp_path / "try"
            folder.mkdir()
            try:
                with _time_limit(SECONDS_OF_A_TRY):
                    attempt(random.Random(seed), folder)
            except Exception as error:
                kept = KEPT / f"{request.node.originalname}-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept, symlinks=True)
                command = f"FUZZ_SEED={seed} python -m pytest '{request.node.nodeid}'"
                raise AssertionError(
                    f"{type(error).__name__}: {error}\nRepeat it: {command}\nIts input: {kept}"
                ) from error
            shutil.rmtree(folder)

    return run


def _seeds(tries: int, request) -> Iterator[int]:
    if seed := os.environ.get("FUZZ_SEED"):
        yield int(seed)
    elif minutes := os.environ.get("FUZZ_MINUTES"):
        fuzzers = sum("fuzz" in item.fixturenames for item in request.session.items)
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
        end = time.monotonic() + 60 * float(minutes) * workers / fuzzers
        while time.monotonic() < end:
            yield random.SystemRandom().randrange(2**32)
    else:
        yield from range(tries)


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Ends what takes longer, unless a single call of a C function does."""

    def end(*_):
        raise TimeoutError(f"the try took more than {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)  # pytest-timeout uses the same timer
        signal.signal(signal.SIGALRM, previous)

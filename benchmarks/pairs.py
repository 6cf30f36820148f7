"""Two programs measured in turns, each in a process of its own that lives through all turns.

A program is a script that ends in `serve(measure)`; each line on its standard input asks for one
measurement, which it prints as one line of JSON. Nothing but the standard library is imported, so
that programs of other environments can use it.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"


def serve(measure: Callable[[], dict]) -> None:
    """Measures once for each line on standard input."""
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def serve_passes(examples: Iterable, count: int) -> None:
    """Measures one pass over `count` examples for each line on standard input."""

    def measure():
        start = time.perf_counter()
        for _ in examples:
            pass
        seconds = time.perf_counter() - start
        return {"images/s": count / seconds, "peak MiB": peak_mib()}

    serve(measure)


def peak_mib() -> float:
    """Returns the most memory this process and its present children have held so far.

    Pages that several of them share count in each.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    peaks = []
    for process in ["self", *children]:
        status = Path(f"/proc/{process}/status")
        with contextlib.suppress(OSError):  # a child may have ended
            peaks += [int(n) for n in re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())]
    return sum(peaks) / 1024


class Program:
    """A running program; its measurements' figures are kept by name."""

    def __init__(self, title: str, command: Sequence[str], **environment: str):
        self.title = title
        self.figures: dict[str, list[float]] = {}
        self._process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        )

    def measure(self, *, counted: bool = True) -> None:
        """Asks for one measurement and waits for it; raises SystemExit if the program died."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.title} stopped with status {self._process.wait()}.")
        for name, value in json.loads(line).items():
            if counted:
                self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])

    def over(self, other: "Program", name: str) -> float:
        """Returns the ratio of two programs' figures: the median over the turns."""
        pairs = zip(self.figures[name], other.figures[name], strict=True)
        return statistics.median(mine / others for mine, others in pairs)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def ours(script: str, *arguments: str) -> list[str]:
    """Returns the command of a script of this folder in our environment."""
    return [sys.executable, "-m", f"benchmarks.{script}", *arguments]


def peer(script: str, *arguments: str) -> list[str]:
    """Returns the command of a script in peers/, in the peers' environment."""
    if not PEERS.exists():
        sys.exit(f"{PEERS} does not exist; `make bench` makes the peers' environment.")
    return [str(PEERS), "-m", f"benchmarks.peers.{script}", *arguments]


def take_turns(programs: Sequence[Program], turns: int) -> None:
    """Measures all programs, one after the other, `turns` times.

    Once more at first, which is not counted: then programs compile.
    """
    for turn in range(turns + 1):
        for program in programs:
            program.measure(counted=turn > 0)


def compare(
    programs: Sequence[Program],
    *,
    pairs: int,
    limit: Program | None = None,
    limited: str = "images/s",
) -> float:
    """Measures all programs in turns and prints their medians, memory and share of the limit.

    Args:
      limit: what the machine can do at most: one of the programs, or one that is measured in the
        same turns but not compared.
      limited: the figure that the limit bounds.
    Returns:
      The first program's images/s divided by the fastest other's: the median over the turns.
    """
    measured = list(dict.fromkeys([*programs, *([limit] if limit else [])]))
    take_turns(measured, pairs)
    for program in measured:
        print(f"{program.title}:")
        for name, values in program.figures.items():
            print(
                f"    {name} {statistics.median(values):.4g} "
                f"({min(values):.4g} to {max(values):.4g})"
            )
        program.close()
    first, *others = programs
    best = max(others, key=lambda program: program.median("images/s"))
    print(f"memory divided by {best.title}'s: {first.over(best, 'peak MiB'):.2f}")
    if limit:
        print(f"share of the limit, {limit.title}: {100 * first.over(limit, limited):.0f} %")
    return first.over(best, "images/s")

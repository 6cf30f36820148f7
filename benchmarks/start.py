"""Start: from the command line to the end of the first training step.

    python -m benchmarks.start --dataset_dir=records/camvid

R50, output stride 16. There is no peer; the limits are LIMIT and OWN_LIMIT, and the last line is
LIMIT divided by the median. More starts, under Python's profiler, tell how long this package's own
work takes, without TensorFlow's import, variables, tracing and the step: what OWN does, and its
Python. Most of it is writing the first checkpoint.
"""

import pstats
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting

LIMIT, OWN_LIMIT = 25.0, 2.0  # seconds
OWN = {  # finding the records; the run's folder; its first checkpoint
    ("data/records.py", "open_split"),
    ("runs/run_dir.py", "open_for_training"),
    ("training/trainer.py", "_restore"),
}


@dataclass(frozen=True, kw_only=True)
class StartConfig(Config):
    """What is started, and how often."""

    dataset_dir: str = setting("", "Folder with records that have a split train.")
    pairs: int = setting(5, "Starts.", least=1)
    profiles: int = setting(3, "Starts under the profiler.", least=1)


def main(config: StartConfig) -> None:
    seconds = [first_step(config, []) for _ in range(config.pairs)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest
    own = [own_seconds(config) for _ in range(config.profiles)]
    print(f"peak MiB {peak:.4g}")
    report("first step done after", seconds, LIMIT)
    report("this package's own work in that", own, OWN_LIMIT)
    print(f"ratio: {LIMIT / statistics.median(seconds):.3f}")


def report(title: str, seconds: Sequence[float], limit: float) -> None:
    middle = statistics.median(seconds)
    print(f"{title}: {middle:.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"share of the limit, {limit:.0f} s: {100 * middle / limit:.0f} %")


def first_step(config: StartConfig, profiler: list[str]) -> float:
    """Starts a run of one step; returns the seconds until that is done."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, *profiler, "-m", "deeplab_tf.train"),
            f"--flagfile={pairs.ROOT}/configs/voc_r50_os16.flags",
            *("--dataset=", "--train_split=train", f"--dataset_dir={config.dataset_dir}"),
            "--tf_initial_checkpoint=",  # without a network
            *("--train_batch_size=2", "--training_number_of_steps=1", "--log_steps=1"),
            *("--eval_interval_steps=0", "--summary_images=0", f"--train_logdir={folder}/run"),
        ]
        start, seconds = time.perf_counter(), 0.0
        with subprocess.Popen(
            command, cwd=pairs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if re.match(r"step 1/1 ", line):
                    seconds = time.perf_counter() - start
        if process.returncode or not list(Path(folder).glob("run/model.ckpt-1.index")):
            sys.exit(f"{' '.join(command)} failed.")
        return seconds


def own_seconds(config: StartConfig) -> float:
    """Starts a run; returns the time spent in OWN, and in the package's other Python itself."""
    with tempfile.TemporaryDirectory() as folder:
        profile = f"{folder}/profile"
        first_step(config, ["-m", "cProfile", "-o", profile])
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = 0.0
    for (file, _, name), figures in stats.items():
        _, module, path = file.rpartition("/deeplab_tf/")
        if module:
            _, _, alone, with_callees, _ = figures
            total += with_callees if (path, name) in OWN else alone
    return total


if __name__ == "__main__":
    flags.run(main, [StartConfig], (__doc__ or "").strip())

"""Start: from the command line to the end of the first training step.

    python -m benchmarks.start --dataset_dir=records/camvid

R50, output stride 16. There is no peer; the last line is 25 s over the median.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pairs
from deeplab_tf import config_flags
from deeplab_tf.config import Config, setting


@dataclass(frozen=True, kw_only=True)
class StartConfig(Config):
    """What is started, and how often."""

    dataset_dir: str = setting("", "Folder with records that have a split train.")
    pairs: int = setting(5, "Starts.", least=1)


def main(config: StartConfig) -> None:
    seconds = []
    for _ in range(config.pairs):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(sys.executable, "-m", "deeplab_tf.train"),
                f"--flagfile={pairs.ROOT}/configs/voc_r50_os16.flags",
                *("--dataset=", "--train_split=train", f"--dataset_dir={config.dataset_dir}"),
                *("--train_batch_size=2", "--training_number_of_steps=1", "--log_steps=1"),
                *("--eval_interval_steps=0", "--summary_images=0", f"--train_logdir={folder}/run"),
            ]
            start = time.perf_counter()
            with subprocess.Popen(
                command,
                cwd=pairs.ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as process:
                assert process.stdout
                for line in process.stdout:
                    if re.match(r"step 1/1 ", line):
                        seconds.append(time.perf_counter() - start)
            if process.returncode or not list(Path(folder).glob("run/model.ckpt-1.index")):
                sys.exit(f"{' '.join(command)} failed.")
    print(f"first step done after {statistics.median(seconds):.1f} s")
    print(f"    ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"ratio: {25 / statistics.median(seconds):.3f}")


if __name__ == "__main__":
    config_flags.run(main, [StartConfig], (__doc__ or "").strip())

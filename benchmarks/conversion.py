"""Conversion to TFRecords: ours on all cores against the official builder's way, in turns.

    python -m benchmarks.conversion --images_dir=camvid/images/train --masks_dir=camvid/labels/train

Ours decodes and checks every image and mask, or reads headers alone; the start of its processes is
counted, that of Python and TensorFlow is not, for either.
"""

import contextlib
import functools
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pairs
from deeplab_tf import config_flags
from deeplab_tf.config import Config, setting


@dataclass(frozen=True, kw_only=True)
class ConversionConfig(Config):
    """What is converted, and how often."""

    images_dir: str = setting("", "Folder with JPEG images.")
    masks_dir: str = setting("", "Folder with PNG masks of the same names, values below 255.")
    num_processes: int = setting(0, "Processes; 0 takes all cores.", least=0)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    verify: str = setting("full", "As of the builders.", choices=("full", "header"))
    worker: bool = setting(False, "Whether this process is the program that is measured.")


def main(config: ConversionConfig) -> None:
    if config.worker:
        work(config)
        return
    folders = [f"--images_dir={config.images_dir}", f"--masks_dir={config.masks_dir}"]
    processes = f"--num_processes={config.num_processes}"
    for verify, wanted in (("header", "5"), ("full", "1.9")):
        command = pairs.ours("conversion", *folders, processes, f"--verify={verify}", "--worker")
        programs = [
            pairs.Program(f"ours, verify={verify}", command),
            pairs.Program("official builder", pairs.ours("peers.official_builder", *folders)),
        ]
        ratio = pairs.compare(programs, pairs=config.pairs)
        print(f"ratio: {ratio:.2f} (verify={verify}; aim: {wanted})")
    print(f"ratio: {ratio:.3f}")


def work(config: ConversionConfig) -> None:
    """Converts the folder on demand."""
    import tensorflow  # noqa: F401  its import is not part of the conversion

    from deeplab_tf.data import building, catalog
    from deeplab_tf.data.conversion import FilePair, MaskCoding, encode_pair

    found = [
        FilePair(path.stem, path, Path(config.masks_dir) / f"{path.stem}.png")
        for path in sorted(Path(config.images_dir).iterdir())
    ]
    classes = tuple(catalog.LabelClass(str(index), (0, 0, 0)) for index in range(255))
    info = catalog.DatasetInfo(name="benchmark", classes=classes)
    encode = functools.partial(encode_pair, coding=MaskCoding(255, 255), verify=config.verify)

    def measure():
        quiet = contextlib.redirect_stdout(sys.stderr)  # our own output is the figures
        with tempfile.TemporaryDirectory() as folder, quiet:
            start = time.perf_counter()
            building.convert_split(
                found,
                encode,
                output_dir=Path(folder) / "records",
                info=info,
                split="train",
                num_shards=16,
                num_processes=config.num_processes,
            )
            seconds = time.perf_counter() - start
        return {"images/s": len(found) / seconds, "peak MiB": pairs.peak_mib()}

    pairs.serve(measure)


if __name__ == "__main__":
    config_flags.run(main, [ConversionConfig], (__doc__ or "").strip())

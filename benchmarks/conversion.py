"""Conversion to TFRecords: ours on all cores against the official builder's way, in turns.

    python -m benchmarks.conversion --images_dir=camvid/images/train --masks_dir=camvid/labels/train

Ours decodes and checks every image and mask, or reads only headers. Starting its workers counts,
starting Python and TensorFlow does not, for either. The limit is decoding both files with Pillow in
one process for each core, or with --verify=header copying the files' bytes in one process.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class ConversionConfig(Config):
    """What is converted, and how often."""

    images_dir: str = setting("", "Folder with JPEG images.")
    masks_dir: str = setting("", "Folder with PNG masks of the same names, values below 255.")
    num_processes: int = setting(0, "Processes; 0 takes all cores.", least=0)
    pairs: int = setting(25, "Measurements of each program.", least=1)
    verify: str = setting("full", "As of the builders.", choices=("full", "header"))
    worker: str = setting("", "What this process measures.", choices=("", "builder", "limit"))


def main(config: ConversionConfig) -> None:
    if config.worker:
        {"builder": work, "limit": work_alone}[config.worker](config)
        return
    folders = [f"--images_dir={config.images_dir}", f"--masks_dir={config.masks_dir}"]
    processes = f"--num_processes={config.num_processes}"
    for verify, limited_by in (("header", "only copying"), ("full", "only decoding")):
        command = pairs.ours("conversion", *folders, processes, f"--verify={verify}")
        programs = [
            pairs.Program(f"ours, verify={verify}", [*command, "--worker=builder"]),
            pairs.Program("official builder", pairs.ours("peers.official_builder", *folders)),
        ]
        limit = pairs.Program(limited_by, [*command, "--worker=limit"])
        ratio = pairs.compare(programs, pairs=config.pairs, limit=limit)
        print(f"ratio: {ratio:.3f}")


def work(config: ConversionConfig) -> None:
    """Converts the folder on demand."""
    import tensorflow  # noqa: F401  its import is not part of the conversion

    from deeplab_tf.conversion import building
    from deeplab_tf.conversion.encoding import FilePair, encode_pair
    from deeplab_tf.conversion.masks import MaskCoding
    from deeplab_tf.data import catalog

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


def work_alone(config: ConversionConfig) -> None:
    """Decodes the files, or copies them, on demand."""
    masks = Path(config.masks_dir)
    images = sorted(Path(config.images_dir).iterdir())
    files = [(path, masks / f"{path.stem}.png") for path in images]
    cores = config.num_processes or os.cpu_count() or 1
    pool = multiprocessing.Pool(cores) if config.verify == "full" else None

    def measure():
        start = time.perf_counter()
        if pool:
            pool.map(decode, [files[core::cores] for core in range(cores)], chunksize=1)
        else:
            copy(files)
        return {"images/s": len(files) / (time.perf_counter() - start)}

    pairs.serve(measure)


def decode(files: Sequence[tuple[Path, ...]]) -> None:
    for path in itertools.chain.from_iterable(files):
        Image.open(path).load()


def copy(files: Sequence[tuple[Path, ...]]) -> None:
    with tempfile.TemporaryFile() as target:
        for path in itertools.chain.from_iterable(files):
            target.write(path.read_bytes())


if __name__ == "__main__":
    flags.run(main, [ConversionConfig], (__doc__ or "").strip())

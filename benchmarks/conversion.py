"""Times the conversion of images and masks to TFRecords on 1, 2, ... processes.

    python benchmarks/conversion.py --images_dir=camvid/images/train --masks_dir=camvid/labels/train
    python benchmarks/conversion.py --height=1024 --width=2048 --num_images=64

Without folders, random smooth images are drawn: PNGs, as in Cityscapes. Every image and mask is
fully decoded and checked. The runs of each number of processes alternate; the first of all is not
counted, and the start of the processes is.
"""

import functools
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import Config, setting
from deeplab_tf.data import building, catalog
from deeplab_tf.data.conversion import FilePair, MaskCoding, encode_pair


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """What is converted, and how often."""

    images_dir: str = setting("", "Folder with images; empty draws some.")
    masks_dir: str = setting("", "Folder with PNG masks of the same names, values below 255.")
    height: int = setting(1024, "Height of drawn images.")
    width: int = setting(2048, "Width of drawn images.")
    num_images: int = setting(64, "Drawn images.", least=1)
    max_processes: int = setting(2, "Most processes.", least=1)
    runs: int = setting(5, "Runs for each number of processes.", least=1)


def main(config: BenchmarkConfig) -> None:
    import tensorflow  # noqa: F401  its import is not part of the conversion

    with tempfile.TemporaryDirectory() as folder:
        pairs = _found(config) if config.images_dir else _drawn(config, Path(folder))
        classes = tuple(catalog.LabelClass(str(index), (0, 0, 0)) for index in range(255))
        info = catalog.DatasetInfo(name="benchmark", classes=classes)
        encode = functools.partial(encode_pair, coding=MaskCoding(255, 255))
        rates: dict[int, list[float]] = {n + 1: [] for n in range(config.max_processes)}
        for run in range(config.runs + 1):
            for processes, found in rates.items():
                output_dir = Path(folder) / "records"
                shutil.rmtree(output_dir, ignore_errors=True)
                start = time.perf_counter()
                building.convert_split(
                    pairs,
                    encode,
                    output_dir=output_dir,
                    info=info,
                    split="train",
                    num_shards=16,
                    num_processes=processes,
                )
                if run:
                    found.append(len(pairs) / (time.perf_counter() - start))
    for processes, found in rates.items():
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"{processes} processes: {statistics.median(found):.1f} images/s ({spread})")


def _found(config: BenchmarkConfig) -> list[FilePair]:
    paths = sorted(Path(config.images_dir).iterdir())
    return [FilePair(p.stem, p, Path(config.masks_dir) / f"{p.stem}.png") for p in paths]


def _drawn(config: BenchmarkConfig, folder: Path) -> list[FilePair]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    size = (config.width, config.height)
    pairs = []
    for number in range(config.num_images):
        pair = FilePair(str(number), folder / f"{number}.png", folder / f"{number}_mask.png")
        coarse = Image.fromarray(rng.integers(0, 256, (12, 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = smooth + rng.integers(-3, 4, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(pair.image_path, compress_level=1)
        patches = Image.fromarray(rng.integers(0, 34, (24, 48), dtype=np.uint8))
        patches.resize(size, Image.Resampling.NEAREST).save(pair.mask_path)
        pairs.append(pair)
    return pairs


if __name__ == "__main__":
    config_flags.run(main, [BenchmarkConfig], (__doc__ or "").strip())

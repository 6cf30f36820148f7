"""Processor time of each augmentation, in ms for a crop of 513x513, next to that of a plain crop.

    python -m benchmarks.augmentation

On one core, from a decoded image of 683x512, the size of ADE20K's; the median of several passes,
in turns. CutMix is not listed: it makes a second crop.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab_tf.config import Config, DataConfig, flags, setting
from deeplab_tf.data import pipeline

SIDE = 513
MEAN = (123.675, 116.28, 103.53)
SETTINGS: dict[str, dict] = {
    "plain crop": {},
    "photometric_distortion": {"photometric_distortion": True},
    "hsv_jitter": {"hsv_jitter": (0.015, 0.7, 0.4)},
    "randaugment_operations=1": {"randaugment_operations": 1},
    "randaugment_operations=2": {"randaugment_operations": 2},
    "max_blur_sigma": {"max_blur_sigma": 1.5},
    "max_rotation_degrees": {"max_rotation_degrees": 10.0},
    "grid_mask_probability": {"grid_mask_probability": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class AugmentationBenchmark(Config):
    """How often is measured."""

    num_images: int = setting(100, "Crops made in a pass.", least=1)
    passes: int = setting(5, "Passes with each setting.", least=1)


def main(config: AugmentationBenchmark) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    crops = {name: made(values, config.num_images) for name, values in SETTINGS.items()}
    times: dict[str, list[float]] = {name: [] for name in crops}
    for number in range(config.passes + 1):
        for name, dataset in crops.items():
            start = time.process_time()
            for _ in dataset:
                pass
            if number:  # the first pass traces and compiles
                times[name].append((time.process_time() - start) * 1000 / config.num_images)

    plain = statistics.median(times["plain crop"])
    for name, each in times.items():
        median = statistics.median(each)
        more = f"{median - plain:+6.1f}" if each is not times["plain crop"] else " " * 6
        print(f"{name:26}{median:6.1f} ms {more}  ({min(each):.1f} to {max(each):.1f})")


def made(values: dict, num_images: int) -> tf.data.Dataset:
    """Returns crops of one random image, made one after the other."""
    rng = np.random.default_rng(0)
    image = tf.image.resize(rng.integers(0, 256, (32, 43, 3)), (512, 683))
    image = tf.cast(image, tf.uint8)
    label = tf.constant(rng.integers(0, 150, (512, 683, 1)), tf.uint8)
    data = DataConfig(train_crop_size=(SIDE, SIDE), min_resize_value=512, **values)

    @tf.autograph.experimental.do_not_convert
    def crop(number):
        return pipeline.augment(
            image,
            label,
            data,
            seed=tf.stack([tf.constant(0, tf.int64), number]),
            ignore_label=255,
            image_mean=MEAN,
            centred_padding=True,
        )

    return tf.data.Dataset.range(num_images).map(crop)


if __name__ == "__main__":
    flags.run(main, [AugmentationBenchmark], (__doc__ or "").strip())

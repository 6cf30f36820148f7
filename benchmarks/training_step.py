"""Times a training step on random images and prints its speed and peak memory.

    python benchmarks/training_step.py --model_variant=resnet_v1c_50 --output_stride=16

The network is SSSegmentation's (512-channel ASPP with a 3x3 projection, auxiliary head).
"""

import resource
import statistics
import time
from dataclasses import dataclass

from deeplab_tf import config_flags
from deeplab_tf.config import Config, ModelConfig, setting


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """The step that is timed."""

    model_variant: str = setting("resnet_v1c_50", "Backbone.")
    output_stride: int = setting(16, "Output stride.")
    crop_size: int = setting(512, "Height and width of the images.")
    batch_size: int = setting(2, "Images in a step.")
    num_classes: int = setting(21, "Classes.")
    steps: int = setting(10, "Steps timed, after two that are not.")


def main(config: BenchmarkConfig) -> None:
    import numpy as np
    import tensorflow as tf

    from deeplab_tf.models.deeplab import build_model
    from deeplab_tf.training.optimizers import MomentumSGD

    model = build_model(
        ModelConfig(
            model_variant=config.model_variant,
            output_stride=config.output_stride,
            aspp_convs_filters=512,
            aspp_projection_kernel_size=3,
            auxiliary_filters=512,
        ),
        num_classes=config.num_classes,
    )
    model.compile(MomentumSGD(0.01, momentum=0.9, weight_decay=5e-4))
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.crop_size, config.crop_size)
    images = tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, config.num_classes, (*shape, 1)), tf.int32)
    step = tf.function(lambda: model.train_step((images, labels)))
    seconds = []
    for _ in range(config.steps + 2):
        start = time.perf_counter()
        step()["loss"].numpy()
        seconds.append(time.perf_counter() - start)
    timed = seconds[2:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = config.batch_size / statistics.median(timed)
    spread = f"{min(timed):.2f} to {max(timed):.2f} s each"
    print(f"{rate:.3f} images/s (median of {len(timed)} steps, {spread}), peak {peak:.0f} MiB")


if __name__ == "__main__":
    config_flags.run(main, [BenchmarkConfig], __doc__ or "")

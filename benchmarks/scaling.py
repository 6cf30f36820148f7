"""Scaling: the training step on one and two replicas, and its batch in one and four parts.

    python -m benchmarks.scaling

Replicas are logical CPU devices that share all cores, so two cannot be faster than one: their
ratio shows what sharing costs. There is no peer; the network is as in `training_step`.
"""

import time
from dataclasses import dataclass

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(Config):
    """The step that is timed."""

    depth: int = setting(50, "Depth of the v1c ResNet.", choices=(50, 101))
    crop_size: int = setting(257, "Height and width of the worker's images.")
    batch_size: int = setting(8, "Images in a step, over all replicas.")
    pairs: int = setting(3, "Measurements of each program.", least=1)
    replicas: int = setting(1, "Replicas of the program that is measured.", least=1)
    parts: int = setting(1, "Its --gradient_accumulation_steps.", least=1)
    worker: bool = setting(False, "Whether this process is the program that is measured.")


def main(config: ScalingConfig) -> None:
    if config.worker:
        work(config)
        return

    def program(title, **settings):
        settings |= {"depth": config.depth, "batch_size": config.batch_size}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return pairs.Program(title, pairs.ours("scaling", *options, "--worker"))

    # Parts save memory where that of the images outweighs the sum of gradients.
    for title, crop_size, other in (
        ("two replicas", 257, {"replicas": 2}),
        ("four parts", 513, {"parts": 4}),
    ):
        programs = [
            program(title, crop_size=crop_size, **other),
            program("one replica, one part", crop_size=crop_size),
        ]
        ratio = pairs.compare(programs, pairs=config.pairs)
        first_steps = programs[0].over(programs[1], "first step, s")
        print(f"first step over the other's: {first_steps:.2f}")
        print(f"ratio: {ratio:.3f}")


def work(config: ScalingConfig) -> None:
    """Builds the step and measures it on demand."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import network
    from deeplab_tf.training.optimizers import MomentumSGD

    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * config.replicas
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    if config.replicas > 1:
        names = [f"CPU:{index}" for index in range(config.replicas)]
        strategy = tf.distribute.MirroredStrategy(names)
    with strategy.scope():
        model = network.ssseg(config.depth, 16, 21, auxiliary=True)
        optimizer = MomentumSGD(0.01, momentum=0.9, weight_decay=5e-4)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, recompute_stages=3, gradient_accumulation_steps=config.parts)
    rng = np.random.default_rng(0)
    shape = (config.batch_size // config.replicas, config.crop_size, config.crop_size)
    images = tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, 21, (*shape, 1)), tf.int32)
    step = tf.function(
        lambda: strategy.run(lambda: model.train_step((images, labels))["loss"]), autograph=False
    )

    def timed_step():
        start = time.perf_counter()
        for loss in strategy.experimental_local_results(step()):
            loss.numpy()
        return time.perf_counter() - start

    first = timed_step()
    pairs.serve(
        lambda: {
            "images/s": config.batch_size / timed_step(),
            "peak MiB": pairs.peak_mib(),
            "first step, s": first,
        }
    )


if __name__ == "__main__":
    flags.run(main, [ScalingConfig], (__doc__ or "").strip())

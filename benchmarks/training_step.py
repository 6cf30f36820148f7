"""Training step: ours against PyTorch's, channels last and compiled, in turns.

    python -m benchmarks.training_step --depth=50 --output_stride=16

The network is SSSegmentation's (512-channel ASPP with a 3x3 projection, auxiliary head), the
images are random. The limit is the machine's own rate of 4096^3 matrix products, and the work is
counted with its products by padding, three times the forward pass.
"""

import time
from dataclasses import dataclass

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class StepConfig(Config):
    """The step that is timed."""

    depth: int = setting(50, "Depth of the v1c ResNet.", choices=(50, 101))
    output_stride: int = setting(16, "Output stride.", choices=(8, 16))
    crop_size: int = setting(512, "Height and width of the images.")
    batch_size: int = setting(2, "Images in a step.")
    num_classes: int = setting(21, "Classes.")
    recompute_stages: int = setting(3, "As of deeplab_tf.train, whose default on CPUs it is.")
    steps: int = setting(1, "Steps in a measurement; each takes seconds.", least=1)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    worker: bool = setting(False, "Whether this process is the program that is measured.")


def main(config: StepConfig) -> None:
    if config.worker:
        work(config)
        return
    shared = [
        f"--{name}={getattr(config, name)}"
        for name in ("depth", "output_stride", "crop_size", "batch_size", "num_classes", "steps")
    ]
    recompute = f"--recompute_stages={config.recompute_stages}"
    programs = [
        pairs.Program("ours", [*pairs.ours("training_step", *shared, recompute), "--worker"]),
        pairs.Program(
            "PyTorch, channels last, torch.compile", pairs.peer("training_step", *shared)
        ),
    ]
    limit = pairs.Program("matrix products", pairs.peer("matrix_product"))
    ratio = pairs.compare(programs, pairs=config.pairs, limit=limit, limited="GFLOP/s")
    print(f"ratio: {ratio:.3f}")


def work(config: StepConfig) -> None:
    """Builds the step and measures it on demand."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import network
    from deeplab_tf.jobs.benchmark import forward_flops
    from deeplab_tf.training.optimizers import MomentumSGD

    model = network.ssseg(config.depth, config.output_stride, config.num_classes, auxiliary=True)
    optimizer = MomentumSGD(0.01, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, recompute_stages=config.recompute_stages)
    flops = 3 * forward_flops(model, config.crop_size, config.crop_size)
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.crop_size, config.crop_size)
    images = tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, config.num_classes, (*shape, 1)), tf.int32)
    step = tf.function(lambda: model.train_step((images, labels)))

    def measure():
        start = time.perf_counter()
        for _ in range(config.steps):
            step()["loss"].numpy()
        rate = config.batch_size * config.steps / (time.perf_counter() - start)
        return {
            "images/s": rate,
            "GFLOP/s": rate * flops / 1e9,
            "peak MiB": pairs.peak_mib(),
        }

    pairs.serve(measure)


if __name__ == "__main__":
    flags.run(main, [StepConfig], (__doc__ or "").strip())

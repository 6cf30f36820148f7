"""Training step: ours against PyTorch's, channels last and compiled, in turns.

    python -m benchmarks.training_step --depth=50 --output_stride=16
    python -m benchmarks.training_step --device=gpu --dtype_policy=mixed_bfloat16 --batch_size=16 \\
        --recompute_stages=0 --steps=20

The network is SSSegmentation's (512-channel ASPP with a 3x3 projection, auxiliary head), the
images are random. The limit is the device's own rate of matrix products in the same precision, and
the work is counted with its products by padding, three times the forward pass. Float32 is TF32 on
GPUs that have it, in both programs.
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
    crop_size: tuple[int, ...] = setting((512, 512), "Height and width of the images.")
    batch_size: int = setting(2, "Images in a step.")
    num_classes: int = setting(21, "Classes.")
    recompute_stages: int = setting(3, "As of deeplab_tf.train, whose default on CPUs it is.")
    device: str = setting("cpu", "Device of both programs.", choices=("cpu", "gpu"))
    dtype_policy: str = setting(
        "float32", "Precision of both programs.", choices=("float32", "mixed_bfloat16")
    )
    jit_compile: bool = setting(False, "Whether XLA compiles our step.")
    steps: int = setting(1, "Steps in a measurement; each takes seconds on CPUs.", least=1)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    worker: bool = setting(False, "Whether this process is the program that is measured.")


def main(config: StepConfig) -> None:
    if config.worker:
        work(config)
        return
    shared = [
        f"--{name}={flags.text_of(getattr(config, name))}"
        for name in (
            *("depth", "output_stride", "crop_size", "batch_size", "num_classes", "steps"),
            *("device", "dtype_policy"),
        )
    ]
    own = [
        f"--recompute_stages={config.recompute_stages}",
        f"--jit_compile={flags.text_of(config.jit_compile)}",
        "--worker",
    ]
    programs = [
        pairs.Program("ours", pairs.ours("training_step", *shared, *own)),
        pairs.Program(
            "PyTorch, channels last, torch.compile", pairs.peer("training_step", *shared)
        ),
    ]
    where = [f"--device={config.device}", f"--dtype_policy={config.dtype_policy}"]
    limit = pairs.Program("matrix products", pairs.peer("matrix_product", *where))
    ratio = pairs.compare(programs, pairs=config.pairs, limit=limit, limited="GFLOP/s")
    print(f"ratio: {ratio:.3f}")


def work(config: StepConfig) -> None:
    """Builds the step and measures it on demand."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import devices, network
    from deeplab_tf.jobs.benchmark import forward_flops
    from deeplab_tf.startup.process_state import keras_settings
    from deeplab_tf.training.optimizers import MomentumSGD

    devices.require(config.device)
    with keras_settings(config.dtype_policy):
        model = network.ssseg(
            config.depth, config.output_stride, config.num_classes, auxiliary=True
        )
    optimizer = MomentumSGD(0.01, momentum=0.9, weight_decay=5e-4)
    model.compile(
        optimizer, recompute_stages=config.recompute_stages, jit_compile=config.jit_compile
    )
    flops = 3 * forward_flops(model, *config.crop_size)

    rng = np.random.default_rng(0)
    shape = (config.batch_size, *config.crop_size)
    images = tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, config.num_classes, (*shape, 1)), tf.int32)
    step = tf.function(
        lambda: model.train_step((images, labels)), jit_compile=config.jit_compile or None
    )

    def measure():
        start = time.perf_counter()
        for _ in range(config.steps):
            loss = step()["loss"]
        loss.numpy()  # waits for all steps: a GPU's run behind the calls
        rate = config.batch_size * config.steps / (time.perf_counter() - start)
        return {
            "images/s": rate,
            "GFLOP/s": rate * flops / 1e9,
            "peak MiB": devices.peak_mib(config.device),
        }

    pairs.serve(measure)


if __name__ == "__main__":
    flags.run(main, [StepConfig], (__doc__ or "").strip())

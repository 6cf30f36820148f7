"""Times a recipe's training step on this machine, with its records or with random images.

python -m deeplab_tf.benchmark --flagfile=configs/ade20k_r101_os16.flags [--dataset_dir=RECORDS]

Prints parameters, floating-point operations, images/s, peak memory and, with records, the share of
the time that the step waits for its input. Nothing is written.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deeplab_tf import config_flags
from deeplab_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig, setting


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """How often is measured; steps are run one by one, whatever steps_per_execution is."""

    benchmark_steps: int = setting(10, "Steps timed.", least=1)
    warmup_steps: int = setting(2, "Steps before them: the first traces the graph.", least=1)


def forward_flops(model: Any, height: int, width: int) -> int:
    """Returns the floating-point operations of all convolutions for one image.

    A multiplication and an addition are two; products with padding count. The auxiliary head's
    are included. An image of a training step takes three times as much.
    """
    import numpy as np
    import tensorflow as tf

    forward = tf.function(lambda images: model(images))
    graph = forward.get_concrete_function(tf.TensorSpec([1, height, width, 3])).graph
    maps: dict[str, int] = {}  # cells of the last map that is made under a layer's name
    for operation in graph.get_operations():
        shape = operation.outputs[0].shape if operation.outputs else tf.TensorShape(None)
        if shape.rank == 4 and shape.is_fully_defined():
            maps[operation.name.rsplit("/", 1)[0]] = int(np.prod(shape[1:3]))
    return sum(
        2 * variable.shape.num_elements() * maps[f"{model.name}/{variable.name.rsplit('/', 1)[0]}"]
        for variable in model.trainable_variables
        if variable.name.split("/")[-1] in ("kernel:0", "depthwise_kernel:0")
    )


def main(
    job: BenchmarkConfig,
    model: ModelConfig,
    data: DataConfig,
    train: TrainConfig,
    evaluation: EvalConfig,
) -> None:
    """Prints the figures."""
    import resource

    import tensorflow as tf

    from deeplab_tf.models.deeplab import build_model
    from deeplab_tf.models.layers import dtype_policy

    num_classes, batches = _input(data, model, train, job)
    with dtype_policy(train.dtype_policy):
        network = build_model(model, num_classes=num_classes)
    flops = forward_flops(network, *data.train_crop_size)
    parameters = sum(variable.shape.num_elements() for variable in network.trainable_variables)
    print(f"{model.model_variant}, output stride {model.output_stride}, {num_classes} classes")
    print(f"parameters: {parameters / 1e6:.2f} M")
    size = "x".join(map(str, data.train_crop_size))
    print(f"forward: {flops / 1e9:.1f} GFLOP an image of {size}")
    step = _step(network, train)
    waits, works = [], []
    for _ in range(job.warmup_steps + job.benchmark_steps):
        start = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        step(*batch)
        waits.append(ready - start)
        works.append(time.perf_counter() - ready)
    waits, works = waits[job.warmup_steps :], works[job.warmup_steps :]
    seconds = statistics.median(a + b for a, b in zip(waits, works, strict=True))
    rate = train.train_batch_size / seconds
    print(
        f"training: {rate:.3g} images/s ({train.train_batch_size} a step, median of {len(works)} "
        f"steps), {3 * flops * rate / 1e9:.0f} GFLOP/s"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak:.0f} MiB")
    for gpu in tf.config.list_logical_devices("GPU"):
        used = tf.config.experimental.get_memory_info(gpu.name)["peak"] / 2**20
        print(f"peak memory of {gpu.name}: {used:.0f} MiB")
    if data.dataset_dir:
        print(
            f"waiting for input: {100 * sum(waits) / (sum(waits) + sum(works)):.1f} % of the time"
        )


def _step(network, train: TrainConfig):
    import tensorflow as tf

    from deeplab_tf.training.optimizers import build_optimizer
    from deeplab_tf.training.schedules import build_schedule

    network.compile(
        build_optimizer(train, build_schedule(train)),
        fine_tune_batch_norm=train.fine_tune_batch_norm,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        recompute_stages=train.recompute_stages,
        jit_compile=train.jit_compile,
    )
    compiled = tf.function(
        lambda images, labels: network.train_step((images, labels)), jit_compile=train.jit_compile
    )
    return lambda images, labels: compiled(images, labels)["loss"].numpy()


def _input(
    data: DataConfig, model: ModelConfig, train: TrainConfig, job: BenchmarkConfig
) -> tuple[int, Iterator]:
    import tensorflow as tf

    from deeplab_tf.data import catalog, pipeline, records

    info = catalog.load(data.dataset, data.dataset_dir)
    shape = [train.train_batch_size, *data.train_crop_size]
    if not data.dataset_dir:
        images = tf.random.uniform([*shape, 3], maxval=255.0)
        labels = tf.random.uniform([*shape, 1], maxval=info.num_classes, dtype=tf.int32)
        return info.num_classes, itertools.repeat((images, labels))
    batches = pipeline.train_batches(
        records.open_split(data.dataset_dir, data.train_split, info),
        data,
        batch_size=train.train_batch_size,
        first_step=0,
        last_step=job.warmup_steps + job.benchmark_steps,
        seed=train.seed,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        image_mean=model.image_mean,
    )
    return info.num_classes, iter(batches)


def run() -> None:
    settings = [BenchmarkConfig, ModelConfig, DataConfig, TrainConfig, EvalConfig]
    config_flags.run(main, settings, (__doc__ or "").strip())


if __name__ == "__main__":
    run()

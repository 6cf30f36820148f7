"""Times a recipe's training step."""

import itertools
import resource
import statistics
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    TrainConfig,
    backbones,
    require,
)
from deeplab_tf.config.programs import BenchmarkConfig
from deeplab_tf.data import catalog, pipeline, records, service
from deeplab_tf.distribution import choose_strategy, on_gpus
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.models.forward_pass import ForwardPass
from deeplab_tf.models.image_pyramid import scaled_side
from deeplab_tf.startup.process_state import seeded
from deeplab_tf.training import run_checks, step_checks
from deeplab_tf.training.compilation import compiled_model


def forward_flops(model: DeepLab, height: int, width: int) -> int:
    """Returns the floating-point operations of all convolutions in a forward pass of one image.

    A multiplication and an addition count as two operations. Products with padding count, and so
    do the auxiliary head and every scale of an image pyramid. A training step takes three times as
    many per image.
    """
    # One graph for each scale: in a common one, the names of the operations do not tell how often
    # a layer runs.
    scales = model.config.image_pyramid or (1.0,)
    return sum(
        _flops_at_one_scale(model, *(scaled_side(side, scale) for side in (height, width)))
        for scale in scales
    )


def _flops_at_one_scale(model: DeepLab, height: int, width: int) -> int:
    forward = tf.function(lambda images: model.at_one_scale(images, ForwardPass()), autograph=False)
    images = tf.TensorSpec([1, height, width, model.config.image_channels])
    graph = forward.get_concrete_function(images).graph
    cells: dict[str, int] = {}  # name scope -> height * width of the last map made under it
    for operation in graph.get_operations():
        shape = operation.outputs[0].shape if operation.outputs else tf.TensorShape(None)
        if shape.rank == 4 and shape.is_fully_defined():
            # Also of the scopes around it: atrous convolutions through space-to-batch make their
            # maps in a scope within the layer's.
            for scope in itertools.accumulate(operation.name.split("/")[:-1], "{}/{}".format):
                cells[scope] = int(np.prod(shape[1:3]))

    return sum(
        2 * variable.shape.num_elements() * cells[variable.name.rsplit("/", 1)[0]]
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
    one_host = train.distribution_strategy != "multi_worker_mirrored"
    allowed = "mirrored or one_device, since only one host can be timed"
    require(one_host, "distribution_strategy", train.distribution_strategy, allowed)
    is_usable = bool(data.dataset_dir) or not train.data_service
    allowed = "none without the records of --dataset_dir"
    require(is_usable, "data_service", train.data_service, allowed)

    strategy = choose_strategy(train)
    info = catalog.load_described(data)
    train = train.for_images(1)  # the schedule's length does not change a step's time
    experiment = Experiment(model=model, data=data, train=train, eval=evaluation)
    if data.dataset_dir:
        experiment = run_checks.fitted_to_images(experiment, info)
        model = experiment.model
    with seeded(train.seed), strategy.scope():
        step_checks.require_possible(
            experiment,
            num_classes=info.num_classes,
            replicas=strategy.num_replicas_in_sync,
            on_gpus=on_gpus(),
        )
        network = compiled_model(model, train, info)
    batches = _input(data, model, train, job, info, strategy)

    flops = forward_flops(network, *data.train_crop_size)
    parameters = sum(variable.shape.num_elements() for variable in network.trainable_variables)
    print(f"{model.model_variant}, output stride {model.output_stride}, {info.num_classes} classes")
    print(f"parameters: {parameters / 1e6:.2f} M")
    size = "x".join(map(str, data.train_crop_size))
    print(f"forward: {flops / 1e9:.1f} GFLOP an image of {size}")

    waits, works = _times(network, batches, train, job, strategy)
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


def _times(network, batches, train, job, strategy) -> tuple[list[float], list[float]]:
    """Returns for each step the seconds that it waited for its batch, and the seconds it ran."""
    train_step = network.train_step
    if train.jit_compile:  # Keras does the same in `fit`
        train_step = tf.function(train_step, jit_compile=True)
    step = tf.function(
        lambda batch: strategy.run(train_step, args=(batch,))["loss"], autograph=False
    )

    waits, works = [], []
    for _ in range(job.warmup_steps + job.benchmark_steps):
        start = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        for loss in strategy.experimental_local_results(step(batch)):
            loss.numpy()  # waits until the step is done
        waits.append(ready - start)
        works.append(time.perf_counter() - ready)
    return waits[job.warmup_steps :], works[job.warmup_steps :]


def _input(data, model, train, job, info, strategy) -> Iterator:
    """Returns batches for the replicas: from the records, or one random batch again and again."""
    if not data.dataset_dir:
        share = train.train_batch_size // strategy.num_replicas_in_sync
        shape = [share, *data.train_crop_size]
        images = tf.random.uniform([*shape, model.image_channels], maxval=255.0)
        labels = tf.random.uniform([*shape, 1], maxval=info.num_classes, dtype=tf.int32)
        return itertools.repeat(
            strategy.experimental_distribute_values_from_function(lambda _: (images, labels))
        )

    table = records.open_split(data.dataset_dir, data.train_split, info)
    service.wait_for(train.data_services(), patience=train.worker_timeout_secs)
    batches = strategy.distribute_datasets_from_function(
        lambda _: pipeline.train_batches(
            table,
            data,
            info,
            steps=range(job.warmup_steps + job.benchmark_steps),
            batch_size=train.train_batch_size,
            seed=train.seed,
            image_mean=model.image_mean,
            centred_padding=not backbones.is_official(model.model_variant),
            share=pipeline.Share(replicas=strategy.num_replicas_in_sync),
            services=train.data_services(),
        )
    )
    return iter(batches)

"""Builds the tf.data pipelines: training batches and evaluation examples.

In training, the position p in the endless stream of examples decides everything: the record (from
epoch p // N, whose order is drawn from seed and epoch) and its augmentation (drawn from seed and
p). So a run resumed at step s reads exactly what it would have read without the interruption,
whatever the parallelism, and without replaying anything.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.data import (
    appearance,
    catalog,
    geometric,
    photometric,
    randaugment,
    records,
    service,
    transforms,
)
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.data.record_checks import RecordChecks, naming_bad_records
from deeplab_tf.ops import seeds

# AutoGraph is not needed, since no Python control flow here depends on a tensor, and its conversion
# would cost seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert

_CORES = os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """The share of each step's images that a worker takes.

    Attributes:
      replicas: number of replicas of all workers. The images of a step come in one part for each.
      workers, worker: number of workers, and which one this is. All get equally many parts.
    """

    replicas: int = 1
    workers: int = 1
    worker: int = 0


def train_batches(
    table: records.RecordTable,
    config: DataConfig,
    info: catalog.DatasetInfo,
    *,
    steps: range,
    batch_size: int,
    seed: int,
    image_mean: tuple[float, ...],
    centred_padding: bool,
    share: Share = Share(),
    services: Sequence[str] = (),
) -> tf.data.Dataset:
    """Returns a worker's batches of consecutive steps.

    Args:
      table, info: the records to train on, and their classes.
      steps: such as range(first, last); the batches of a step are the same in every range.
      batch_size: images in a step, over all replicas of all workers.
      centred_padding: whether a small image lies in the middle of its crop, else at the top left.
      services: addresses of the hosts that take turns in making the batches, one step each; if
        there are none, this process makes them.
    Yields:
      images: float32 [part, height, width, C] in 0..255, padded with `image_mean`; RGB unless the
        data set's images are of another kind.
      labels: int32 [part, height, width, 1], padded with `ignore_label`.
    """
    first, last = steps.start * batch_size, steps.stop * batch_size
    part_size = batch_size // share.replicas
    checks = checks_of(info)

    @_plain_python
    def example(position, index):
        key = tf.stack([tf.constant(seed, tf.int64), position])
        pair = crop_of(index, key)
        if config.cutmix_probability:
            pair = mixed(pair, key)
        return (position, *pair) if services else (*pair,)

    def crop_of(index, key):
        record = checks.parse(table.read(index))
        return augment(
            record["image"],
            record["label"],
            config,
            seed=key,
            ignore_label=info.ignore_label,
            image_mean=image_mean,
            centred_padding=centred_padding,
            max_value=info.image_kind.max_value,
        )

    def mixed(pair, key):
        # The partner is any record, not another image of the batch: so an example depends only on
        # its position, however the batch is divided among replicas and hosts.
        key = seeds.stream(key, "cutmix")
        draws = tf.random.stateless_uniform([], key, 0, len(table), tf.int64)

        def with_partner():
            other = crop_of(draws, seeds.stream(key, "partner"))
            return geometric.cutmix(geometric.Pair(*pair), geometric.Pair(*other), seed=key)

        is_mixed = geometric.is_mixed(seed=key, probability=config.cutmix_probability)
        return tf.cond(is_mixed, with_partner, lambda: geometric.Pair(*pair))

    def share_of_worker(order):
        size = batch_size // share.workers
        is_in_share = _plain_python(
            lambda position, *_: position % batch_size // size == share.worker
        )
        return order.filter(is_in_share) if share.workers > 1 else order

    def make_parts(order):
        examples = order.map(example, num_parallel_calls=_CORES, deterministic=True)
        return _untuned(examples.batch(part_size, drop_remainder=True).prefetch(2))

    order = share_of_worker(_shuffled_order(len(table), first=first, last=last, seed=seed))
    if not services:
        return make_parts(order)

    starts = share_of_worker(tf.data.Dataset.range(first, last, part_size))
    batches = service.received(order, make_parts, services, step_size=batch_size, starts=starts)
    return _untuned(batches.prefetch(2))


def checks_of(info: catalog.DatasetInfo, *, labelled: bool = True) -> RecordChecks:
    """Returns what the records of a data set must hold; `labelled`: for training and scoring."""
    return RecordChecks(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=labelled,
        image_kind=info.image_kind,
    )


def _untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns off tf.data's tuning of parallelism: in some runs it uses only one core."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def augment(
    image: tf.Tensor,
    label: tf.Tensor,
    config: DataConfig,
    *,
    seed: tf.Tensor,
    ignore_label: int,
    image_mean: tuple[float, ...],
    centred_padding: bool,
    max_value: int = 255,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales, crops, mirrors, distorts and pads one example, in the ancestor's order.

    Augmentation beyond the recipes comes last: HSV jitter, RandAugment and blur before padding,
    rotation and GridMask after it.

    Args:
      image: uint8 or uint16 [H, W, C]; label: uint8 [H, W, 1]; seed: int64 [2].
      centred_padding: whether a small image lies in the middle of the crop, else at the top left.
      max_value: value of the image that becomes 255. Only 8-bit RGB has its colours varied, and
        images are blurred before they are scaled, so whole numbers lose no depth by rounding.
    Returns:
      float32 [h, w, C] in 0..255 and int32 [h, w, 1], of size config.train_crop_size.
    """
    crop_size = config.train_crop_size
    window, label = transforms.random_crop(
        label,
        seed=seeds.stream(seed, "crop"),
        crop_size=crop_size,
        min_resize_value=config.min_resize_value,
        max_resize_value=config.max_resize_value,
        resize_factor=config.resize_factor,
        min_scale_factor=config.min_scale_factor,
        max_scale_factor=config.max_scale_factor,
        scale_factor_step_size=config.scale_factor_step_size,
        one_category_max_ratio=config.one_category_max_ratio,
        ignore_label=ignore_label,
    )
    image = transforms.cut_image(image, window)

    if config.photometric_distortion:
        colors = seeds.stream(seed, "photometric distortion")
        image = photometric.distort(image, seed=colors, max_size=crop_size)

    if config.hsv_jitter:
        colors = seeds.stream(seed, "hsv jitter")
        image = appearance.jitter_hsv(image, seed=colors, shares=config.hsv_jitter)
    if config.randaugment_operations:
        image = randaugment.randaugment(
            image,
            seed=seeds.stream(seed, "randaugment"),
            operations=config.randaugment_operations,
            magnitude=config.randaugment_magnitude,
        )
    if config.max_blur_sigma:
        blur = seeds.stream(seed, "blur")
        image = appearance.random_blur(image, seed=blur, max_sigma=config.max_blur_sigma)

    image = transforms.scaled(image, max_value)
    padding: dict[str, Any] = {"size": crop_size, "centred": centred_padding}
    image = transforms.pad(image, value=image_mean, **padding)
    label = transforms.pad(tf.cast(label, tf.int32), value=ignore_label, **padding)
    fill = {"ignore_label": ignore_label, "image_mean": image_mean}
    return tuple(_turned_and_covered(geometric.Pair(image, label), config, seed=seed, **fill))


def _turned_and_covered(pair, config, *, seed, **fill):
    """Rotates and masks a crop, as far as the settings say so."""
    if config.max_rotation_degrees:
        pair = geometric.random_rotation(
            pair,
            seed=seeds.stream(seed, "rotation"),
            max_degrees=config.max_rotation_degrees,
            **fill,
        )
    if config.grid_mask_probability:
        pair = geometric.random_grid_mask(
            pair,
            seed=seeds.stream(seed, "grid mask"),
            probability=config.grid_mask_probability,
            ratio=config.grid_mask_ratio,
            sizes=config.grid_mask_size,
            **fill,
        )
    return pair


def _shuffled_order(num_records: int, *, first: int, last: int, seed: int) -> tf.data.Dataset:
    """Yields (position, record index) for positions first..last; each epoch has a new order."""
    first_epoch = first // num_records

    @_plain_python
    def epoch_order(epoch):
        key = seeds.stream(tf.stack([tf.constant(seed, tf.int64), epoch]), "order")
        everything = tf.range(num_records, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(everything, seed=key)
        )

    order = tf.data.Dataset.range(first_epoch, -(-last // num_records)).flat_map(epoch_order)
    return order.skip(first - first_epoch * num_records).take(last - first).enumerate(start=first)


class EvalBatch(NamedTuple):
    """Images of one size, [B, H, W, C], and their labels, uint8 [B, H, W, 1].

    The images are uint8 and RGB, or as the data set's `ImageKind` says.

    names: as in the records; a record without one is called record_12 if 12 come before it.
    numbers: of the records in the table, int64 [B]. Names may occur twice.
    """

    names: list[str]
    images: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray


def eval_batches(
    table: records.RecordTable,
    *,
    batch_size: int,
    num_classes: int,
    ignore_label: int,
    labelled: bool = True,
    image_kind: ImageKind = RGB,
) -> Iterator[EvalBatch]:
    """Yields every record exactly once, at its native size; a batch holds images of one size.

    Args:
      batch_size: maximum number of images in a batch; rare sizes give smaller batches.
      labelled: whether a record without a label is an error. If not, its label is [B, 0, 0, 1],
        and batch_size must be 1.
      image_kind: what the images are.
    Raises:
      UserError: naming the first record that cannot be read, or whose label is missing or wrong.
    """

    checks = RecordChecks(
        num_classes=num_classes,
        ignore_label=ignore_label,
        labelled=labelled,
        image_kind=image_kind,
    )

    @_plain_python
    def example(numbered):
        number, serialized = numbered
        record = checks.parse(serialized)
        name = _name_or_number(record["name"], number)
        return name, record["image"], record["label"], number

    numbers = tf.data.Dataset.range(len(table))
    read = _plain_python(lambda number: (number, table.read(number)))
    numbered = numbers.map(read, num_parallel_calls=_CORES)
    if batch_size > 1:
        # Records wait for others of their size while still encoded; decoded they would fill the
        # memory.
        grouped = numbered.group_by_window(
            key_func=_plain_python(lambda _, serialized: _size_key(serialized, image_kind)),
            reduce_func=lambda _, group: group.batch(batch_size),
            window_size=batch_size,
        )
    else:
        grouped = numbered.batch(1)
    types = (tf.string, tf.as_dtype(image_kind.dtype), tf.uint8, tf.int64)
    batches = grouped.map(
        _plain_python(lambda *group: tf.map_fn(example, group, fn_output_signature=types)),
        num_parallel_calls=_CORES,
    )
    with naming_bad_records(table, checks):
        for names, *arrays in _untuned(batches.prefetch(2)).as_numpy_iterator():
            yield EvalBatch([_as_text(name) for name in names], *arrays)


def record_names(table: records.RecordTable, checks: RecordChecks) -> Iterator[str]:
    """Yields the name of every record, as `eval_batches` gives them, without decoding images.

    Raises:
      UserError: naming the first record that cannot be read.
    """
    read = _plain_python(
        lambda number: _name_or_number(records.parse_name(table.read(number)), number)
    )
    names = tf.data.Dataset.range(len(table)).map(read, num_parallel_calls=_CORES)
    with naming_bad_records(table, checks):
        yield from map(_as_text, _untuned(names.prefetch(2)).as_numpy_iterator())


def _name_or_number(name: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    numbered_name = tf.strings.join(["record_", tf.strings.as_string(number)])
    return tf.where(tf.equal(name, ""), numbered_name, name)


def _as_text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _size_key(serialized, image_kind):
    """Returns one int64 that is equal only for images of equal height and width."""
    height_width = records.parse_size(serialized, image_kind)
    return height_width[0] * (1 << 32) + height_width[1]

"""Builds the tf.data pipelines: training batches and evaluation examples.

In training, the position p in the endless stream of examples decides everything: the record (from
epoch p // N, whose order is drawn from seed and epoch) and its augmentation (drawn from seed and
p). So a run resumed at step s reads exactly what it would have read without the interruption,
whatever the parallelism, and without replaying anything.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.data import catalog, photometric, records, service, transforms
from deeplab_tf.messages import UserError
from deeplab_tf.ops import seeds

# AutoGraph is not needed, since no Python control flow here depends on a tensor, and its conversion
# would cost seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert

_CORES = os.cpu_count() or 1
_BAD_RECORD = "bad record"  # by this, `explained_record_errors` recognises the errors of `_checked`
_UNDECODED = re.compile(r"(jpeg::Uncompress|JPEG|PNG|decode|Unknown image)", re.IGNORECASE)


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
    share: Share = Share(),
    services: Sequence[str] = (),
) -> tf.data.Dataset:
    """Returns a worker's batches of consecutive steps.

    Args:
      table, info: the records to train on, and their classes.
      steps: such as range(first, last); the batches of a step are the same in every range.
      batch_size: images in a step, over all replicas of all workers.
      services: addresses of the hosts that take turns in making the batches, one step each; if
        there are none, this process makes them.
    Yields:
      images: float32 [part, height, width, 3], RGB 0..255, padded with `image_mean`.
      labels: int32 [part, height, width, 1], padded with `ignore_label`.
    """
    first, last = steps.start * batch_size, steps.stop * batch_size
    part_size = batch_size // share.replicas

    @_plain_python
    def example(position, index):
        record = records.parse(table.read(index))
        label = _checked(record, info.num_classes, info.ignore_label)
        pair = augment(
            record["image"],
            label,
            config,
            seed=tf.stack([tf.constant(seed, tf.int64), position]),
            ignore_label=info.ignore_label,
            image_mean=image_mean,
        )
        return (position, *pair) if services else pair

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
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales, crops, mirrors, distorts and pads one example, in the ancestor's order.

    Args:
      image: uint8 [H, W, 3]; label: uint8 [H, W, 1]; seed: int64 [2].
    Returns:
      float32 [h, w, 3] in 0..255 and int32 [h, w, 1], of size config.train_crop_size.
    """
    crop_size = config.train_crop_size
    window, label = transforms.random_crop(
        label,
        seed=seeds.stream(seed, "crop"),
        crop_size=crop_size,
        min_resize_value=config.min_resize_value,
        max_resize_value=config.max_resize_value,
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

    image = transforms.pad_centred(tf.cast(image, tf.float32), size=crop_size, value=image_mean)
    label = transforms.pad_centred(tf.cast(label, tf.int32), size=crop_size, value=ignore_label)
    return image, label


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


def _checked(record, num_classes, ignore_label, labelled=True):
    """Returns the label of a record, after checking its size and its values."""
    label, name = record["label"], record["name"]
    image_size, size = tf.shape(record["image"])[:2], tf.shape(label)[:2]
    is_absent = tf.equal(tf.size(label), 0)
    fits = tf.reduce_all(tf.equal(image_size, size)) | (is_absent & (not labelled))

    train_ids = tf.where(tf.equal(label, ignore_label), tf.zeros_like(label), label)
    largest = tf.cast(tf.reduce_max(train_ids), tf.int32)

    checks = [
        tf.debugging.Assert(fits, [_BAD_RECORD, name, "size", image_size, size], summarize=2),
        tf.debugging.Assert(largest < num_classes, [_BAD_RECORD, name, "value", largest]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(label)


@contextlib.contextmanager
def explained_record_errors() -> Iterator[None]:
    """Turns a record's decoding error or failed check into a UserError that names the image."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        text = str(error)
        value = re.search(rf"\[{_BAD_RECORD}\] \[(.*?)\] \[value\] \[(\d+)\]", text)
        size = re.search(
            rf"\[{_BAD_RECORD}\] \[(.*?)\] \[size\] \[(\d+) (\d+)\] \[(\d+) (\d+)\]", text
        )
        if value:
            problem = (
                f"The label of {value[1]!r} holds the value {value[2]}, which is not in the class "
                "list; correct the mask"
            )
        elif size and size.groups()[3:] == ("0", "0"):
            problem = f"The image {size[1]!r} has no label; give it one"
        elif size:
            problem = (
                f"The image {size[1]!r} is {size[2]}x{size[3]} (height x width) but its label is "
                f"{size[4]}x{size[5]}; correct one of them"
            )
        elif _UNDECODED.search(text):
            problem = f"A record's image or label cannot be decoded ({text.splitlines()[0]})"
        else:
            raise
        raise UserError(f"{problem} and build the data set again.") from None


class EvalBatch(NamedTuple):
    """Images of one size, uint8 [B, H, W, 3], and their labels, uint8 [B, H, W, 1]."""

    names: list[str]
    images: np.ndarray
    labels: np.ndarray


def eval_batches(
    table: records.RecordTable,
    *,
    batch_size: int,
    num_classes: int,
    ignore_label: int,
    labelled: bool = True,
) -> Iterator[EvalBatch]:
    """Yields every record exactly once, at its native size; a batch holds images of one size.

    Args:
      batch_size: maximum number of images in a batch; rare sizes give smaller batches.
      labelled: whether a record without a label is an error. If not, its label is [B, 0, 0, 1],
        and batch_size must be 1.
    Raises:
      UserError: naming a record whose label is missing or wrong.
    """

    @_plain_python
    def example(serialized):
        record = records.parse(serialized)
        label = _checked(record, num_classes, ignore_label, labelled=labelled)
        return record["name"], record["image"], label

    serialized = tf.data.Dataset.range(len(table)).map(table.read, num_parallel_calls=_CORES)
    if batch_size > 1:
        # Records wait for others of their size while still encoded; decoded they would fill the
        # memory.
        grouped = serialized.group_by_window(
            key_func=_size_key,
            reduce_func=lambda _, group: group.batch(batch_size),
            window_size=batch_size,
        )
    else:
        grouped = serialized.batch(1)
    types = (tf.string, tf.uint8, tf.uint8)
    batches = grouped.map(
        _plain_python(lambda group: tf.map_fn(example, group, fn_output_signature=types)),
        num_parallel_calls=_CORES,
    )
    with explained_record_errors():
        for names, images, labels in _untuned(batches.prefetch(2)).as_numpy_iterator():
            yield EvalBatch([name.decode() for name in names], images, labels)


@_plain_python
def _size_key(serialized):
    """Returns one int64 that is equal only for images of equal height and width."""
    height_width = records.parse_size(serialized)
    return height_width[0] * (1 << 32) + height_width[1]

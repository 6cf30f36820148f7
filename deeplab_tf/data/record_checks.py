"""Checks records where they are read, and names the first bad one.

The checks run inside tf.data, whose errors name neither shard nor image, and which Keras hides. So
once reading has failed, `naming_bad_records` reads the records again, in order, until one fails
again, and says what is wrong with it. `find_bad` reads all records before they are used.
"""

import bisect
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.data import catalog, encoded, records
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError, counted, warn

_AGAIN = "build the data set again"
_COPY = f"copy the shard again, or {_AGAIN}"
_PNG = b"\x89PNG\r\n\x1a\n"
# PNG (2nd edition) sec. 11.2.2.
_COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey-alpha", 6: "RGBA"}
# What TensorFlow raises if a record cannot be read. Some of its messages quote the record's bytes,
# and Python then fails to read the message.
_FAILURES = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,
)
_KINDS = {
    _PNG: "a PNG", b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecordChecks:
    """What records must hold.

    num_classes, ignore_label: labels hold train ids below `num_classes`, and the ignored label.
    labelled: whether every record must have a label.
    image_kind: what the images are.
    """

    num_classes: int
    ignore_label: int
    labelled: bool = True
    image_kind: ImageKind = RGB

    def parse(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """Decodes one record as `records.parse` does, and checks size and values of its label.

        Raises:
          InvalidArgumentError: if it cannot be decoded, or fails a check.
        """
        record = records.parse(serialized, self.image_kind)
        image, label = record["image"], record["label"]
        fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], tf.shape(label)[:2]))
        is_absent = tf.equal(tf.size(label), 0)
        train_ids = tf.where(tf.equal(label, self.ignore_label), tf.zeros_like(label), label)
        largest = tf.cast(tf.reduce_max(train_ids), tf.int32)

        checks = [
            tf.debugging.Assert(fits | (is_absent & (not self.labelled)), ["size of label"]),
            tf.debugging.Assert(largest < self.num_classes, ["value of label"]),
        ]
        with tf.control_dependencies(checks):
            return record | {"label": tf.identity(label)}


@contextlib.contextmanager
def naming_bad_records(table: records.RecordTable, checks: RecordChecks) -> Iterator[None]:
    """Turns the failure to read a record into a UserError that names the first bad record.

    Only after a failure, all records are read again until the bad one is found, which takes as long
    as decoding all that come before it. If all are fine, the failure had another cause and is
    raised as it was.

    Args:
      table: where the records are read from.
      checks: what they must hold.
    """
    try:
        yield
    except _FAILURES as error:
        if not _may_be_from_record(error, table):
            raise
        print("Reading failed; looking for the bad record.", file=sys.stderr, flush=True)
        index = _first_bad(table, checks)
        if index is None:
            raise
        require_good(table, index, checks)
        raise


def find_bad(
    table: records.RecordTable, checks: RecordChecks, *, most: int, split: str
) -> np.ndarray:
    """Reads all records of a split, and warns of each that cannot be read.

    Args:
      checks: what they must hold.
      most: how many bad ones are allowed; if 0, nothing is read, and none is found.
      split: the name of the split, for messages.
    Returns:
      The indices of the bad records, int64 [K], ascending.
    Raises:
      UserError: if more than `most` are bad, or all.
    """
    if most == 0:
        return np.zeros(0, np.int64)

    @tf.autograph.experimental.do_not_convert
    def read(index):
        record = checks.parse(table.read(index))
        with tf.control_dependencies([record["image"], record["label"]]):
            return tf.identity(index)

    every = tf.data.Dataset.range(len(table))
    readable = every.map(read, num_parallel_calls=os.cpu_count() or 1).ignore_errors()
    progress = tqdm(
        readable.as_numpy_iterator(),
        total=len(table),
        desc=f"checking {split}",
        unit=" images",
        disable=None,
    )
    good = np.fromiter(progress, np.int64)
    bad = np.setdiff1d(np.arange(len(table)), good)

    sentences = [_why_bad(table, index, checks) for index in bad[: most + 1].tolist()]
    if len(bad) > most or not len(good):
        are = "is" if len(bad) == 1 else "are"
        raise UserError(
            f"{len(bad)} of {counted(len(table), 'record')} of {split} {are} bad, and "
            f"--max_bad_records={most} allows {most}; the first: {sentences[0]}"
        )
    for sentence in sentences:
        warn(f"{split}, not used: {sentence}")
    return bad


def _why_bad(table: records.RecordTable, index: int, checks: RecordChecks) -> str:
    """Returns the sentence that `require_good` raises for a bad record."""
    try:
        require_good(table, index, checks)
    except UserError as error:
        return str(error)
    place = _place(Path(table.files[table.file_index[index]]), int(table.offsets[index]))
    raise UserError(f"R{place[1:]} could not be read at first, and now it can; start again.")


def _may_be_from_record(error: Exception, table: records.RecordTable) -> bool:
    """Whether a record may be the cause: data services raise the same classes of errors."""
    if isinstance(error, UnicodeDecodeError):
        return True
    text = str(error)
    is_lost = re.search(r"(corrupted|truncated) record at", text) is not None
    is_missing = any(file in text for file in table.files)
    return isinstance(error, tf.errors.InvalidArgumentError) or is_lost or is_missing


def _first_bad(table: records.RecordTable, checks: RecordChecks) -> int | None:
    """Returns the index of the first record that cannot be read; None if all can."""

    @tf.autograph.experimental.do_not_convert
    def read(index):
        record = checks.parse(table.read(index))
        # Both are returned, so that neither is optimised away.
        return tf.shape(record["image"]), tf.shape(record["label"])

    every = tf.data.Dataset.range(len(table))
    shapes = every.map(read, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    num_good = 0
    try:
        for _ in shapes:
            num_good += 1
    except _FAILURES:
        return num_good
    return None


def require_good(table: records.RecordTable, index: int, checks: RecordChecks) -> None:
    """Reads one record step by step.

    Raises:
      UserError: naming shard, number and image, and what is wrong with the first bad part.
    """
    place = _place(Path(table.files[table.file_index[index]]), int(table.offsets[index]))
    try:
        serialized = table.read(index).numpy()
    except tf.errors.DataLossError:
        raise UserError(f"R{place[1:]} is damaged: its checksum is wrong; {_COPY}.") from None
    except tf.errors.OpError as error:
        raise UserError(f"R{place[1:]} cannot be read ({_reason(error)}); {_COPY}.") from None

    try:
        features = tf.train.Example.FromString(serialized).features.feature
        image, label, name = (_bytes_of(features, key) for key in _KEYS)
    except (DecodeError, ValueError) as error:
        reason = str(error) or "it is no tf.train.Example"
        raise UserError(f"R{place[1:]} is not an image and a label: {reason}; {_AGAIN}.") from None

    named = f"{files.shown(name.decode('utf-8', 'backslashreplace'))!r} ({place})"
    if checks.image_kind.is_rgb:
        height, width = _require_image(image, named).shape[:2]
    else:
        height, width = _require_planes(image, named, checks.image_kind, features).shape[:2]
    if label:
        values = _require_label(label, named, checks)
        if values.shape[:2] != (height, width):
            raise UserError(
                f"The image {named} is {height}x{width} (height x width) but its label is "
                f"{values.shape[0]}x{values.shape[1]}; correct one of them and {_AGAIN}."
            )
    elif checks.labelled:
        raise UserError(f"The image {named} has no label; give it one and {_AGAIN}.")

    try:  # as it was read first
        checks.parse(tf.constant(serialized))
    except _FAILURES as error:
        raise UserError(
            f"The record of {named} cannot be read ({_reason(error)}); {_AGAIN}."
        ) from None


_KEYS = ("image/encoded", "image/segmentation/class/encoded", "image/filename")


def _bytes_of(features: Mapping[str, tf.train.Feature], key: str) -> bytes:
    """Returns the value of a feature; b"" if it is absent.

    Raises:
      ValueError: if it holds several values, or no bytes.
    """
    if key not in features:
        return b""
    values = features[key].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"{key} holds {len(values)} byte strings")
    return values[0]


def _place(path: Path, offset: int) -> str:
    """Returns "record 3 of 8 in SHARD"; the first one has the number 1."""
    # Counted in the file, since the table may be the share of a worker.
    offsets = records.index_of(path)[0].tolist()
    number = bisect.bisect_left(offsets, offset) + 1
    return f"record {number} of {len(offsets)} in {files.shown(path)}"


def _require_image(content: bytes, named: str) -> np.ndarray:
    """Returns the pixels of a record's image; raises UserError if it cannot be read exactly."""
    if not content:
        raise UserError(f"The record of {named} has no image; {_AGAIN}.")
    kind = _kind(content)
    if kind not in ("a JPEG", "a PNG"):
        problem = f"is {kind}, but records hold JPEGs and PNGs"
    elif depth := files.deeper_than_8_bits(content):
        problem = f"has {depth}, but images have 8"
    else:
        try:
            size = encoded.stored_size(tf.constant(content)).numpy()
            if size.all():
                return records.decode_image(content).numpy()
        except tf.errors.OpError as error:
            raise UserError(
                f"The image {named} cannot be decoded ({_reason(error)}); get the file again and "
                f"{_AGAIN}."
            ) from None
        problem = "is a CMYK JPEG" if kind == "a JPEG" else "is a PNG without size"
    raise UserError(f"The image {named} {problem}; save it as an RGB PNG of 8 bits and {_AGAIN}.")


def _require_planes(
    content: bytes, named: str, kind: ImageKind, features: Mapping[str, tf.train.Feature]
) -> np.ndarray:
    """Returns the values of an image that is not 8-bit RGB; raises UserError if it has none."""
    channels = (
        [*features["image/channels"].int64_list.value] if "image/channels" in features else []
    )
    bits = 8 * np.dtype(kind.dtype).itemsize
    size = encoded.planes_size(tf.constant(content), channels=kind.channels, bits=bits).numpy()
    if channels != [kind.channels] or not size.all():
        raise UserError(
            f"The image {named} is {_kind(content, detailed=True)}, not one of "
            f"{kind.described()} as {catalog.MANIFEST} says; {_AGAIN}."
        )
    try:
        return records.decode_planes(tf.constant(content), kind).numpy()
    except tf.errors.OpError as error:
        raise UserError(
            f"The image {named} cannot be decoded ({_reason(error)}); {_COPY}."
        ) from None


def _require_label(content: bytes, named: str, checks: RecordChecks) -> np.ndarray:
    """Returns the values of a record's label; raises UserError if they are not all train ids."""
    if not encoded.is_grey_png(tf.constant(content)):
        raise UserError(
            f"The label of {named} is {_kind(content, detailed=True)}, which would be read as "
            f"other values; labels are grey PNGs of 8 bits: save the mask as one and {_AGAIN}."
        )
    try:
        values = tf.io.decode_png(content, channels=1).numpy()
    except tf.errors.OpError as error:
        raise UserError(
            f"The label of {named} cannot be decoded ({_reason(error)}); get the mask again and "
            f"{_AGAIN}."
        ) from None

    wrong = values[(values >= checks.num_classes) & (values != checks.ignore_label)]
    if wrong.size:
        raise UserError(
            f"The label of {named} holds the value {wrong.max()}, which is not in the class list; "
            f"correct the mask and {_AGAIN}{_other_meaning(int(wrong.max()), checks)}."
        )
    return values


def _other_meaning(value: int, checks: RecordChecks) -> str:
    """Returns what a label outside the class list may mean, and the settings for that."""
    meant = (checks.num_classes, checks.ignore_label)
    if (*meant, value) == (151, 0, 255):
        return (
            ", or, if these are ADE20K's labels with 150 classes and 255 ignored, train with "
            "--dataset=ade20k --num_classes=150"
        )
    if (*meant, value) == (150, 255, 150):
        return (
            ", or, if these are ADE20K's labels as the official package writes them, train with "
            "--dataset=ade20k_151"
        )
    if value == 255:
        return ", or, if 255 marks pixels that do not count, train with --ignore_label=255"
    return ""


def _kind(content: bytes, *, detailed: bool = False) -> str:
    """Returns what kind of file this is, such as "a JPEG", or "a palette PNG of 4 bits"."""
    if detailed and content.startswith(_PNG) and len(content) > 25:
        return f"a {_COLOR_TYPES.get(content[25], 'damaged')} PNG of {counted(content[24], 'bit')}"
    known = (kind for start, kind in _KINDS.items() if content.startswith(start))
    return next(known, "of an unknown format")


def _reason(error: Exception) -> str:
    """Returns the first line of an error, without the names of graph nodes."""
    line = re.sub(r"{{.*?}} ?| ?\[Op:\w+\]", "", str(error).splitlines()[0])
    return line.strip().rstrip(".")

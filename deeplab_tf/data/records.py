"""Writes and reads TFRecords in the official package's schema.

Shards are named <split>-00000-of-00008.tfrecord. A dataset.json next to them lists the shards of
each split with their number of images and bytes, so that a lost or truncated shard stops a run
before training instead of making its result slightly worse. Shards of the official package, which
have no dataset.json, can be read too.
"""

import dataclasses
import glob
import hashlib
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.data import catalog, encoded
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError, counted

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.tfrecord")
_OTHER_SHARD_NAME = re.compile(r"-\d+(-of-(?P<count>\d+))?(\.tfrecords?)?")  # after the split


def serialize(example: EncodedExample) -> bytes:
    """Returns the tf.train.Example of an image and its label, in the official schema.

    If there is no label, image/segmentation/class/encoded is empty, as the official reader assumes
    where the key is missing.
    """
    # Filled in place: passing a message to the constructor of another would copy the whole image.
    record = tf.train.Example()
    features = record.features.feature
    for name, text in (
        ("image/encoded", example.image),
        ("image/filename", example.name.encode()),
        ("image/format", example.image_format.encode()),
        ("image/segmentation/class/encoded", example.label),
        ("image/segmentation/class/format", b"png"),
    ):
        features[name].bytes_list.value.append(text)
    for name, number in (
        ("image/height", example.height),
        ("image/width", example.width),
        ("image/channels", example.channels),
    ):
        features[name].int64_list.value.append(number)

    return record.SerializeToString(deterministic=True)  # otherwise the order of the keys may vary


def parse(serialized: tf.Tensor, kind: ImageKind = RGB) -> dict[str, tf.Tensor]:
    """Decodes one record, whoever wrote it.

    Args:
      serialized: scalar string, a tf.train.Example in the official schema.
      kind: what the images of the data set are.
    Returns:
      image: [H, W, kind.channels] of kind.dtype, by default uint8 RGB; name: scalar string; label:
      uint8 [H, W, 1], train ids, or [0, 0, 1] where the record has none.
    Raises:
      InvalidArgumentError: if a file cannot be decoded, or TensorFlow would decode the image to
        other pixels or the label to other values than the file holds, or if the image is of
        another kind.
    """
    # Other programs' records of RGB images may say anything about the channels.
    channels = {} if kind.is_rgb else {"image/channels": tf.io.FixedLenFeature([], tf.int64, 0)}
    features = tf.io.parse_single_example(serialized, _SCHEMA | channels)
    image, label = features["image/encoded"], features["image/segmentation/class/encoded"]
    is_absent = tf.equal(label, "")
    is_of_kind = tf.reduce_all(_stored_size(image, kind) > 0)
    if channels:
        is_of_kind &= tf.equal(features["image/channels"], kind.channels)
    checks = [
        tf.debugging.Assert(is_of_kind, ["kind of image"]),
        tf.debugging.Assert(is_absent | encoded.is_grey_png(label), ["kind of label"]),
    ]
    with tf.control_dependencies(checks):
        image, label = tf.identity(image), tf.identity(label)

    decoded = tf.cond(
        is_absent,
        lambda: tf.zeros([0, 0, 1], tf.uint8),
        lambda: tf.io.decode_png(label, channels=1),
    )
    decoded.set_shape([None, None, 1])
    pixels = decode_image(image) if kind.is_rgb else decode_planes(image, kind)
    return {"image": pixels, "label": decoded, "name": features["image/filename"]}


def _stored_size(image, kind):
    """Returns height and width of an encoded image, int64 [2]; 0 if it is of another kind."""
    if kind.is_rgb:
        return encoded.stored_size(image)
    bits = 8 * np.dtype(kind.dtype).itemsize
    return encoded.planes_size(image, channels=kind.channels, bits=bits)


def decode_planes(content: tf.Tensor, kind: ImageKind) -> tf.Tensor:
    """Decodes a grey PNG with the channels below each other to [H, W, channels], of kind.dtype."""
    planes = tf.io.decode_png(content, channels=1, dtype=tf.as_dtype(kind.dtype))
    height = tf.shape(planes)[0] // kind.channels
    image = tf.reshape(planes, [kind.channels, height, tf.shape(planes)[1]])
    image = tf.transpose(image, [1, 2, 0])
    image.set_shape([None, None, kind.channels])
    return image


def decode_image(content: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG to uint8 [H, W, 3], RGB, to the same pixels as OpenCV and Pillow.

    TensorFlow's default for JPEG is a fast transform whose pixels are up to 20 levels off.
    """
    image = tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def parse_size(serialized: tf.Tensor, kind: ImageKind = RGB) -> tf.Tensor:
    """Returns height and width of one record's image, int64 [2], without decoding it.

    They are read from the image itself: image/height and image/width may be absent or wrong.

    Raises:
      InvalidArgumentError: if there is no image, or its header is damaged.
    """
    schema = {"image/encoded": _SCHEMA["image/encoded"]}
    return _stored_size(tf.io.parse_single_example(serialized, schema)["image/encoded"], kind)


def parse_name(serialized: tf.Tensor) -> tf.Tensor:
    """Returns the name in one record, a scalar string; "" if it has none."""
    key = "image/filename"
    return tf.io.parse_single_example(serialized, {key: _SCHEMA[key]})[key]


_SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string, ""),
    "image/segmentation/class/encoded": tf.io.FixedLenFeature([], tf.string, ""),
}


def shard_writer(path: Path) -> tf.io.TFRecordWriter:
    """Opens a new TFRecord file for serialized examples; use it in a with statement."""
    return tf.io.TFRecordWriter(str(path))


@dataclass(frozen=True)
class RecordTable:
    """Where each record of a split lies, so that any record can be read without its neighbours.

    files: the paths of the shards.
    file_index: int32 [N], the shard of each record, as an index into `files`.
    offsets: int64 [N], the first byte of each record in its shard.
    checksums: uint32 [N], what the shards note as the masked CRC of each record's content.
    """

    files: tuple[str, ...]
    file_index: np.ndarray
    offsets: np.ndarray
    checksums: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint32))

    def __len__(self) -> int:
        return len(self.offsets)

    def summary(self) -> str:
        """Returns the shards' names and sizes, and where the records lie."""
        # The sizes are needed: if each shard holds one record, all offsets are 0.
        shards = [(Path(file).name, Path(file).stat().st_size) for file in self.files]
        return f"{shards} {self.file_index.tolist()} {self.offsets.tolist()}"

    def digest(self) -> str:
        """Returns a hash of `summary` and the records' content: equal for copies."""
        text = f"{self.summary()} {self.checksums.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def digest_of_places(self) -> str:
        """Returns a hash of `summary`, which runs of earlier versions noted."""
        return hashlib.sha256(self.summary().encode()).hexdigest()

    def share(self, index: int, count: int) -> "RecordTable":
        """Returns every `count`-th record, starting with the `index`-th: the share of a worker."""
        return self._at(slice(index, None, count))

    def without(self, bad: np.ndarray) -> "RecordTable":
        """Returns all records but those at the indices `bad`."""
        return self._at(np.setdiff1d(np.arange(len(self)), bad))

    def with_next_in_place_of(self, bad: np.ndarray) -> "RecordTable":
        """Returns as many records, with the next good one in place of each at the indices `bad`."""
        every = np.arange(len(self))
        good = np.setdiff1d(every, bad)
        return self._at(good[np.searchsorted(good, every) % len(good)])

    def _at(self, indices: np.ndarray | slice) -> "RecordTable":
        return dataclasses.replace(
            self,
            file_index=self.file_index[indices],
            offsets=self.offsets[indices],
            checksums=self.checksums[indices],
        )

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the serialized record at `index` (scalar), inside or outside tf.data."""
        # A dataset that starts at the record's offset; only its first element is read.
        # `tf.data.TFRecordDataset` itself takes no offsets, so it is made from the raw operation.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(self.files, tf.gather(self.file_index, index))],
            compression_type="",
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=[tf.gather(self.offsets, index)],
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        return records.take(1).get_single_element()


def open_split(
    dataset_dir: str | Path,
    split: str,
    info: catalog.DatasetInfo,
    *,
    labelled: bool = True,
    advice: str = "name one of them, or build it",
) -> RecordTable:
    """Finds the shards of a split, checks that they are complete, and indexes their records.

    Args:
      labelled: whether to refuse a split without labels.
      advice: what the user can do if there is no such split.
    Raises:
      UserError: if the split does not exist, or a shard is missing, truncated or changed.
    """
    if not dataset_dir:
        raise UserError(
            f"--dataset_dir is empty; build the {info.name} records with "
            f"`{info.build_command} --output_dir=DIR` and give --dataset_dir=DIR."
        )

    folder = Path(dataset_dir)
    if (folder / catalog.MANIFEST).is_file():
        splits = catalog.read_manifest(folder).get("splits")
        if splits is None:
            raise UserError(
                f"--dataset_dir={folder} is the folder of a run, not of a data set; give the "
                "folder that a builder wrote."
            )
        if split not in splits:
            split = _other_name(info, split, splits, f"{folder} has no split", advice)
        if labelled and not splits[split].get("labelled", True):
            raise UserError(
                f"The split {split!r} in {folder} has no labels; only vis can be run on it."
            )
        paths = _listed_shards(folder, split, splits[split])
        expected = splits[split]["images"]
    else:
        paths = _found_shards(folder, split, info)
        expected = None  # subsets of a known data set are welcome

    indexes = [index_of(path) for path in paths]
    counts = [len(offsets) for offsets, _ in indexes]
    total = sum(counts)
    if not total:
        raise UserError(f"The shards of {split!r} in {folder} hold no record; build it again.")
    if expected is not None and total != expected:
        raise UserError(
            f"The shards of {split!r} in {folder} hold {counted(total, 'record')}, but {expected} "
            "are expected; build the split again."
        )

    file_index = np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    offsets, checksums = map(np.concatenate, zip(*indexes, strict=True))
    return RecordTable(tuple(map(str, paths)), file_index, offsets, checksums)


def _listed_shards(folder: Path, split: str, entry: dict) -> list[Path]:
    """Returns the shards that a split's entry in dataset.json lists, after checking their sizes."""
    paths = [
        files.path_below(folder, shard["file"], advice=f"build the split {split!r} again")
        for shard in entry["shards"]
    ]
    for path, shard in zip(paths, entry["shards"], strict=True):
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes, not {shard['bytes']}"
            raise UserError(f"The shard {path} {state}; build the split {split!r} again.")
    return paths


def _other_name(
    info: catalog.DatasetInfo, split: str, found: Collection[str], problem: str, advice: str
) -> str:
    """Returns the name under which a split is there, if known data sets call it by two names.

    Raises:
      UserError: if it is not there, with `problem`, the splits that are there, and `advice`.
    """
    known = catalog.known_as(info)
    other = catalog.other_name(known, split) if known else ""
    if other in found:
        return other
    raise UserError(f"{problem} {split!r}; it has: {', '.join(sorted(found)) or 'none'}; {advice}.")


def splits_in(folder: Path) -> list[str]:
    """Returns the splits of the shards in a folder, by the names of the files."""
    matches = (_SHARD_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted({match["split"] for match in matches if match})


def _found_shards(folder: Path, split: str, info: catalog.DatasetInfo) -> list[Path]:
    """Returns the shards of a split by their names, if no dataset.json lists them."""
    if not folder.is_dir():
        raise UserError(
            f"--dataset_dir={folder} is not a folder; build the records with "
            f"`{info.build_command} --output_dir={folder}`, or give the folder that holds them."
        )

    found = splits_in(folder)
    if split not in found:
        if paths := _shards_of_other_names(folder, split):
            return paths
        advice = f"name one of them, or build it with `{info.build_command} --output_dir={folder}`"
        problem = f"--dataset_dir={folder} has no records of the split"
        split = _other_name(info, split, found, problem, advice)

    shards_by_count: dict[int, list[Path]] = {}
    for path in sorted(folder.glob(f"{glob.escape(split)}-*.tfrecord")):
        match = _SHARD_NAME.fullmatch(path.name)
        if match and match["split"] == split:
            shards_by_count.setdefault(int(match["count"]), []).append(path)

    return _complete(shards_by_count, folder, split)


def _shards_of_other_names(folder: Path, split: str) -> list[Path]:
    """Returns files such as train-0.tfrecord, which the official reader takes for shards too.

    Most of their names do not say how many there were, so a missing one is not noticed. The
    official reader would also take train-0.tfrecord.bak, a copy, and the shards of train-2017.
    """
    shards_by_count: dict[int, list[Path]] = {}
    for path in sorted(folder.glob(f"{glob.escape(split)}-[0-9]*")):
        match = _OTHER_SHARD_NAME.fullmatch(path.name.removeprefix(split))
        if match and path.is_file():
            shards_by_count.setdefault(int(match["count"] or 0), []).append(path)
    return _complete(shards_by_count, folder, split) if shards_by_count else []


def _complete(shards_by_count: dict[int, list[Path]], folder: Path, split: str) -> list[Path]:
    """Returns a split's shards; raises UserError if they are not as many as their names say.

    Args:
      shards_by_count: the shards by the number of all shards in their names, 0 if there is none.
    """
    for count, paths in shards_by_count.items():
        if len(shards_by_count) > 1 or (count and len(paths) != count):
            counts = ", ".join(map(str, sorted(shards_by_count)))
            raise UserError(
                f"The split {split!r} in {folder} is not complete: {counted(len(paths), 'shard')} "
                f"of {count} (sets of {counts} shards found); build it again."
            )
    return next(iter(shards_by_count.values()))


def index_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offset of each record in a TFRecord file, int64 [N], and its CRC, uint32 [N].

    A record is a uint64 length, a crc32, the data and another crc32. Only the lengths and
    the second crc32 are read.

    Raises:
      UserError: if the last record does not end at the end of the file.
    """
    offsets, checksums, position, size = [], [], 0, path.stat().st_size
    with files.open_regular(path) as file:
        header = file.read(8)
        while position < size and len(header) == 8:
            offsets.append(position)
            position += struct.unpack("<Q", header)[0] + 16
            if position > size:
                break

            # The end of this record and the start of the next one.
            file.seek(position - 4)
            ending = file.read(12)
            checksums.append(struct.unpack_from("<I", ending)[0])
            header = ending[4:]

    if position != size:
        raise UserError(f"The shard {path} is cut or is not a TFRecord file; build it again.")
    return np.array(offsets, np.int64), np.array(checksums, np.uint32)

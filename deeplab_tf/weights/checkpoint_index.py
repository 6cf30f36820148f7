"""Checks the index of a TensorFlow checkpoint, before TensorFlow reads it.

TensorFlow believes an index whose checksums are right: sizes, types or shapes that nobody can have
end the whole process, or reserve a terabyte. Nobody who means well writes such an index.

A .index file is a table of LevelDB's kind (tensorflow/core/lib/io/table.cc, format.cc, block.cc): a
block of entries, a block of handles of such blocks, and a footer with that block's handle. Keys are
names of variables, values are BundleEntryProto; the empty key has a BundleHeaderProto.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from deeplab_tf import files
from deeplab_tf.messages import UserError

_FOOTER = 48  # bytes: two handles and padding, then the mark
_MARK = bytes.fromhex("57fb808b247547db")
_TRAILER = 5  # bytes after a block: its compression, which is none, and its checksum
_LONGEST_KEY = 1000
_MOST_AXES = 32
_MOST_SHARDS = 1000
_NUMBERS = {
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
}


def require_proper(prefix: str) -> None:
    """Makes sure that an index describes no more than the files of the checkpoint hold.

    Checksums are left to TensorFlow.

    Args:
      prefix: path of the checkpoint without its endings.
    Raises:
      UserError: if it does, or is damaged.
    """
    path = Path(f"{prefix}.index")
    try:
        content = path.read_bytes()
        entries = dict(_entries(content))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, IndexError):
        raise UserError(
            f"{prefix} cannot be read as a checkpoint: its .index is damaged; fetch it again."
        ) from None

    header = tensor_bundle_pb2.BundleHeaderProto()
    if not _parses(header, entries.pop(b"", b"\xff")) or not 1 <= header.num_shards <= _MOST_SHARDS:
        raise UserError(f"{prefix} cannot be read as a checkpoint: its .index has no header.")

    sizes = [
        file.stat().st_size if file.is_file() else 0
        for file in (
            Path(f"{prefix}.data-{shard:05}-of-{header.num_shards:05}")
            for shard in range(header.num_shards)
        )
    ]
    used: Counter[int] = Counter()
    for key, value in entries.items():
        entry = tensor_bundle_pb2.BundleEntryProto()
        fault = _fault(entry, value, sum(sizes))
        used[entry.shard_id] += entry.size
        if fault or used[entry.shard_id] > max(sizes, default=0):
            name = files.shown(key.decode(errors="backslashreplace"), most=100)
            fault = fault or "more bytes than the checkpoint has"
            raise UserError(
                f"{prefix} is damaged at {name!r}: its .index gives it {fault}; fetch all files of "
                "the checkpoint again."
            )


def _parses(message, content: bytes) -> bool:
    try:
        message.ParseFromString(content)
    except Exception:  # protobuf's DecodeError, or another in its versions
        return False
    return True


def _fault(entry, content: bytes, total: int) -> str:
    """Returns what is wrong with an entry that is parsed from `content`, "" if nothing is.

    Args:
      total: bytes of all data files.
    """
    if not _parses(entry, content):
        return "no description"
    try:
        dtype = tf.as_dtype(entry.dtype)
    except (TypeError, KeyError, ValueError):
        return f"the unknown type {entry.dtype}"

    is_text = dtype == tf.string
    if not is_text and dtype.name not in _NUMBERS:
        return f"the type {dtype.name}, which no weight has"
    sides = [axis.size for axis in entry.shape.dim]
    if entry.shape.unknown_rank or len(sides) > _MOST_AXES or min(sides, default=0) < 0:
        return "a shape that no weight has"
    if entry.offset < 0 or entry.size < 0:
        return "a place before the file's begin"

    # A text takes one byte or more. What is saved in slices takes its bytes from other entries. A
    # shape with a zero takes none, but TensorFlow multiplies its other sides.
    nbytes = math.prod(side for side in sides if side) * (1 if is_text else dtype.size)
    is_loose = is_text or entry.slices or 0 in sides
    if nbytes > total if is_loose else nbytes != entry.size:
        return f"{entry.size} bytes for {nbytes}"
    return ""


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values; raises ValueError or IndexError if the table is damaged."""
    if len(table) < _FOOTER or not table.endswith(_MARK):
        raise ValueError("no table")

    footer = table[-_FOOTER:]
    *_, position = _handle(footer, 0)
    start, size, _ = _handle(footer, position)
    read = 0
    for _, value in _block(table, start, size):
        start, size, _ = _handle(value, 0)
        read += size
        if read > len(table):
            raise ValueError("blocks overlap")
        yield from _block(table, start, size)


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of one block; a key begins with a part of the key before it."""
    if start + size + _TRAILER > len(table) or table[start + size] != 0:
        raise ValueError("a block outside of the file, or a compressed one")

    block = table[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = _number(block, position)
        unshared, position = _number(block, position)
        length, position = _number(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        if len(key) != shared + unshared or len(key) > _LONGEST_KEY or position + length > end:
            raise ValueError("an entry outside of its block")
        yield key, block[position : position + length]
        position += length


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    """Returns start and size of a block, and the position after its handle."""
    start, position = _number(content, position)
    size, position = _number(content, position)
    return start, size, position


def _number(content: bytes, position: int) -> tuple[int, int]:
    """Returns a number, 7 bits to a byte and the lowest ones first, and the position after it."""
    number = 0
    for shift in range(0, 64, 7):
        byte = content[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("a number of too many bytes")

"""Reads PyTorch's .pth files without PyTorch and without running anything that they hold.

Both formats are read: the zip of PyTorch 1.6 and later, whose members are <name>/data.pkl and
<name>/data/<key>, and the earlier stream of pickles. `pickles` reads the pickles in them. What is
in memory is never much larger than the file: tensors are views of its storages, and each storage is
read once.
"""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf.messages import UserError
from deeplab_tf.weights import pickles
from deeplab_tf.weights.pickles import RefusedError, Storage, Tensor, brief

# torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_OF_A_HEAD = 100  # instructions
_MOST_DEPTH = 50
_MOST_COPIES = 8  # bytes of all tensors per byte of the file: several may share a storage
_BLOCK = 1 << 20


def load(path: str | Path) -> Any:
    """Reads a .pth file; tensors become numpy arrays, and everything else stays as it is.

    The arrays are read-only and may share memory. bfloat16 becomes float32.

    Raises:
      UserError: if it is not such a file, is damaged, or wants to call a function that is refused.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _load_zip(archive, size)
        with _Whole(io.FileIO(path)) as file:
            return _load_legacy(file, size)
    except RefusedError as error:
        raise UserError(f"{path} was not read: {error}.") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise UserError(f"{path} is too large for the memory, or damaged.") from None
    except Exception as error:  # a damaged pickle may raise anything
        reason = f"{type(error).__name__}: {brief(str(error))}"
        raise UserError(f"{path} is not a whole PyTorch file ({reason}).") from None


def _load_zip(archive: zipfile.ZipFile, size: int) -> Any:
    """Reads the format of PyTorch 1.6 and later; PyTorch stores its members uncompressed.

    Args:
      size: of the file in bytes. The directory of a zip may claim anything else.
    """
    members = {info.filename: info for info in archive.infolist()}
    names = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(names) != 1 or members[names[0]].compress_type != zipfile.ZIP_STORED:
        raise RefusedError("it is a zip file, but not PyTorch's")
    stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
    if sum(max(info.file_size, info.compress_size) for info in stored) > size:
        raise RefusedError("the members of its zip file are larger than the file")

    def content_of(name: str) -> bytes:
        info = members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise RefusedError(f"its member {brief(name)!r} is compressed")
        return archive.read(info)

    folder = names[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order and (order.compress_type != zipfile.ZIP_STORED or archive.read(order) != b"little"):
        raise RefusedError("its byteorder is not 'little'; a big-endian machine wrote it")

    def bytes_of(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        if name not in members:
            raise RefusedError(f"the storage {brief(storage.key)!r} is missing")
        if members[name].file_size != storage.nbytes:
            raise RefusedError(
                f"the storage {brief(storage.key)!r} has {members[name].file_size} bytes and not "
                f"{storage.nbytes}"
            )
        return content_of(name)

    content, _ = pickles.read(io.BytesIO(content_of(names[0])))
    return _Resolver(bytes_of, size).resolve(content)


class _Whole(io.BufferedReader):
    """A file that refuses to read beyond its end: reading reserves as much as was asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        asked = size or 0
        if asked > _BLOCK and asked > os.fstat(self.fileno()).st_size - self.tell():
            raise RefusedError("it is cut")
        return super().read(size)


def _load_legacy(file: _Whole, size: int) -> Any:
    """Reads the format before PyTorch 1.6: pickles one after the other, then the storages."""
    if size == 0:
        raise RefusedError("it is empty; get it again")
    start = file.peek(8)[:8]
    if not start.startswith(pickle.PROTO):
        raise RefusedError(f"it begins with {start!r} and is not a PyTorch file")

    for head in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        if pickles.read(file, most_instructions=_OF_A_HEAD)[0] != head:
            raise RefusedError("it is neither a zip file nor PyTorch's older format")
    if not pickles.read(file, most_instructions=_OF_A_HEAD)[0]["little_endian"]:
        raise RefusedError("it was written on a big-endian machine")

    content, storages = pickles.read(file)
    keys, _ = pickles.read(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("its list of storages is not a list of names")

    contents = {}
    for key in keys:
        storage = storages[key]
        (length,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes) if length == storage.length else b""
        if len(data) != storage.nbytes:
            raise RefusedError(f"the storage {brief(key)!r} is cut")
        contents[key] = data

    return _Resolver(lambda storage: contents[storage.key], size).resolve(content)


class _Resolver:
    """Replaces the tensors of a nested structure by arrays.

    Each container, tensor and storage is looked at only once, however often it occurs.

    Args:
      bytes_of: returns the bytes of a storage.
      size: of the file in bytes.
    """

    def __init__(self, bytes_of: Callable[[Storage], bytes], size: int):
        self._bytes_of = bytes_of
        self._room = _MOST_COPIES * size
        self._values: dict[Storage, np.ndarray] = {}
        self._known: dict[Any, Any] = {}

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Returns the value with numpy arrays in place of tensors."""
        if depth > _MOST_DEPTH:
            raise RefusedError("it is nested too deeply")
        if not isinstance(value, Tensor | dict | list | tuple):
            return value

        key = value if isinstance(value, Tensor) else id(value)
        if key not in self._known:
            self._known[key] = self._made(value, depth)
        return self._known[key]

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, Tensor):
            return self._view(value)
        if isinstance(value, dict):
            return {name: self.resolve(item, depth + 1) for name, item in value.items()}
        return [self.resolve(item, depth + 1) for item in value]

    def _view(self, tensor: Tensor) -> np.ndarray:
        values = self._values_of(tensor.storage)
        steps = [stride * values.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :], tensor.shape, steps, writeable=False
        )

        self._room -= view.nbytes
        if self._room < 0:
            raise RefusedError("its tensors are many times larger than the file")
        return view

    def _values_of(self, storage: Storage) -> np.ndarray:
        if storage not in self._values:
            content = self._bytes_of(storage)
            if len(content) != storage.nbytes:
                raise RefusedError(f"the storage {brief(storage.key)!r} is cut")
            values = np.frombuffer(content, pickles.DTYPES[storage.kind])
            if storage.kind == "BFloat16Storage":
                values = (values.astype("<u4") << 16).view("<f4")
            self._values[storage] = values
        return self._values[storage]

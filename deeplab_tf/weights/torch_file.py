"""Reads PyTorch's .pth files without PyTorch and without running anything that they hold.

A .pth file is a pickle, and a pickle may call any function while it is read. Here it may call only
five functions, which do no more than describe a tensor or make a container. Some names of metadata,
and attributes of these, are replaced by objects that do nothing. Every other name is refused
(docs/ancestors.md, TensorFlow).

Both formats are read: the zip of PyTorch 1.6 and later, whose members are <name>/data.pkl and
<name>/data/<key>, and the earlier stream of pickles.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf.messages import UserError

_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# What training files hold besides weights, such as numpy's numbers and mmengine's logs. It is read
# as `_Inert`.
_METADATA = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "defaultdict"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("builtins", "list"),
    ("__builtin__", "list"),
    ("argparse", "Namespace"),
    ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ("torch", "device"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")),
}
# torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Limits, so that a small file cannot demand much memory or time.
_MOST_DEPTH = 50
_MOST_COPIES = 8  # bytes of all tensors per byte of the storages, which several tensors may share


class _RefusedError(Exception):
    """The file is not read; the message says why, without the file's name."""


class _Inert:
    """Stands for metadata: accepts whatever a pickle gives it, and keeps nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    __setitem__ = append = extend = add = update = __init__


def _harmful(call: str) -> _RefusedError:
    return _RefusedError(
        f"it wants to call {call}, which may do harm; only weights are read. Save just its "
        "state dict: torch.save({'state_dict': model.state_dict()}, FILE)"
    )


def _attribute(owner: Any, *_: Any) -> _Inert:
    """Stands for getattr, by which pickles of protocol 2 name a method, as in mmengine's logs."""
    if owner is not _Inert and not isinstance(owner, _Inert):
        raise _harmful("getattr on an object that is not metadata")
    return _Inert()


class _Fixed:
    """Base of the descriptions, which a pickle cannot change once they are made."""

    def __setstate__(self, state: Any) -> None:
        # Otherwise the instruction BUILD of a pickle could change what was checked.
        raise _RefusedError("it changes a tensor's description after the fact")


@dataclass(frozen=True)
class _StorageType(_Fixed):
    """A class of torch's storages; `name` is a key of _DTYPES."""

    name: str


@dataclass(frozen=True)
class _Storage(_Fixed):
    """The numbers that one or several tensors are views of.

    kind: a key of _DTYPES. key: its name in the file. length: number of values.
    """

    kind: str
    key: str
    length: int

    @property
    def nbytes(self) -> int:
        return self.length * np.dtype(_DTYPES[self.kind]).itemsize


@dataclass(frozen=True)
class _Tensor(_Fixed):
    """A view of a storage; offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, content: bytes) -> np.ndarray:
        """Returns the tensor as an array.

        Args:
          content: the bytes of its storage; `_tensor` has checked that it lies within them.
        """
        if len(content) != self.storage.nbytes:
            raise _RefusedError(f"the storage {self.storage.key!r} is cut")

        values = np.frombuffer(content, _DTYPES[self.storage.kind])
        if self.storage.kind == "BFloat16Storage":
            values = (values.astype("<u4") << 16).view("<f4")
        steps = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return view.copy()


def load(path: str | Path) -> Any:
    """Reads a .pth file; tensors become numpy arrays, and everything else stays as it is.

    bfloat16 becomes float32.

    Raises:
      UserError: if it is not such a file, is damaged, or wants to call a function that is refused.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _load_zip(archive)
        with path.open("rb") as file:
            return _load_legacy(file)
    except _RefusedError as error:
        raise UserError(f"{path} was not read: {error}.") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except MemoryError:
        raise UserError(f"{path} is too large for the memory, or damaged.") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"{path} is not a whole PyTorch file ({type(error).__name__}: {error})."
        ) from None


def _load_zip(archive: zipfile.ZipFile) -> Any:
    """Reads the format of PyTorch 1.6 and later; PyTorch stores its members uncompressed."""
    members = {info.filename: info for info in archive.infolist()}
    total = sum(info.compress_size for info in members.values())
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1 or members[pickles[0]].compress_type != zipfile.ZIP_STORED:
        raise _RefusedError("it is a zip file, but not PyTorch's")

    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order and (order.compress_type != zipfile.ZIP_STORED or archive.read(order) != b"little"):
        raise _RefusedError("its byteorder is not 'little'; a big-endian machine wrote it")

    def content_of(storage: _Storage) -> bytes:
        info = members.get(f"{folder}data/{storage.key}")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise _RefusedError(f"the storage {storage.key!r} is missing or compressed")
        if info.file_size != storage.nbytes:
            raise _RefusedError(
                f"the storage {storage.key!r} has {info.file_size} bytes and not {storage.nbytes}"
            )
        return archive.read(info)

    content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    return _Resolver(content_of, total).resolve(content)


def _load_legacy(file: io.BufferedReader) -> Any:
    """Reads the format before PyTorch 1.6: pickles one after the other, then the storages."""
    if not file.peek(1).startswith(pickle.PROTO):
        raise _RefusedError(f"it begins with {file.peek(8)[:8]!r} and is not a PyTorch file")
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise _RefusedError("it is neither a zip file nor PyTorch's older format")
    if not _Unpickler(file).load()["little_endian"]:
        raise _RefusedError("it was written on a big-endian machine")

    unpickler = _Unpickler(file)
    content = unpickler.load()

    contents = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (length,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes) if length == storage.length else b""
        if len(data) != storage.nbytes:
            raise _RefusedError(f"the storage {key!r} is cut")
        contents[key] = data

    total = sum(map(len, contents.values()))
    return _Resolver(lambda storage: contents[storage.key], total).resolve(content)


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Unpickles only descriptions of tensors, containers and plain values.

    It is Python's own version of pickle, since with the version in C a small file can make the memo
    take gigabytes.
    """

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        if (module, name) in _METADATA:
            return _Inert
        if name == "getattr" and module in ("builtins", "__builtin__"):
            return _attribute
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch", "Size"): tuple,
        }
        if (module, name) not in allowed:
            raise _harmful(f"{module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, length, *view = pid
        proper = isinstance(storage_type, _StorageType) and isinstance(key, str)
        if kind != "storage" or not proper or not _is_count(length) or any(view):
            raise _RefusedError(f"it holds an unknown kind of storage: {str(pid)[:80]}")
        storage = _Storage(storage_type.name, key, length)
        if self.storages.setdefault(key, storage) != storage:
            raise _RefusedError(f"the storage {key!r} is described in two ways")
        return storage


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    """Describes a tensor instead of making it, and checks that it lies within its storage."""
    # rest: requires_grad, backward_hooks and, seldom, {"neg": ..., "conj": ...}.
    if len(rest) > 2 and rest[2]:
        raise _RefusedError(f"a tensor must be changed when it is read: {str(rest[2])[:80]}")

    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(map(_is_count, numbers)):
        raise _RefusedError("it describes a tensor by something other than counts")
    if len(shape) != len(strides) or len(shape) > 32:
        raise _RefusedError("a tensor's shape and strides differ in length")

    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    cells = math.prod(shape)
    if cells > storage.length > last >= 0:
        raise _RefusedError(
            f"a tensor of shape {tuple(shape)} repeats the {storage.length} values of its storage "
            "(torch's expand); save its contiguous() copy"
        )
    if cells and last >= storage.length:
        raise _RefusedError(
            f"a tensor of shape {tuple(shape)} and strides {tuple(strides)} reaches outside of its "
            f"storage of {storage.length} values"
        )
    return _Tensor(storage, offset if cells else 0, tuple(shape), tuple(strides))


class _Resolver:
    """Reads the tensors of a nested structure, each only once, even if it occurs many times.

    Args:
      content_of: returns the bytes of a storage.
      total: bytes of all storages in the file.
    """

    def __init__(self, content_of: Callable[[_Storage], bytes], total: int):
        self._content_of = content_of
        self._room = _MOST_COPIES * total
        self._known: dict[Any, Any] = {}
        # The storage that was read last is kept, since tensors that share one follow each other.
        self._storage: _Storage | None = None
        self._content = b""

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Returns the value with numpy arrays in place of tensors."""
        if depth > _MOST_DEPTH:
            raise _RefusedError("it is nested too deeply")
        if not isinstance(value, _Tensor | dict | list | tuple):
            return value

        key = value if isinstance(value, _Tensor) else id(value)
        if key not in self._known:
            self._known[key] = self._read(value, depth)
        return self._known[key]

    def _read(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Tensor):
            if value.storage != self._storage:
                self._content = self._content_of(value.storage)
                self._storage = value.storage
            array = value.read(self._content)
            self._room -= array.nbytes
            if self._room < 0:
                raise _RefusedError("its tensors are many times larger than the file")
            return array
        if isinstance(value, dict):
            return {name: self.resolve(item, depth + 1) for name, item in value.items()}
        return [self.resolve(item, depth + 1) for item in value]

"""Reads the pickles of PyTorch's files without calling anything that they name.

A pickle is a program for a small machine, which may call any function. This machine knows the few
instructions and names that files of weights need, and only describes what they make: no object of
the file is called, hashed or printed, but for short texts and plain numbers. Each instruction
takes constant time and memory, or as much as the earlier ones have brought.

No library does this without PyTorch: `torch.load(weights_only=True)` is such a machine too, in 800
MB of package, and Python's own Unpickler calls what it reads. The standard library's pickletools
splits a pickle into its instructions.
"""

import math
import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from deeplab_tf import files

DTYPES = {
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
# What training files hold next to weights, such as numpy's numbers and mmengine's logs. It is read
# as `Metadata`.
_METADATA = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "defaultdict"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "list")
    ),
    ("argparse", "Namespace"),
    ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ("torch", "device"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")),
}
# What a name of the file means; the values are methods of _Machine.
_FUNCTIONS = {
    ("collections", "OrderedDict"): "ordered_dict",
    ("torch._utils", "_rebuild_tensor"): "tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch", "Size"): "size",
    ("builtins", "getattr"): "attribute",
    ("__builtin__", "getattr"): "attribute",
}
_MOST_INSTRUCTIONS = 500_000  # a ResNet-101 with its optimizer has 40,000
_MOST_ARGUMENTS = 16
_LONGEST_TEXT = 1000  # of keys: two equal ones are compared letter by letter
_MOST_AXES = 32  # numpy's limit


class RefusedError(Exception):
    """The file is not read; the message says why, without the file's name."""


class Metadata:
    """Stands for what is no weight; it keeps nothing."""


@dataclass(frozen=True)
class Storage:
    """The numbers that one or several tensors are views of.

    kind: a key of DTYPES. key: its name in the file. length: number of values.
    """

    kind: str
    key: str
    length: int

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.length * np.dtype(DTYPES[self.kind]).itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, within it; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _StorageType:
    """A class of torch's storages; `name` is a key of DTYPES."""

    name: str


@dataclass(frozen=True)
class _Function:
    """A function that the file names. It is never called; the `method` of _Machine is instead."""

    method: str


def read(file: BinaryIO, *, most_instructions: int = 0) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle, and leaves the file at its end.

    Args:
      most_instructions: a longer pickle is refused; 0 allows what a file of weights may need.
    Returns:
      What the pickle holds: dicts, lists, tuples, plain values, `Tensor`s and `Metadata`; and its
      storages by their keys.
    Raises:
      RefusedError: if it wants more than a file of weights needs.
      Exception: of many kinds, if it is no whole pickle.
    """
    machine = _Machine(most_instructions or _MOST_INSTRUCTIONS)
    return machine.run(file), machine.storages


def brief(value: Any) -> str:
    """Returns a text of the file as a short printable line; of everything else, only the type."""
    if not isinstance(value, str):
        return f"something of type {type(value).__name__.lstrip('_')}"
    return files.shown(value, most=80)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_plain(value: Any) -> bool:
    """Whether hashing and comparing a value takes little time."""
    if isinstance(value, str | bytes):
        return len(value) <= _LONGEST_TEXT
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, float)


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) <= _MOST_ARGUMENTS and all(map(_is_plain, value))
    return _is_plain(value)


def _harmful(call: str) -> RefusedError:
    return RefusedError(
        f"it wants to call {brief(call)}, which may do harm; only weights are read. Save just its "
        "state dict: torch.save({'state_dict': model.state_dict()}, FILE)"
    )


class _Machine:
    """Follows the instructions of one pickle; each has a method with its name in pickletools."""

    _CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    _NUMBERS_AND_TEXTS = {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    }
    _SAME_AS = {
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), "PUT"),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), "GET"),
        "NEWOBJ": "REDUCE",  # a class in place of a function
    }

    def __init__(self, most_instructions: int):
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._most, self._done = most_instructions, 0  # instructions
        self._copied = 0  # items of containers that were given to functions

    def run(self, file: BinaryIO) -> Any:
        """Returns what the pickle leaves on the stack."""
        for instruction, argument, _ in pickletools.genops(file):
            name = self._SAME_AS.get(instruction.name, instruction.name)
            self._done += 1
            if self._done > self._most:
                raise RefusedError(
                    f"one of its pickles has more than {self._most} instructions, far more than "
                    "weights need; save only the model's state dict"
                )

            if name == "STOP":
                break
            if name in ("PROTO", "FRAME"):
                continue
            if name in self._NUMBERS_AND_TEXTS:
                self._stack.append(argument)
            elif name in self._CONSTANTS:
                self._stack.append(self._CONSTANTS[name])
            else:
                follow = getattr(self, f"_{name.lower()}", None)
                if follow is None:
                    raise RefusedError(f"its instruction {name} does not occur in files of weights")
                follow(argument)
        return self._stack.pop()

    # The stack and the memo.

    def _mark(self, _) -> None:
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop(self, _) -> None:
        self._stack.pop()

    def _pop_mark(self, _) -> None:
        self._since_mark()

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _memoize(self, _) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    # Containers.

    def _tuple(self, _) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self, _) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _empty_list(self, _) -> None:
        self._stack.append([])

    def _list(self, _) -> None:
        self._stack.append(self._since_mark())

    def _append(self, _) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        owner = self._stack[-1]
        if isinstance(owner, list):
            owner.extend(items)
        elif not isinstance(owner, Metadata):
            raise RefusedError(f"it appends to {brief(owner)}")

    def _empty_dict(self, _) -> None:
        self._stack.append({})

    def _dict(self, _) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._update(items)

    def _setitem(self, _) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self, _) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        owner = self._stack[-1]
        if isinstance(owner, dict):
            _fill(owner, zip(items[::2], items[1::2], strict=True))
        elif not isinstance(owner, Metadata):
            raise RefusedError(f"it sets items of {brief(owner)}")

    def _empty_set(self, _) -> None:
        self._stack.append(Metadata())

    def _additems(self, _) -> None:
        self._extend(self._since_mark())

    def _frozenset(self, _) -> None:
        self._since_mark()
        self._stack.append(Metadata())

    # Names, and what they are called with.

    def _global(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._stack.append(self._named(module, name))

    def _stack_global(self, _) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("it names a function by something other than texts")
        self._stack.append(self._named(module, name))

    def _named(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return _StorageType(name)
        if (module, name) in _METADATA:
            return Metadata()
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        raise _harmful(f"{module}.{name}")

    def _reduce(self, _) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if isinstance(function, Metadata):
            self._stack.append(Metadata())
            return
        if not isinstance(function, _Function):
            raise RefusedError(f"it calls {brief(function)}, which is not a function")
        if not isinstance(arguments, tuple) or len(arguments) > _MOST_ARGUMENTS:
            raise RefusedError("it does not call a function with a tuple of a few arguments")
        try:
            self._stack.append(getattr(self, function.method)(*arguments))
        except (TypeError, ValueError):
            raise RefusedError("it calls a function with other arguments than torch") from None

    def _build(self, _) -> None:
        """Drops the state, such as the _metadata of a state dict."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict | Metadata):
            raise RefusedError(f"it changes {brief(self._stack[-1])} after the fact")

    def _binpersid(self, _) -> None:
        self._stack.append(self.storage(self._stack.pop()))

    # What the functions make.

    def _once(self, items: Any) -> list[Any]:
        """Returns the items of a list or tuple, after checking that each took an instruction."""
        if not isinstance(items, list | tuple):
            raise RefusedError(f"it makes a container of {brief(items)}")
        self._copied += len(items)
        if self._copied > self._done:
            raise RefusedError("it makes many containers of the same items")
        return list(items)

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """Python 2 gives the pairs, Python 3 sets them afterwards."""
        made: dict[Any, Any] = {}
        _fill(made, self._once(pairs))
        return made

    def size(self, sides: Any = ()) -> tuple[Any, ...]:
        """torch.Size, a kind of tuple."""
        return tuple(self._once(sides))

    def attribute(self, owner: Any, *_: Any) -> Metadata:
        """By getattr, pickles of protocol 2 name a method, as in mmengine's logs."""
        if not isinstance(owner, Metadata):
            raise _harmful("getattr on an object that is not metadata")
        return Metadata()

    def parameter(self, tensor: Any, *_: Any) -> Any:
        """A tensor that is trained."""
        return tensor

    def storage(self, identity: Any) -> Storage:
        """Describes a storage by what torch calls its persistent id."""
        proper = isinstance(identity, tuple) and 5 <= len(identity) <= 6
        if not proper or identity[0] != "storage" or any(identity[5:]):
            raise RefusedError("it holds something other than storages of tensors")

        _, kind, key, _, length = identity[:5]
        proper = isinstance(kind, _StorageType) and isinstance(key, str) and _is_count(length)
        if not proper or len(key) > _LONGEST_TEXT:
            raise RefusedError(
                "it describes a storage by something other than its type, name and count"
            )

        storage = Storage(kind.name, key, length)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError(f"the storage {brief(key)!r} is described in two ways")
        return storage

    def tensor(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> Tensor:
        """Describes a tensor, and checks that it lies in its storage."""
        if metadata:  # such as {"neg": True}
            raise RefusedError("a tensor must be changed when it is read")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise RefusedError("it describes a tensor by something other than counts")
        if len(shape) != len(strides) or len(shape) > _MOST_AXES:
            raise RefusedError("a tensor's shape and strides differ in length")
        counts = all(map(_is_count, (offset, *shape, *strides)))
        if not isinstance(storage, Storage) or not counts:
            raise RefusedError("it describes a tensor by something other than counts")

        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        cells = math.prod(shape)
        if cells > storage.length > last:
            raise RefusedError(
                f"a tensor of shape {_some(shape)} repeats the {storage.length} values of its "
                "storage (torch's expand); save its contiguous() copy"
            )
        if cells and last >= storage.length:
            raise RefusedError(
                f"a tensor of shape {_some(shape)} and strides {_some(strides)} reaches outside of "
                f"its storage of {storage.length} values"
            )
        return Tensor(storage, offset if cells else 0, shape, strides)


def _fill(owner: dict[Any, Any], pairs: Any) -> None:
    """Sets items of a dict; those under a key that is metadata are metadata too, and left out."""
    for key, value in pairs:
        if isinstance(key, Metadata):
            continue
        if not _is_key(key):
            kind = "a very long text" if isinstance(key, str | bytes) else brief(key)
            raise RefusedError(f"it uses {kind} as a key; save only the model's state dict")
        owner[key] = value


def _some(sides: tuple[int, ...]) -> str:
    """Returns a shape or strides as text, shortened if there are very many numbers."""
    return str(sides) if len(sides) <= 8 else f"{str(sides[:8])[:-1]}, ...)"

"""Reads the variables of a TensorFlow 1 network: from a checkpoint, or from a frozen graph."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.messages import UserError
from deeplab_tf.weights import checkpoint_index

# How the names of the constants end that were variables; tf.contrib.layers.
_OF_VARIABLES = re.compile(
    r".*/((depthwise_)?weights|biases|gamma|beta|moving_mean|moving_variance"
    r"|\w+_quant/(min|max))"
)
# Freezing leaves the operation that reads a variable; later folding may leave only that.
_READING = re.compile(r"/(read|ReadVariableOp(/resource)?)$")
_TYPES = (tf.float32, tf.float16, tf.float64)
_MOST_AXES = 8
_MOST_COPIES = 8  # bytes of all arrays per byte of the file: equal values may be stored once


def open_file(path: str) -> Mapping[str, np.ndarray]:
    """Opens a frozen graph (.pb), or the checkpoint with this prefix.

    Raises:
      UserError: if it is not such a file, or damaged.
    """
    return FrozenGraph(path) if path.endswith(".pb") else Checkpoint(path)


class Checkpoint(Mapping[str, np.ndarray]):
    """The arrays of a TensorFlow 1 checkpoint by their names; each is read when it is used."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        if Path(f"{prefix}.index").is_file():  # not in TensorFlow's first format
            checkpoint_index.require_proper(prefix)
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{prefix} cannot be read as a checkpoint: {reason}.") from None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._shapes:
            raise KeyError(name)
        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._prefix} is damaged at {name!r}: {reason}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class FrozenGraph(Mapping[str, np.ndarray]):
    """The arrays of a frozen graph, such as frozen_inference_graph.pb, by the variables' names.

    Freezing turns each variable into a constant of the same name.
    """

    def __init__(self, path: str):
        self._path = path
        graph = tf.compat.v1.GraphDef()
        try:
            content = Path(path).read_bytes()
            graph.ParseFromString(content)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None
        except Exception:  # protobuf's DecodeError, or another in its versions
            raise UserError(f"{path} is not a whole TensorFlow graph; fetch it again.") from None

        self._tensors = {}
        for node in graph.node:
            name = _READING.sub("", node.name)
            if node.op == "Const" and _OF_VARIABLES.fullmatch(name):
                self._tensors[name] = node.attr["value"].tensor
        self._check(len(content))

    def _check(self, size: int) -> None:
        """Raises UserError if this is no graph of a network, or claims more than the file holds.

        Args:
          size: of the file in bytes.
        """
        kernels = [name for name in self._tensors if name.endswith("weights")]
        if not kernels:
            raise UserError(
                f"{self._path} is no frozen graph of official DeepLab: it has no constants that "
                "are called .../weights; give the checkpoint that it was made from; if that is a "
                "run of this package, the programs read its folder as it is."
            )
        if not any("/BatchNorm/" in name for name in self._tensors):
            raise UserError(
                f"{self._path} has no batch normalisation, since it was folded into the weights, "
                "which cannot be undone; give the checkpoint that the graph was made from."
            )

        room = _MOST_COPIES * size
        for name, tensor in self._tensors.items():
            number = _number_of_values(tensor)
            room -= 4 * max(number, 0)
            if number < 0 or room < 0:
                shown = files.shown(name, most=100)
                raise UserError(f"{self._path} is damaged at {shown!r}; fetch it again.")

    def __getitem__(self, name: str) -> np.ndarray:
        return tf.make_ndarray(self._tensors[name])

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _number_of_values(tensor) -> int:
    """Returns how many numbers a TensorProto stands for, -1 if its parts do not fit together."""
    sides = [axis.size for axis in tensor.tensor_shape.dim]
    if len(sides) > _MOST_AXES or min(sides, default=0) < 0 or tensor.tensor_shape.unknown_rank:
        return -1
    try:
        dtype = tf.as_dtype(tensor.dtype)
    except (TypeError, KeyError, ValueError):
        return -1
    if dtype not in _TYPES:
        return -1

    number = 1
    for side in sides:
        number *= side
    if tensor.tensor_content:
        return number if number * dtype.size == len(tensor.tensor_content) else -1

    # Otherwise the last value of the list is repeated as often as it takes.
    stored = max(len(tensor.float_val), len(tensor.half_val), len(tensor.double_val))
    return number if 1 <= stored <= number else -1

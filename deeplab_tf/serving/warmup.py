"""Requests that TensorFlow Serving sends to a model after loading it, before any client can.

The first request to a model is slow. A server refuses a model that fails one of these requests, so
the exporter replays them. They are `tensorflow.serving.PredictionLog` messages; their few fields
are written here by number (apis/prediction_log.proto, predict.proto and model.proto), which spares
exporting a package that only clients need.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

PATH = Path("assets.extra") / "tf_serving_warmup_requests"
_PREDICT_LOG, _REQUEST = 6, 1  # of PredictionLog and PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_NAME, _SIGNATURE = 1, 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of a map's entry


def requests(size: tuple[int, int]) -> dict[str, TensorProto]:
    """Returns one grey image for each signature, by its name.

    Args:
      size: height and width.
    """
    grey = tf.make_tensor_proto(128, tf.uint8, shape=[1, *size, 3])  # stored as a single value
    jpeg = tf.io.encode_jpeg(tf.fill([*size, 3], tf.constant(128, tf.uint8))).numpy()
    return {"serving_default": grey, "serve_encoded": tf.make_tensor_proto([jpeg])}


def record(model_name: str, signature: str, input_name: str, value: TensorProto) -> bytes:
    """Returns a PredictionLog of one request with one input, serialized."""
    spec = _field(_NAME, model_name.encode()) + _field(_SIGNATURE, signature.encode())
    entry = _field(_KEY, input_name.encode()) + _field(_VALUE, value.SerializeToString())
    request = _field(_MODEL_SPEC, spec) + _field(_INPUTS, entry)
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def parse(serialized: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """Returns a record's signature and inputs; the inverse of `record`."""
    request = _only(_only(serialized, _PREDICT_LOG), _REQUEST)
    signature = _only(_only(request, _MODEL_SPEC), _SIGNATURE).decode()
    inputs = {}
    for number, entry in _fields(request):
        if number == _INPUTS:
            tensor = TensorProto.FromString(_only(entry, _VALUE))
            inputs[_only(entry, _KEY).decode()] = tf.make_ndarray(tensor)
    return signature, inputs


def replay(model_dir: Path) -> None:
    """Loads a SavedModel and makes the requests recorded in it, as a server does.

    Raises:
      tf.errors.InvalidArgumentError: if the model refuses one.
    """
    loaded = tf.saved_model.load(str(model_dir))
    for serialized in tf.data.TFRecordDataset(str(model_dir / PATH)).as_numpy_iterator():
        signature, inputs = parse(serialized)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        loaded.signatures[signature](**tensors)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protocol buffer, its number below 16."""
    length, rest = bytearray(), len(payload)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + payload


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(message):
        number, length, shift = message[position] >> 3, 0, 0
        while True:
            position += 1
            length |= (message[position] & 0x7F) << shift
            shift += 7
            if message[position] <= 0x7F:
                break
        position += 1
        yield number, message[position : position + length]
        position += length


def _only(message: bytes, number: int) -> bytes:
    (payload,) = [found for field, found in _fields(message) if field == number]
    return payload

"""Warm-up requests: TensorFlow Serving sends them to a model before it lets clients use it.

The first request to a model is slow. A server refuses a model that fails a warm-up request, so the
exporter makes all of them once. They are `tensorflow.serving.PredictionLog` messages. This module
writes their few fields by number (apis/prediction_log.proto, predict.proto and model.proto), so
that exporting does not need a package that only clients need.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

PATH = Path("assets.extra") / "tf_serving_warmup_requests"
# Numbers of fields.
_PREDICT_LOG, _REQUEST = 6, 1  # in PredictionLog and in PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # in PredictRequest
_NAME, _SIGNATURE = 1, 3  # in ModelSpec
_KEY, _VALUE = 1, 2  # in an entry of a map


def requests(size: tuple[int, int], images: tf.TensorSpec) -> dict[str, TensorProto]:
    """Returns a request with one grey image for each signature, by the signature's name.

    Args:
      size: height and width.
      images: what the signature for images takes.
    """
    shape = [1, *size, images.shape[-1]]
    grey = tf.make_tensor_proto(128, images.dtype, shape=shape)  # stored as a single value
    jpeg = tf.io.encode_jpeg(tf.fill([*size, 3], tf.constant(128, tf.uint8))).numpy()
    return {"serving_default": grey, "serve_encoded": tf.make_tensor_proto([jpeg])}


def record(model_name: str, signature: str, input_name: str, value: TensorProto) -> bytes:
    """Returns a serialized PredictionLog that holds one request with one input."""
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
    """Loads a SavedModel and makes the requests stored in it, as a server does.

    Raises:
      tf.errors.InvalidArgumentError: if the model refuses a request.
    """
    loaded = tf.saved_model.load(str(model_dir))
    for serialized in tf.data.TFRecordDataset(str(model_dir / PATH)).as_numpy_iterator():
        signature, inputs = parse(serialized)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        loaded.signatures[signature](**tensors)


def _field(number: int, payload: bytes) -> bytes:
    """Returns a length-delimited field of a protocol buffer; its number must be below 16."""
    length, rest = bytearray(), len(payload)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + payload


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields number and content of the fields of a message, all of them length-delimited."""
    position = 0
    while position < len(message):
        number, length, shift = message[position] >> 3, 0, 0
        while True:  # the length is a varint: 7 bits per byte, the top bit set in all but the last
            position += 1
            length |= (message[position] & 0x7F) << shift
            shift += 7
            if message[position] <= 0x7F:
                break
        position += 1
        yield number, message[position : position + length]
        position += length


def _only(message: bytes, number: int) -> bytes:
    """Returns the content of a field that the message has exactly once."""
    (payload,) = [content for field, content in _fields(message) if field == number]
    return payload

"""Compares a converted file with the SavedModel that it was made from.

A converter can turn an operation into one that computes something else, and the file still loads
and still returns labels. So each file predicts an image before it is written.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data import transforms
from deeplab_tf.messages import UserError
from deeplab_tf.serving import signatures
from deeplab_tf.serving.formats import Served, silent_stderr

# No multiples of an output stride, so that padding and the enlargement of logits count.
_SIZE = (97, 130)
_TRIES = 4

# The least share of pixels with the SavedModel's label. Rounding moves the border of two classes by
# a pixel here and there; a wrong operation moves or changes whole regions. int8 has no bound: how
# much it loses depends on the model, and the user decides.
_LEAST = {"onnx": 0.99, "tflite_float32": 0.99, "tflite_float16": 0.9, "tflite_int8": 0.0}


class _NotCompared(Exception):
    """Why a file could not be compared."""


def compared(
    served: Served, content: bytes, kind: str, *, photos: Sequence[np.ndarray] = ()
) -> str:
    """Predicts an image with the SavedModel and with the file; says how many labels are equal.

    Args:
      content: the converted file.
      kind: its format, a value of --format.
      photos: images to choose from, uint8 [H, W, 3]; if empty, smooth ones of random colours.
    Raises:
      UserError: if the labels differ more than rounding explains.
    """
    try:
        image, expected = _telling_image(served, photos)
        predict = _onnx_labels if kind == "onnx" else _tflite_labels
        found = predict(content, image)
    except _NotCompared as reason:
        return f"NOT COMPARED with the SavedModel: {reason}."

    share = float(np.mean(found == expected)) if found.shape == expected.shape else 0.0
    if share < _LEAST[kind]:
        other = "convert to --format=tflite_float32" if kind == "tflite_float16" else "serve that"
        raise UserError(
            f"The file in format {kind} has the SavedModel's label in only {share:.1%} of the "
            f"pixels of a test image, so it was not written; {other}, or export the model at one "
            "scale, without windows and padding."
        )
    classes = len(np.unique(expected))
    of = f"{classes} classes" if classes > 1 else "one class only, which shows little"
    return f"It has the SavedModel's label in {share:.2%} of the pixels of a test image ({of})."


def _telling_image(served: Served, photos: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [1, H, W, 3] and the SavedModel's labels, of several classes if possible."""
    for image in _images(served, photos):
        try:
            labels = served.serve(tf.constant(image))["labels"].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise _NotCompared(signatures.reason_of(error)) from None
        if len(np.unique(labels)) > 1:
            break
    return image, labels


def _images(served: Served, photos: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    height, width = served.inputs[0].shape[1:3].as_list()
    size = _SIZE if height is None else (height, width)
    if photos:
        for photo in photos[:_TRIES]:
            yield transforms.resize_image(photo, size).numpy()[np.newaxis]
        return

    rng = np.random.default_rng(0)
    for _ in range(_TRIES):
        coarse = rng.uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
        yield tf.cast(tf.image.resize(coarse, size), tf.uint8).numpy()


def _onnx_labels(content: bytes, images: np.ndarray) -> np.ndarray:
    try:
        import onnxruntime  # of the extra `onnx`
    except ImportError:
        raise _NotCompared("that needs onnxruntime; pip install onnxruntime") from None

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(["labels"], {"images": images})[0]
    except Exception as error:  # its errors have no common class
        raise _NotCompared(f"onnxruntime cannot run it ({_first_line(error)})") from None


def _tflite_labels(content: bytes, images: np.ndarray) -> np.ndarray:
    try:
        with silent_stderr(), warnings.catch_warnings():
            # Later versions of TensorFlow say that the interpreter moves to a package of its own.
            warnings.simplefilter("ignore")
            interpreter = tf.lite.Interpreter(model_content=content)
            return interpreter.get_signature_runner("serving_default")(images=images)["labels"]
    except (RuntimeError, ValueError, AttributeError) as error:
        raise _NotCompared(f"TensorFlow Lite cannot run it ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

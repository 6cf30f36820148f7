"""Compares a converted file with the SavedModel that it was made from.

A converter can turn an operation into one that computes something else, and the file still loads
and still returns labels. So each file predicts one image before it is written.
"""

import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.serving.formats import Served, silent_stderr

# No multiples of an output stride, so that padding and the enlargement of logits count.
_SIZE = (97, 130)

# The least share of pixels with the SavedModel's label. Rounding moves the border of two classes by
# a pixel here and there; a wrong operation moves or changes whole regions. int8 has no bound: how
# much it loses depends on the model, and the user decides.
_LEAST = {"onnx": 0.99, "tflite_float32": 0.99, "tflite_float16": 0.95, "tflite_int8": 0.0}


def image_for(served: Served) -> np.ndarray:
    """Returns a smooth image of random colours, uint8 [H, W, 3], of a size that the file takes."""
    height, width = served.inputs[0].shape[1:3].as_list()
    size = _SIZE if height is None else (height, width)
    coarse = np.random.default_rng(0).uniform(0, 255, (1, 6, 8, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, size), tf.uint8)[0].numpy()


def share_of_equal_labels(served: Served, content: bytes, kind: str, image: np.ndarray) -> float:
    """Predicts `image` with the SavedModel and with the file; returns the share of equal labels.

    Args:
      content: the converted file.
      kind: its format, a value of --format.
      image: uint8 [H, W, 3].
    Raises:
      UserError: if the labels differ more than rounding explains.
      ImportError: if kind is "onnx" and onnxruntime, which runs these files, is not installed.
    """
    predict = _onnx_labels if kind == "onnx" else _tflite_labels
    found = _predicted(predict, content, image[np.newaxis], kind)
    expected = served.serve(tf.constant(image[np.newaxis]))["labels"].numpy()

    share = float(np.mean(found == expected)) if found.shape == expected.shape else 0.0
    if share < _LEAST[kind]:
        raise UserError(
            f"The file in format {kind} has the SavedModel's label in only {share:.1%} of the "
            "pixels of a test image, so it was not written; serve the SavedModel itself, or "
            "export the model at one scale, without windows and padding, and convert that."
        )
    return share


def _predicted(
    predict: Callable[[bytes, np.ndarray], np.ndarray],
    content: bytes,
    images: np.ndarray,
    kind: str,
) -> np.ndarray:
    try:
        return predict(content, images)
    except ImportError:
        raise
    except Exception as error:  # each program has errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The file in format {kind} cannot be run ({reason}), so it was not written; serve the "
            "SavedModel itself, or convert with --image_size=height,width."
        ) from None


def _onnx_labels(content: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime  # of the extra `onnx`

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["labels"], {"images": images})[0]


def _tflite_labels(content: bytes, images: np.ndarray) -> np.ndarray:
    with silent_stderr(), warnings.catch_warnings():
        # Later versions of TensorFlow say that its interpreter moves to a package of its own.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
        return interpreter.get_signature_runner("serving_default")(images=images)["labels"]

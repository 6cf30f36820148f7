"""Makes TensorFlow use Keras 2, which this package is written for, without importing TensorFlow.

TensorFlow 2.16 and later bring Keras 3, which is another library under the same name. Keras 2 lives
on as the package tf-keras, and TensorFlow uses it if TF_USE_LEGACY_KERAS is set before the first
use of tf.keras. TensorFlow 2.15 has Keras 2 itself, and does not start with that variable.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

from deeplab_tf.messages import UserError

_SWITCH = "TF_USE_LEGACY_KERAS"
_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly")


def select() -> None:
    """Sets or removes TF_USE_LEGACY_KERAS, whichever the installed TensorFlow needs."""
    if tensorflow_version() >= (2, 16):
        os.environ[_SWITCH] = "1"
    else:
        os.environ.pop(_SWITCH, None)


def require() -> None:
    """Makes sure that tf.keras and tensorflow.keras are Keras 2, before anything is built with it.

    Raises:
      UserError: if tf-keras is not installed, or if this process has already used Keras 3.
    """
    version = tensorflow_version()
    if version < (2, 16):
        return

    minor = ".".join(map(str, version))
    spec = importlib.util.find_spec("tf_keras")
    if spec is None or not spec.origin:
        raise UserError(
            f"TensorFlow {minor} needs the package tf-keras here, which is not installed; "
            f"pip install 'tf-keras=={minor}.*'"
        )

    tensorflow = sys.modules.get("tensorflow")
    if tensorflow and not tensorflow.keras.Model.__module__.startswith("tf_keras."):
        raise UserError(
            "This process has already used Keras 3 (tf.keras), and deeplab_tf needs Keras 2; put "
            "`import deeplab_tf` before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1 "
            "before Python starts (in a notebook: restart the kernel first)."
        )
    if tensorflow:
        # On import, TensorFlow chose what `from tensorflow.keras import` finds. If that is Keras 3,
        # the import of keras-cv fails and leaves Keras 3 behind as tf.keras.
        folder = str(Path(spec.origin).parent / "api" / "_v2")
        if tensorflow.__path__[0] != folder:
            tensorflow.__path__.insert(0, folder)


@functools.cache
def tensorflow_version() -> tuple[int, int]:
    """Returns the installed TensorFlow's major and minor version; (0, 0) if none is installed."""
    for name in _DISTRIBUTIONS:
        try:
            major, minor = importlib.metadata.version(name).split(".")[:2]
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(major), int(minor)
    return 0, 0

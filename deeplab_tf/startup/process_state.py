"""Global state of the process that a job must neither inherit nor leave behind.

Environment variables, Keras' global settings, and the random generators of Python and NumPy outlive
the job that set them. The next job in the process would silently compute something else: in a
notebook, in a test, or after a shell has exported a variable that was meant for a server.
"""

import contextlib
import functools
import importlib
import io
import os
import random
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import tensorflow as tf

from deeplab_tf.messages import UserError

FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"


@functools.cache
def require_changing_weights() -> None:
    """Makes sure that convolutions in this process notice when their weights change.

    With TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1, which is meant for servers, oneDNN packs the weights of
    a convolution once and never looks at them again. Training, or scoring one checkpoint after
    another, would then keep using the old weights. TensorFlow reads the variable only once, at the
    first convolution of the process; so this function computes one, with the variable off.

    Raises:
      UserError: if the process has already computed convolutions with the variable on.
    """
    with environment_variable(FROZEN_WEIGHTS, "0"):
        stale = _ignores_new_weights()

    if stale:
        raise UserError(
            f"This process has already computed with {FROZEN_WEIGHTS}=1, which makes convolutions "
            "keep their first weights: training and scoring here would be wrong. Start a new "
            "process (in a notebook: restart the kernel) without that variable."
        )


def _ignores_new_weights() -> bool:
    """Whether a convolution with a second kernel still gives the result of the first."""
    with tf.init_scope(), tf.device("CPU:0"):
        images = tf.ones([1, 8, 8, 8])

        @tf.function(autograph=False)
        def convolve(kernel):
            return tf.reduce_max(tf.nn.conv2d(images, kernel, 1, "SAME"))

        kernel = tf.ones([3, 3, 8, 8])
        first, second = convolve(kernel), convolve(2 * kernel)
    return float(second) != 2 * float(first)


@contextlib.contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable inside the context, and restores it afterwards."""
    inherited = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if inherited is None:
            del os.environ[name]
        else:
            os.environ[name] = inherited


def import_keras_cv() -> ModuleType:
    """Returns keras-cv, whose import takes seconds, with TensorFlow as its backend.

    KERAS_BACKEND may name another backend for another project of the user, and keras-cv prints
    which one it takes.
    """
    with (
        environment_variable("KERAS_BACKEND", "tensorflow"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return importlib.import_module("keras_cv")


@contextlib.contextmanager
def keras_settings(policy: str = "float32") -> Iterator[None]:
    """Sets Keras' defaults and the precision `policy` inside the context, and restores both after.

    A notebook, or ~/.keras/keras.json, may have set another float type or channels_first. With
    these, layers would compute in another precision or not at all.
    """
    backend = tf.keras.backend
    float_type, data_format = backend.floatx(), backend.image_data_format()
    # Read first: if no policy was set, Keras derives it from the float type.
    before = tf.keras.mixed_precision.global_policy()

    backend.set_floatx("float32")
    backend.set_image_data_format("channels_last")
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
        backend.set_image_data_format(data_format)
        backend.set_floatx(float_type)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds all random generators inside the context, and restores Python's and NumPy's after it.

    TensorFlow's global seed stays set: it cannot be read, so it cannot be restored.
    """
    python, numpy = random.getstate(), np.random.get_state()
    tf.keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

"""Initial weights of new layers, as in the program whose training is reproduced.

How far a step moves the weights depends on where they start: behind batch normalisation a kernel's
gradient falls as the kernel grows. So the start belongs to a recipe, as the learning rate does.
"""

import math
from collections.abc import Callable

import tensorflow as tf


def _uniform_by_inputs() -> tf.keras.initializers.Initializer:
    # Keras' limit is sqrt(3 * scale / inputs).
    return tf.keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def _slim_variance_scaling() -> tf.keras.initializers.Initializer:
    # slim divides by the truncation's effect on the variance too, but rounds it: 1.3 * 2 / inputs.
    truncation = 0.87962566103423978  # what Keras divides the standard deviation by
    return tf.keras.initializers.VarianceScaling(
        1.3 * 2 * truncation**2, mode="fan_in", distribution="truncated_normal"
    )


def _truncated_normal(stddev: float) -> Callable[[], tf.keras.initializers.Initializer]:
    return lambda: tf.keras.initializers.TruncatedNormal(stddev=stddev)


# Style -> part of the network -> maker of its kernels' initializer.
_KERNELS: dict[str, dict[str, Callable[[], tf.keras.initializers.Initializer]]] = {
    # PyTorch's default (torch/nn/modules/conv.py, reset_parameters), which SSSegmentation leaves as
    # it is in its backbones and heads: uniform within 1 / sqrt(inputs of an output) of zero.
    "pytorch": {
        "backbone": _uniform_by_inputs,
        "head": _uniform_by_inputs,
        "depthwise": lambda: tf.keras.initializers.RandomUniform(-1 / 3, 1 / 3),  # 3x3: 9 inputs
        "pointwise": _uniform_by_inputs,
        "classifier": _uniform_by_inputs,
    },
    # slim's resnet_arg_scope for the backbone, its default (Xavier) where official DeepLab's
    # model.py names none, and what model.py names for separable convolutions and logits.
    "official": {
        "backbone": _slim_variance_scaling,
        "head": tf.keras.initializers.GlorotUniform,
        "depthwise": _truncated_normal(0.33),
        "pointwise": _truncated_normal(0.06),
        "classifier": _truncated_normal(0.01),
    },
    # He et al. 2015 (arXiv:1502.01852), as for networks trained from scratch; classifiers
    # near zero (mmsegmentation): all classes start equally likely.
    "he_normal": {
        "backbone": tf.keras.initializers.HeNormal,
        "head": tf.keras.initializers.HeNormal,
        "depthwise": _truncated_normal(0.33),
        "pointwise": tf.keras.initializers.HeNormal,
        "classifier": lambda: tf.keras.initializers.RandomNormal(stddev=0.01),
    },
}


def kernel_initializer(style: str, part: str) -> tf.keras.initializers.Initializer:
    """Returns a new initializer of kernels: one that is used twice would give the same twice.

    Args:
      style: pytorch, official or he_normal; see the setting `initializer`.
      part: backbone, head, depthwise or pointwise (of a separable convolution), or classifier.
    """
    return _KERNELS[style][part]()


def bias_initializer(style: str, inputs: int) -> tf.keras.initializers.Initializer:
    """Returns a new initializer of the biases of a 1x1 convolution of so many input channels."""
    if style == "pytorch":
        bound = 1 / math.sqrt(inputs)
        return tf.keras.initializers.RandomUniform(-bound, bound)
    return tf.keras.initializers.Zeros()

"""Initial weights of new layers, as in the program whose training is reproduced.

They belong to a recipe just as the learning rate does. Before batch normalisation, a larger kernel
gets a smaller gradient: so how far a step moves the weights depends on where they start.
"""

import math
from collections.abc import Callable

import tensorflow as tf


def _uniform_by_inputs() -> tf.keras.initializers.Initializer:
    # Keras draws within sqrt(3 * scale / inputs), so this scale makes it 1 / sqrt(inputs).
    return tf.keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


class _UniformByCells(tf.keras.initializers.Initializer):
    """The same for depthwise kernels, whose outputs have as many inputs as the kernel has cells."""

    def __call__(self, shape, dtype=None, **kwargs):
        bound = 1 / math.sqrt(shape[0] * shape[1])
        return tf.keras.initializers.RandomUniform(-bound, bound)(shape, dtype, **kwargs)


def _slim_variance_scaling() -> tf.keras.initializers.Initializer:
    # Cutting off the tails of a normal distribution makes its variance smaller. Both programs make
    # up for that: slim multiplies the variance by a rounded 1.3, and Keras divides the standard
    # deviation by this number. So Keras' factor is taken out and slim's put in.
    truncation = 0.87962566103423978
    return tf.keras.initializers.VarianceScaling(
        1.3 * 2 * truncation**2, mode="fan_in", distribution="truncated_normal"
    )


def _truncated_normal(stddev: float) -> Callable[[], tf.keras.initializers.Initializer]:
    return lambda: tf.keras.initializers.TruncatedNormal(stddev=stddev)


# By style and part of the network: a function that makes the initializer of its kernels.
_KERNELS: dict[str, dict[str, Callable[[], tf.keras.initializers.Initializer]]] = {
    # PyTorch's default (torch/nn/modules/conv.py, reset_parameters), which SSSegmentation uses for
    # backbones and heads: uniform between -1 / sqrt(n) and 1 / sqrt(n), where n is the number of
    # inputs of one output.
    "pytorch": {
        "backbone": _uniform_by_inputs,
        "separable_backbone": _uniform_by_inputs,
        "head": _uniform_by_inputs,
        "depthwise": _UniformByCells,
        "backbone_depthwise": _UniformByCells,
        "pointwise": _uniform_by_inputs,
        "classifier": _uniform_by_inputs,
    },
    # The backbone as in slim's resnet_arg_scope, in its mobilenet.py, or in xception_arg_scope of
    # official DeepLab's xception.py; separable convolutions and logits as in its model.py; the
    # others, for which model.py names none, by slim's default (Xavier).
    "official": {
        "backbone": _slim_variance_scaling,
        "separable_backbone": _truncated_normal(0.09),
        "head": tf.keras.initializers.GlorotUniform,
        "depthwise": _truncated_normal(0.33),
        "backbone_depthwise": _truncated_normal(0.09),
        "pointwise": _truncated_normal(0.06),
        "classifier": _truncated_normal(0.01),
    },
    # He et al. 2015 (arXiv:1502.01852), for networks that are trained from scratch. Classifiers
    # start near zero, as in mmsegmentation, so that all classes start equally likely.
    "he_normal": {
        "backbone": tf.keras.initializers.HeNormal,
        "separable_backbone": tf.keras.initializers.HeNormal,
        "head": tf.keras.initializers.HeNormal,
        "depthwise": _truncated_normal(0.33),
        "backbone_depthwise": _truncated_normal(0.33),
        "pointwise": tf.keras.initializers.HeNormal,
        "classifier": lambda: tf.keras.initializers.RandomNormal(stddev=0.01),
    },
}


def kernel_initializer(style: str, part: str) -> tf.keras.initializers.Initializer:
    """Returns a new initializer of kernels; one that is used twice would give equal kernels.

    Args:
      style: pytorch, official or he_normal; see the setting `initializer`.
      part: backbone; separable_backbone and backbone_depthwise (Xception and MobileNet: the full
        and pointwise kernels, and the depthwise ones); head; depthwise or pointwise, of a
        separable convolution in a head; or classifier.
    """
    return _KERNELS[style][part]()


def bias_initializer(style: str, inputs: int) -> tf.keras.initializers.Initializer:
    """Returns a new initializer of biases; each output of the convolution has `inputs` inputs."""
    if style == "pytorch":
        bound = 1 / math.sqrt(inputs)
        return tf.keras.initializers.RandomUniform(-bound, bound)
    return tf.keras.initializers.Zeros()

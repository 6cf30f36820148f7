"""Colour distortion of training images: pure functions of image and seed.

This is the ancestor's PhotoMetricDistortion (SSSegmentation, from SSD, Liu et al. 2016), step by
step in 8 bits: each step clips to 0..255 and truncates; saturation and hue each go through OpenCV's
8-bit HSV, whose hue is in units of 2 degrees. The rounding is part of the recipe. So is a slip of
the ancestor, which hands BGR images to a conversion from RGB: exchanging red and blue does not
change the saturation, but turns the hue the other way.

XLA compiles the steps and fuses each conversion into one loop over the colour planes, which is
about four times as fast as running TensorFlow's operations one by one. Without XLA the same
operations run one by one, and round a few pixels to the neighbouring grey level.
"""

import functools

import numpy as np
import tensorflow as tf

from deeplab_tf.startup import quiet_start

BRIGHTNESS_DELTA = 32.0
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 18  # units of 2 degrees
_FRACTION = 1 << 12  # of OpenCV's fixed-point numbers, which float32 holds exactly


def distort(image: tf.Tensor, *, seed: tf.Tensor, max_size: tuple[int, ...]) -> tf.Tensor:
    """Distorts brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes right after brightness or last, with equal probability.

    Args:
      image: uint8 [H, W, 3], RGB.
      seed: int64 [2].
      max_size: height and width that no image exceeds; the steps are compiled once for each value.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    """
    # Padded to one size, since XLA compiles for fixed shapes.
    height, width = tf.unstack(tf.shape(image)[:2])
    planes = tf.stack(tf.unstack(image, axis=-1))
    paddings = [[0, 0], [0, max_size[0] - height], [0, max_size[1] - width]]
    has_max_size = (height == max_size[0]) & (width == max_size[1])
    planes = tf.cond(has_max_size, lambda: planes, lambda: tf.pad(planes, paddings))
    planes.set_shape([3, *max_size])

    draws = tf.random.stateless_uniform([9], seed)
    distorted = tf.cast(_compiled_steps()(planes, width, draws), tf.float32)
    return tf.transpose(distorted[:, :height, :width], [1, 2, 0])


@functools.cache
def _compiled_steps():
    """Returns `_distort_planes` as a tf.function, one per process; compiled if there is XLA."""
    has_xla = True
    # The first use of XLA logs a line, which would stand in the middle of a training's output.
    with tf.init_scope(), tf.device("CPU"), quiet_start.filtered_errors():
        try:
            tf.function(lambda: tf.zeros([1]), jit_compile=True)()
        except tf.errors.OpError:
            has_xla = False

    # The function needs no AutoGraph, whose conversion would take most of the tracing time.
    return tf.function(_distort_planes, jit_compile=has_xla, autograph=False)


def _distort_planes(planes, width, draws):
    """Applies the steps that were drawn to uint8 [3, H, W], RGB."""
    happens = draws[:4] < 0.5
    contrast_first = draws[4] < 0.5
    delta = _between(draws[5], -BRIGHTNESS_DELTA, BRIGHTNESS_DELTA)
    contrast = _between(draws[6], *CONTRAST_RANGE)
    saturation = _between(draws[7], *SATURATION_RANGE)
    shift = tf.cast(draws[8] * (2 * HUE_DELTA), tf.int32) - HUE_DELTA

    def maybe(condition, function, planes):
        return tf.cond(condition, lambda: function(planes), lambda: planes)

    planes = maybe(happens[0], lambda x: scale_and_shift(x, 1.0, delta), planes)
    planes = maybe(happens[1] & contrast_first, lambda x: scale_and_shift(x, contrast, 0), planes)
    planes = maybe(happens[2], lambda x: scale_saturation(x, saturation, width), planes)
    planes = maybe(happens[3], lambda x: shift_hue(x, shift, width), planes)
    return maybe(happens[1] & ~contrast_first, lambda x: scale_and_shift(x, contrast, 0), planes)


def scale_and_shift(
    image: tf.Tensor, factor: tf.Tensor | float, delta: tf.Tensor | float
) -> tf.Tensor:
    """Returns image * factor + delta, clipped to 0..255 and truncated to uint8."""
    return tf.cast(tf.clip_by_value(tf.cast(image, tf.float32) * factor + delta, 0, 255), tf.uint8)


def scale_saturation(planes: tf.Tensor, factor: tf.Tensor | float, width: tf.Tensor) -> tf.Tensor:
    """Multiplies the 8-bit saturation, clipping and truncating it.

    Args:
      planes: uint8 [3, H, W], RGB.
      width: number of columns that are image, not padding; OpenCV treats the last of them
        differently.
    """
    hue, saturation, value = _rgb_to_hsv(planes)
    saturation = tf.floor(tf.minimum(saturation * factor, 255))
    return _hsv_to_rgb(hue, saturation, value, width)


def shift_hue(planes: tf.Tensor, shift: tf.Tensor | int, width: tf.Tensor) -> tf.Tensor:
    """Turns the hue by `shift`, -180..180 units of 2 degrees, in the direction from green to red.

    The other arguments are as in `scale_saturation`.
    """
    hue, saturation, value = _rgb_to_hsv(planes)
    hue += tf.cast(shift, tf.float32)
    hue = tf.where(hue < 0, hue + 180, tf.where(hue >= 180, hue - 180, hue))
    return _hsv_to_rgb(hue, saturation, value, width)


def _between(uniform, low, high):
    return low + uniform * (high - low)


def _rgb_to_hsv(planes):
    """Returns OpenCV's 8-bit hue (0..179), saturation and value of (blue, green, red).

    All three are float32 [H, W] and hold whole numbers. They equal OpenCV's integer arithmetic
    (color_hsv.simd.hpp) bit by bit: a hue rounded the other way would be off by 2 degrees, which is
    up to 8 grey levels.
    """
    blue, green, red = tf.unstack(tf.cast(planes, tf.float32))
    value = tf.maximum(tf.maximum(red, green), blue)
    spread = value - tf.minimum(tf.minimum(red, green), blue)
    position = tf.where(
        tf.equal(value, red),
        green - blue,
        tf.where(tf.equal(value, green), blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _fixed_point_quotient(position, spread, scale=30)  # 180 units / 6 sectors
    hue = tf.where(hue < 0, hue + 180, hue)
    return hue, _fixed_point_quotient(spread, value, scale=255), value


def _fixed_point_quotient(numerator, denominator, *, scale):
    """Returns scale * numerator / denominator, rounded as OpenCV's fixed-point numbers are."""
    reciprocal = tf.round(scale * _FRACTION / tf.maximum(denominator, 1))
    return tf.floor((numerator * reciprocal + _FRACTION / 2) * (1 / _FRACTION))


def _hsv_to_rgb(hue, saturation, value, width):
    """Inverts `_rgb_to_hsv`, bit by bit as OpenCV on x86 with AVX2; returns uint8 [3, H, W].

    OpenCV multiplies and subtracts with a single rounding, as XLA does, and truncates the result.
    It works in blocks of 32 pixels, and rounds the pixels left over at the end of a row.
    """
    # The minimum changes no value. It keeps XLA from fusing the product with the differences below,
    # which would then be rounded only once.
    sixth = tf.minimum(hue * np.float32(6 / 180), 6)
    # The share of the saturation that each channel loses: all, none, or in between on the slopes.
    shares = (
        tf.maximum(3 - sixth, sixth - 5),
        tf.maximum(1 - sixth, sixth - 3),
        tf.minimum(sixth - 1, 5 - sixth),
    )
    value = value * np.float32(1 / 255)
    saturation = saturation * np.float32(1 / 255)
    is_left_over = tf.range(tf.shape(hue)[1]) >= width // 32 * 32

    def level(share):
        exact = value * (1 - saturation * tf.clip_by_value(share, 0, 1)) * 255
        return tf.cast(tf.where(is_left_over, tf.round(exact), tf.floor(exact)), tf.uint8)

    return tf.stack([level(share) for share in shares])

"""Colour distortion of training images: pure functions of image and seed.

The ancestor's PhotoMetricDistortion (SSSegmentation, from SSD, Liu et al. 2016), step by step in
8 bits: each step clips to 0..255 and truncates, saturation and hue each go through OpenCV's
8-bit HSV with hue in units of 2 degrees. The rounding is part of the recipe, and so is that the
ancestor hands BGR images to a conversion from RGB: red and blue are exchanged around it, which
leaves saturation alone and turns the hue the other way.

Images are uint8 [H, W, 3], RGB.
"""

import numpy as np
import tensorflow as tf

BRIGHTNESS_DELTA = 32.0
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 18  # units of 2 degrees
_FRACTION = 1 << 12  # OpenCV's fixed-point numbers; here in float32, which holds them exactly


def distort(image: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """Distorts brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes after brightness or last, with equal probability.

    Args:
      image: uint8 [H, W, 3], RGB.
      seed: int64 [2].
    """
    draws = tf.random.stateless_uniform([9], seed)
    happens = draws[:4] < 0.5
    contrast_first = draws[4] < 0.5
    delta = _between(draws[5], -BRIGHTNESS_DELTA, BRIGHTNESS_DELTA)
    contrast = _between(draws[6], *CONTRAST_RANGE)
    saturation = _between(draws[7], *SATURATION_RANGE)
    shift = tf.cast(draws[8] * (2 * HUE_DELTA), tf.int32) - HUE_DELTA

    image = _maybe(happens[0], lambda x: scale_and_shift(x, 1.0, delta), image)
    image = _maybe(happens[1] & contrast_first, lambda x: scale_and_shift(x, contrast, 0.0), image)
    image = _maybe(happens[2], lambda x: scale_saturation(x, saturation), image)
    image = _maybe(happens[3], lambda x: shift_hue(x, shift), image)
    return _maybe(happens[1] & ~contrast_first, lambda x: scale_and_shift(x, contrast, 0.0), image)


def scale_and_shift(
    image: tf.Tensor, factor: tf.Tensor | float, delta: tf.Tensor | float
) -> tf.Tensor:
    """Returns image * factor + delta, clipped to 0..255 and truncated to uint8."""
    return tf.cast(tf.clip_by_value(tf.cast(image, tf.float32) * factor + delta, 0, 255), tf.uint8)


def scale_saturation(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Multiplies the 8-bit saturation, clipping and truncating it."""
    hue, saturation, value = _rgb_to_hsv(image)
    saturation = tf.floor(tf.minimum(saturation * factor, 255.0))
    return _hsv_to_rgb(hue, saturation, value)


def shift_hue(image: tf.Tensor, shift: tf.Tensor | int) -> tf.Tensor:
    """Turns the hue back by `shift` units of 2 degrees, towards red from green."""
    hue, saturation, value = _rgb_to_hsv(image)
    hue = tf.math.floormod(hue + tf.cast(shift, tf.float32), 180.0)
    return _hsv_to_rgb(hue, saturation, value)


def _between(uniform, low, high):
    return low + uniform * (high - low)


def _maybe(condition, function, image):
    return tf.cond(condition, lambda: function(image), lambda: image)


def _rgb_to_hsv(image):
    """Returns OpenCV's 8-bit hue (0..179), saturation and value of (blue, green, red).

    All are whole-valued float32 [H, W].

    Its integer arithmetic is followed to the bit (OpenCV, color_hsv.simd.hpp): a hue rounded the
    other way is off by 2 degrees, which is up to 8 grey levels.
    """
    blue, green, red = (tf.cast(plane, tf.float32) for plane in tf.unstack(image, axis=-1))
    value = tf.maximum(tf.maximum(red, green), blue)
    spread = value - tf.minimum(tf.minimum(red, green), blue)
    position = tf.where(
        tf.equal(value, red),
        green - blue,
        tf.where(tf.equal(value, green), blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _fixed_point_quotient(position, spread, whole=30)  # 180 units / 6 sectors
    hue = tf.where(hue < 0, hue + 180, hue)
    return hue, _fixed_point_quotient(spread, value, whole=255), value


def _fixed_point_quotient(numerator, denominator, *, whole):
    reciprocal = tf.round(whole * _FRACTION / tf.maximum(denominator, 1))
    return tf.floor((numerator * reciprocal + _FRACTION / 2) * (1 / _FRACTION))


def _hsv_to_rgb(hue, saturation, value):
    """Inverts `_rgb_to_hsv` as OpenCV does, to the bit; returns uint8 [H, W, 3].

    (On x86 with AVX2.) It multiplies and subtracts in one rounding, which double precision does
    here, and truncates; the last pixels of a row, which its blocks of 32 leave over, it rounds.
    """
    sixth = hue * np.float32(6 / 180)
    # How much of the saturation each channel loses: all, none, or a share on the slopes between.
    shares = (
        tf.maximum(3 - sixth, sixth - 5),
        tf.maximum(1 - sixth, sixth - 3),
        tf.minimum(sixth - 1, 5 - sixth),
    )
    value = value * np.float32(1 / 255)
    saturation = tf.cast(saturation * np.float32(1 / 255), tf.float64)

    def level(share):
        lost = saturation * tf.cast(tf.clip_by_value(share, 0, 1), tf.float64)
        return value * tf.cast(1 - lost, tf.float32)

    # Scaled behind the stack: before it, the graph optimizer would merge 255 with 1 / 255.
    levels = tf.stack([level(share) for share in shares]) * 255
    width = tf.shape(hue)[1]
    left_over = tf.range(width) >= width // 32 * 32
    levels = tf.where(left_over, tf.round(levels), tf.floor(levels))
    return tf.cast(tf.transpose(levels, [1, 2, 0]), tf.uint8)

"""Colours and sharpness of training images beyond the recipes: pure functions of image and seed.

They are written in TensorFlow's own operations, since TensorFlow Addons exists only for one of the
two TensorFlow stacks, and results must not depend on it.
"""

import math

import tensorflow as tf


def jitter_hsv(image: tf.Tensor, *, seed: tf.Tensor, shares: tuple[float, ...]) -> tf.Tensor:
    """Turns the hue, and multiplies saturation and value, each by a random amount.

    Args:
      image: [H, W, 3], RGB in 0..255.
      seed: int64 [2].
      shares: how far the hue may turn, in full turns, and how far the factors on saturation and
        value may be from 1.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    """
    draws = tf.random.stateless_uniform([3], seed, -1.0, 1.0) * shares
    return change_hsv(image, turn=draws[0], saturation=1 + draws[1], value=1 + draws[2])


def change_hsv(
    image: tf.Tensor,
    *,
    turn: tf.Tensor | float,
    saturation: tf.Tensor | float,
    value: tf.Tensor | float,
) -> tf.Tensor:
    """Adds to the hue, in full turns, and multiplies saturation and value; see `jitter_hsv`."""
    hsv = tf.image.rgb_to_hsv(tf.cast(image, tf.float32) / 255)
    changed = [
        tf.math.floormod(hsv[..., 0] + turn, 1.0),
        tf.clip_by_value(hsv[..., 1] * saturation, 0, 1),
        tf.clip_by_value(hsv[..., 2] * value, 0, 1),
    ]
    return tf.round(tf.image.hsv_to_rgb(tf.stack(changed, axis=-1)) * 255)


def random_blur(image: tf.Tensor, *, seed: tf.Tensor, max_sigma: float) -> tf.Tensor:
    """Blurs an image with probability one half, by up to `max_sigma` pixels; as `gaussian_blur`."""
    draws = tf.random.stateless_uniform([2], seed)
    blurred = tf.cond(
        draws[0] < 0.5,
        lambda: gaussian_blur(image, draws[1] * max_sigma, max_sigma=max_sigma),
        lambda: tf.cast(image, tf.float32),
    )
    return tf.ensure_shape(blurred, image.shape)


def gaussian_blur(image: tf.Tensor, sigma: tf.Tensor | float, *, max_sigma: float) -> tf.Tensor:
    """Blurs an image; its outermost pixels are repeated around it.

    Args:
      image: [H, W, C], whole numbers.
      sigma: standard deviation, in pixels.
      max_sigma: the kernel ends at 3 of these.
    Returns:
      float32 [H, W, C], whole numbers.
    """
    radius = math.ceil(3 * max_sigma)
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    # At least a hundredth of a pixel, which does not blur; 0 would give 0 / 0.
    kernel = tf.exp(-tf.square(places / tf.maximum(sigma, 0.01)) / 2)
    kernel /= tf.reduce_sum(kernel)

    image = tf.cast(image, tf.float32)
    for axis in (0, 1):
        size = tf.shape(image)[axis]
        around = tf.clip_by_value(tf.range(-radius, size + radius), 0, size - 1)
        shape = [-1, 1, 1, 1] if axis == 0 else [1, -1, 1, 1]
        image = tf.nn.depthwise_conv2d(
            tf.gather(image, around, axis=axis)[tf.newaxis],
            tf.tile(tf.reshape(kernel, shape), [1, 1, image.shape[-1], 1]),
            strides=[1, 1, 1, 1],
            padding="VALID",
        )[0]
    return tf.round(image)

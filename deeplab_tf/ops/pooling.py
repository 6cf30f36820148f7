"""Average pooling over windows, and over whole maps that are smaller than the window."""

from collections.abc import Sequence

import tensorflow as tf


def whole_mean(inputs: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each channel over the whole map: [B, H, W, C] -> [B, 1, 1, C]."""
    # A sum over thousands of cells is too inexact in half precision.
    mean = tf.reduce_mean(tf.cast(inputs, tf.float32), axis=[1, 2], keepdims=True)
    return tf.cast(mean, inputs.dtype)


def window_means(
    inputs: tf.Tensor, window: Sequence[int], strides: Sequence[int] = (1, 1)
) -> tf.Tensor:
    """Returns the means of the windows that lie wholly inside the map, [B, h, w, C].

    A map that is smaller than the window along an axis is pooled whole, [B, 1, 1, C]. Official
    DeepLab ends in an error there, so there is no result to differ from. To pool the whole map is
    what a crop of the window's size gives, and networks are trained on such crops.

    Args:
      inputs: [B, H, W, C].
      window, strides: in cells, down and across.
    """
    features = tf.cast(inputs, tf.float32)

    def means():
        return tf.nn.avg_pool2d(features, list(window), list(strides), "VALID")

    # TensorFlow refuses to trace a window that is known not to fit, even where it is not used.
    sides = inputs.shape[1:3]
    misfits = [side is not None and side < cells for side, cells in zip(sides, window, strict=True)]
    if any(misfits):
        return whole_mean(inputs)
    if None not in sides:
        return tf.cast(means(), inputs.dtype)

    fits = tf.reduce_all(tf.shape(inputs)[1:3] >= list(window))
    pooled = tf.cond(fits, means, lambda: whole_mean(features))
    return tf.cast(pooled, inputs.dtype)


def grid_means(inputs: tf.Tensor, grid: Sequence[int]) -> tf.Tensor:
    """Returns the means of all windows of 1 / grid of the map, at every cell where one fits.

    Args:
      inputs: [B, H, W, C].
      grid: number of windows, down and across, that fill the map. A window has
        (H - 1) // grid + 1 cells.
    Returns:
      [B, H - window + 1, W - window + 1, C].
    """
    sides = inputs.shape[1:3]
    if None not in sides:
        return window_means(
            inputs, [(side - 1) // parts + 1 for side, parts in zip(sides, grid, strict=True)]
        )

    # TensorFlow's pooling needs to know the window beforehand, and here it depends on the image. So
    # each mean is a row of a matrix.
    outputs = tf.cast(inputs, tf.float32)
    for axis, equation in enumerate(("bhwc,Hh->bHwc", "bhwc,Ww->bhWc")):
        cells = tf.shape(inputs)[axis + 1]
        window = (cells - 1) // grid[axis] + 1
        distance = tf.range(cells) - tf.range(cells - window + 1)[:, tf.newaxis]
        is_inside = (distance >= 0) & (distance < window)
        matrix = tf.cast(is_inside, tf.float32) / tf.cast(window, tf.float32)
        outputs = tf.einsum(equation, outputs, matrix)
    return tf.cast(outputs, inputs.dtype)

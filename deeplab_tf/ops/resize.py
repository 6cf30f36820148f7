"""Bilinear resizing, as TensorFlow's own operations and as a matrix product for XLA."""

import tensorflow as tf


def resize_bilinear(
    inputs: tf.Tensor, size: tf.Tensor, *, align_corners: bool = False, for_xla: bool = False
) -> tf.Tensor:
    """Resizes [B, h, w, C] to [B, size[0], size[1], C], float32, without antialiasing.

    Args:
      align_corners: whether corner pixel centres coincide (official DeepLab) or image borders do.
      for_xla: resizes by matrix products. XLA's own bilinear resizing is wrong for most sizes
        (github.com/tensorflow/tensorflow/issues/120242): off by up to the whole range of values.
    """
    inputs = tf.cast(inputs, tf.float32)
    if for_xla:
        for axis, equation in enumerate(("bhwc,Hh->bHwc", "bhwc,Ww->bhWc")):
            cells = tf.shape(inputs)[axis + 1]
            matrix = interpolation_matrix(cells, size[axis], align_corners=align_corners)
            inputs = tf.einsum(equation, inputs, matrix)
        return inputs
    if align_corners:
        return tf.raw_ops.ResizeBilinear(images=inputs, size=size, align_corners=True)
    return tf.image.resize(inputs, size, method="bilinear", antialias=False)


def interpolation_matrix(
    cells: int | tf.Tensor, size: int | tf.Tensor, *, align_corners: bool = False
) -> tf.Tensor:
    """Returns `resize_bilinear` along one axis as a matrix, float32 [size, cells]."""
    whole, count = tf.cast(size, tf.float64), tf.cast(cells, tf.float64)
    places = tf.cast(tf.range(size), tf.float64)
    if align_corners:
        places *= (count - 1) / tf.maximum(whole - 1, 1)
    else:
        places = tf.clip_by_value((places + 0.5) * (count / whole) - 0.5, 0, count - 1)
    distances = tf.abs(places[:, tf.newaxis] - tf.cast(tf.range(cells), tf.float64))
    return tf.cast(tf.maximum(1 - distances, 0), tf.float32)

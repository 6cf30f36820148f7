"""Dropout that depends only on a seed and on an image's place in the global batch."""

import tensorflow as tf

from deeplab_tf.ops import replicas


def drop_numbers(
    inputs: tf.Tensor,
    rate: float,
    *,
    seed: tf.Tensor | None,
    part: tuple[int | tf.Tensor, int] = (0, 1),
) -> tf.Tensor:
    """Sets single numbers to 0, each with probability `rate`, and scales the others up.

    Each image draws from a seed of its own. So what is dropped does not depend on how many replicas
    and parts share the batch, and a resumed run drops the same numbers.

    Args:
      inputs: [B, H, W, C].
      rate: 0 up to, not including, 1.
      seed: int64 [2], whose second number is a step below 2**32, or a stream of such a seed. None
        draws new numbers each time.
      part: (index, number) if the inputs are one of several equal parts of a replica's images.
    """
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)

    # The places of these images in the global batch.
    index, parts = part
    shape = tf.shape(inputs)
    first = (replicas.index() * parts + index) * shape[0]
    places = tf.cast(first + tf.range(shape[0]), tf.int64)

    def is_kept(place):
        # In the upper half of the second number, so that no other step of the run has this seed.
        offset = tf.stack([tf.zeros_like(place), place * 2**32])
        draws = tf.random.stateless_uniform(shape[1:], tf.bitwise.bitwise_xor(seed, offset))
        return draws >= rate

    # One image after the other, since TensorFlow draws from one seed at a time.
    kept = tf.map_fn(is_kept, places, fn_output_signature=tf.TensorSpec(inputs.shape[1:], tf.bool))
    return tf.where(kept, inputs * tf.cast(1 / (1 - rate), inputs.dtype), tf.zeros_like(inputs))

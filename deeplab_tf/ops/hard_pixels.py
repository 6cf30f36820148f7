"""Hard pixel mining: which share of the pixels counts, and which pixels these are."""

import tensorflow as tf


def hardest_share(share: float, *, step: tf.Tensor, ramp_steps: int) -> float | tf.Tensor:
    """Returns the share of the pixels that counts at a step.

    It falls linearly from 1 to `share` in `ramp_steps` steps, and then stays.
    (Official DeepLab, utils/train_utils.py, hard_example_mining_step.)
    """
    if not ramp_steps:
        return share
    done = tf.minimum(tf.cast(step, tf.float64) / ramp_steps, 1.0)
    return done * share + (1.0 - done)


def hardest(losses: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns all losses in descending order, with 0 after the first int(share * number), or 1."""
    ordered = tf.sort(tf.reshape(losses, [-1]), direction="DESCENDING")
    pixels = tf.size(ordered)
    kept = tf.cast(tf.cast(share, tf.float64) * tf.cast(pixels, tf.float64), tf.int32)
    kept = tf.maximum(kept, 1)  # without any, the loss would be 0 and nothing would be learnt

    # Not tf.math.top_k: under XLA its k must be known when the graph is made.
    return tf.where(tf.range(pixels) < kept, ordered, 0.0)

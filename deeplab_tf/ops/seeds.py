"""Random streams: each use of a run's seed draws from a separate, named stream.

TensorFlow's stateless functions return the same numbers whenever they get the same seed: if the
dropout of a step and the crop of an image shared a seed, they would depend on each other.
"""

import hashlib

import numpy as np
import tensorflow as tf


def stream(seed: tf.Tensor, name: str) -> tf.Tensor:
    """Returns the seed of the stream called `name`.

    Args:
      seed: int64 [2], such as a run's seed and the number of a step.
      name: what is drawn; different for each use.
    Returns:
      int64 [2], different for different names (up to collisions of 128-bit hashes).
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<i8")
    return tf.bitwise.bitwise_xor(seed, tf.constant(words, tf.int64))

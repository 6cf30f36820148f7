"""Random streams: whoever draws from a run's seed has a stream of its own, told apart by its name.

TensorFlow's stateless functions return the same numbers for the same seed, whoever asks. Were the
seed of a step's dropout also that of an image's crop, the two would depend on each other.
"""

import hashlib

import numpy as np
import tensorflow as tf


def stream(seed: tf.Tensor, name: str) -> tf.Tensor:
    """Returns the seed of the stream called `name`.

    Args:
      seed: int64 [2], such as a run's seed and the number of a step.
      name: what is drawn; each use has its own.
    Returns:
      int64 [2]; no two names give the same (their hashes, 128 bits, would have to agree).
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<i8")
    return tf.bitwise.bitwise_xor(seed, tf.constant(words, tf.int64))

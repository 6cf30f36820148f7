"""The device that our programs measure on."""

import sys

import tensorflow as tf

from benchmarks import pairs


def require(device: str) -> None:
    """Ends the program if `device` is "gpu" and TensorFlow has none; hides all GPUs if "cpu"."""
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif not tf.config.list_physical_devices("GPU"):
        sys.exit("--device=gpu: TensorFlow finds no GPU; pip install 'tensorflow[and-cuda]'.")


def peak_mib(device: str) -> float:
    """Returns the most memory used so far: of the first GPU, or of this process."""
    if device == "cpu":
        return pairs.peak_mib()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20

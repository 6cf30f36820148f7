"""Deterministic weights for the golden tensors: every array follows only from its name and shape.

    weights = {name: array(name, shape) for name, shape in json.load(open("..._keys.json")).items()}

Convolution kernels are stored in the layout of the named source (PyTorch: out, in, height, width;
TensorFlow: height, width, in, out). numpy is the only dependency.
"""

import zlib

import numpy as np


def array(name, shape, layout="torch"):
    """Returns the float32 (or int64 scalar, for counters) array called `name`.

    Args:
      name: the variable's name in the source checkpoint.
      shape: its shape there.
      layout: "torch" (out, in, h, w) or "tf" (h, w, in, out; depthwise h, w, in, 1).
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = tuple(shape)
    if name.endswith("num_batches_tracked"):
        return np.array(1, np.int64)
    if len(shape) == 4:
        if layout == "torch":
            fan_in = shape[1] * shape[2] * shape[3]
        elif "depthwise" in name:
            fan_in = shape[0] * shape[1]
        else:
            fan_in = shape[0] * shape[1] * shape[2]
        return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
    last_of_residual = "bn3" in name or "conv3/BatchNorm" in name
    if name.endswith(("running_var", "moving_variance")):
        return rng.uniform(0.8, 1.6, shape).astype(np.float32)
    if name.endswith(("running_mean", "moving_mean")):
        return (0.2 * rng.standard_normal(shape)).astype(np.float32)
    if name.endswith(("bn1.weight", "bn2.weight", "gamma")) or ".weight" in name:
        low, high = (0.2, 0.5) if last_of_residual else (0.7, 1.2)
        return rng.uniform(low, high, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)  # biases, beta


def image(name, shape):
    """Returns the float32 test input called `name`: normalised pixels, about N(0, 1)."""
    return (
        np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    )

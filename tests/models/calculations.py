"""Layers of the heads, calculated by NumPy from their variables."""

import numpy as np


def conv_norm(inputs, layer, *, most=np.inf):
    """A 1x1 convolution, batch normalisation and ReLU, limited to `most`."""
    norm = layer.norm
    outputs = inputs @ layer.conv.kernel.numpy()[0, 0]
    outputs = (outputs - norm.moving_mean.numpy()) / np.sqrt(norm.moving_variance.numpy() + 1e-5)
    return np.clip(outputs * norm.gamma.numpy() + norm.beta.numpy(), 0, most)


def conv_bias(inputs, layer):
    """A convolution with bias, of any odd kernel, padded by zeros to the same size."""
    kernel = layer.kernel.numpy()
    pad = kernel.shape[0] // 2
    padded = np.pad(inputs, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel) + layer.bias.numpy()


def enlarge(inputs, height, width):
    """Bilinear resizing that aligns the corners."""
    for axis, size in ((1, height), (2, width)):
        places = np.linspace(0, inputs.shape[axis] - 1, size)
        cells = np.arange(inputs.shape[axis])
        inputs = np.apply_along_axis(lambda v: np.interp(places, cells, v), axis, inputs)  # noqa: B023
    return inputs


def scatter(layer):
    """Gives the layer variables that no initializer gives, so that each of them matters."""
    rng = np.random.default_rng(7)
    for variable in layer.variables:
        low = 0.5 if "gamma" in variable.name or "variance" in variable.name else -0.5
        variable.assign(rng.uniform(low, low + 1, variable.shape))

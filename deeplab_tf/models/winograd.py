"""3x3 convolutions by Winograd's minimal filtering: four products in place of nine.

F(2x2, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308, sec. 4.1): tiles of 4x4 inputs, two cells
apart, and the kernel are transformed by additions, multiplied, and the 16 products of a tile
transformed into its 2x2 outputs. An atrous convolution of rate r is r x r convolutions of every
r-th cell, so the cells of a tile are r apart. In float32 outputs differ from those of the
definition by some 1e-6 of the largest.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_FROM_CHANNELS = 256  # with fewer the additions take the time that the products save
_MOST_OF_DIRECT = 0.75  # of its products: so much the additions cost


def pays(kernel_shape: Sequence[int], *, rate: int, map_size: Sequence[int]) -> bool:
    """Whether this form is faster on CPUs than one call of the library.

    Measured with oneDNN on two cores (batch 1): 2.0 times as fast at rate 1 for 2,560 -> 512
    channels, 1.6 and 1.4 times at rates 4 and 2 for 512 and 256, 1.4 times at a rate of a fifth
    of the map; the library's call leaves out what falls outside of the map, so at higher rates it
    is faster.

    Args:
      kernel_shape: [height, width, C, D].
      map_size: cells of the map, height and width.
    """
    if tuple(kernel_shape[:2]) != (3, 3) or min(kernel_shape[2:]) < _FROM_CHANNELS:
        return False
    tiled = math.prod(2 * (2 * rate) * -(-cells // (2 * rate)) for cells in map_size)
    direct = math.prod(cells + 2 * max(cells - rate, 0) for cells in map_size)
    return tiled <= _MOST_OF_DIRECT * direct


def kernel_matrices(kernel: np.ndarray) -> list[np.ndarray]:
    """Transforms a kernel [3, 3, C, D] into 16 matrices [C, D], those of a tile's rows in turn."""
    tiles = np.einsum("ai,bj,ijcd->abcd", _KERNEL, _KERNEL, kernel)
    return list(tiles.reshape(16, *kernel.shape[2:]))


def conv2d(inputs: tf.Tensor, matrices: Sequence[tf.Tensor], *, rate: int = 1) -> tf.Tensor:
    """Convolves [B, H, W, C] with `kernel_matrices` to [B, H, W, D], padded with zeros."""
    batch, height, width = tf.unstack(tf.shape(inputs)[:3])
    filters = matrices[0].shape[1]
    down, across = (-(-cells // (2 * rate)) for cells in (height, width))
    rows = []
    for i, row in enumerate(_tiles(inputs, rate, down, across)):
        products = [tf.matmul(flat, matrices[4 * i + j]) for j, flat in enumerate(row)]
        shape = [batch * down * rate, across, 1, rate * filters]
        rows.append(_joined([tf.reshape(product, shape) for product in products]))
    shape = [batch, down, 1, rate * 2 * across * rate * filters]
    outputs = _joined([tf.reshape(row, shape) for row in rows])
    outputs = tf.reshape(outputs, [batch, down * 2 * rate, across * 2 * rate, filters])
    return tf.ensure_shape(outputs[:, :height, :width], [*inputs.shape[:3], filters])


def _joined(products):
    """Transforms the four products of a tile along one axis into its two outputs, on axis 2."""
    first, second, third, fourth = products
    return tf.concat([first + second + third, second - third - fourth], axis=2)


def _tiles(inputs, rate, down, across):
    """Transforms the inputs of down x across tiles: [4][4][tiles, C]."""
    batch, height, width, channels = tf.unstack(tf.shape(inputs))
    around = [
        [2 * rate, (count + 1) * 2 * rate - cells]
        for count, cells in ((down, height), (across, width))
    ]
    padded = tf.pad(inputs, [[0, 0], *around, [0, 0]])
    columns = (across + 2) * 2 * rate * channels
    tiles = []
    for row in _four(tf.reshape(padded, [batch, down + 2, 2, rate, columns])):
        halves = tf.reshape(row, [batch * down * rate, across + 2, 2, rate * channels])
        tiles.append([tf.reshape(cells, [-1, inputs.shape[3]]) for cells in _four(halves)])
    return tiles


def _four(halves):
    """Transforms the four inputs of each tile along axis 1 of [n, tiles + 2, 2, ...].

    A tile's inputs are its own two cells, even and odd, and the next one on either side.
    """
    even, odd = halves[:, :, 0], halves[:, :, 1]
    own_even, own_odd = even[:, 1:-1], odd[:, 1:-1]
    return odd[:, :-2] - own_odd, own_even + own_odd, own_odd - own_even, own_even - even[:, 2:]

"""3x3 convolutions by Winograd's minimal filtering: four products in place of nine.

This is F(2x2, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308, sec. 4.1). Tiles of 4x4 inputs, two
cells apart, and the kernel are transformed by additions and multiplied; the 16 products of a tile
are then transformed into its 2x2 outputs. The gradient of the inputs is the same with the kernel
turned round. The gradient of the kernel takes the transposes of the transforms, which is the
paper's F(3x3, 2x2). An atrous convolution of rate r consists of r x r convolutions of every r-th
cell, so the cells of a tile are r apart.

In float32 the results differ from the definition's by about 1e-6 of the largest value.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_FROM_CHANNELS = 256  # with fewer, the additions cost what the products save
_MOST_OF_DIRECT = 0.75  # of the direct products; the rest pays for the additions


def pays(kernel_shape: Sequence[int], *, rate: int, map_size: Sequence[int]) -> bool:
    """Whether this is faster on CPUs than one call of the library.

    Measured with oneDNN on two cores, batch 1: 2.0 times as fast at rate 1 for 2,560 -> 512
    channels, 1.6 times at rate 4 for 512, 1.4 times at rate 2 for 256, and 1.4 times at a rate of a
    fifth of the map. At higher rates the library wins, since it skips what falls outside the map.

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
    """Transforms a kernel [3, 3, C, D] into 16 matrices [C, D], one for each cell, row by row."""
    tiles = np.einsum("ai,bj,ijcd->abcd", _KERNEL, _KERNEL, kernel)
    return list(tiles.reshape(16, *kernel.shape[2:]))


def conv2d(inputs: tf.Tensor, matrices: Sequence[tf.Tensor], *, rate: int = 1) -> tf.Tensor:
    """Convolves [B, H, W, C] with `kernel_matrices` to [B, H, W, D], padded with zeros."""
    filters = matrices[0].shape[1]
    return _convolved(inputs, iter(matrices), filters, rate, in_turn=False)


def outputs(inputs: tf.Tensor, kernel: tf.Tensor, *, rate: int) -> tf.Tensor:
    """Convolves [B, H, W, C] with a kernel [3, 3, C, D] to [B, H, W, D], padded with zeros."""
    with tf.control_dependencies([inputs]):  # or a step would begin by transforming all
        return _convolved(inputs, _matrices(kernel, (0, 1, 2, 3)), kernel.shape[3], rate)


def input_gradient(kernel: tf.Tensor, upstream: tf.Tensor, *, rate: int) -> tf.Tensor:
    """Returns the gradient of `outputs` by its inputs.

    Args:
      kernel: [3, 3, C, D].
      upstream: the gradient by the outputs, [B, H, W, D].
    """
    turned = _matrices(kernel, (3, 1, 2, 0))
    return _convolved(upstream, turned, kernel.shape[2], rate, transpose_b=True)


def kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor, *, rate: int) -> tf.Tensor:
    """Returns the gradient of `outputs` by its kernel, [3, 3, C, D].

    Args:
      inputs: [B, H, W, C].
      upstream: the gradient by the outputs, [B, H, W, D].
    """
    cells = _tiles(inputs, rate, _input_cells, margin=1)
    met = _tiles(upstream, rate, _output_cells, margin=0)
    return _kernel_cells(_rows(cells, met, _kernel_cells, transpose_a=True))


def _convolved(inputs, matrices, filters, rate, *, in_turn=True, transpose_b=False):
    height, width, _ = _sizes(inputs)
    down, across = _tile_counts(height, width, rate)
    rows = _rows(
        _tiles(inputs, rate, _input_cells, margin=1),
        matrices,
        lambda products: _joined(products, rate * filters),
        in_turn=in_turn,
        transpose_b=transpose_b,
    )
    outputs = _joined(rows, rate * across * 2 * rate * filters)
    outputs = tf.reshape(outputs, [-1, down * 2 * rate, across * 2 * rate, filters])
    return tf.ensure_shape(outputs[:, :height, :width], [*inputs.shape[:3], filters])


def _rows(left, right, joined, *, in_turn=True, **transposed):
    """Multiplies the 16 operands of both sides, and joins four at a time.

    Tiles take four times the memory of their map. `in_turn` saves it: each is made when the one
    before it is done. (For inference on one image it saves nothing and costs 2 % of the time.)
    """
    rows: list = []
    done: list[tf.Tensor] = []
    for _ in range(4):
        products: list[tf.Tensor] = []
        for _ in range(4):
            with tf.control_dependencies(done):
                products.append(tf.matmul(next(left), next(right), **transposed))
            done = products[-1:] if in_turn else []
        rows.append(joined(products))
    return rows


def _matrices(kernel, order):
    """Yields `kernel_matrices` in the graph; rows and columns of a tile in the given order."""
    flat = tf.reshape(kernel, [9, -1])
    for row in order:
        pairs = np.kron(_KERNEL[row], _KERNEL[list(order)])
        four = tf.matmul(tf.constant(pairs, kernel.dtype), flat)
        yield from tf.unstack(tf.reshape(four, [4, *kernel.shape[2:]]))


def _sizes(values):
    """Returns height, width and channels of [B, H, W, C], as numbers where they are known."""
    if None not in values.shape[1:]:
        return list(values.shape[1:])  # operations on tensors would take time at every start
    return tf.unstack(tf.shape(values)[1:])


def _tile_counts(height, width, rate):
    return [-(-cells // (2 * rate)) for cells in (height, width)]


def _tiles(values, rate, transform, *, margin):
    """Yields the 16 transformed cells of all tiles of [B, H, W, C], each [tiles, C].

    Args:
      transform: yields the four of the tiles along axis 1 of [n, tiles + 2 * margin, 2, ...], where
        a tile's own cells are an even and an odd one.
      margin: tiles of zeros around the map.
    """
    height, width, channels = _sizes(values)
    down, across = _tile_counts(height, width, rate)
    around = [
        [margin * 2 * rate, (count + margin) * 2 * rate - cells]
        for count, cells in ((down, height), (across, width))
    ]
    padded = tf.pad(values, [[0, 0], *around, [0, 0]])
    columns = across + 2 * margin
    shape = [-1, down + 2 * margin, 2, rate * columns * 2 * rate * channels]
    for row in transform(tf.reshape(padded, shape)):
        for cells in transform(tf.reshape(row, [-1, columns, 2, rate * channels])):
            yield tf.reshape(cells, [-1, values.shape[3]])


def _input_cells(halves):
    """Transforms the four inputs of a tile: its own two cells and the next one on either side."""
    odd = halves[:, 1:-1, 1]
    yield halves[:, :-2, 1] - odd
    even = halves[:, 1:-1, 0]
    yield even + odd
    yield odd - even
    yield even - halves[:, 2:, 0]


def _joined(products, width):
    """Transforms the four products of a tile along one axis into its two outputs.

    Args:
      width: numbers of a tile along the axes behind.
    Returns:
      [n, 2, width].
    """
    first, second, third, fourth = products
    outputs = first + second + third, second - third - fourth
    return tf.stack([tf.reshape(output, [-1, width]) for output in outputs], axis=1)


def _output_cells(halves):
    """The transpose of `_joined`, for the gradients of a tile's two outputs."""
    even, odd = tf.unstack(halves, axis=2)
    yield even
    yield even + odd
    yield even - odd
    yield -odd


def _kernel_cells(products):
    """Transforms four products along one axis into three cells of the kernel, on a new axis 0.

    The transpose of `_KERNEL`.
    """
    first, second, third, fourth = products
    mean = (second + third) / 2
    return tf.stack([first + mean, (second - third) / 2, mean + fourth])

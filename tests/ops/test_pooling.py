import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.ops import pooling

MAP = np.random.default_rng(0).standard_normal((2, 7, 10, 3)).astype(np.float32)
ANY_SIZE = [tf.TensorSpec([None, None, None, 3])]


def means_by_hand(window, strides):
    views = np.lib.stride_tricks.sliding_window_view(MAP, window, axis=(1, 2))
    return views.mean(axis=(-2, -1))[:, :: strides[0], :: strides[1]]


def in_every_form(function):
    """The results eagerly, with the size known in a graph, and without."""
    return [
        function(tf.constant(MAP)),
        tf.function(function, [tf.TensorSpec(MAP.shape)])(MAP),
        tf.function(function, ANY_SIZE)(MAP),
    ]


@pytest.mark.parametrize(
    ("window", "strides"),
    [((3, 4), (1, 1)), ((2, 3), (4, 5)), ((7, 10), (1, 1)), ((1, 10), (2, 1))],
)
def test_windows_lie_inside_the_map(window, strides):
    for result in in_every_form(lambda inputs: pooling.window_means(inputs, window, strides)):
        np.testing.assert_allclose(result, means_by_hand(window, strides), atol=1e-6)


@pytest.mark.parametrize("window", [(8, 3), (3, 11), (20, 20)])
def test_a_map_smaller_than_the_window_is_pooled_whole(window):
    expected = MAP.mean(axis=(1, 2), keepdims=True)
    for result in in_every_form(lambda inputs: pooling.window_means(inputs, window, (4, 5))):
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "window"),
    [((1, 1), (7, 10)), ((2, 3), (4, 4)), ((6, 9), (2, 2)), ((9, 4), (1, 3))],  # (n - 1) // g + 1
)
def test_grid_means_are_those_of_windows_of_a_share_of_the_map(grid, window):
    for result in in_every_form(lambda inputs: pooling.grid_means(inputs, grid)):
        np.testing.assert_allclose(result, means_by_hand(window, (1, 1)), atol=1e-6)


def test_thousands_of_cells_are_averaged_exactly_in_half_precision():
    cells = tf.fill([1, 90, 90, 1], tf.constant(0.1, tf.float16))
    for result in (
        pooling.whole_mean(cells),
        pooling.window_means(cells, (90, 90)),
        pooling.grid_means(cells, (1, 1)),
    ):
        assert result.dtype == tf.float16
        assert float(result[0, 0, 0, 0]) == pytest.approx(0.1, rel=1e-3)

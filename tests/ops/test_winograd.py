import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.ops import winograd

SHAPES = pytest.mark.parametrize(
    ("size", "rate"),
    [
        ((8, 12), 1),
        ((7, 9), 1),
        ((1, 1), 1),
        ((8, 13), 2),
        ((11, 6), 3),
        ((5, 6), 6),
        ((20, 32), 12),
    ],
)


@SHAPES
def test_it_is_the_same_convolution_for_images_of_any_size(size, rate):
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.standard_normal((2, *size, 5)), tf.float32)
    kernel = rng.standard_normal((3, 3, 5, 6))
    matrices = [tf.constant(m, tf.float32) for m in winograd.kernel_matrices(kernel)]
    function = tf.function(
        lambda x: winograd.conv2d(x, matrices, rate=rate), [tf.TensorSpec([None, None, None, 5])]
    )
    expected = tf.nn.convolution(
        inputs, tf.constant(kernel, tf.float32), padding="SAME", dilations=rate
    ).numpy()
    np.testing.assert_allclose(function(inputs), expected, atol=1e-5 * np.abs(expected).max())
    assert function.get_concrete_function().structured_outputs.shape.as_list() == [None] * 3 + [6]


@SHAPES
def test_products_of_training_are_those_of_the_plain_convolution(size, rate):
    rng = np.random.default_rng(0)
    inputs, kernel, upstream = (
        tf.constant(rng.standard_normal(shape), tf.float32)
        for shape in ([2, *size, 5], [3, 3, 5, 6], [2, *size, 6])
    )
    with tf.GradientTape() as tape:
        tape.watch([inputs, kernel])
        outputs = tf.nn.convolution(inputs, kernel, padding="SAME", dilations=rate)
        total = tf.reduce_sum(outputs * upstream)
    by_inputs, by_kernel = tape.gradient(total, [inputs, kernel])
    for mine, plain in (
        (winograd.outputs(inputs, kernel, rate=rate), outputs),
        (winograd.input_gradient(kernel, upstream, rate=rate), by_inputs),
        (winograd.kernel_gradient(inputs, upstream, rate=rate), by_kernel),
    ):
        np.testing.assert_allclose(mine, plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("kernel", "rate", "map_size", "faster"),
    [
        ((3, 3, 2560, 512), 1, (32, 32), True),
        ((3, 3, 256, 256), 2, (64, 64), True),
        ((3, 3, 2048, 512), 6, (32, 32), True),  # measured 71 ms against 97 and more
        ((3, 3, 2048, 512), 12, (64, 64), True),  # 262 ms against 357
        ((3, 3, 2048, 512), 12, (32, 32), False),  # as many tiles as of a map of 48x48
        ((3, 3, 2048, 512), 36, (64, 64), False),  # the library leaves out most of the kernel
        ((3, 3, 128, 128), 1, (64, 64), False),
        ((1, 1, 2048, 512), 1, (32, 32), False),
    ],
)
def test_it_is_chosen_where_it_was_measured_to_be_faster(kernel, rate, map_size, faster):
    assert winograd.pays(kernel, rate=rate, map_size=map_size) is faster

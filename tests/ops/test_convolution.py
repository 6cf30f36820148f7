import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.ops import convolution
from deeplab_tf.ops.convolution import Forms


def products_of(function, inputs, kernel, weights):
    """Outputs and both gradients of a convolution."""

    @tf.function
    def compute(inputs, kernel):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = function(inputs, kernel)
            loss = tf.reduce_sum(outputs * weights)
        return outputs, *tape.gradient(loss, [inputs, kernel])

    return [result.numpy() for result in compute(inputs, kernel)]


@pytest.mark.parametrize(
    ("size", "kernel_shape", "rate", "forms"),
    [
        ((9, 14), (3, 3, 5, 4), 1, Forms()),
        ((9, 14), (3, 3, 5, 4), 2, Forms(kernel_gradient="taps")),
        ((13, 9), (3, 3, 5, 4), 6, Forms("taps", "direct", "taps")),
        # Rows meet the centre of the kernel only,
        ((9, 14), (3, 3, 5, 4), 12, Forms("taps", "direct", "taps")),
        # and columns too.
        ((7, 5), (3, 3, 5, 4), 18, Forms("taps", "direct", "taps")),
        ((6, 7), (3, 3, 2048, 4), 1, Forms(kernel_gradient="taps")),
        ((9, 10), (3, 3, 1024, 520), 1, Forms("winograd", "winograd", "winograd")),
        ((15, 12), (3, 3, 1030, 512), 2, Forms("winograd", "winograd", "winograd")),
        ((9, 10), (3, 3, 512, 512), 1, Forms()),
        # Tiles would be mostly zeros.
        ((5, 6), (3, 3, 1024, 512), 5, Forms(kernel_gradient="taps")),
        ((32, 32), (3, 3, 1024, 512), 6, Forms("taps", "direct", "taps")),
    ],
)
def test_all_forms_are_the_same_convolution(size, kernel_shape, rate, forms):
    rng = np.random.default_rng(0)
    *_, channels, filters = kernel_shape
    inputs, kernel, weights = (
        tf.constant(rng.standard_normal(shape), tf.float32)
        for shape in ([2, *size, channels], kernel_shape, [2, *size, filters])
    )
    assert convolution.choose_forms(inputs, kernel, rate) == forms
    ours = products_of(lambda x, k: convolution.conv2d(x, k, rate=rate), inputs, kernel, weights)
    plain = products_of(  # through space-to-batch, by other kernels
        lambda x, k: tf.nn.convolution(x, k, padding="SAME", dilations=rate),
        inputs,
        kernel,
        weights,
    )
    for mine, theirs in zip(ours, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_half_precision_is_left_to_the_library():
    inputs, kernel = (
        tf.zeros(shape, tf.bfloat16) for shape in ([1, 8, 8, 1024], [3, 3, 1024, 512])
    )
    assert convolution.choose_forms(inputs, kernel, 1) == Forms()


def test_sizes_known_only_later_take_the_direct_form():
    signature = [tf.TensorSpec([None, None, None, 3])]
    kernel = tf.random.normal([3, 3, 3, 4])
    function = tf.function(lambda x: convolution.conv2d(x, kernel, rate=6), signature)
    inputs = tf.random.normal([1, 20, 17, 3])
    np.testing.assert_allclose(
        function(inputs), convolution.outputs_by_taps(inputs, kernel, 6), rtol=1e-4, atol=1e-5
    )
    kinds = [op.type for op in function.get_concrete_function().graph.get_operations()]
    assert kinds.count("Conv2D") == 1 and "MatMul" not in kinds

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.models import convolution


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
    ("size", "channels", "rate", "forms"),
    [
        ((9, 14), 5, 2, (False, False)),
        ((9, 14), 5, 4, (False, True)),
        ((13, 9), 5, 6, (True, True)),
        ((9, 14), 5, 12, (True, True)),  # rows meet the centre of the kernel only
        ((7, 5), 5, 18, (True, True)),  # so do columns
        ((6, 7), 2048, 1, (False, True)),
    ],
)
def test_all_forms_are_the_same_convolution(size, channels, rate, forms):
    rng = np.random.default_rng(0)
    inputs, kernel, weights = (
        tf.constant(rng.standard_normal(shape), tf.float32)
        for shape in ([2, *size, channels], [3, 3, channels, 4], [2, *size, 4])
    )
    assert convolution._forms(inputs, kernel, rate) == forms
    ours = products_of(lambda x, k: convolution.conv2d(x, k, rate=rate), inputs, kernel, weights)
    plain = products_of(  # through space-to-batch, by other kernels
        lambda x, k: tf.nn.convolution(x, k, padding="SAME", dilations=rate),
        inputs,
        kernel,
        weights,
    )
    for mine, theirs in zip(ours, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


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

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.models.layers import AtrousConv2D, ChannelDropout, ConvNorm, batch_norm
from deeplab_tf.ops.resize import resize_bilinear
from tests.conftest import two_replicas


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def convolve(image, kernel, stride, rate):
    """A convolution with (k - 1) * rate / 2 cells of zeros on each side, by its definition."""
    size, pad = kernel.shape[0], (kernel.shape[0] - 1) * rate // 2
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])
    height, width = -(-image.shape[0] // stride), -(-image.shape[1] // stride)
    result = np.zeros([height, width, kernel.shape[-1]])
    for row, column in np.ndindex(height, width):
        top, left = row * stride, column * stride
        cells = padded[top : top + size * rate : rate, left : left + size * rate : rate][
            :size, :size
        ]
        result[row, column] = np.einsum("ijc,ijco->o", cells, kernel)
    return result


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "rate"),
    [
        ((8, 8), 3, 2, 1),
        ((9, 7), 3, 2, 1),
        ((8, 10), 7, 2, 1),
        ((8, 9), 1, 2, 1),
        ((9, 8), 3, 1, 1),
        ((9, 8), 3, 1, 4),
    ],
)
def test_convolutions_pad_symmetrically(size, kernel, stride, rate):
    layer = AtrousConv2D(
        5, kernel, strides=stride, dilation_rate=rate, padding="same", use_bias=False
    )
    image = draw(1, *size, 3)
    result = layer(image).numpy()[0]
    np.testing.assert_allclose(
        result, convolve(image[0], layer.kernel.numpy(), stride, rate), rtol=1e-4, atol=1e-4
    )
    assert layer.compute_output_shape([1, *size, 3]) == (1, *result.shape)


@pytest.mark.slow
def test_atrous_convolutions_train_without_onednn():
    code = """
import numpy as np, tensorflow as tf
from deeplab_tf.ops.convolution import direct_atrous_gradient_works
from deeplab_tf.models.layers import AtrousConv2D
print(direct_atrous_gradient_works())
layer = AtrousConv2D(4, 3, dilation_rate=2, padding="same", kernel_initializer="ones")
images = tf.reshape(tf.range(2 * 9 * 8 * 3, dtype=tf.float32), [2, 9, 8, 3]) / 100
with tf.GradientTape() as tape:
    tape.watch(images)
    loss = tf.reduce_sum(layer(images) ** 2)
for gradient in tape.gradient(loss, [images, layer.trainable_variables[0]]):
    print(*np.ravel(gradient)[::7])
"""
    outputs = {}
    for onednn in ("0", "1"):
        environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        works, *lines = done.stdout.splitlines()
        assert works == str(onednn == "1"), done.stderr
        assert ("space-to-batch" in done.stderr) == (onednn == "0")
        outputs[onednn] = [np.array(line.split(), float) for line in lines]

    for without, direct in zip(outputs["0"], outputs["1"], strict=True):
        np.testing.assert_allclose(without, direct, rtol=1e-4)


def test_batch_statistics_include_all_replicas():
    strategy = two_replicas()
    images = draw(4, 6, 6, 3)
    single = ConvNorm(2, 1)
    single.build(images.shape)
    expected = single(images, training=True)

    with strategy.scope():
        shared = ConvNorm(2, 1)
        shared(images[:1])
        shared.conv.kernel.assign(single.conv.kernel)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
    result = strategy.run(tf.function(lambda half: shared(half, training=True)), args=(halves,))

    np.testing.assert_allclose(tf.concat(result.values, 0), expected, atol=1e-5)
    np.testing.assert_allclose(
        shared.norm.moving_variance.numpy(), single.norm.moving_variance.numpy(), rtol=1e-5
    )


def test_channel_dropout_drops_whole_channels_and_keeps_the_mean():
    inputs = tf.ones([8, 3, 4, 500])
    result = ChannelDropout(0.3)(inputs, training=True, seed=tf.constant([1, 2], tf.int64)).numpy()
    assert (result == result[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(result), [0, 1 / 0.7], rtol=1e-6)
    assert (result == 0).mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(ChannelDropout(0.3)(inputs, training=False), inputs)


def test_channel_dropout_does_not_depend_on_the_number_of_replicas():
    seed = tf.constant([1, 2], tf.int64)
    layer, inputs = ChannelDropout(0.5), draw(4, 1, 1, 32)
    strategy = two_replicas()
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(inputs, 2)[context.replica_id_in_sync_group])
    )
    result = strategy.run(
        tf.function(lambda half: layer(half, training=True, seed=seed)), args=(halves,)
    )
    np.testing.assert_array_equal(
        tf.concat(result.values, 0), layer(inputs, training=True, seed=seed)
    )


def test_resize_bilinear_follows_the_corner_rule():
    ramp = tf.reshape(tf.constant([0.0, 3.0]), [1, 1, 2, 1])
    corners = resize_bilinear(ramp, [1, 4], align_corners=True).numpy().ravel()
    np.testing.assert_allclose(corners, [0, 1, 2, 3])  # 3 cells from corner to corner
    borders = resize_bilinear(ramp, [1, 4]).numpy().ravel()
    np.testing.assert_allclose(borders, [0, 0.75, 2.25, 3])  # centres at -1/4, 1/4, 3/4, 5/4


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("cells", "size"), [((4, 5), (13, 17)), ((1, 6), (7, 1)), ((9, 8), (4, 8))]
)
def test_resizing_is_the_same_under_xla(cells, size, align_corners):
    inputs = draw(2, *cells, 3)

    def resize(inputs, for_xla):
        shape = tf.constant(size)
        return resize_bilinear(inputs, shape, align_corners=align_corners, for_xla=for_xla)

    result = tf.function(resize, jit_compile=True)(inputs, for_xla=True)
    np.testing.assert_allclose(result, tf.function(resize)(inputs, for_xla=False), atol=1e-5)


def test_frozen_normalisation_over_replicas_keeps_its_statistics():
    strategy = two_replicas()
    with strategy.scope():
        norm = batch_norm(0.9, name="norm")
        norm.build([None, None, None, 2])
    norm.trainable = False
    inputs = tf.constant([[[[1.0, 2.0], [3.0, 5.0]]]])

    result = tf.function(lambda: strategy.run(lambda: norm(inputs, training=True)))()
    for outputs in result.values:  # the means are still 0, and the variances 1
        np.testing.assert_allclose(outputs, inputs, rtol=1e-4)
    np.testing.assert_array_equal(norm.moving_mean.numpy(), 0)

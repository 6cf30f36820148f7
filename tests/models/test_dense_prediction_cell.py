import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.models.dense_prediction_cell import DensePredictionCell
from deeplab_tf.models.heads import Classifier, Decoder
from tests.models.calculations import scatter

# The published cell of Xception-71 for Cityscapes.
PUBLISHED = [
    {"op": "conv", "kernel": 3, "rate": rate, "input": source}
    for rate, source in [([1, 6], -1), ([18, 15], 0), ([6, 3], 1), ([1, 1], 0), ([6, 21], 0)]
]
MAP = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)


def identity(cell, **settings):
    """A cell of one channel, whose convolutions and normalisations change nothing."""
    layer = DensePredictionCell(json.dumps(cell), filters=1, align_corners=True, **settings)
    layer(MAP)
    for variable in layer.variables:
        name = variable.name
        if "variance" in name:
            variable.assign(tf.fill(variable.shape, 1 - 1e-5))
        elif "gamma" in name or "kernel" in name:
            variable.assign(tf.ones(variable.shape))
    return layer


def branches_of(layer, inputs):
    """The outputs of all branches, each through a projection that takes only it."""
    kernel, results = layer.projection.conv.kernel, []
    for index in range(kernel.shape[2]):
        kernel.assign(np.eye(kernel.shape[2])[index].reshape(kernel.shape))
        results.append(layer(inputs).numpy()[0, ..., 0])
    return results


def test_pyramid_pooling_by_hand():
    cell = [
        {"op": "pyramid_pooling", "grid_size": [2, 2], "input": -1},
        {"op": "pyramid_pooling", "grid_size": [1, 1], "input": 0},
        {"op": "conv", "kernel": 1, "input": 0},
    ]
    halves, whole, same = branches_of(identity(cell), MAP)
    # Windows of (3 - 1) // 2 + 1 = 2 cells have the means 3, 4 and 6, 7.
    np.testing.assert_allclose(halves, [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]], rtol=1e-6)
    np.testing.assert_allclose(whole, np.full([3, 3], 5), rtol=1e-6)
    np.testing.assert_allclose(same, halves, rtol=1e-6)


def test_pooling_windows_are_those_of_the_crop_size():
    cell = [{"op": "pyramid_pooling", "grid_size": [2, 1], "input": -1}]
    # At output stride 16: (33 - 1) // 32 + 1 = 2 rows, and (17 - 1) // 16 + 1 = 2 columns. A map of
    # 3 x 2 cells then has 2 x 1 windows.
    layer = identity(cell, pooling_crop_size=(33, 17))
    (result,) = branches_of(layer, MAP[:, :, :2])
    np.testing.assert_allclose(result, [[3, 3], [4.5, 4.5], [6, 6]], rtol=1e-6)


@pytest.mark.parametrize(("output_stride", "shift"), [(16, (1, 2)), (8, (2, 4))])
def test_rates_are_down_and_across_and_double_at_stride_8(output_stride, shift):
    cell = [{"op": "conv", "kernel": 3, "rate": [1, 2], "input": -1}]
    layer = identity(cell, output_stride=output_stride)
    taps = np.zeros([3, 3, 1, 1])
    taps[2, 2] = 1  # only the cell below and to the right
    layer.branches[0].depthwise.depthwise_kernel.assign(taps)

    inputs = np.random.default_rng(0).uniform(0, 1, (1, 7, 9, 1)).astype(np.float32)
    down, across = shift
    padded = np.pad(inputs[0, ..., 0], [(0, down), (0, across)])
    (result,) = branches_of(layer, inputs)
    np.testing.assert_allclose(result, padded[down:, across:], rtol=1e-5)


def test_the_published_cell_has_as_many_weights_as_the_official_one():
    cell = DensePredictionCell(json.dumps(PUBLISHED))
    decoder, classifier = Decoder(256), Classifier(19)
    context = cell(np.zeros([1, 3, 3, 2048], np.float32))
    classifier(decoder(context, detail=np.zeros([1, 5, 5, 256], np.float32)))
    found = sum(
        int(np.prod(variable.shape))
        for layer in (cell, decoder, classifier)
        for variable in layer.trainable_variables
    )
    # Counted on the official graph of xception71_dpc_cityscapes: all, less the backbone's.
    assert found == 41_608_523 - 40_289_736


def test_training_drops_numbers_of_the_branches_and_not_of_the_result():
    cell = [{"op": "conv", "kernel": 1, "input": -1}] * 2
    layer = identity(cell, dropout_rate=0.5)
    inputs = np.ones([1, 40, 50, 1], np.float32)
    result = layer(inputs, training=True, norm_training=False).numpy()
    # Each of two branches is 0 or 1 / (1 - 0.5), and the projection adds them.
    numbers, counts = np.unique(np.round(result, 3), return_counts=True)
    np.testing.assert_allclose(numbers, [0, 2, 4])
    np.testing.assert_allclose(counts / 2000, [0.25, 0.5, 0.25], atol=0.05)
    np.testing.assert_allclose(layer(inputs), 2 * inputs, rtol=1e-5)


def test_settings_and_folded_weights_give_the_same_features():
    cell = [*PUBLISHED[:2], {"op": "pyramid_pooling", "grid_size": [2, 2], "input": 1}]
    layer = DensePredictionCell(json.dumps(cell), filters=4, output_stride=8)
    inputs = np.random.default_rng(0).standard_normal((2, 9, 12, 5)).astype(np.float32)
    layer(inputs)
    scatter(layer)
    expected = layer(inputs).numpy()

    other = DensePredictionCell.from_config(layer.get_config())
    other(inputs)
    other.set_weights(layer.get_weights())
    np.testing.assert_array_equal(other(inputs), expected)
    for part in layer.submodules:
        if hasattr(part, "fold"):
            part.fold()
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-3, atol=1e-4)

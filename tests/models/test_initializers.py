"""Initial weights, against the formulas of the programs that they are taken from."""

import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.weights.mapping import variables_of


@functools.cache
def start(style, **settings):
    config = ModelConfig(
        **{
            "model_variant": "resnet_v1b_18",
            "aspp_convs_filters": 64,
            "auxiliary_filters": 64,
            "initializer": style,
        }
        | settings
    )
    tf.keras.utils.set_random_seed(5)
    model = build_model(config, num_classes=40)
    return {name: variable.numpy() for name, variable in variables_of(model).items()}


# A 3x3 kernel of the last stage has 512 inputs, ASPP's 1x1 512, the classifier 64.
@pytest.mark.parametrize(
    "style, kernel, deviation, largest",
    [
        ("pytorch", "backbone/stage4_block2/conv2/conv", (9 * 512 * 3) ** -0.5, (9 * 512) ** -0.5),
        ("pytorch", "aspp/branch1/conv", (512 * 3) ** -0.5, 512**-0.5),
        ("pytorch", "aspp/branch3/conv", (9 * 512 * 3) ** -0.5, (9 * 512) ** -0.5),
        ("pytorch", "classifier/conv", (64 * 3) ** -0.5, 1 / 8),
        ("pytorch", "auxiliary_head/classifier/conv", (64 * 3) ** -0.5, 1 / 8),
        # A normal distribution cut at two deviations has 0.8796 of its deviation.
        ("official", "backbone/stage4_block2/conv2/conv", 0.8796 * (2.6 / 4608) ** 0.5, 0.0476),
        ("official", "aspp/branch1/conv", (2 / 576) ** 0.5, (6 / 576) ** 0.5),
        ("official", "classifier/conv", 0.8796 * 0.01, 0.02),
        ("he_normal", "backbone/stage4_block2/conv2/conv", (2 / 4608) ** 0.5, 0.0474),
        ("he_normal", "aspp/branch1/conv", (2 / 512) ** 0.5, 0.1422),
        ("he_normal", "classifier/conv", 0.01, math.inf),
    ],
)
def test_kernels_start_as_in_the_program(style, kernel, deviation, largest):
    values = start(style)[f"{kernel}/kernel"]
    assert values.std() == pytest.approx(deviation, rel=0.05)
    assert abs(values).max() <= largest * 1.0001
    if largest < math.inf:
        assert abs(values).max() > 0.95 * largest  # a wider distribution would be cut elsewhere
    assert abs(values.mean()) < 4 * deviation / values.size**0.5


@pytest.mark.parametrize(
    "style, depthwise, pointwise",
    [
        ("pytorch", (1 / 27) ** 0.5, (1 / (512 * 3)) ** 0.5),
        ("official", 0.8796 * 0.33, 0.8796 * 0.06),
    ],
)
def test_separable_convolutions_start_as_in_the_program(style, depthwise, pointwise):
    values = start(style, aspp_with_separable_conv=True)
    kernel = values["aspp/branch2/depthwise/depthwise_kernel"]
    assert kernel.std() == pytest.approx(depthwise, rel=0.05)
    kernel = values["aspp/branch2/pointwise/conv/kernel"]
    assert kernel.std() == pytest.approx(pointwise, rel=0.05)


def test_biases_start_uniform_in_pytorch_and_at_zero_elsewhere():
    for head in ("classifier", "auxiliary_head/classifier"):
        bias = start("pytorch")[f"{head}/conv/bias"]
        assert 0.1 < abs(bias).max() <= 1 / 8  # 64 inputs
        assert bias.std() == pytest.approx((64 * 3) ** -0.5, rel=0.4)
        assert not start("official")[f"{head}/conv/bias"].any()


@pytest.mark.parametrize("style", ["pytorch", "official", "he_normal"])
def test_no_two_kernels_start_equal(style):
    values = start(style, decoder_output_stride=(4,), decoder_filters=64)
    kernels = {name: value for name, value in values.items() if name.endswith("kernel")}
    compared = 0
    for (one, a), (other, b) in itertools.combinations(kernels.items(), 2):
        if a.shape == b.shape:
            assert (a != b).mean() > 0.99, f"{one} and {other}"
            compared += 1
    assert compared >= 20
    heads = (values["classifier/conv/bias"], values["auxiliary_head/classifier/conv/bias"])
    assert style != "pytorch" or not np.array_equal(*heads)


def test_each_network_starts_as_in_the_program_it_comes_from():
    assert ModelConfig(model_variant="resnet_v1c_50").initializer == "pytorch"
    assert ModelConfig(model_variant="resnet_v1_50_beta").initializer == "official"
    assert ModelConfig(initializer="he_normal").initializer == "he_normal"

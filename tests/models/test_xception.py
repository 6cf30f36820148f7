"""Xception against its definition, official DeepLab's sizes, and official DeepLab's logits."""

import functools
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.backbones import build_backbone
from deeplab_tf.models.backbones.xception import DEPTHS, Unit, Xception, unit_plans
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.ops.resize import resize_bilinear
from deeplab_tf.weights import mapping
from tests.golden import rule

# Counted on the official graphs. Trained: kernels, gamma and beta of the backbone. Moving: the
# statistics of the whole networks (130,672; 202,800; 210,432), minus two for each channel that the
# heads normalise: ASPP 3 * 256 + 3 * (2048 + 256) = 7,680; the decoder, not of the first,
# 48 + 304 + 3 * 256 = 1,120; the cell of the third, instead of ASPP, 2048 + 4 * 256 + 6 * 256 =
# 4,608.
SIZES = {
    41: (24_920_560, 130_672 - 2 * 7_680),
    65: (37_867_312, 202_800 - 2 * (7_680 + 1_120)),
    71: (40_289_736, 210_432 - 2 * (4_608 + 1_120)),
}
# Times the golden logits' standard deviation: rounding in 65 layers makes a difference of 1.1e-5.
BOUND = 2e-5
# The first two convolutions; 13 units of three depthwise and three pointwise ones; 4 shortcuts.
KERNELS_OF_41 = 2 + 13 * 6 + 4


def size_of(variables):
    return sum(np.prod(variable.shape) for variable in variables)


def test_every_variant_has_a_size():
    depths = {v.layer["depth"] for v in BACKBONES.values() if v.family == "xception"}
    assert set(SIZES) == set(DEPTHS) == depths


@pytest.mark.slow
@pytest.mark.parametrize("depth", [41, 65, 71])
def test_sizes_equal_those_of_the_official_graphs(depth):
    backbone = build_backbone(ModelConfig(model_variant=f"xception_{depth}"))
    tf.function(backbone).get_concrete_function(tf.TensorSpec([1, 33, 33, 3]))
    sizes = size_of(backbone.trainable_variables), size_of(backbone.non_trainable_variables)
    assert sizes == SIZES[depth]


@pytest.mark.slow
def test_multiply_adds_equal_those_of_the_official_graph():
    """54.05 billion for the published VOC network; its authors count 54.17."""
    config = ModelConfig(
        model_variant="xception_65", atrous_rates=(6, 12, 18), decoder_output_stride=(4,)
    )
    model = build_model(config, num_classes=21)
    infer = tf.function(model.infer).get_concrete_function(tf.TensorSpec([1, 513, 513, 3]))

    total = 0
    for operation in infer.graph.get_operations():
        if operation.type == "Conv2D":
            per_cell = np.prod(operation.inputs[1].shape)
        elif operation.type == "DepthwiseConv2dNative":
            per_cell = np.prod(operation.inputs[1].shape[:3])
        else:
            continue
        total += per_cell * np.prod(operation.outputs[0].shape[:3])
    assert total == pytest.approx(54.05e9, rel=2e-3)


def randomise(layer, seed=0):
    """Gives a layer weights that keep the scale of its features, and uneven statistics."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        name, shape = variable.name, variable.shape
        if "kernel" in name:
            inputs = 9 if "depthwise" in name else np.prod(shape[:-1])
            value = rng.normal(0, np.sqrt(2 / inputs), shape)
        elif "gamma" in name or "variance" in name:
            value = rng.uniform(0.7, 1.4, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        variable.assign(value)


def images_of(height, width, batch=1):
    return np.random.default_rng(1).standard_normal([batch, height, width, 3]).astype(np.float32)


@functools.cache
def small_network(output_stride=32, depth=41):
    """A network with random weights, the same ones for each output stride."""
    network = Xception(depth, output_stride=output_stride)
    network(images_of(33, 33))
    randomise(network)
    return network


# --- one unit, against its definition ---


class Definition:
    """A unit computed in float64, with loops over cells, from the variables of a layer.

    (Official core/xception.py, xception_module and xception_arg_scope.)
    """

    def __init__(self, unit, *, shortcut, strides, rates, bounded):
        self.values = {v.name.split("/", 1)[1].split(":")[0]: v.numpy() for v in unit.variables}
        self.shortcut, self.strides, self.rates = shortcut, strides, rates
        self.bounded = bounded

    def outputs(self, inputs):
        """Returns the output for [H, W, C], and the one of the second separable convolution."""
        results = [inputs]
        for index, rate in enumerate(self.rates, start=1):
            before = self.relu(results[-1]) if self.shortcut else results[-1]
            strides = self.strides if index == 3 else 1
            results.append(self.separable(before, f"separable_conv{index}", strides, rate))

        if not self.shortcut:
            return results[3], results[2]
        total = results[3] + self.clip(self.skipped(inputs))
        return self.relu(total) if self.bounded else total, results[2]

    def separable(self, inputs, name, strides, rate):
        activation = self.clip if self.shortcut else self.relu
        outputs = self.depthwise(inputs, f"{name}/depthwise/depthwise_kernel", strides, rate)
        outputs = activation(self.normalised(outputs, f"{name}/depthwise_norm"))
        outputs = outputs @ self.values[f"{name}/pointwise/conv/kernel"][0, 0]
        return activation(self.normalised(outputs, f"{name}/pointwise/norm"))

    def depthwise(self, inputs, name, strides, rate):
        height, width, channels = inputs.shape
        # TensorFlow's SAME pads an even side only behind, if there is a stride of 2.
        is_same = self.bounded and strides == 2
        top, left = (0 if is_same and side % 2 == 0 else rate for side in (height, width))

        outputs = np.zeros([-(-height // strides), -(-width // strides), channels])
        for row, column, i, j in np.ndindex(*outputs.shape[:2], 3, 3):
            y, x = row * strides + i * rate - top, column * strides + j * rate - left
            if 0 <= y < height and 0 <= x < width:
                outputs[row, column] += inputs[y, x] * self.values[name][i, j, :, 0]
        return outputs

    def skipped(self, inputs):
        if self.shortcut == "identity":
            return inputs
        outputs = inputs[:: self.strides, :: self.strides]
        outputs = outputs @ self.values["shortcut/conv/kernel"][0, 0]
        return self.normalised(outputs, "shortcut/norm")

    def normalised(self, inputs, name):
        gamma, beta, mean, variance = (
            self.values[f"{name}/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (inputs - mean) / np.sqrt(variance + 0.001) * gamma + beta

    def relu(self, inputs):
        return np.clip(inputs, 0, 6 if self.bounded else None)

    def clip(self, inputs):
        return np.clip(inputs, -6, 6) if self.bounded else inputs


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(
    ("shortcut", "strides", "rates", "size"),
    [
        ("conv", 2, (1, 1, 1), (8, 9)),
        ("conv", 1, (2, 2, 2), (7, 10)),
        ("identity", 1, (1, 1, 1), (5, 6)),
        ("", 1, (2, 4, 8), (9, 8)),
    ],
)
def test_a_unit_is_as_defined(shortcut, strides, rates, size, bounded):
    settings = {"shortcut": shortcut, "strides": strides, "rates": rates, "bounded": bounded}
    unit = Unit((6, 7, 5), **settings)
    inputs = 9 * np.random.default_rng(2).standard_normal([1, *size, 5]).astype(np.float32)
    unit(inputs)
    randomise(unit)

    outputs, detail = unit(inputs)
    expected, expected_detail = Definition(unit, **settings).outputs(inputs[0].astype(np.float64))
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(detail[0], expected_detail, rtol=1e-4, atol=1e-4)
    # Or the bounds would not be tested.
    assert (np.abs(expected).max() > 6) != bounded


# --- the whole network ---


@pytest.mark.parametrize(
    ("depth", "output_stride", "entry", "middle", "exit_"),
    [  # (stride, rates) of the units; the middle flow's are all alike
        (65, 32, [(2, 1), (2, 1), (2, 1)], (1, 1), [(2, (1, 1, 1)), (1, (1, 2, 4))]),
        (65, 16, [(2, 1), (2, 1), (2, 1)], (1, 1), [(1, (1, 1, 1)), (1, (2, 4, 8))]),
        (41, 8, [(2, 1), (2, 1), (1, 1)], (1, 2), [(1, (2, 2, 2)), (1, (4, 8, 16))]),
        (
            71,
            8,
            [(2, 1), (1, 1), (2, 1), (1, 1), (1, 1)],
            (1, 2),
            [(1, (2, 2, 2)), (1, (4, 8, 16))],
        ),
    ],
)
def test_units_past_the_output_stride_are_dilated(depth, output_stride, entry, middle, exit_):
    plans = unit_plans(depth, output_stride, (1, 2, 4))
    found = [(plan.strides, plan.rates) for plan in plans]
    assert found[: len(entry)] == [(strides, (rate,) * 3) for strides, rate in entry]
    assert set(found[len(entry) : -2]) == {(middle[0], (middle[1],) * 3)}
    assert found[-2:] == exit_


def test_multi_grid_can_be_the_rates_themselves():
    plans = unit_plans(65, 8, (1, 2, 4), multi_grid_replaces_rates=True)
    assert [plan.rates for plan in plans[-2:]] == [(2, 2, 2), (1, 2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "size"),
    [(41, (65, 97)), (41, (64, 96)), (71, (64, 96))],
)
def test_a_finer_output_stride_computes_the_same_features_more_densely(depth, size):
    """The identity that atrous convolution rests on (Chen et al. 2017, sec. 3.1)."""
    images = images_of(*size)
    coarse = small_network(32, depth)(images)
    ends = (small_network(32, depth).decoder_end_point(stride) for stride in (4, 8, 16))
    strides = dict(zip(ends, (4, 8, 16), strict=True)) | {"middle_flow": 16, "exit_flow": 32}

    for output_stride in (16, 8):
        dense = small_network(output_stride, depth)(images)
        for name, expected in coarse.items():
            stride = min(strides[name], output_stride)
            assert dense[name].shape[1:3] == [-(-side // stride) for side in size]

            step = strides[name] // stride
            error = np.abs(dense[name][:, ::step, ::step] - expected).max()
            assert error < 1e-4 * expected.numpy().std(), name


@pytest.mark.parametrize(("depth", "blocks"), [(41, (2, 3)), (65, (2, 3)), (71, (3, 5))])
def test_decoders_start_in_the_units_of_the_official_network(depth, blocks):
    network = Xception(depth)
    units = [f"entry_flow_block{block}_unit1" for block in blocks] + ["exit_flow_block1_unit1"]
    ends = [network.decoder_end_point(stride) for stride in (4, 8, 16)]
    assert ends == [f"{unit}/separable_conv2" for unit in units]


def test_decoders_take_features_without_relu():
    features = small_network()(images_of(65, 33))
    for stride, channels in ((4, 256), (8, 728), (16, 1024)):
        feature = features[small_network().decoder_end_point(stride)].numpy()
        assert feature.shape == (1, 64 // stride + 1, 32 // stride + 1, channels)
        assert 0.3 < (feature < 0).mean() < 0.7
    assert features["middle_flow"].shape == (1, 5, 3, 728)
    assert features["exit_flow"].shape == (1, 3, 2, 2048)
    assert features["exit_flow"].numpy().min() == 0


def test_bounded_activations_stay_within_six():
    config = ModelConfig(model_variant="xception_41", use_bounded_activation=True)
    network = build_backbone(config)
    images = 5 * images_of(33, 33)
    network(images)
    randomise(network)

    features = network(images)
    assert features["middle_flow"].numpy().max() == 6  # else the bound would not be tested
    for name, feature in features.items():
        least = -6 if name.endswith("separable_conv2") else 0
        assert least <= feature.numpy().min() and feature.numpy().max() <= 6, name


def test_folded_weights_give_the_same_features():
    network, images = small_network(16), images_of(49, 33)
    expected = network(images)
    layers = [layer for layer in network.submodules if hasattr(layer, "fold")]
    for layer in layers:
        layer.fold((4, 3))
    try:
        folded = network(images)
    finally:
        for layer in layers:
            layer.folded = None

    assert len(layers) == KERNELS_OF_41
    for name, feature in expected.items():
        error = np.abs(folded[name] - feature).max()
        assert 0 < error < 1e-4 * feature.numpy().std(), name


def test_a_network_is_rebuilt_from_its_config():
    network = Xception(
        41, output_stride=8, multi_grid=(1, 2, 1), bounded=True, batch_norm_decay=0.5, name="x"
    )
    images = images_of(33, 33)
    network(images)
    randomise(network)

    again = tf.keras.layers.deserialize(tf.keras.layers.serialize(network))
    again(images)
    again.set_weights(network.get_weights())
    features = again(images)
    for name, feature in network(images).items():
        np.testing.assert_allclose(features[name], feature, rtol=0, atol=1e-5, err_msg=name)
    assert {v.name for v in again.variables} == {v.name for v in network.variables}
    assert again.get_config() == network.get_config()


@pytest.mark.slow
@pytest.mark.parametrize("recompute_stages", [1, 5])
def test_recomputed_parts_change_nothing_but_memory(recompute_stages):
    images = images_of(49, 33, batch=2)
    network = small_network(16)
    start = network.get_weights()

    @tf.function
    def gradients(stages):
        with tf.GradientTape() as tape:
            features = network(images, training=True, recompute_stages=stages)
            loss = tf.add_n([tf.reduce_mean(feature**2) for feature in features.values()])
        return tape.gradient(loss, network.trainable_variables)

    results = []
    for stages in (0, recompute_stages):
        network.set_weights(start)
        values = [*gradients(stages), *network.non_trainable_variables]
        results.append([value.numpy() for value in values])
    network.set_weights(start)

    # Some gradients are zero but for rounding: batch normalisation follows, and undoes the weight.
    rounding = 1e-6 * max(np.abs(value).max() for value in results[0])
    for kept, recomputed in zip(*results, strict=True):
        close = 1e-4 * np.abs(kept).max() + rounding
        np.testing.assert_allclose(recomputed, kept, rtol=0, atol=close)
    averages = len(network.non_trainable_variables)  # the last ones in both lists
    for after, before in zip(results[0][-averages:], start[-averages:], strict=True):
        assert np.any(after != before)


def test_weights_start_as_in_the_official_network():
    """A normal distribution of 0.09, cut at two deviations, has 0.8796 of its deviation."""
    network = Xception(41)
    network(images_of(33, 33))
    kernels = [v.numpy() for v in network.variables if "kernel" in v.name]
    assert len(kernels) == KERNELS_OF_41
    for kernel in kernels:
        deviation = 0.8796 * 0.09
        assert kernel.std() == pytest.approx(deviation, abs=5 * deviation / kernel.size**0.5)
        assert 0.16 < np.abs(kernel).max() <= 0.18


# --- official DeepLab's logits ---


def our_name(name):
    """Returns the name of one of our variables by the official one."""
    flow = r"xception_65/(\w+_flow)/block(\d)/unit_(\d+)/xception_module/"
    for pattern, replacement in (
        (flow, r"backbone/\1_block\2_unit\3/"),
        (r"xception_65/entry_flow/", "backbone/"),
        (r"aspp(\d)(?=[_/])", lambda match: f"aspp/branch{int(match[1]) + 1}"),
        (r"image_pooling/", "aspp/pooling/"),
        (r"concat_projection/", "aspp/projection/"),
        (r"feature_projection0/", "reduction/"),
        (r"decoder_conv(\d)", lambda match: f"refinement{int(match[1]) + 1}"),
        (r"logits/semantic/biases", "classifier/conv/bias"),
        (r"logits/semantic/", "classifier/"),
        (r"_depthwise/depthwise_weights", "/depthwise/depthwise_kernel"),
        (r"_depthwise/BatchNorm/", "/depthwise_norm/"),
        (r"_pointwise/", "/pointwise/"),
        (r"/weights", "/conv/kernel"),
        (r"/BatchNorm/", "/norm/"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.slow
def test_official_logits(shared):
    golden_name = "official_xception65_os16_dec4_c21"
    shapes = json.loads((shared / "golden" / f"{golden_name}_keys.json").read_text())
    arrays = {our_name(name): rule.array(name, shape, "tf") for name, shape in shapes.items()}
    # The channels of image pooling come first there, and last in our ASPP.
    arrays["aspp/projection/conv/kernel"] = np.roll(
        arrays["aspp/projection/conv/kernel"], -256, axis=2
    )

    config = ModelConfig(
        model_variant="xception_65", atrous_rates=(6, 12, 18), decoder_output_stride=(4,)
    )
    model = build_model(config, num_classes=21)
    mapping.assign(model, arrays)

    golden = np.load(shared / "golden" / f"{golden_name}.npz")
    sizes = [re.fullmatch(r"logits_low_(\d+)x(\d+)", name) for name in golden]
    sizes = [tuple(map(int, match.groups())) for match in sizes if match]
    assert sizes
    for height, width in sizes:
        size = f"{height}x{width}"
        noise = rule.image(f"{golden_name}_{size}", (1, height, width, 3))
        images = np.round(np.clip(127.5 + 50 * noise, 0, 255)).astype(np.float32)

        logits = model(images)["logits"]
        enlarged = resize_bilinear(logits, (height, width), align_corners=True)[:, ::3, ::3]
        for ours, theirs in ((logits, "logits_low"), (enlarged, "logits")):
            expected = golden[f"{theirs}_{size}"]
            error = np.abs(ours - expected).max() / expected.std()
            assert error < BOUND

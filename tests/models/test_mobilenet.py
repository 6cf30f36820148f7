import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.backbones import build_backbone
from deeplab_tf.models.backbones.mobilenet import (
    NETWORKS,
    InvertedResidual,
    MobileNet,
    SqueezeExcite,
)
from deeplab_tf.models.layers import ConvNorm, DepthwiseConvNorm
from tests.conftest import SHARED
from tests.golden import rule

# Of the official graphs, without heads: trainable weights, and moving statistics.
PARAMETERS = {
    ("v2", 1.0): (1_811_712, 31_552),
    ("v2", 0.5): (477_088, 15_776),
    ("v3_large", 1.0): (1_379_184, 17_776),
    ("v3_small", 1.0): (390_576, 8_368),
}
BOUND = 1e-5  # times the golden logits' standard deviation
SLOW = pytest.mark.slow


def build(version, **settings):
    """Returns a backbone whose variables exist."""
    model = MobileNet(version, name="backbone", **settings)
    model(tf.zeros([1, 33, 33, 3]))
    return model


shared = functools.cache(build)  # for tests that do not need the first weights


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def randomize(layer, seed=0):
    """Gives a layer weights and statistics that all have an effect on the result."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        name, shape = variable.name.split(":")[0].rsplit("/", 1)[-1], variable.shape
        if "kernel" in name:
            cells = np.prod(shape[:2] if "depthwise" in name else shape[:3])
            variable.assign(rng.normal(0, (2 / cells) ** 0.5, shape))
        elif name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.7, 1.3, shape))
        else:
            variable.assign(rng.normal(0, 0.2, shape))


# Sizes and widths


@pytest.mark.parametrize(("version", "multiplier"), PARAMETERS)
def test_parameters_equal_the_official_count(version, multiplier):
    model = shared(version, depth_multiplier=multiplier)
    learned, moving = PARAMETERS[version, multiplier]
    assert count(model.trainable_variables) == learned
    assert count(model.non_trainable_variables) == moving


def multiply_adds_of(monkeypatch, version, size, **settings):
    """Returns the multiply-adds of a backbone's convolutions, by the sizes of their results."""
    cells = {}

    def recorded(call):
        def record(self, inputs, training=False, update_averages=True):
            outputs = call(self, inputs, training=training, update_averages=update_averages)
            cells[id(self)] = outputs.shape[1] * outputs.shape[2]
            return outputs

        return record

    for layer in (ConvNorm, DepthwiseConvNorm):
        monkeypatch.setattr(layer, "call", recorded(layer.call))
    model = MobileNet(version, **settings)
    tf.function(model).get_concrete_function(tf.TensorSpec([1, *size, 3]))

    total = 0
    for layer in model.submodules:
        if isinstance(layer, ConvNorm):
            total += cells[id(layer)] * np.prod(layer.conv.kernel.shape)
        elif isinstance(layer, DepthwiseConvNorm):
            total += cells[id(layer)] * np.prod(layer.depthwise.depthwise_kernel.shape)
        elif isinstance(layer, SqueezeExcite):  # looks at one cell, the mean
            total += np.prod(layer.reduce.kernel.shape) + np.prod(layer.gate.kernel.shape)
    return model, total


# In thousand millions, of the zoo's networks: as counted on the official graphs, which is within
# 2 % of the zoo's own figures for MobileNetV2. In those graphs, atrous convolutions also compute
# some of their padding.
@pytest.mark.parametrize(
    ("version", "size", "settings", "expected"),
    [
        pytest.param("v2", (513, 513), {"output_stride": 16}, 2.74, marks=SLOW),
        pytest.param(
            "v2", (513, 513), {"output_stride": 16, "depth_multiplier": 0.5}, 0.87, marks=SLOW
        ),
        pytest.param(
            "v2", (513, 513), {"output_stride": 8, "depth_multiplier": 0.5}, 2.83, marks=SLOW
        ),
        pytest.param("v3_large", (1025, 2049), {}, 7.58, marks=SLOW),
        ("v3_small", (1025, 2049), {}, 1.96),
    ],
)
def test_multiply_adds_with_the_published_head_equal_the_official_count(
    version, size, settings, expected, monkeypatch
):
    model, adds = multiply_adds_of(monkeypatch, version, size, **settings)
    if version == "v2":  # image pooling, a 1x1, their projection, 21 classes
        channels = model.units[-1].project.conv.filters
        cells = np.prod([-(-side // settings["output_stride"]) for side in size])
        head = channels * 256 + cells * (channels * 256 + 512 * 256 + 256 * 21)
    else:  # a gate of 3x9 cells, a 1x1 at stride 32, and a decoder of 19 classes at stride 8
        channels, low_level = model.conv_1.conv.filters, {"v3_large": 120, "v3_small": 88}[version]
        head = (3 * 9 + 33 * 65) * channels * 128 + 129 * 257 * (low_level + 128) * 19
    assert (adds + head) / 1e9 == pytest.approx(expected, rel=0.005)


# slim's nets/mobilenet/README.md: millions of weights, rounded down and without batch
# normalisation's, and of multiply-adds, for the classifier of 1001 classes at 224x224. There the
# last convolution has 1280 channels at every multiplier.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("multiplier", "weights", "multiply_adds"),
    [(1.0, 4.0, 990), (0.75, 2.9, 624)],
)
def test_edgetpu_has_the_published_size(multiplier, weights, multiply_adds, monkeypatch):
    model, adds = multiply_adds_of(
        monkeypatch, "edgetpu", (224, 224), depth_multiplier=multiplier, output_stride=32
    )
    kernels = count(variable for variable in model.variables if "kernel" in variable.name)
    missing = (1280 - model.conv_1.conv.filters) * model.conv_1.conv.kernel.shape[2]
    total = kernels + missing + 1280 * 1001 + 1001
    assert int(total / 1e5) / 10 == weights
    assert (adds + missing * 7 * 7 + 1280 * 1001) / 1e6 == pytest.approx(multiply_adds, rel=0.005)


# Channels of the first convolution and of all units, by hand from the official rules.
# At 0.35 and a divisor of 8: 8.4 of 24 is 8, 11.2 of 32 would be 8 but that is below nine tenths
# of it, so 16, and 5.6 of 16 is 8.
WIDTHS = [
    (("v2", 0.5, 0), [16, 8, *[12] * 2, *[16] * 3, *[32] * 4, *[48] * 3, *[80] * 3, 160]),
    (("v2", 0.35, 0), [11, 6, *[8] * 2, *[11] * 3, *[22] * 4, *[34] * 3, *[56] * 3, 112]),
    (("v2", 0.35, 8), [16, 8, *[8] * 2, *[16] * 3, *[24] * 4, *[32] * 3, *[56] * 3, 112]),
    (("v2", 0.5, 16), [16, 16, *[16] * 2, *[16] * 3, *[32] * 4, *[48] * 3, *[80] * 3, 160]),
    (("v2", 1.0, 16), [32, 16, *[32] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]),
    (("v2", 1.4, 0), [45, 22, *[34] * 2, *[45] * 3, *[90] * 4, *[134] * 3, *[224] * 3, 448]),
    # V3 and EdgeTPU: multiples of 8 at any multiplier, and divisible_by has no effect.
    (("v3_large", 0.75, 4), [16, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[88] * 2, *[64] * 3]),
    (("v3_small", 0.75, 4), [16, 16, *[24] * 2, *[32] * 3, *[40] * 2, *[40] * 3]),
    (("edgetpu", 0.75, 4), [24, 16, *[24] * 4, *[40] * 4, *[72] * 8, *[120] * 4, 144]),
]


@pytest.mark.parametrize(("settings", "widths"), WIDTHS)
def test_widths_follow_the_official_rules(settings, widths):
    version, multiplier, divisor = settings
    model = MobileNet(version, depth_multiplier=multiplier, divisible_by=divisor)
    found = [model.conv.conv.filters, *[unit.project.conv.filters for unit in model.units]]
    assert found == widths


def test_expansions_are_multiples_of_8_of_the_narrowed_input():
    # 6 times 6, 8, 11, 22, 34 and 56 is 36, 48, 66, 132, 204 and 336; halves are rounded up.
    model = MobileNet("v2", depth_multiplier=0.35)
    assert model.units[0].expand is None
    found = [unit.expand.conv.filters for unit in model.units[1:]]
    assert found == [40, *[48] * 2, *[64] * 3, *[136] * 4, *[208] * 3, *[336] * 3]


# Strides and rates


@pytest.mark.parametrize(
    ("version", "output_stride", "rates"),
    [
        ("v2", 32, [1] * 17),
        ("v2", 16, [*[1] * 14, *[2] * 3]),
        ("v2", 8, [*[1] * 7, *[2] * 7, *[4] * 3]),
        ("v3_large", 32, [1] * 15),
        ("v3_large", 16, [*[1] * 13, *[2] * 2]),
        ("v3_large", 8, [*[1] * 7, *[2] * 6, *[4] * 2]),
        ("v3_small", 32, [1] * 11),
        ("v3_small", 16, [*[1] * 9, *[2] * 2]),
        ("v3_small", 8, [*[1] * 4, *[2] * 5, *[4] * 2]),
        ("edgetpu", 32, [1] * 22),
        ("edgetpu", 16, [*[1] * 18, *[2] * 4]),
        ("edgetpu", 8, [*[1] * 10, *[2] * 8, *[4] * 4]),
    ],
)
def test_units_past_the_output_stride_are_dilated(version, output_stride, rates):
    """The rates of all units, traced by hand through slim's mobilenet_base."""
    model = MobileNet(version, output_stride=output_stride)
    settings = [unit.get_config() for unit in model.units]
    assert [one["rate"] for one in settings] == rates
    assert 2 * np.prod([one["strides"] for one in settings]) == output_stride


# Numbers of the units, from 0, that add their input: stride 1 and as many channels as before.
@pytest.mark.parametrize(
    ("version", "output_stride", "units"),
    [
        ("v2", 8, [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]),
        ("v3_large", 8, [0, 2, 4, 5, 7, 8, 9, 11, 13, 14]),
        ("v3_small", 32, [2, 4, 5, 7, 9, 10]),
        ("v3_small", 16, [2, 4, 5, 7, 8, 9, 10]),
        ("edgetpu", 8, [2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20]),
    ],
)
def test_units_add_their_input_as_in_the_official_network(version, output_stride, units):
    model = MobileNet(version, output_stride=output_stride)
    assert [n for n, unit in enumerate(model.units) if unit.add_input] == units


# MobileNetV3 small has another function at 32: its unit with the last stride keeps 48 channels, so
# that official DeepLab adds its input as soon as it has no stride.
@pytest.mark.parametrize(
    ("version", "output_strides"),
    [
        ("v2", (32, 16, 8)),
        pytest.param("v3_large", (32, 16, 8), marks=SLOW),
        ("v3_small", (16, 8)),
        pytest.param("edgetpu", (32, 16, 8), marks=SLOW),
    ],
)
def test_a_finer_output_stride_computes_the_same_features_more_densely(version, output_strides):
    """The identity that atrous convolution rests on (Chen et al. 2017, sec. 3.1)."""
    # SAME pads both sides equally at every stride only if sides are 32 n + 1.
    images = rule.image("consistency", (1, 65, 97, 3))
    coarse = shared(version, output_stride=output_strides[0])
    randomize(coarse)
    for variable in coarse.variables:
        if "reduce/kernel" in variable.name:  # the mean of a map depends on how dense it is
            variable.assign(tf.zeros_like(variable))

    expected = coarse(images)["stage5"].numpy()
    for output_stride in output_strides[1:]:
        model = shared(version, output_stride=output_stride)
        model.set_weights(coarse.get_weights())
        step = output_strides[0] // output_stride
        dense = model(images)["stage5"].numpy()[:, ::step, ::step]
        assert np.abs(dense - expected).max() < 1e-4 * expected.std()


# Channels of the maps that decoders take at stride 4, 8 and 16. For EdgeTPU official DeepLab has no
# decoder.
END_POINTS = {
    "v2": (144, 192, 576),
    "v3_large": (72, 120, 672),
    "v3_small": (16, 88, 144),
    "edgetpu": (128, 192, 384),
}


@pytest.mark.parametrize("size", [(64, 90), (65, 97)])
@pytest.mark.parametrize("version", NETWORKS)
def test_heads_find_their_maps_at_even_and_odd_sizes(version, size):
    model = shared(version)
    shapes = {name: tuple(value.shape) for name, value in model(tf.zeros([1, *size, 3])).items()}
    for stride, channels in zip((4, 8, 16), END_POINTS[version], strict=True):
        expected = (1, -(-size[0] // stride), -(-size[1] // stride), channels)
        assert shapes[model.decoder_end_point(stride)] == expected
    assert shapes[model.context_end_point][1:3] == (-(-size[0] // 32), -(-size[1] // 32))
    assert shapes[model.auxiliary_end_point][1:3] == (-(-size[0] // 16), -(-size[1] // 16))


# Units, against numpy


def convolve(inputs, kernel, *, strides=1, rate=1, depthwise=False):
    """A convolution of [H, W, C] with TensorFlow's SAME padding, by its definition."""
    taps = kernel.shape[0]
    sizes = [-(-side // strides) for side in inputs.shape[:2]]
    pads = [
        max((cells - 1) * strides + (taps - 1) * rate + 1 - side, 0)
        for cells, side in zip(sizes, inputs.shape, strict=False)
    ]
    padded = np.pad(inputs, [*[(pad // 2, pad - pad // 2) for pad in pads], (0, 0)])

    outputs = 0
    for row, column in np.ndindex(taps, taps):
        top, left = row * rate, column * rate
        cells = padded[top : top + sizes[0] * strides, left : left + sizes[1] * strides]
        cells = cells[::strides, ::strides]
        weights = kernel[row, column]
        outputs = outputs + (cells * weights[:, 0] if depthwise else cells @ weights)
    return outputs


def normalize(inputs, norm):
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    scaled = (inputs - mean) / np.sqrt(variance.astype(float) + 1e-3)
    return scaled * norm.gamma.numpy() + norm.beta.numpy()


def relu6(values):
    return np.minimum(np.maximum(values, 0), 6)


def excite(inputs, layer):
    """The gate of one map, [H, W, C], by its definition."""
    reduce, reduce_bias, gate, gate_bias = [
        weights.astype(float) for weights in layer.get_weights()
    ]
    squeezed = np.maximum(inputs.mean(axis=(0, 1)) @ reduce[0, 0] + reduce_bias, 0)
    return inputs * (relu6(squeezed @ gate[0, 0] + gate_bias + 3) * 0.16667)


FUNCTIONS = {
    "relu": lambda values: np.maximum(values, 0),
    "relu6": relu6,
    "hard_swish": lambda values: values * relu6(values + 3) / 6,
}


@pytest.mark.parametrize("size", [(9, 8), (8, 13)])
@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu6", "add_input": True},
        {"activation": "relu6", "add_input": True, "rate": 2},
        {"activation": "relu6", "strides": 2},
        {"activation": "hard_swish", "kernel_size": 5, "strides": 2, "gated": True},
        {"activation": "relu", "kernel_size": 5, "rate": 2, "gated": True, "add_input": True},
        {"activation": "relu", "expand": False, "inner": 8, "strides": 2, "gated": True},
        {"activation": "relu", "fused": True, "strides": 2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_an_inverted_residual_equals_its_definition(settings, size):
    settings = {"inner": 24, "expand": True} | settings
    unit = InvertedResidual(8, **settings)
    images = 3 * rule.image("unit", (1, *size, 8))
    unit(images)
    randomize(unit)
    found, found_inner = unit(images)

    activation = FUNCTIONS[settings["activation"]]
    spatial = {"strides": settings.get("strides", 1), "rate": settings.get("rate", 1)}
    inner = images[0].astype(float)
    if settings["expand"]:
        kernel = unit.expand.conv.kernel.numpy()
        where = spatial if settings.get("fused") else {}
        inner = activation(normalize(convolve(inner, kernel, **where), unit.expand.norm))
    if not settings.get("fused"):
        kernel = unit.depthwise.depthwise.depthwise_kernel.numpy()
        around = convolve(inner, kernel, depthwise=True, **spatial)
        inner = activation(normalize(around, unit.depthwise.norm))

    gated = excite(inner, unit.squeeze_excite) if settings.get("gated") else inner
    expected = normalize(convolve(gated, unit.project.conv.kernel.numpy()), unit.project.norm)
    if settings.get("add_input"):
        expected = expected + images[0]
    np.testing.assert_allclose(found_inner[0], inner, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_a_gate_equals_its_definition():
    layer = SqueezeExcite(72)
    inputs = 1 + rule.image("gate", (2, 5, 7, 72))
    layer(inputs)
    randomize(layer)
    assert layer.reduce.filters == 24  # a quarter is 18; 16 would be below nine tenths of it

    found = layer(inputs).numpy()
    for image, expected in zip(found, [excite(one, layer) for one in inputs], strict=True):
        np.testing.assert_allclose(image, expected, rtol=5e-6, atol=1e-6)


# The whole network


def official_name(variable, scope):
    """Returns the name that official DeepLab gives a variable of the backbone."""
    path = variable.name.split(":")[0].removeprefix("backbone/").split("/")
    last = {"kernel": "weights", "bias": "biases", "depthwise_kernel": "depthwise_weights"}
    inside = {
        "conv": [],
        "depthwise": [],
        "norm": ["BatchNorm"],
        "depthwise_norm": ["BatchNorm"],
        "reduce": ["Conv"],
        "gate": ["Conv_1"],
    }
    *outer, layer, leaf = path
    outer = [{"conv": "Conv", "conv_1": "Conv_1"}.get(name, name) for name in outer]
    return "/".join([scope, *outer, *inside[layer], last.get(leaf, leaf)])


class Golden:
    """A golden of official DeepLab, and its backbone as ours with the same weights."""

    def __init__(self, name, scope, variant, output_stride):
        folder = SHARED / "golden"
        if not (folder / f"{name}.npz").is_file():
            pytest.skip(f"{name} is not here")
        shapes = json.loads((folder / f"{name}_keys.json").read_text())
        self.name, self.arrays = name, np.load(folder / f"{name}.npz")
        self.weights = {key: rule.array(key, shape, "tf") for key, shape in shapes.items()}

        config = ModelConfig(model_variant=variant, output_stride=output_stride)
        self.backbone = build_backbone(config)
        self.backbone(tf.zeros([1, 33, 33, 3]))
        values = {official_name(variable, scope): variable for variable in self.backbone.variables}
        assert set(values) == {key for key in self.weights if key.startswith(scope)}
        for key, variable in values.items():
            variable.assign(self.weights[key])

    def features(self, size):
        noise = rule.image(f"{self.name}_{size}", (1, *map(int, size.split("x")), 3))
        images = np.round(np.clip(127.5 + 50 * noise, 0, 255)).astype(np.float32)
        return self.backbone(images / 127.5 - 1)

    def conv(self, inputs, scope):
        """A 1x1 convolution of the head, with its bias or its normalisation and ReLU."""
        outputs = tf.nn.conv2d(inputs, self.weights[f"{scope}/weights"], 1, "SAME")
        if f"{scope}/biases" in self.weights:
            return outputs + self.weights[f"{scope}/biases"]
        names = ("moving_mean", "moving_variance", "beta", "gamma")
        norm = [self.weights[f"{scope}/BatchNorm/{name}"] for name in names]
        return tf.nn.relu(tf.nn.batch_normalization(outputs, *norm, 1e-5))

    def error(self, logits, size):
        """Returns the larger error of the logits, and of them enlarged, in golden deviations."""
        enlarged = resize(logits, [int(side) for side in size.split("x")])[:, ::3, ::3]
        errors = []
        for ours, key in ((logits, f"logits_low_{size}"), (enlarged, f"logits_{size}")):
            golden = self.arrays[key]
            errors.append(np.abs(ours.numpy() - golden).max() / golden.std())
        return max(errors)


def resize(inputs, size):
    return tf.compat.v1.image.resize_bilinear(inputs, size, align_corners=True)


def test_mobilenet_v2_equals_the_official_network():
    golden = Golden("official_mobilenetv2_os16_c21", "MobilenetV2", "mobilenet_v2", 16)
    for size in ("97x129", "70x90"):
        features = golden.features(size)[golden.backbone.context_end_point]
        mean = tf.reduce_mean(features, [1, 2], keepdims=True)
        branch = golden.conv(features, "aspp0")
        pooled = tf.broadcast_to(golden.conv(mean, "image_pooling"), tf.shape(branch))

        joined = golden.conv(tf.concat([pooled, branch], -1), "concat_projection")
        assert golden.error(golden.conv(joined, "logits/semantic"), size) < BOUND


def test_mobilenet_v3_large_equals_the_official_network():
    golden = Golden("official_mobilenetv3large_c19", "MobilenetV3", "mobilenet_v3_large_seg", 32)
    for size in ("161x225", "70x90"):
        maps = golden.features(size)
        features = maps[golden.backbone.context_end_point]
        low_level = maps[golden.backbone.decoder_end_point(8)]

        pooled = tf.nn.avg_pool2d(features, [2, 3], [4, 5], "VALID")
        gate = tf.nn.relu6(golden.conv(pooled, "image_pooling") + 3) * 0.16667
        context = golden.conv(features, "aspp0") * resize(gate, features.shape[1:3])

        context = resize(context, low_level.shape[1:3])
        detail = golden.conv(low_level, "decoder/feature_projection0")
        logits = detail + golden.conv(context, "decoder/decoder_conv0")
        assert golden.error(logits, size) < BOUND


def test_recomputed_stages_change_nothing_but_memory():
    images, results = rule.image("recomputed", (2, 49, 33, 3)), []
    model = build("v3_small")
    randomize(model)
    weights = model.get_weights()

    for stages in (0, 5):
        model.set_weights(weights)
        with tf.GradientTape() as tape:
            outputs = model(images, training=True, recompute_stages=stages)
            loss = tf.reduce_mean(outputs["stage5"] ** 2) + tf.reduce_mean(outputs["stage2_inner"])
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([*gradients, *[variable.numpy() for variable in model.variables]])

    assert any((old != new).any() for old, new in zip(weights, model.get_weights(), strict=True))
    for kept, recomputed in zip(*results, strict=True):
        np.testing.assert_allclose(recomputed, kept, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("version", ["v3_small", pytest.param("edgetpu", marks=SLOW)])
def test_folded_weights_compute_the_same(version):
    images = rule.image("folded", (1, 65, 65, 3))
    model = build(version, output_stride=16)
    randomize(model)
    expected = model(images)["stage5"].numpy()

    variables = [one for one in model.variables if "squeeze_excite" not in one.name]
    layers = [layer for layer in model.submodules if hasattr(layer, "fold")]
    for layer in layers:
        layer.fold((5, 5))
    for variable in variables:  # the variables that were folded are not read any more
        variable.assign(tf.zeros_like(variable))

    found = model(images)["stage5"].numpy()
    assert np.abs(found - expected).max() < 1e-4 * expected.std()
    gates = [layer for layer in layers if isinstance(layer, SqueezeExcite)]
    assert len(gates) == (9 if version == "v3_small" else 0)
    assert all(len(gate.folded) == len(gate.weights) == 4 for gate in gates)
    assert not any(gate._trainable_weights for gate in gates)  # would be stored a second time


@pytest.mark.parametrize("version", ["v3_small", pytest.param("edgetpu", marks=SLOW)])
def test_a_stored_layer_is_the_same_network(version):
    model = build(version, depth_multiplier=0.5, output_stride=8, divisible_by=4)
    randomize(model)
    loaded = tf.keras.layers.deserialize(tf.keras.layers.serialize(model))
    assert loaded.get_config() == model.get_config()

    images = rule.image("stored", (1, 33, 33, 3))
    loaded(images)
    loaded.set_weights(model.get_weights())
    np.testing.assert_array_equal(loaded(images)["stage5"], model(images)["stage5"])


def test_settings_reach_the_network():
    config = ModelConfig(depth_multiplier=0.5, divisible_by=16, output_stride=8)
    assert build_backbone(config).get_config() == {
        "name": "backbone",
        "trainable": True,
        "dtype": "float32",
        "version": "v2",
        "depth_multiplier": 0.5,
        "divisible_by": 16,
        "output_stride": 8,
        "batch_norm_decay": 0.997,
        "initializer": "official",
    }


@pytest.mark.parametrize("version", NETWORKS)
def test_batch_normalisation_has_the_official_constants(version):
    model = MobileNet(version)
    kind = tf.keras.layers.BatchNormalization
    norms = [layer for layer in model.submodules if isinstance(layer, kind)]
    assert len(norms) >= 34
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-3, 0.997)}


def test_kernels_start_as_in_the_official_program():
    model = build("v3_small")
    kernels = {one.name: one.numpy() for one in model.variables if "kernel" in one.name}
    assert sum("depthwise" in name for name in kernels) == 11
    for name, values in kernels.items():
        # A normal distribution cut at two deviations has 0.8796 of its deviation.
        assert values.std() == pytest.approx(0.8796 * 0.09, rel=4 / values.size**0.5), name
        assert abs(values).max() <= 0.18
    assert not any(one.numpy().any() for one in model.variables if "bias" in one.name)


def test_kernels_and_biases_can_start_as_in_pytorch():
    model = build("v3_small", initializer="pytorch")
    for variable in model.variables:
        values, shape = abs(variable.numpy()), variable.shape
        if "kernel" in variable.name:
            bound = np.prod(shape[:2] if "depthwise" in variable.name else shape[:3]) ** -0.5
            assert 0.9 * bound < values.max() <= bound * 1.0001, variable.name

    gates = [unit.squeeze_excite for unit in model.units if unit.squeeze_excite]
    for conv in [conv for gate in gates for conv in (gate.reduce, gate.gate)]:
        bound = conv.kernel.shape[2] ** -0.5
        assert 0.5 * bound < abs(conv.bias.numpy()).max() <= bound

"""Variants of the official network, against its arithmetic in plain TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.weights import mapping, sources
from deeplab_tf.weights.official import reader, variables
from deeplab_tf.weights.untold import Untold
from tests.weights import writers

RATES = Untold(atrous_rates=(6, 12, 18))
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Oracle:
    """research/deeplab's network in inference, creating its variables as it goes.

    Written from resnet_v1_beta.py, slim's resnet_utils and model.py: names, strides in the last
    units, SAME padding but for strided 3x3 (fixed padding), corner-aligned resizing.
    """

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.arrays = {}

    def variable(self, name, shape):
        if name.endswith(("moving_variance", "gamma")):
            value = self.rng.uniform(0.7, 1.3, shape)
        elif len(shape) == 4:
            fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:3])
            value = self.rng.standard_normal(shape) * np.sqrt(1 / fan_in)
        else:
            value = 0.1 * self.rng.standard_normal(shape)
        return self.arrays.setdefault(name, value.astype(np.float32))

    def norm(self, x, name, relu=True):
        gamma, beta, mean, variance = (
            self.variable(f"{name}/BatchNorm/{part}", [x.shape[-1]])
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta
        return tf.nn.relu(x) if relu else x

    def conv(self, x, filters, kernel, name, stride=1, rate=1, relu=True):
        weights = self.variable(f"{name}/weights", [kernel, kernel, x.shape[-1], filters])
        padding = "SAME"
        if stride > 1 and kernel > 1:
            around = kernel + (kernel - 1) * (rate - 1) - 1
            pads = [around // 2, around - around // 2]
            x, padding = tf.pad(x, [[0, 0], pads, pads, [0, 0]]), "VALID"
        x = tf.nn.conv2d(x, weights, stride, padding, dilations=rate if stride == 1 else 1)
        return self.norm(x, name, relu)

    def separable(self, x, filters, rate, name):
        kernel = self.variable(f"{name}_depthwise/depthwise_weights", [3, 3, x.shape[-1], 1])
        x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate])
        return self.conv(self.norm(x, f"{name}_depthwise"), filters, 1, f"{name}_pointwise")

    def unit(self, x, depth, stride, rate, name):
        if x.shape[-1] == 4 * depth:
            shortcut = tf.nn.max_pool2d(x, 1, stride, "SAME")
        else:
            shortcut = self.conv(x, 4 * depth, 1, f"{name}/shortcut", stride, relu=False)
        x = self.conv(x, depth, 1, f"{name}/conv1")
        x = self.conv(x, depth, 3, f"{name}/conv2", stride, rate)
        branch = self.conv(x, 4 * depth, 1, f"{name}/conv3", relu=False)
        return tf.nn.relu(shortcut + branch), branch

    def backbone(self, x, depth, beta, output_stride, multi_grid):
        scope = f"resnet_v1_{depth}"
        if beta:
            x = self.conv(x / 127.5 - 1, 64, 3, f"{scope}/conv1_1", 2)
            x = self.conv(self.conv(x, 64, 3, f"{scope}/conv1_2"), 128, 3, f"{scope}/conv1_3")
        else:
            x = self.conv(x - np.float32([123.15, 115.90, 103.06]), 64, 7, f"{scope}/conv1", 2)
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        current, rate, ends = 4, 1, {}
        for block, units in enumerate(UNITS[depth], start=1):
            for unit in range(1, units + 1):
                stride = 2 if block < 4 and unit == units else 1
                name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
                grid = multi_grid[unit - 1] if block == 4 and multi_grid else 1
                reached = current == output_stride
                x, ends[block, unit] = self.unit(
                    x, 32 * 2**block, 1 if reached else stride, rate * grid, name
                )
                rate, current = (rate * stride, current) if reached else (rate, current * stride)
        return x, ends

    def logits(self, images, *, depth, beta, stride, rates, grid, separable, decoder, classes):
        x, ends = self.backbone(images, depth, beta, stride, grid)
        pooled = self.conv(tf.reduce_mean(x, [1, 2], keepdims=True), 32, 1, "image_pooling")
        branches = [tf.image.resize(pooled, x.shape[1:3]), self.conv(x, 32, 1, "aspp0")]
        for index, rate in enumerate(rates, start=1):
            if separable:
                branches.append(self.separable(x, 32, rate, f"aspp{index}"))
            else:
                branches.append(self.conv(x, 32, 3, f"aspp{index}", rate=rate))
        x = self.conv(tf.concat(branches, 3), 32, 1, "concat_projection")
        if decoder:
            block = {4: 1, 8: 2, 16: 3}[decoder[0]]
            detail = ends[block, UNITS[depth][block - 1] - 1]
            detail = self.conv(detail, 48, 1, "decoder/feature_projection0")
            size = detail.shape[1:3]
            x = tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)
            x = tf.concat([x, detail], 3)
            for index in (0, 1):
                if decoder[1] == "separable":
                    x = self.separable(x, 40, 1, f"decoder/decoder_conv{index}")
                else:
                    x = self.conv(x, 40, 3, f"decoder/decoder_conv0/decoder_conv0_{index + 1}")
        kernel = self.variable("logits/semantic/weights", [1, 1, x.shape[-1], classes])
        bias = self.variable("logits/semantic/biases", [classes])
        return tf.nn.conv2d(x, kernel, 1, "SAME") + bias


VARIANTS = {
    "beta, multi-grid": (50, True, 16, (6, 12, 18), (1, 2, 4), True, None, 21),
    "beta, stride 8, decoder": (50, True, 8, (12, 24, 36), (), True, (4, "separable"), 5),
    "plain, plain decoder": (50, False, 16, (6, 12), (1, 2, 1), False, (8, "plain"), 151),
    "plain, stride 32": (50, False, 32, (3, 6, 9), (), True, (16, "separable"), 19),
    "101 beta": (101, True, 16, (6, 12, 18), (), True, (4, "separable"), 3),
}


CASES = [  # every variant at an odd or an even size; TensorFlow pads these differently
    pytest.param(
        variant,
        (65, 97) if index % 2 else (64, 50),
        id=name,
        marks=[] if name == "beta, stride 8, decoder" else [pytest.mark.slow],
    )
    for index, (name, variant) in enumerate(VARIANTS.items())
]


@pytest.mark.parametrize(("variant", "size"), CASES)
def test_variants_equal_the_official_arithmetic(tmp_path, variant, size):
    keys = ("depth", "beta", "stride", "rates", "grid", "separable", "decoder", "classes")
    settings = dict(zip(keys, variant, strict=True))
    oracle = Oracle()
    images = np.random.default_rng(1).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    expected = oracle.logits(images, **settings).numpy()
    writers.write_tf1_checkpoint(tmp_path / "model.ckpt-7", oracle.arrays)
    source = sources.read(
        str(tmp_path / "model.ckpt-7"),
        Untold(
            output_stride=settings["stride"],
            atrous_rates=settings["rates"],
            multi_grid=settings["grid"],
        ),
    )
    assert source.unused == [] and source.num_classes == settings["classes"]
    model = build_model(source.config, num_classes=source.num_classes)
    mapping.assign(model, source.arrays)
    error = np.abs(model(images)["logits"].numpy() - expected).max() / expected.std()
    assert error < 5e-4


@pytest.fixture(scope="module")
def backbone_arrays():
    oracle = Oracle()
    oracle.backbone(tf.zeros([1, 33, 33, 3]), 50, True, 16, ())
    return oracle.arrays


def test_a_file_with_only_a_backbone_is_recognised(backbone_arrays, tmp_path):
    writers.write_tf1_checkpoint(tmp_path / "model.ckpt", backbone_arrays)
    source = sources.read(str(tmp_path / "model.ckpt.index"))
    assert source.num_classes == 0 and source.config.model_variant == "resnet_v1_50_beta"
    assert all(name.startswith("backbone/") for name in source.arrays)


def test_a_missing_variable_is_named(backbone_arrays, tmp_path):
    arrays = dict(backbone_arrays)
    gone = "resnet_v1_50/block3/unit_2/bottleneck_v1/conv2/BatchNorm/beta"
    del arrays[gone]
    writers.write_tf1_checkpoint(tmp_path / "model.ckpt", arrays)
    with pytest.raises(UserError, match=f"lacks '{gone}'"):
        sources.read(str(tmp_path / "model.ckpt"))


def test_other_networks_and_damage_are_refused_in_one_sentence(tmp_path):
    writers.write_tf1_checkpoint(
        tmp_path / "x" / "model.ckpt", {"InceptionV3/Conv/weights": np.zeros([3, 3, 3, 8], "f")}
    )
    with pytest.raises(UserError, match="holds no backbone of official DeepLab.*InceptionV3"):
        sources.read(str(tmp_path / "x"))
    (tmp_path / "y.index").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        variables.Checkpoint(str(tmp_path / "y"))


def test_a_damaged_data_file_names_the_variable(backbone_arrays, tmp_path):
    writers.write_tf1_checkpoint(tmp_path / "model.ckpt", backbone_arrays)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged at 'resnet_v1_50/"):
        sources.read(str(tmp_path / "model.ckpt"))


@pytest.mark.slow
def test_half_a_head_is_refused(tmp_path):
    oracle = Oracle()
    oracle.logits(
        tf.zeros([1, 33, 33, 3]), depth=50, beta=True, stride=16, rates=(6, 12), grid=(),
        separable=False, decoder=None, classes=3,
    )  # fmt: skip
    writers.write_tf1_checkpoint(tmp_path / "a" / "model.ckpt", oracle.arrays)
    with pytest.raises(UserError, match="has 2 atrous branches; give as many --atrous_rates"):
        sources.read(str(tmp_path / "a"))
    for gone in ("aspp0/weights", "logits/semantic/weights"):
        arrays = {name: value for name, value in oracle.arrays.items() if name != gone}
        writers.write_tf1_checkpoint(tmp_path / "b" / "model.ckpt", arrays)
        with pytest.raises(UserError, match=f"has a head, but lacks '{gone}'"):
            sources.read(str(tmp_path / "b"), Untold(atrous_rates=(6, 12)))


@pytest.mark.slow
def test_a_decoder_on_another_feature_is_refused_but_the_backbone_is_read(tmp_path):
    oracle = Oracle()
    oracle.logits(
        tf.zeros([1, 33, 33, 3]), depth=50, beta=True, stride=16, rates=(6,), grid=(),
        separable=False, decoder=None, classes=3,
    )  # fmt: skip
    arrays = oracle.arrays | {
        "decoder/feature_projection0/weights": np.zeros([1, 1, 2048, 48], "f")
    }
    writers.write_tf1_checkpoint(tmp_path / "model.ckpt", arrays)
    with pytest.raises(UserError, match="a decoder on a feature of 2048 channels"):
        sources.read(str(tmp_path), Untold(atrous_rates=(6,)))
    source = sources.read(str(tmp_path), backbone_only=True)
    assert source.num_classes == 0 and all(name.startswith("backbone/") for name in source.arrays)


@pytest.mark.slow
def test_checkpoints_of_the_first_format_are_read(backbone_arrays, tmp_path):
    arrays = backbone_arrays
    (tmp_path / "v1").mkdir()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {n: tf.compat.v1.get_variable(n, initializer=a) for n, a in arrays.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, write_version=1)
        saver.save(session, str(tmp_path / "v1/resnet_v1_50.ckpt"), write_meta_graph=False)
    for path in (tmp_path / "v1", tmp_path / "v1/resnet_v1_50.ckpt"):
        source = sources.read(str(path))
        name = "backbone/stage2_block1/conv2/conv/kernel"
        np.testing.assert_array_equal(source.arrays[name], arrays[source.origins[name]])


@pytest.fixture(scope="module")
def plus():
    """Returns the variables of a small DeepLabV3+."""
    oracle = Oracle()
    oracle.logits(
        tf.zeros([1, 33, 33, 3]), depth=50, beta=True, stride=16, rates=(6, 12, 18), grid=(),
        separable=True, decoder=(4, "separable"), classes=3,
    )  # fmt: skip
    return oracle.arrays


@pytest.mark.parametrize(
    ("gone", "extra", "message"),
    [
        ("", "decoder/feature_projection0_1/weights", r"with the shape \(\); 4 axes"),
        ("", "decoder/feature_projection1/weights", "1 of its weights have no place in ours"),
        ("", "decoder/decoder_conv0/weights", "lacks 'decoder/decoder_conv0/BatchNorm/gamma'"),
        ("decoder/decoder_conv0_pointwise", "x", "lacks 'decoder/decoder_conv0_pointwise/weights'"),
        ("aspp0/weights", "aspp0/weights", r"'aspp0/weights' with the shape \(\); 4 axes"),
        ("", "decoder/decoder_conv2_pointwise/weights", "1 of its weights have no place in ours"),
        ("", "resnet_v1_50/block1/unit_1/se/weights", "1 of its weights have no place in ours"),
    ],
)
def test_networks_that_cannot_be_imported_are_refused_in_one_sentence(
    plus, monkeypatch, gone, extra, message
):
    arrays = {n: a for n, a in plus.items() if not n.startswith(gone or "\n")}
    arrays[extra] = np.zeros((), "f")
    monkeypatch.setattr(reader, "open_file", lambda path: arrays)
    with pytest.raises(UserError, match=f"^model.ckpt .*{message}"):
        reader.read("model.ckpt", RATES)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("logits/semantic/weights", (1, 1, 0, 10**9), "number of outputs 1000000000; 2 to 255"),
        ("aspp0/weights", (1, 1, 1, 10**6), "1000000 channels; 1 to 2048"),
        ("decoder/feature_projection0/weights", (1, 1, 256, 10**6), "1000000 channels; 1 to 2048"),
    ],
)
def test_a_size_that_no_network_has_is_refused(plus, monkeypatch, name, shape, message):
    arrays = plus | {name: np.broadcast_to(np.float32(0), shape)}
    monkeypatch.setattr(reader, "open_file", lambda path: arrays)
    with pytest.raises(UserError, match=f"^model.ckpt .*{message}"):
        reader.read("model.ckpt", RATES)


def test_variables_of_training_or_imagenet_are_not_weights_of_the_network(plus, monkeypatch):
    zero = np.zeros((), "f")
    training = {f"{name}/Momentum": zero for name in plus} | {"global_step": zero}
    imagenet = {"resnet_v1_50/logits/weights": zero, "resnet_v1_50/mean_rgb": zero}
    monkeypatch.setattr(reader, "open_file", lambda path: plus | training | imagenet)
    assert reader.read("model.ckpt", RATES).unused == sorted(imagenet)
    other_head = {"decoder/feature_projection1/weights": zero}
    monkeypatch.setattr(reader, "open_file", lambda path: plus | other_head)
    assert reader.read("model.ckpt", RATES, backbone_only=True).num_classes == 0


def test_checkpoints_of_tensorflow_2_are_refused_by_that_name(tmp_path):
    tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(tmp_path / "model.ckpt-0"))
    with pytest.raises(UserError, match="is a checkpoint of TensorFlow 2, such as this package's"):
        sources.read(str(tmp_path))

"""PyTorch's networks, written out in plain TensorFlow, and the names in their files."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.models.forward_pass import ForwardPass
from deeplab_tf.weights import mapping, sources, ssseg
from deeplab_tf.weights.untold import Untold
from tests.weights import writers

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Oracle:
    """A PyTorch ResNet with mmsegmentation's names, creating its weights as it goes."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.arrays = {}

    def variable(self, name, shape):
        if len(shape) == 4:
            value = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith((".weight", "running_var")):
            value = self.rng.uniform(0.7, 1.3, shape)
        else:
            value = 0.1 * self.rng.standard_normal(shape)
        return self.arrays.setdefault(name, value.astype(np.float32))

    def conv(self, x, filters, kernel, conv, norm, stride=1, rate=1, relu=True, groups=False):
        inputs = 1 if groups else x.shape[-1]
        weight = self.variable(f"{conv}.weight", [filters, inputs, kernel, kernel])
        pad = (kernel - 1) * rate // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        if groups:
            weight = weight.transpose(2, 3, 0, 1)
            x = tf.nn.depthwise_conv2d(x, weight, [1, 1, 1, 1], "VALID", dilations=[rate, rate])
        else:
            x = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), stride, "VALID", dilations=rate)
        parts = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (self.variable(f"{norm}.{p}", [filters]) for p in parts)
        self.arrays[f"{norm}.num_batches_tracked"] = np.array(5, np.int64)
        x = (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta
        return tf.nn.relu(x) if relu else x

    def backbone(self, images, prefix, depth, stem, output_stride, multi_grid=()):
        x = images - np.float32([123.675, 116.28, 103.53])
        x = x / np.float32([58.395, 57.12, 57.375])
        if stem == "v1c":
            for index, (filters, stride) in enumerate(((32, 2), (32, 1), (64, 1))):
                names = f"{prefix}stem.{3 * index}", f"{prefix}stem.{3 * index + 1}"
                x = self.conv(x, filters, 3, *names, stride)
        else:
            x = self.conv(x, 64, 7, f"{prefix}conv1", f"{prefix}bn1", 2)
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
        strides, rates = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}[
            output_stride
        ]
        stages = []
        for layer, blocks in enumerate(BLOCKS[depth], start=1):
            for block in range(blocks):
                stride = strides[layer - 1] if block == 0 else 1
                rate = rates[layer - 1]
                if block == 0 and rate > 1:
                    rate //= 2  # contract_dilation
                if layer == 4 and multi_grid:
                    rate = multi_grid[block]  # mmseg/models/utils/res_layer.py: not a factor
                x = self.block(
                    x, 32 * 2**layer, f"{prefix}layer{layer}.{block}", stride, rate, depth
                )
            stages.append(x)
        return stages

    def block(self, x, width, name, stride, rate, depth):
        out = width if depth < 50 else 4 * width
        shortcut = x
        if x.shape[-1] != out or stride > 1:
            parts = f"{name}.downsample.0", f"{name}.downsample.1"
            shortcut = self.conv(x, out, 1, *parts, stride, relu=False)
        if depth < 50:
            x = self.conv(x, width, 3, f"{name}.conv1", f"{name}.bn1", stride, rate)
            x = self.conv(x, width, 3, f"{name}.conv2", f"{name}.bn2", relu=False)
        else:
            x = self.conv(x, width, 1, f"{name}.conv1", f"{name}.bn1")
            x = self.conv(x, width, 3, f"{name}.conv2", f"{name}.bn2", stride, rate)
            x = self.conv(x, out, 1, f"{name}.conv3", f"{name}.bn3", relu=False)
        return tf.nn.relu(shortcut + x)

    def separable(self, x, filters, name, rate=1):
        depthwise, pointwise = f"{name}.depthwise_conv", f"{name}.pointwise_conv"
        names = f"{depthwise}.conv", f"{depthwise}.bn"
        x = self.conv(x, x.shape[-1], 3, *names, rate=rate, groups=True)
        return self.conv(x, filters, 1, f"{pointwise}.conv", f"{pointwise}.bn")

    def mmseg(self, images, depth, stem, output_stride, rates, classes, plus, grid=()):
        width = 24
        stages = self.backbone(images, "backbone.", depth, stem, output_stride, grid)
        x, head = stages[3], "decode_head"
        pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
        names = f"{head}.image_pool.1.conv", f"{head}.image_pool.1.bn"
        branches = [tf.image.resize(self.conv(pooled, width, 1, *names), x.shape[1:3])]
        for index, rate in enumerate((1, *rates)):
            name = f"{head}.aspp_modules.{index}"
            if plus and index:
                branches.append(self.separable(x, width, name, rate))
            else:
                kernel = 3 if index else 1
                parts = f"{name}.conv", f"{name}.bn"
                branches.append(self.conv(x, width, kernel, *parts, rate=rate))
        names = f"{head}.bottleneck.conv", f"{head}.bottleneck.bn"
        x = self.conv(tf.concat(branches, 3), width, 3, *names)
        if plus:
            names = f"{head}.c1_bottleneck.conv", f"{head}.c1_bottleneck.bn"
            detail = self.conv(stages[0], 12 if depth < 50 else 48, 1, *names)
            x = tf.concat([tf.image.resize(x, detail.shape[1:3]), detail], 3)
            for index in (0, 1):
                x = self.separable(x, width, f"{head}.sep_bottleneck.{index}")
        auxiliary = "auxiliary_head"
        names = f"{auxiliary}.convs.0.conv", f"{auxiliary}.convs.0.bn"
        y = self.conv(stages[2], 16, 3, *names)
        return self.classify(x, f"{head}.conv_seg", classes), self.classify(
            y, f"{auxiliary}.conv_seg", classes
        )

    def classify(self, x, name, classes):
        weight = self.variable(f"{name}.weight", [classes, x.shape[-1], 1, 1])
        bias = self.variable(f"{name}.bias", [classes])
        return tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), 1, "VALID") + bias


IMAGES = np.random.default_rng(1).uniform(0, 255, (1, 64, 81, 3)).astype(np.float32)


@pytest.mark.slow
def test_multi_grid_of_mmsegmentation_replaces_the_rates(tmp_path):
    oracle = Oracle()
    expected, _ = oracle.mmseg(IMAGES, 50, "v1c", 16, (6, 12), 5, False, grid=(1, 2, 4))
    writers.write_pth(tmp_path / "m.pth", {"state_dict": oracle.arrays})
    settings = {"atrous_rates": (6, 12), "multi_grid": (1, 2, 4)}
    source = sources.read(str(tmp_path / "m.pth"), Untold(**settings))
    model = build_model(source.config, num_classes=5)
    mapping.assign(model, source.arrays)
    assert error_of(model(IMAGES)["logits"].numpy(), expected.numpy()) < 5e-4


def error_of(ours, expected):
    return np.abs(ours - expected).max() / np.std(expected)


VARIANTS = [
    pytest.param((50, "v1c", 8, (12, 24, 36), 19, False), marks=pytest.mark.slow),
    pytest.param((50, "v1c", 16, (6, 12, 18), 4, True), marks=pytest.mark.slow),
    (18, "v1", 8, (12, 24), 7, False),
    (18, "v1c", 8, (12, 24, 36), 2, True),
    pytest.param((101, "v1c", 16, (6, 12, 18), 150, False), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v[0]}-{v[1]}-{v[2]}-{v[5]}")
def test_mmsegmentation_from_file_to_logits(tmp_path, variant):
    depth, stem, output_stride, rates, classes, plus = variant
    oracle = Oracle()
    logits, aux_logits = oracle.mmseg(IMAGES, depth, stem, output_stride, rates, classes, plus)
    content = {"meta": {"CLASSES": ("a", "b")}, "state_dict": oracle.arrays}
    writers.write_pth(tmp_path / "m.pth", content)
    source = sources.read(
        str(tmp_path / "m.pth"), Untold(output_stride=output_stride, atrous_rates=rates)
    )
    assert (source.kind, source.num_classes, source.unused) == ("mmsegmentation", classes, [])
    model = build_model(source.config, num_classes=classes)
    mapping.assign(model, source.arrays)
    outputs = model(IMAGES)
    assert error_of(outputs["logits"].numpy(), logits.numpy()) < 5e-4
    assert error_of(outputs["aux_logits"].numpy(), aux_logits.numpy()) < 5e-4


def to_ssseg(arrays, width):
    """Returns the same network under SSSegmentation's names; image pooling comes last there."""
    renamed = {}
    for name, array in arrays.items():
        for old, new in (
            ("backbone.", "backbone_net."),
            ("decode_head.image_pool.1.", "aspp_net.global_branch.1."),
            ("decode_head.bottleneck.", "aspp_net.bottleneck."),
            ("decode_head.conv_seg", "decoder.1"),
            ("auxiliary_head.convs.0.", "auxiliary_decoder."),
            ("auxiliary_head.conv_seg", "auxiliary_decoder.4"),
            ("decode_head.aspp_modules.", "aspp_net.parallel_branches."),
        ):
            if name.startswith(old):
                name = name.replace(old, new)
        if name == "aspp_net.bottleneck.conv.weight":
            array = np.roll(array, -width, axis=1)
        for part in ("bottleneck", "auxiliary_decoder", *(f"branches.{i}" for i in range(9))):
            name = name.replace(f"{part}.conv.", f"{part}.0.").replace(f"{part}.bn.", f"{part}.1.")
        name = name.replace("global_branch.1.conv.", "global_branch.1.")
        name = name.replace("global_branch.1.bn.", "global_branch.2.")
        renamed[name] = array
    return renamed


@pytest.mark.parametrize("wrapping", ["model", "bare", "module", "training", "fuse_layer"])
def test_ssseg_files_in_all_their_forms(tmp_path, wrapping):
    oracle = Oracle()
    logits, _ = oracle.mmseg(IMAGES, 18, "v1c", 16, (6, 12, 18), 5, False)
    arrays = to_ssseg(oracle.arrays, 24)
    content = {
        "model": {"model": arrays},
        "bare": arrays,
        "module": {"model": {f"module.{name}": array for name, array in arrays.items()}},
        "training": {
            "cur_epoch": 3,
            "optimizer": {"state": {0: {"momentum_buffer": np.zeros(3, "f")}}},
            "model": arrays,
        },
        "fuse_layer": {
            "model": {n.replace("bottleneck", "fuse_layer"): a for n, a in arrays.items()}
        },
    }[wrapping]
    writers.write_pth(tmp_path / "s.pth", content, legacy=wrapping == "training")
    source = sources.read(str(tmp_path / "s.pth"))
    assert (source.kind, source.num_classes, source.unused) == ("SSSegmentation", 5, [])
    model = build_model(source.config, num_classes=5)
    mapping.assign(model, source.arrays)
    assert error_of(model(IMAGES)["logits"].numpy(), logits.numpy()) < 5e-4


@pytest.mark.parametrize(
    ("depth", "stem"),
    [
        (18, "v1"),
        (34, "v1"),
        pytest.param(50, "v1", marks=pytest.mark.slow),
        pytest.param(50, "v1c", marks=pytest.mark.slow),
        pytest.param(152, "v1", marks=pytest.mark.slow),
    ],
)
def test_imagenet_backbones_of_pytorch(tmp_path, depth, stem):
    oracle = Oracle()
    features = oracle.backbone(IMAGES, "", depth, stem, 16)
    oracle.arrays |= {"fc.weight": np.zeros([9, 2], "f"), "fc.bias": np.zeros(9, "f")}
    writers.write_pth(tmp_path / "r.pth", oracle.arrays)
    source = sources.read(str(tmp_path / "r.pth"))
    assert source.num_classes == 0 and source.unused == []
    assert source.config.model_variant == f"resnet_{stem}_{depth}".replace("v1_", "v1b_")
    model = build_model(source.config, num_classes=2)
    mapping.assign(model, source.arrays, kept=("aspp/", "classifier/"))
    ours = model._features(IMAGES, ForwardPass())
    for stage, expected in enumerate(features, start=1):
        assert error_of(ours[f"stage{stage}"].numpy(), expected.numpy()) < 5e-4


def test_a_missing_or_misshapen_weight_is_named(tmp_path):
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6,), 3, False)
    arrays = dict(oracle.arrays)
    del arrays["backbone.layer2.1.bn2.running_var"]
    writers.write_pth(tmp_path / "m.pth", {"state_dict": arrays})
    with pytest.raises(UserError, match=r"lacks 'backbone\.layer2\.1\.bn2\.running_var'"):
        sources.read(str(tmp_path / "m.pth"), Untold(atrous_rates=(6,)))
    arrays = dict(oracle.arrays)
    arrays["backbone.layer2.1.conv2.weight"] = arrays["backbone.layer2.1.conv2.weight"][:-1]
    writers.write_pth(tmp_path / "m.pth", {"state_dict": arrays})
    source = sources.read(str(tmp_path / "m.pth"), Untold(atrous_rates=(6,)))
    model = build_model(source.config, num_classes=3)
    before = [v.numpy() for v in model.variables]
    message = r"backbone/stage2_block2/conv2/conv/kernel is \(3, 3, 128, 127\) and not"
    with pytest.raises(UserError, match=message):
        mapping.assign(model, source.arrays)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_other_rates_and_other_files_are_refused_in_one_sentence(tmp_path):
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6, 12), 3, False)
    writers.write_pth(tmp_path / "m.pth", {"state_dict": oracle.arrays})
    with pytest.raises(UserError, match="has 2 atrous branches; give as many --atrous_rates"):
        sources.read(str(tmp_path / "m.pth"))
    writers.write_pth(tmp_path / "o.pth", {"state_dict": {"a.weight": np.zeros(2, "f")}})
    with pytest.raises(UserError, match="holds no ResNet"):
        sources.read(str(tmp_path / "o.pth"))
    writers.write_pth(tmp_path / "n.pth", {"epoch": 3})
    with pytest.raises(UserError, match="holds no state dict"):
        sources.read(str(tmp_path / "n.pth"))
    psp = {n: a for n, a in oracle.arrays.items() if "aspp_modules" not in n}
    writers.write_pth(tmp_path / "p.pth", {"state_dict": psp})
    with pytest.raises(UserError, match="is a file of mmsegmentation, but not of a DeepLabV3"):
        sources.read(str(tmp_path / "p.pth"))
    with pytest.raises(UserError, match=r"none\.pth does not exist; allowed: a \.pth"):
        sources.read(str(tmp_path / "none.pth"))


@pytest.fixture(scope="module")
def plus():
    """Returns the state dict of a small DeepLabV3+ of mmsegmentation."""
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1c", 16, (6, 12, 18), 5, True)
    return oracle.arrays


ZERO = np.zeros((), "f")


def zeros(*shape):
    return np.broadcast_to(ZERO, shape)


@pytest.mark.parametrize(
    ("gone", "extra", "left"),
    [
        ("nothing", "backbone.layer4.0.conv2.conv_offset.weight", r"1 of its .*conv_offset"),
        ("nothing", "backbone.layer3.0.context_block1.conv_mask.bias", r"1 of its .*context_block"),
        ("nothing", "auxiliary_head.convs.1.conv.weight", r"1 of its .*convs\.1\.conv"),
        ("c1_bottleneck", "extra.weight", r"20 of its weights .*sep_bottleneck.* and 17 more"),
    ],
)
def test_weights_of_the_network_that_have_no_place_are_refused(plus, gone, extra, left):
    arrays = {n: a for n, a in plus.items() if gone not in n} | {extra: ZERO}
    with pytest.raises(UserError, match=f"m.pth belongs to a network that cannot .*{left}"):
        ssseg.read(arrays, "m.pth")


def test_only_the_backbones_weights_are_needed_for_a_backbone(plus):
    head = {n: a for n, a in plus.items() if "c1_bottleneck" not in n}
    source = ssseg.read(head | {"backbone.fc.weight": ZERO}, "m.pth", backbone_only=True)
    assert all(name.startswith("backbone/") for name in source.arrays)
    bare = {n.removeprefix("backbone."): a for n, a in plus.items() if n.startswith("backbone.")}
    for arrays in (plus | {"backbone.layer1.0.se.fc.weight": ZERO}, bare | {"layer5.0.bias": ZERO}):
        with pytest.raises(UserError, match="belongs to a network that cannot be imported"):
            ssseg.read(arrays, "m.pth", backbone_only=True)


def test_other_programs_heads_are_not_taken_for_mmsegmentations(plus):
    backbone = {n: a for n, a in plus.items() if n.startswith("backbone.")}
    source = ssseg.read(backbone | {"head.fc.weight": ZERO}, "m.pth")  # mmpretrain's
    assert (source.kind, source.num_classes) == ("ImageNet ResNet (PyTorch)", 0)
    torchvision = backbone | {"classifier.0.convs.0.0.weight": ZERO}
    with pytest.raises(UserError, match=r"a head that cannot be imported \(classifier\.0\."):
        ssseg.read(torchvision, "m.pth")
    assert ssseg.read(torchvision, "m.pth", backbone_only=True).origins == source.origins


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.stem.0.weight", ZERO, r"'backbone\.stem\.0\.weight' with the shape \(\)"),
        ("backbone.layer1.0.conv1.weight", np.zeros((4, 3), "f"), r"the shape \(4, 3\), which '"),
        ("decode_head.conv_seg.weight", ZERO, r"the shape \(\); 4 axes are needed"),
        ("decode_head.conv_seg.bias", None, r"lacks 'decode_head\.conv_seg\.bias'"),
        ("decode_head.bottleneck.conv.weight", np.zeros(4, "f"), r"the shape \(4,\); 4 axes"),
        ("decode_head.c1_bottleneck.conv.weight", np.zeros((2, 2), "f"), r"shape \(2, 2\); 4 axes"),
        ("decode_head.sep_bottleneck.0.pointwise_conv.conv.weight", None, "lacks 'decode_head.sep"),
        ("auxiliary_head.convs.0.conv.weight", ZERO, r"the shape \(\); 4 axes are needed"),
        ("decode_head.aspp_modules.1.depthwise_conv.conv.weight", ZERO, r"shape \(\), which 'aspp"),
        ("decode_head.conv_seg.weight", zeros(10**9, 0, 1, 1), "of outputs 1000000000; 2 to 255"),
        ("decode_head.conv_seg.weight", zeros(1, 24, 1, 1), "of outputs 1; 2 to 255 classes"),
        (
            "decode_head.bottleneck.conv.weight",
            zeros(10**6, 1, 3, 3),
            "1000000 channels; 1 to 2048",
        ),
        ("decode_head.c1_bottleneck.conv.weight", zeros(0, 64, 1, 1), "with 0 channels; 1 to 2048"),
        ("auxiliary_head.convs.0.conv.weight", zeros(10**6, 1, 3, 3), "1000000 channels; 1 to"),
    ],
)
def test_odd_shapes_are_refused_in_one_sentence(plus, name, value, message):
    arrays = {n: a for n, a in plus.items() if n != name}
    arrays |= {} if value is None else {name: value}
    with pytest.raises(UserError, match=f"^m.pth .*{message}"):
        ssseg.read(arrays, "m.pth")


def test_only_what_has_a_name_is_a_weight():
    odd = {1: ZERO, (2, 3): ZERO}
    with pytest.raises(UserError, match="holds no state dict"):
        ssseg.state_dict(odd, "m.pth")
    assert list(ssseg.state_dict(odd | {"a": ZERO}, "m.pth")) == ["a"]

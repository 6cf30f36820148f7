"""The network is the ancestor's: its logits for the ancestor's weights are the ancestor's."""

import importlib.util
import json

import numpy as np
import pytest

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model

NAME = "ssseg_r50_os16_c150"


@pytest.fixture(scope="module")
def rule():
    from tests.conftest import SHARED

    path = SHARED / "golden" / "rule.py"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    spec = importlib.util.spec_from_file_location("rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.folder = path.parent
    return module


def assign(conv_norm, weights, conv, norm):
    conv_norm.conv.kernel.assign(weights[f"{conv}.weight"].transpose(2, 3, 1, 0))
    names = ("weight", "bias", "running_mean", "running_var")
    conv_norm.norm.set_weights([weights[f"{norm}.{name}"] for name in names])


@pytest.fixture(scope="module")
def model(rule):
    shapes = json.loads((rule.folder / f"{NAME}_keys.json").read_text())
    weights = {name: rule.array(name, shape) for name, shape in shapes.items()}
    model = build_model(
        ModelConfig(
            model_variant="resnet_v1c_50",
            output_stride=16,
            atrous_rates=(6, 12, 18),
            aspp_convs_filters=512,
            aspp_projection_kernel_size=3,
            auxiliary_filters=512,
        ),
        num_classes=150,
    )
    for index, conv in enumerate(model.backbone.stem):
        assign(
            conv, weights, f"backbone_net.stem.{3 * index}", f"backbone_net.stem.{3 * index + 1}"
        )
    for block in model.backbone.blocks:
        stage, number = block.name.removeprefix("stage").split("_block")
        prefix = f"backbone_net.layer{stage}.{int(number) - 1}"
        for index, conv in enumerate(block.convs, start=1):
            assign(conv, weights, f"{prefix}.conv{index}", f"{prefix}.bn{index}")
        if block.shortcut:
            assign(block.shortcut, weights, f"{prefix}.downsample.0", f"{prefix}.downsample.1")
    for index, branch in enumerate(model.aspp.branches):
        prefix = f"aspp_net.parallel_branches.{index}"
        assign(branch, weights, f"{prefix}.0", f"{prefix}.1")
    assign(model.aspp.pooling, weights, "aspp_net.global_branch.1", "aspp_net.global_branch.2")
    assign(model.aspp.projection, weights, "aspp_net.bottleneck.0", "aspp_net.bottleneck.1")
    auxiliary = model.auxiliary_head
    assign(auxiliary.conv, weights, "auxiliary_decoder.0", "auxiliary_decoder.1")
    for classifier, name in (
        (model.classifier, "decoder.1"),
        (auxiliary.classifier, "auxiliary_decoder.4"),
    ):
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        classifier.conv.set_weights([kernel, weights[f"{name}.bias"]])
    return model


@pytest.mark.parametrize("size", [(193, 257), (128, 128)])
def test_logits_are_the_ancestors(rule, model, size):
    golden = np.load(rule.folder / f"{NAME}.npz")
    name = f"{size[0]}x{size[1]}"
    normalized = rule.image(f"{NAME}_{name}", (1, 3, *size)).transpose(0, 2, 3, 1)
    images = normalized * np.float32(model.config.image_std) + np.float32(model.config.image_mean)
    outputs = model(images)
    for ours, theirs in (("logits", "logits_low"), ("aux_logits", "aux_logits_low")):
        expected = golden[f"{theirs}_{name}"].transpose(0, 2, 3, 1)
        error = np.abs(outputs[ours].numpy() - expected).max() / expected.std()
        assert error < 5e-4, f"{ours} {name}: {error}"
    np.testing.assert_array_equal(model.infer(images), outputs["logits"])

"""Which of official DeepLab's backbones a file holds, and how its variables are called.

(core/feature_extractor.py, resnet_v1_beta.py and xception.py; slim, nets/mobilenet.) The scope at
the top of the names tells the family, and the rest of the names and the shapes tell the variant.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from deeplab_tf import files
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.messages import UserError
from deeplab_tf.models.backbones import mobilenet, resnet, xception
from deeplab_tf.weights.mapping import Collector
from deeplab_tf.weights.official import layers
from deeplab_tf.weights.official.layers import Pairs

# The scopes of these backbones; V3 large and small have the same one.
_SCOPES = {
    **{f"resnet_v1_{depth}": f"resnet_v1_{depth}" for depth in (18, 50, 101)},
    **{f"xception_{depth}": f"xception_{depth}" for depth in (41, 65, 71)},
    "MobilenetV2": "mobilenet_v2",
    "MobilenetV3": "mobilenet_v3_large_seg",
    "MobilenetEdgeTPU": "mobilenet_edgetpu",
}
_SEARCHED = ("pnasnet", "hnasnet")
# Below a backbone's scope: the classifier of ImageNet, and what no network computes with.
_CLASSIFIER = r"logits/|Logits/|mean_rgb$"
# Depth multipliers of published networks: slim, nets/mobilenet, and the zoo.
_PUBLISHED = (1.0, 0.75, 0.5, 0.35, 1.3, 1.4)
_MOST_DIGITS = 3  # of another depth multiplier
_DIVISORS = (0, 8, 4, 2, 16, 32)  # 0 is the usual one


def scope_in(file: Mapping[str, np.ndarray], path: str) -> str:
    """Returns the scope of the backbone in a file.

    Raises:
      UserError: if there is none that can be imported.
    """
    scopes = sorted({name.split("/")[0] for name in file})
    for scope in scopes:
        if scope in _SCOPES and any(name.startswith(f"{scope}/") for name in file):
            return scope

    if "_CHECKPOINTABLE_OBJECT_GRAPH" in file:
        raise UserError(
            f"{path} is a checkpoint of TensorFlow 2, such as this package's own, and not "
            "official DeepLab's; a run's folder needs no import: eval, predict, export_model and "
            "train (--tf_initial_checkpoint) take it as it is."
        )
    searched = [scope for scope in scopes if scope in _SEARCHED]
    if searched:
        raise UserError(
            f"{path} cannot be imported: its backbone is {searched[0]}, which architecture search "
            "has found; this package has no such networks."
        )
    held = files.shown(scopes[0], most=80) if scopes else "nothing"
    raise UserError(
        f"{path} holds no backbone of official DeepLab, ResNet, Xception or MobileNet (it holds "
        f"{held}); other networks cannot be imported."
    )


def settings_in(
    file: Mapping[str, np.ndarray], collector: Collector, scope: str, path: str
) -> dict[str, Any]:
    """Returns the settings of the backbone in a file.

    Raises:
      UserError: if no such network has its widths.
    """
    variant = _SCOPES[scope]
    if scope.startswith("resnet") and f"{scope}/conv1_1/weights" in file:
        variant += "_beta"
    if scope == "MobilenetV3" and f"{scope}/expanded_conv_11/project/weights" not in file:
        variant = "mobilenet_v3_small_seg"
    if not scope.startswith("Mobilenet"):
        return {"model_variant": variant}

    version = BACKBONES[variant].layer["version"]
    return {"model_variant": variant} | _multiplier(collector, scope, version, path)


def _multiplier(collector: Collector, scope: str, version: str, path: str) -> dict[str, Any]:
    """Returns the settings that give a MobileNet the widths that it has in the file.

    Of all multipliers that give these widths, it takes a published one, or else the one with the
    fewest digits.
    """
    network = mobilenet.NETWORKS[version]
    wanted = [(network.filters, collector.channels(f"{scope}/Conv/weights", -1))]
    for index, unit in enumerate(network.units):
        theirs = f"{_unit(scope, index)}/project/weights"
        wanted.append((unit.filters, collector.channels(theirs, -1)))

    for divisor in _DIVISORS if version == "v2" else (0,):
        for multiplier in _multipliers():
            has_all = all(
                mobilenet.scaled(
                    filters, version, depth_multiplier=multiplier, divisible_by=divisor
                )
                == width
                for filters, width in wanted
            )
            if has_all:
                return {"depth_multiplier": multiplier, "divisible_by": divisor}

    widths = ", ".join(str(width) for _, width in wanted)
    raise UserError(
        f"{path} has a {scope} with the widths {widths}, which DeepLab's has at no depth "
        "multiplier; it cannot be imported."
    )


def _multipliers() -> Iterator[float]:
    """Yields depth multipliers, the published ones first and then those with the fewest digits."""
    yield from _PUBLISHED
    for digits in range(_MOST_DIGITS + 1):
        for number in range(1, 4 * 10**digits + 1):
            yield number / 10**digits


def pairs(variant: str, scope: str) -> Pairs:
    """Yields our names of a backbone's variables, each with its name in the file."""
    backbone = BACKBONES[variant]
    if backbone.family == "resnet":
        return _resnet_pairs(scope, **backbone.layer)
    if backbone.family == "xception":
        return _xception_pairs(scope, backbone.layer["depth"])
    return _mobilenet_pairs(scope, backbone.layer["version"])


def known_names(scope: str, *, has_head: bool) -> str:
    """Returns a pattern for how the names of a backbone's weights begin.

    Args:
      has_head: whether a segmentation head follows. Without one, MobileNetV2 may have the last
        convolution of its classifier.
    """
    left_out = _CLASSIFIER if has_head or scope != "MobilenetV2" else rf"{_CLASSIFIER}|Conv_1/"
    return rf"{re.escape(scope)}/(?!{left_out})"


def decoder_ends(variant: str, scope: str) -> dict[int, tuple[str, int]]:
    """Returns for each stride the kernel whose output a decoder takes, and its axis of channels."""
    backbone = BACKBONES[variant]
    if backbone.family == "resnet":
        blocks, bottleneck = resnet.DEPTHS[backbone.layer["depth"]]
        # The second-to-last unit; the last one has the stride.
        return {
            4 * 2 ** (stage - 1): (
                f"{_residual_unit(scope, stage, blocks[stage - 1] - 1, bottleneck)}"
                f"/conv{3 if bottleneck else 2}/weights",
                3,
            )
            for stage in (1, 2, 3)
        }

    if backbone.family == "xception":
        plans = xception.unit_plans(backbone.layer["depth"], 32)
        strided = [plan.name for plan in plans if plan.strides > 1]
        return {
            stride: (f"{_xception_unit(scope, name)}/separable_conv2_pointwise/weights", 3)
            for stride, name in zip((4, 8, 16), strided[1:], strict=True)
        }

    ends: dict[int, tuple[str, int]] = {}
    stride = 2  # the first convolution makes it
    for index, unit in enumerate(mobilenet.NETWORKS[backbone.layer["version"]].units):
        stride *= unit.strides
        part = ("expand/weights", 3) if unit.fused else ("depthwise/depthwise_weights", 2)
        ends[stride] = (f"{_unit(scope, index)}/{part[0]}", part[1])
    return {stride: ends[stride] for stride in (4, 8, 16)}


def _residual_unit(scope: str, stage: int, block: int, bottleneck: bool) -> str:
    kind = "bottleneck_v1" if bottleneck else "lite_bottleneck_v1"
    return f"{scope}/block{stage}/unit_{block}/{kind}"


def _resnet_pairs(scope: str, depth: int, stem: str) -> Pairs:
    convs = resnet.STEMS[stem]
    for index in range(1, len(convs) + 1):
        theirs = f"{scope}/conv1_{index}" if len(convs) > 1 else f"{scope}/conv1"
        yield from layers.conv_norm(f"backbone/stem{index}", theirs)

    blocks, bottleneck = resnet.DEPTHS[depth]
    inputs = convs[-1][0]
    for stage, num_blocks in enumerate(blocks, start=1):
        width = 32 * 2**stage * (4 if bottleneck else 1)
        for block in range(1, num_blocks + 1):
            ours = f"backbone/stage{stage}_block{block}"
            theirs = _residual_unit(scope, stage, block, bottleneck)
            for conv in range(1, 4 if bottleneck else 3):
                yield from layers.conv_norm(f"{ours}/conv{conv}", f"{theirs}/conv{conv}")
            if inputs != width:
                yield from layers.conv_norm(f"{ours}/shortcut", f"{theirs}/shortcut")
            inputs = width


def _xception_unit(scope: str, name: str) -> str:
    """Returns the scope of the unit that we call, for example, entry_flow_block1_unit1."""
    flow, block, unit = re.fullmatch(r"(\w+)_block(\d)_unit(\d+)", name).groups()  # type: ignore[union-attr]
    return f"{scope}/{flow}/block{block}/unit_{unit}/xception_module"


def _xception_pairs(scope: str, depth: int) -> Pairs:
    for name in ("conv1_1", "conv1_2"):
        yield from layers.conv_norm(f"backbone/{name}", f"{scope}/entry_flow/{name}")

    for plan in xception.unit_plans(depth, 32):
        ours, theirs = f"backbone/{plan.name}", _xception_unit(scope, plan.name)
        for index in (1, 2, 3):
            conv = f"separable_conv{index}"
            yield from layers.separable(f"{ours}/{conv}", f"{theirs}/{conv}")
        if plan.shortcut == "conv":
            yield from layers.conv_norm(f"{ours}/shortcut", f"{theirs}/shortcut")


def _unit(scope: str, index: int) -> str:
    """Returns the scope of a MobileNet's unit; the first one has no number."""
    return f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"


def _mobilenet_pairs(scope: str, version: str) -> Pairs:
    network = mobilenet.NETWORKS[version]
    yield from layers.conv_norm("backbone/conv", f"{scope}/Conv")

    for index, unit in enumerate(network.units):
        ours, theirs = _unit("backbone", index), _unit(scope, index)
        if unit.expansion != 1:
            yield from layers.conv_norm(f"{ours}/expand", f"{theirs}/expand")
        if not unit.fused:
            yield from layers.depthwise_norm(f"{ours}/depthwise", f"{theirs}/depthwise")
        if unit.gated:
            gate = f"{theirs}/squeeze_excite"
            yield from layers.conv_bias(f"{ours}/squeeze_excite/reduce", f"{gate}/Conv")
            yield from layers.conv_bias(f"{ours}/squeeze_excite/gate", f"{gate}/Conv_1")
        yield from layers.conv_norm(f"{ours}/project", f"{theirs}/project")

    if network.last_filters:
        yield from layers.conv_norm("backbone/conv_1", f"{scope}/Conv_1")

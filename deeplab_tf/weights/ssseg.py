"""Maps weights of SSSegmentation, mmsegmentation, and ImageNet ResNets of PyTorch.

Names and layouts are in docs/ancestors.md, SSSegmentation, Network. Files of torchvision and
openmmlab have the names of the backbone without a prefix. Kernels of PyTorch are [out, in, height,
width]. In mmsegmentation, the input of the projection begins with image pooling; its channels are
rolled to our order, in which pooling comes last.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_tf import files
from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.models.backbones.resnet import DEPTHS, STEMS
from deeplab_tf.weights.mapping import Collector, Source
from deeplab_tf.weights.untold import Untold

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys under which files have the weights
_IGNORED = r".*num_batches_tracked|(backbone\.|backbone_net\.|head\.)?fc\.(weight|bias)"
# How the variants with these stems are called.
_VARIANTS = {"v1": "v1b", "v1c": "v1c"}
# What each program calls the backbone (a prefix) and the parts of the heads; {} is the number of a
# branch. A pair is a convolution and its normalisation. heads: pattern for the beginning of the
# names of all weights of the heads.
_SSSEG: dict[str, Any] = {
    "program": "SSSegmentation",
    "backbone": "backbone_net.",
    "heads": r"aspp_net\.|decoder\.|auxiliary_decoder\.",
    "branch": ("aspp_net.parallel_branches.{}.0", "aspp_net.parallel_branches.{}.1"),
    "pooling": ("aspp_net.global_branch.1", "aspp_net.global_branch.2"),
    "projection": ("aspp_net.bottleneck.0", "aspp_net.bottleneck.1"),
    "classifier": "decoder.1",
    "auxiliary": ("auxiliary_decoder.0", "auxiliary_decoder.1"),
    "auxiliary_classifier": "auxiliary_decoder.4",
}
_MMSEG: dict[str, Any] = {
    "program": "mmsegmentation",
    "backbone": "backbone.",
    "heads": r"decode_head\.|auxiliary_head\.",
    "branch": ("decode_head.aspp_modules.{}.conv", "decode_head.aspp_modules.{}.bn"),
    "pooling": ("decode_head.image_pool.1.conv", "decode_head.image_pool.1.bn"),
    "projection": ("decode_head.bottleneck.conv", "decode_head.bottleneck.bn"),
    "classifier": "decode_head.conv_seg",
    "auxiliary": ("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn"),
    "auxiliary_classifier": "auxiliary_head.conv_seg",
}
_MMSEG_REDUCTION = ("decode_head.c1_bottleneck.conv", "decode_head.c1_bottleneck.bn")


def state_dict(content: Any, path: str) -> dict[str, np.ndarray]:
    """Finds the weights in the content of a .pth file: at its top, or under one of _WRAPPERS.

    Args:
      path: what messages call the file.
    Raises:
      UserError: if there are none.
    """
    inner = content
    while isinstance(inner, dict):
        content = inner
        wrapped = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        inner = wrapped[0] if wrapped else None

    def is_weight(key, value):
        return isinstance(key, str) and isinstance(value, np.ndarray)

    if not isinstance(content, dict) or not any(is_weight(*item) for item in content.items()):
        raise UserError(f"{path} holds no state dict (looked under {', '.join(_WRAPPERS)}).")

    arrays = {}
    for key, value in content.items():
        if is_weight(key, value):
            name = key.removeprefix("module.")  # torch's DataParallel adds it
            # SSSegmentation called this layer fuse_layer in 2020.
            arrays[name.replace("aspp_net.fuse_layer.", "aspp_net.bottleneck.")] = value
    return arrays


def read(
    file: Mapping[str, np.ndarray],
    path: str,
    untold: Untold | None = None,
    *,
    backbone_only: bool = False,
) -> Source:
    """Maps a state dict to a model.

    Args:
      path: what messages call the file.
      untold: how the network is dilated; rates that are None mean 6, 12, 18, scaled to the output
        stride, which is 16 if it is None.
      backbone_only: whether to leave out all heads.
    Raises:
      UserError: if the file belongs to another network, or a weight is missing.
    """
    untold = untold or Untold()
    names = _names_in(file, path, backbone_only)
    collector = Collector(file, path)
    depth, stem = _backbone_of(file, collector, names["backbone"], path)
    settings: dict[str, Any] = {
        "model_variant": f"resnet_{_VARIANTS[stem]}_{depth}",
        "output_stride": untold.output_stride or 16,
        "atrous_rates": untold.atrous_rates,
        "multi_grid": untold.multi_grid,
        "multi_grid_replaces_rates": bool(untold.multi_grid) and names is _MMSEG,
    }

    num_classes = 0
    has_head = "classifier" in names and not backbone_only
    if has_head:
        num_classes = collector.classes(f"{names['classifier']}.weight", 0)
        settings |= _head_of(file, collector, names)

    config = ModelConfig(**settings)
    if has_head and len(config.atrous_rates) != _count_branches(file, names) - 1:
        rates = ",".join(map(str, config.atrous_rates))
        raise UserError(
            f"{path} has {_count_branches(file, names) - 1} atrous branches; give as many "
            f"--atrous_rates, not {rates}."
        )

    _take_backbone(collector, names["backbone"], depth, stem)
    known = re.escape(names["backbone"]) or r"(conv1|bn1|stem|layer\d+)\."
    if has_head:
        _take_heads(collector, names, config)
        known += f"|{names['heads']}"
    return collector.source(names["program"], config, num_classes, known=known, ignored=_IGNORED)


def has_mmseg_head(file: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict is one of mmsegmentation's, with a head."""
    return any(name.startswith("decode_head.") for name in file)


def _names_in(file: Mapping[str, np.ndarray], path: str, backbone_only: bool) -> dict[str, Any]:
    """Returns the names that the program which wrote the file gives to its layers.

    Raises:
      UserError: if the file has a head that cannot be imported.
    """

    def holds(start: str) -> bool:
        return any(name.startswith(start) for name in file)

    if holds("backbone_net."):
        names = _SSSEG
    elif has_mmseg_head(file):
        names = _MMSEG
    else:
        backbone = "backbone." if holds("backbone.") else ""
        heads = [n for n in file if not (n.startswith(backbone) or re.fullmatch(_IGNORED, n))]
        if heads and not backbone_only:
            head = files.shown(heads[0], most=80)
            raise UserError(
                f"{path} has a head that cannot be imported ({head}); its backbone can start a "
                f"training: --tf_initial_checkpoint={path} --initialize_last_layer=false."
            )
        return {"program": "ImageNet ResNet (PyTorch)", "backbone": backbone}

    if backbone_only:
        return names
    needed = (f"{names['classifier']}.weight", f"{names['projection'][0]}.weight")
    missing = [name for name in needed if name not in file]
    if missing or not _count_branches(file, names):
        raise UserError(
            f"{path} is a file of {names['program']}, but not of a DeepLabV3 or V3+ that can be "
            f"imported ({missing[0] if missing else 'ASPP'} is missing)."
        )
    return names


def _backbone_of(
    file: Mapping[str, np.ndarray], collector: Collector, prefix: str, path: str
) -> tuple[int, str]:
    """Returns the depth and the stem that follow from the blocks and layers in the file.

    Raises:
      UserError: if there is no such ResNet.
    """
    blocks = []
    for layer in range(1, 5):
        start = f"{prefix}layer{layer}."
        numbers = {name[len(start) :].split(".")[0] for name in file if name.startswith(start)}
        blocks.append(len(numbers))

    bottleneck = f"{prefix}layer1.0.conv3.weight" in file
    depths = [d for d, plan in DEPTHS.items() if plan == (tuple(blocks), bottleneck)]
    stem = "v1c" if f"{prefix}stem.0.weight" in file else "v1"
    first = f"{prefix}stem.0.weight" if stem == "v1c" else f"{prefix}conv1.weight"
    if not depths or first not in file or collector.shape(first, 4)[0] != STEMS[stem][0][0]:
        raise UserError(
            f"{path} holds no ResNet of depth {', '.join(map(str, DEPTHS))} with a 7x7 or a v1c "
            f"stem that can be imported (blocks found: {blocks})."
        )
    return depths[0], stem


def _count_branches(file: Mapping[str, np.ndarray], names: dict) -> int:
    """Returns the number of ASPP branches with a convolution: the 1x1 one and the atrous ones."""
    start = names["branch"][0].split("{}")[0]
    return len({name[len(start) :].split(".")[0] for name in file if name.startswith(start)})


def _head_of(file: Mapping[str, np.ndarray], collector: Collector, names: dict) -> dict[str, Any]:
    """Returns the settings of the heads that follow from their weights."""
    projection = f"{names['projection'][0]}.weight"
    settings: dict[str, Any] = {
        "aspp_convs_filters": collector.channels(projection, 0),
        "aspp_projection_kernel_size": collector.shape(projection, 4)[2],
        "add_image_level_feature": f"{names['pooling'][0]}.weight" in file,
        "aspp_with_separable_conv": "decode_head.aspp_modules.1.depthwise_conv.conv.weight" in file,
    }

    auxiliary, reduction = f"{names['auxiliary'][0]}.weight", f"{_MMSEG_REDUCTION[0]}.weight"
    if auxiliary in file:
        settings["auxiliary_filters"] = collector.channels(auxiliary, 0)
    if reduction in file:  # DeepLabV3+
        last = "decode_head.sep_bottleneck.0.pointwise_conv.conv.weight"
        settings["decoder_output_stride"] = (4,)
        settings["decoder_reduction_filters"] = collector.channels(reduction, 0)
        settings["decoder_filters"] = collector.channels(last, 0)
    return settings


def _kernel(array: np.ndarray) -> np.ndarray:
    """Transposes [out, in, height, width] to [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0)


def _take_conv_norm(collector: Collector, ours: str, conv: str, norm: str) -> None:
    collector.take(f"{ours}/conv/kernel", f"{conv}.weight", _kernel)
    _take_norm(collector, f"{ours}/norm", norm)


def _take_norm(collector: Collector, ours: str, norm: str) -> None:
    for part, name in _NORM.items():
        collector.take(f"{ours}/{part}", f"{norm}.{name}")


def _take_separable(collector: Collector, ours: str, theirs: str) -> None:
    depthwise = f"{theirs}.depthwise_conv"
    collector.take(
        f"{ours}/depthwise/depthwise_kernel",
        f"{depthwise}.conv.weight",
        lambda array: array.transpose(2, 3, 0, 1),
    )
    _take_norm(collector, f"{ours}/depthwise_norm", f"{depthwise}.bn")
    pointwise = f"{theirs}.pointwise_conv"
    _take_conv_norm(collector, f"{ours}/pointwise", f"{pointwise}.conv", f"{pointwise}.bn")


def _take_backbone(collector: Collector, prefix: str, depth: int, stem: str) -> None:
    if stem == "v1":
        _take_conv_norm(collector, "backbone/stem1", f"{prefix}conv1", f"{prefix}bn1")
    else:
        for index in range(3):
            parts = f"{prefix}stem.{3 * index}", f"{prefix}stem.{3 * index + 1}"
            _take_conv_norm(collector, f"backbone/stem{index + 1}", *parts)

    blocks, bottleneck = DEPTHS[depth]
    for stage, num_blocks in enumerate(blocks, start=1):
        for block in range(num_blocks):
            ours = f"backbone/stage{stage}_block{block + 1}"
            theirs = f"{prefix}layer{stage}.{block}"
            for conv in range(1, 4 if bottleneck else 3):
                parts = f"{theirs}.conv{conv}", f"{theirs}.bn{conv}"
                _take_conv_norm(collector, f"{ours}/conv{conv}", *parts)
            if block == 0 and (bottleneck or stage > 1):
                parts = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
                _take_conv_norm(collector, f"{ours}/shortcut", *parts)


def _take_heads(collector: Collector, names: dict, config: ModelConfig) -> None:
    for index in range(len(config.atrous_rates) + 1):
        ours = f"aspp/branch{index + 1}"
        conv, norm = (name.format(index) for name in names["branch"])
        if index and config.aspp_with_separable_conv:
            _take_separable(collector, ours, conv.removesuffix(".conv"))
        else:
            _take_conv_norm(collector, ours, conv, norm)
    _take_conv_norm(collector, "aspp/projection", *names["projection"])

    if config.add_image_level_feature:
        _take_conv_norm(collector, "aspp/pooling", *names["pooling"])
        if names is _MMSEG:
            collector.take(
                "aspp/projection/conv/kernel",
                f"{names['projection'][0]}.weight",
                lambda array: np.roll(_kernel(array), -config.aspp_convs_filters, axis=2),
            )
    if config.decoder_output_stride:
        _take_conv_norm(collector, "decoder/reduction", *_MMSEG_REDUCTION)
        for index in (1, 2):
            theirs = f"decode_head.sep_bottleneck.{index - 1}"
            _take_separable(collector, f"decoder/refinement{index}", theirs)

    classifiers = {"classifier": names["classifier"]}
    if config.auxiliary_filters:
        _take_conv_norm(collector, "auxiliary_head/conv", *names["auxiliary"])
        classifiers["auxiliary_head/classifier"] = names["auxiliary_classifier"]
    for ours, theirs in classifiers.items():
        collector.take(f"{ours}/conv/kernel", f"{theirs}.weight", _kernel)
        collector.take(f"{ours}/conv/bias", f"{theirs}.bias")

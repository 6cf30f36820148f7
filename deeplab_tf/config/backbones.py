"""The values of --model_variant, and what each of them means for other settings.

A variant decides how a network is built where its owners differ: a name of Google's DeepLab stands
for Google's strides, padding, normalisation, dropout and first weights. Our own names stand for the
conventions of the PyTorch programs. So each name builds the network that its users expect.

A new backbone needs an entry here, and a module `models.backbones.<family>`, which builds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# SSSegmentation, mmsegmentation and torchvision; docs/ancestors.md, SSSegmentation.
_PYTORCH: dict[str, Any] = {
    "atrous_rates": (6, 12, 18),
    "aspp_with_separable_conv": False,
    "aspp_dropout_rate": 0.0,
    "dropout_rate": 0.1,
    "initializer": "pytorch",
    "align_corners": False,
    "batch_norm_decay": 0.9,
    "head_batch_norm_decay": 0.9,
    "image_mean": (123.675, 116.28, 103.53),
    "image_std": (58.395, 57.12, 57.375),
}
# research/deeplab: common.py, model.py and core/feature_extractor.py.
_OFFICIAL: dict[str, Any] = {
    "atrous_rates": (),
    "aspp_with_separable_conv": True,
    "aspp_dropout_rate": 0.1,
    "dropout_rate": 0.0,
    "initializer": "official",
    "align_corners": True,
    "head_batch_norm_decay": 0.9997,
    "image_mean": (127.5, 127.5, 127.5),
    "image_std": (127.5, 127.5, 127.5),
}
# The networks that Google names without _beta subtract a mean and do not scale.
_OFFICIAL_MEAN: dict[str, Any] = {
    "image_mean": (123.15, 115.90, 103.06),
    "image_std": (1.0, 1.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What the settings need to know about a backbone.

    Attributes:
      family: the module in `models.backbones` that builds it.
      layer: the arguments that make the family's layer this variant.
      multi_grid: how many numbers --multi_grid takes; 0 if it has no meaning here.
      stride_placements: allowed values of --stride_placement; empty if it has no meaning here.
      conventions: the values of the settings that a user may leave open. The atrous rates are those
        at output stride 16.
    """

    family: str
    layer: Mapping[str, Any]
    multi_grid: int
    stride_placements: tuple[str, ...] = ()
    conventions: Mapping[str, Any]


def _pytorch_resnet(stem: str, depth: int) -> Backbone:
    # He et al. 2016, table 1: depths 18 and 34 have basic blocks, two 3x3 convolutions each, so
    # there is no 1x1 convolution that could have the stride.
    has_bottlenecks = depth >= 50
    return Backbone(
        family="resnet",
        layer={"stem": stem, "depth": depth},
        multi_grid=2 if depth == 18 else 3,
        stride_placements=("first_3x3", "first_1x1", "last_3x3")
        if has_bottlenecks
        else ("first_3x3",),
        conventions=_PYTORCH | {"stride_placement": "first_3x3", "stem_padding": "symmetric"},
    )


def _official_resnet(stem: str, depth: int) -> Backbone:
    conventions = _OFFICIAL | {
        "stride_placement": "last_3x3",
        "stem_padding": "same_pool",
        "batch_norm_decay": 0.95,
    }
    return Backbone(
        family="resnet",
        layer={"stem": stem, "depth": depth},
        multi_grid=2 if depth == 18 else 3,
        stride_placements=("last_3x3",),
        conventions=conventions | _OFFICIAL_MEAN if stem == "v1" else conventions,
    )


def _xception(depth: int) -> Backbone:
    return Backbone(
        family="xception",
        layer={"depth": depth},
        multi_grid=3,
        conventions=_OFFICIAL | {"batch_norm_decay": 0.9997},
    )


def _mobilenet(version: str) -> Backbone:
    return Backbone(
        family="mobilenet",
        layer={"version": version},
        multi_grid=0,
        conventions=_OFFICIAL | {"batch_norm_decay": 0.997},
    )


BACKBONES = {
    "mobilenet_v2": _mobilenet("v2"),
    "mobilenet_v3_large_seg": _mobilenet("v3_large"),
    "mobilenet_v3_small_seg": _mobilenet("v3_small"),
    "mobilenet_edgetpu": _mobilenet("edgetpu"),
    **{f"xception_{depth}": _xception(depth) for depth in (41, 65, 71)},
    **{f"resnet_v1_{depth}": _official_resnet("v1", depth) for depth in (18, 50, 101)},
    "resnet_v1_18_beta": _official_resnet("narrow_beta", 18),
    **{f"resnet_v1_{depth}_beta": _official_resnet("beta", depth) for depth in (50, 101)},
    # v1b is GluonCV's name for torchvision's ResNet, and v1c mmsegmentation's for its own.
    **{f"resnet_v1b_{depth}": _pytorch_resnet("v1", depth) for depth in (18, 34, 50, 101, 152)},
    **{f"resnet_v1c_{depth}": _pytorch_resnet("v1c", depth) for depth in (18, 34, 50, 101, 152)},
}
MOBILENETS = tuple(name for name, variant in BACKBONES.items() if variant.family == "mobilenet")


def is_official(variant: str) -> bool:
    """Returns whether a model variant is one of Google's, with Google's conventions."""
    return BACKBONES[variant].conventions["initializer"] == "official"

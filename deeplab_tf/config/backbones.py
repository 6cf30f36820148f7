"""The values of --model_variant, and what each of them means for other settings.

A new backbone needs an entry here and a layer in `models.backbones`, which builds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What the settings need to know about a backbone.

    Attributes:
      family: a key of `models.backbones.FAMILIES`, which maps it to the layer.
      layer: the arguments that make the layer this variant.
      last_stage_blocks: number of blocks in the last stage, which is how many numbers --multi_grid
        takes; 0 if it has no meaning here.
      stride_placements: allowed values of --stride_placement, the default first; empty if it has no
        meaning here.
      initializer: default of --initializer.
    """

    family: str
    layer: Mapping[str, Any]
    last_stage_blocks: int
    stride_placements: tuple[str, ...]
    initializer: str = "pytorch"


def _resnet(stem: str, depth: int) -> Backbone:
    # He et al. 2016, table 1: depths 18 and 34 have basic blocks, two 3x3 convolutions each, so
    # there is no 1x1 convolution that could have the stride.
    has_bottlenecks = depth >= 50
    placements = ("first_3x3", "first_1x1", "last_3x3") if has_bottlenecks else ("first_3x3",)
    return Backbone(
        family="resnet",
        layer={"stem": stem, "depth": depth},
        last_stage_blocks=2 if depth == 18 else 3,
        stride_placements=placements,
    )


def _official_beta(depth: int) -> Backbone:
    return Backbone(
        family="resnet",
        layer={"stem": "beta", "depth": depth},
        last_stage_blocks=3,
        stride_placements=("last_3x3",),
        initializer="official",
    )


BACKBONES = {
    **{
        f"resnet_{stem}_{depth}": _resnet(stem, depth)
        for stem in ("v1", "v1c")
        for depth in (18, 34, 50, 101, 152)
    },
    **{f"resnet_v1_{depth}_beta": _official_beta(depth) for depth in (50, 101)},
}

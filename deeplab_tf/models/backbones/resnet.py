"""Dilated residual networks (He et al. 2016; dilation as in Chen et al. 2017, sec. 3.1).

Features are keyed by stage, "stage1" to "stage4"; at output stride 8 three stages share a stride,
so a stride does not name one. Stage 1 has stride 4; later ones halve the size until the output
stride is reached and are dilated from there.
"""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.layers import NAMESPACE, ConvNorm, pad_symmetric
from deeplab_tf.ops.recompute import recomputed

# Blocks in each stage, and whether they are bottlenecks (He et al. 2016, table 1).
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
# (filters, kernel, stride) of the convolutions before the max pool: v1 as in the paper, v1c with
# the 7x7 split in three (He et al. 2019, arXiv:1812.01187, "ResNet-C"), beta wider (official
# resnet_v1_beta.py).
STEMS = {
    "v1": ((64, 7, 2),),
    "v1c": ((32, 3, 2), (32, 3, 1), (64, 3, 1)),
    "beta": ((64, 3, 2), (64, 3, 1), (128, 3, 1)),
}


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ResidualBlock(tf.keras.layers.Layer):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3, 1x1); stride and rate act in the first 3x3.

    With `stride_in_1x1` the stride acts in a bottleneck's first 1x1. Without `project` the input
    itself is added, every `strides`-th cell of it.

    The second 3x3 of a basic block is never dilated, as in the ancestors (SSSegmentation and
    mmsegmentation, BasicBlock), whose weights expect it so.

    Returns the sum after its ReLU, and only its convolutional part (where official DeepLab's
    decoder starts), both [B, ceil(H / strides), ceil(W / strides), filters * (4 if bottleneck
    else 1)].
    """

    def __init__(
        self,
        filters: int,
        *,
        bottleneck: bool,
        strides: int,
        rate: int,
        project: bool,
        stride_in_1x1: bool = False,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "bottleneck": bottleneck,
            "strides": strides,
            "rate": rate,
            "project": project,
            "stride_in_1x1": stride_in_1x1,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }
        self.strides = strides
        common: dict[str, Any] = {
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
            "part": "backbone",
        }
        if bottleneck:
            self.convs = [
                ConvNorm(
                    filters, 1, strides=strides if stride_in_1x1 else 1, name="conv1", **common
                ),
                ConvNorm(
                    filters,
                    3,
                    strides=1 if stride_in_1x1 else strides,
                    rate=rate,
                    name="conv2",
                    **common,
                ),
                ConvNorm(4 * filters, 1, relu=False, name="conv3", **common),
            ]
        else:
            self.convs = [
                ConvNorm(filters, 3, strides=strides, rate=rate, name="conv1", **common),
                ConvNorm(filters, 3, relu=False, name="conv2", **common),
            ]
        self.shortcut = None
        if project:
            width = 4 * filters if bottleneck else filters
            self.shortcut = ConvNorm(
                width, 1, strides=strides, relu=False, name="shortcut", **common
            )

    def call(self, inputs, training=False, update_averages=True):
        norm = {"training": training, "update_averages": update_averages}
        outputs = inputs
        for conv in self.convs:
            outputs = conv(outputs, **norm)

        if self.shortcut:
            shortcut = self.shortcut(inputs, **norm)
        else:
            shortcut = inputs[:, :: self.strides, :: self.strides]
        return tf.nn.relu(outputs + shortcut), outputs

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ResNet(tf.keras.layers.Layer):
    """A ResNet without classifier: normalised images [B, H, W, 3] -> {stage: features}.

    In addition to "stage1" to "stage4" there are "stage1_branch", ...: the convolutional part of
    the stage's second-to-last block, which official DeepLab's decoder takes.
    """

    context_end_point = "stage4"
    auxiliary_end_point = "stage3"

    def __init__(
        self,
        depth: int,
        *,
        stem: str = "v1",
        output_stride: int = 32,
        multi_grid: Sequence[int] = (),
        multi_grid_replaces_rates: bool = False,
        stride_placement: str = "first_3x3",
        stem_padding: str = "symmetric",
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "depth": depth,
            "stem": stem,
            "output_stride": output_stride,
            "multi_grid": list(multi_grid),
            "multi_grid_replaces_rates": multi_grid_replaces_rates,
            "stride_placement": stride_placement,
            "stem_padding": stem_padding,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }
        self.stem = [
            ConvNorm(
                filters,
                kernel,
                strides=strides,
                symmetric=stem_padding != "same",
                batch_norm_decay=batch_norm_decay,
                initializer=initializer,
                part="backbone",
                name=f"stem{index + 1}",
            )
            for index, (filters, kernel, strides) in enumerate(STEMS[stem])
        ]
        num_blocks, bottleneck = DEPTHS[depth]
        plan_stages = last_stride_plans if stride_placement == "last_3x3" else stage_plans
        plans = plan_stages(num_blocks, output_stride, multi_grid)
        if multi_grid and multi_grid_replaces_rates:
            plans[-1] = [
                (strides, rate) for (strides, _), rate in zip(plans[-1], multi_grid, strict=True)
            ]
        self.blocks = [  # one flat list: Keras does not save layers in nested ones
            ResidualBlock(
                32 * 2**stage,
                bottleneck=bottleneck,
                strides=strides,
                rate=rate,
                project=block == 0 and (bottleneck or stage > 1),
                stride_in_1x1=stride_placement == "first_1x1",
                batch_norm_decay=batch_norm_decay,
                initializer=initializer,
                name=f"stage{stage}_block{block + 1}",
            )
            for stage, plan in enumerate(plans, start=1)
            for block, (strides, rate) in enumerate(plan)
        ]

    def call(self, inputs, training=False, recompute_stages=0):
        """Returns the features.

        Args:
          recompute_stages: how many of the stem and the stages, from the first, are computed
            again for their gradients, instead of being kept in memory until then.
        """

        def part(number, run, layers):
            run = functools.partial(run, layers, training=training)
            return recomputed(run) if training and number < recompute_stages else run

        features: dict[str, tf.Tensor] = {}
        outputs = part(0, self._run_stem, self.stem)(inputs)
        for stage in range(1, 5):
            blocks = [block for block in self.blocks if block.name.startswith(f"stage{stage}_")]
            outputs, branch = part(stage, self._run_blocks, blocks)(outputs)
            features |= {f"stage{stage}": outputs, f"stage{stage}_branch": branch}
        return features

    def _run_blocks(self, blocks, outputs, training, update_averages=True):
        branches = []
        for block in blocks:
            outputs, branch = block(outputs, training=training, update_averages=update_averages)
            branches.append(branch)
        return outputs, branches[-2]

    def _run_stem(self, convs, outputs, training, update_averages=True):
        for conv in convs:
            outputs = conv(outputs, training=training, update_averages=update_averages)

        padding = "SAME"
        if self._settings["stem_padding"] == "symmetric":
            # Zeros serve as padding of the maximum: what comes out of a ReLU is never below them.
            outputs, padding = pad_symmetric(outputs, [1, 1]), "VALID"
        return tf.nn.max_pool2d(outputs, 3, 2, padding)

    def decoder_end_point(self, stride: int) -> str:
        """Returns which feature map a decoder takes at a stride of 4, 8 or 16."""
        stage = {4: "stage1", 8: "stage2", 16: "stage3"}[stride]
        # With the stride in its last block a stage itself ends at twice the stride.
        strides_last = self._settings["stride_placement"] == "last_3x3"
        return f"{stage}_branch" if strides_last else stage

    def get_config(self):
        return super().get_config() | self._settings


def layer_settings(config: ModelConfig) -> dict[str, Any]:
    """Returns the arguments of the ResNet that the settings name.

    Those that are left open follow the program that the variant comes from.
    """
    variant = BACKBONES[config.model_variant]
    placement = config.stride_placement or variant.stride_placements[0]
    padding = "same_pool" if placement == "last_3x3" else "symmetric"
    return {
        **variant.layer,
        "output_stride": config.output_stride,
        "multi_grid": config.multi_grid,
        "multi_grid_replaces_rates": config.multi_grid_replaces_rates,
        "stride_placement": placement,
        "stem_padding": config.stem_padding or padding,
    }


def stage_plans(
    blocks: Sequence[int], output_stride: int, multi_grid: Sequence[int] = ()
) -> list[list[tuple[int, int]]]:
    """Returns for each stage the (stride, rate) of its blocks.

    Past the output stride a stage is dilated instead of strided, at twice the rate of the stage
    before. Its first block still works at that previous rate ("contracted dilation"), unless
    multi-grid sets all rates of the stage.

    Args:
      blocks: number of blocks in each stage.
      output_stride: 8, 16 or 32.
      multi_grid: factors on the rates of the last stage's blocks (Chen et al. 2017, sec. 3.2).
    """
    plans, stride, rate = [], 4, 1  # the stem and the max pool make stride 4
    for stage, num_blocks in enumerate(blocks, start=1):
        strides, first_rate = 1, rate
        if stage > 1 and stride < output_stride:
            strides, stride = 2, 2 * stride
        elif stage > 1:
            rate *= 2
        rates = [first_rate] + [rate] * (num_blocks - 1)
        if multi_grid and stage == len(blocks):
            rates = [rate * factor for factor in multi_grid]
        plans.append([(strides, rates[0])] + [(1, later) for later in rates[1:]])
    return plans


def last_stride_plans(
    blocks: Sequence[int], output_stride: int, multi_grid: Sequence[int] = ()
) -> list[list[tuple[int, int]]]:
    """Returns the (stride, rate) of all blocks where the last block of a stage has its stride.

    As in official DeepLab (slim, stack_blocks_dense): stages 1 to 3 end in a stride; once the
    output stride is reached, it only doubles the rate of what follows.

    Args: as in `stage_plans`.
    """
    plans, stride, rate = [], 4, 1
    for stage, num_blocks in enumerate(blocks, start=1):
        last = stage == len(blocks)
        factors = multi_grid if last and multi_grid else [1] * num_blocks
        plan = [(1, rate * factor) for factor in factors]
        if not last and stride < output_stride:
            plan[-1], stride = (2, rate), 2 * stride
        elif not last:
            rate *= 2
        plans.append(plan)
    return plans

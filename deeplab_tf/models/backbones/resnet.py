"""Dilated residual networks (He et al. 2016; dilation as in Chen et al. 2017, sec. 3.1).

Features are named after their stages, "stage1" to "stage4". Their strides would not do as names: at
output stride 8, three stages have the same one. Stage 1 has stride 4. Each later stage halves the
size, until the output stride is reached; from there on the stages are dilated instead.
"""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.layers import NAMESPACE, ConvNorm, pad_symmetric
from deeplab_tf.ops.recompute import recomputed

# By depth: number of blocks in each stage, and whether they are bottlenecks (He et al. 2016,
# table 1).
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
# (filters, kernel, stride) of each convolution before the max pool. v1 is the paper's. v1c replaces
# its 7x7 by three 3x3 (He et al. 2019, arXiv:1812.01187, "ResNet-C"). So do Google's, with other
# filters (official resnet_v1_beta.py; there, depth 18 has a quarter of the others').
STEMS = {
    "v1": ((64, 7, 2),),
    "v1c": ((32, 3, 2), (32, 3, 1), (64, 3, 1)),
    "beta": ((64, 3, 2), (64, 3, 1), (128, 3, 1)),
    "narrow_beta": ((16, 3, 2), (16, 3, 1), (32, 3, 1)),
}


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ResidualBlock(tf.keras.layers.Layer):
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3, 1x1), with its shortcut.

    Returns two maps, [B, ceil(H / strides), ceil(W / strides), filters], with 4 * filters for a
    bottleneck: the sum after its ReLU, and the convolutional part before it is added, where
    official DeepLab's decoder starts.

    Args:
      filters: channels of the block, without the last 1x1 of a bottleneck.
      bottleneck: whether it is one.
      strides, rate: of the block's 3x3.
      project: whether the shortcut is a 1x1 convolution. Otherwise it is every `strides`-th cell of
        the input.
      stride_placement: as in `ResNet`. With first_1x1, the first 1x1 of a bottleneck has the stride
        instead. Of the two 3x3 of a basic block, the first one has stride and rate, and the second
        one has neither (BasicBlock of SSSegmentation and mmsegmentation); with last_3x3 both have
        the rate, and the second one has the stride (lite_bottleneck of official DeepLab).
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: int,
        *,
        bottleneck: bool,
        strides: int,
        rate: int,
        project: bool,
        stride_placement: str = "first_3x3",
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
            "stride_placement": stride_placement,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        self.strides = strides
        common: dict[str, Any] = {
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
            "part": "backbone",
        }

        stride_in_1x1 = stride_placement == "first_1x1"
        in_last = stride_placement == "last_3x3"
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
                ConvNorm(4 * filters, 1, activation="", name="conv3", **common),
            ]
        else:
            self.convs = [
                ConvNorm(
                    filters, 3, strides=1 if in_last else strides, rate=rate, name="conv1", **common
                ),
                ConvNorm(
                    filters,
                    3,
                    strides=strides if in_last else 1,
                    rate=rate if in_last else 1,
                    activation="",
                    name="conv2",
                    **common,
                ),
            ]

        self.shortcut = None
        if project:
            width = 4 * filters if bottleneck else filters
            self.shortcut = ConvNorm(
                width, 1, strides=strides, activation="", name="shortcut", **common
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

    In addition to "stage1" to "stage4" it returns "stage1_branch" to "stage4_branch": the
    convolutional part of the stage's second-to-last block, which official DeepLab's decoder takes.

    Args:
      depth: a key of DEPTHS.
      stem: a key of STEMS.
      output_stride, multi_grid: as in `stage_plans`.
      multi_grid_replaces_rates: whether `multi_grid` is the rates of the last stage themselves, and
        not factors on them.
      stride_placement: which convolution of a stage has its stride: first_3x3 or first_1x1 of its
        first block, or last_3x3, of its last block.
      stem_padding: symmetric; same, which pads stem and max pool as TensorFlow does; or same_pool,
        which pads only the max pool so.
      batch_norm_decay, initializer: as in `ConvNorm`.
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

        stem_filters = STEMS[stem][-1][0]
        if multi_grid and multi_grid_replaces_rates:
            plans[-1] = [
                (strides, rate) for (strides, _), rate in zip(plans[-1], multi_grid, strict=True)
            ]

        self.blocks = [  # one flat list, since Keras does not save layers in nested lists
            ResidualBlock(
                32 * 2**stage,
                bottleneck=bottleneck,
                strides=strides,
                rate=rate,
                # The shortcut is a convolution where the number of channels changes.
                project=block == 0 and (bottleneck or stage > 1 or stem_filters != 64),
                stride_placement=stride_placement,
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
          recompute_stages: number of parts (the stem, then the stages) whose inner results are not
            kept in memory until the backward pass, which computes them again.
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
            # Zeros can pad a maximum here, since the outputs of a ReLU are never below zero.
            outputs, padding = pad_symmetric(outputs, [1, 1]), "VALID"
        return tf.nn.max_pool2d(outputs, 3, 2, padding)

    def decoder_end_point(self, stride: int) -> str:
        """Returns the name of the feature map that a decoder takes at a stride of 4, 8 or 16."""
        stage = {4: "stage1", 8: "stage2", 16: "stage3"}[stride]

        # If the last block has the stride, the stage's own output has twice the stride already.
        strides_last = self._settings["stride_placement"] == "last_3x3"
        return f"{stage}_branch" if strides_last else stage

    def get_config(self):
        return super().get_config() | self._settings


def build(config: ModelConfig, *, name: str) -> ResNet:
    """Builds the ResNet that the settings name."""
    return ResNet(
        **BACKBONES[config.model_variant].layer,
        output_stride=config.output_stride,
        multi_grid=config.multi_grid,
        multi_grid_replaces_rates=config.multi_grid_replaces_rates,
        stride_placement=config.stride_placement,
        stem_padding=config.stem_padding,
        batch_norm_decay=config.batch_norm_decay,
        initializer=config.initializer,
        name=name,
    )


def stage_plans(
    blocks: Sequence[int], output_stride: int, multi_grid: Sequence[int] = ()
) -> list[list[tuple[int, int]]]:
    """Returns for each stage the (stride, rate) of its blocks, with the stride in the first block.

    Once the output stride is reached, a stage has twice the rate of the previous stage instead of a
    stride. Its first block keeps the previous rate ("contracted dilation"), unless multi-grid sets
    all rates of the stage.

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
    """Returns for each stage the (stride, rate) of its blocks, with the stride in the last block.

    As in official DeepLab (slim, stack_blocks_dense): stages 1 to 3 end in a stride. Once the
    output stride is reached, the end of a stage doubles the rate of all later ones instead.

    Args:
      blocks, output_stride, multi_grid: as in `stage_plans`.
    """
    plans, stride, rate = [], 4, 1
    for stage, num_blocks in enumerate(blocks, start=1):
        is_last = stage == len(blocks)
        factors = multi_grid if is_last and multi_grid else [1] * num_blocks
        plan = [(1, rate * factor) for factor in factors]

        if not is_last and stride < output_stride:
            plan[-1], stride = (2, rate), 2 * stride
        elif not is_last:
            rate *= 2
        plans.append(plan)
    return plans

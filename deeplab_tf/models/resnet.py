"""Dilated residual networks (He et al. 2016; dilation as in Chen et al. 2017, sec. 3.1).

Features are keyed by stage, "stage1" to "stage4"; at output stride 8 three stages share a stride,
so a stride does not name one. Stage 1 has stride 4; later ones halve the size until the output
stride is reached and are dilated from there.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.models.layers import NAMESPACE, ConvNorm, pad_symmetric

# Blocks in each stage, and whether they are bottlenecks (He et al. 2016, table 1).
DEPTHS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
# (filters, kernel, stride) of the convolutions before the max pool: v1 as in the paper, v1c with
# the 7x7 split in three (He et al. 2019, arXiv:1812.01187, "ResNet-C").
STEMS = {"v1": ((64, 7, 2),), "v1c": ((32, 3, 2), (32, 3, 1), (64, 3, 1))}


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ResidualBlock(tf.keras.layers.Layer):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3, 1x1); stride and rate act in the first 3x3.

    The second 3x3 of a basic block is never dilated, as in the ancestors (SSSegmentation and
    mmsegmentation, BasicBlock), whose weights expect it so.

    Returns [B, ceil(H / strides), ceil(W / strides), filters * (4 if bottleneck else 1)].
    """

    def __init__(
        self,
        filters: int,
        *,
        bottleneck: bool,
        strides: int,
        rate: int,
        project: bool,
        batch_norm_decay: float = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "bottleneck": bottleneck,
            "strides": strides,
            "rate": rate,
            "project": project,
            "batch_norm_decay": batch_norm_decay,
        }
        norm: dict[str, Any] = {"batch_norm_decay": batch_norm_decay}
        if bottleneck:
            self.convs = [
                ConvNorm(filters, 1, name="conv1", **norm),
                ConvNorm(filters, 3, strides=strides, rate=rate, name="conv2", **norm),
                ConvNorm(4 * filters, 1, relu=False, name="conv3", **norm),
            ]
        else:
            self.convs = [
                ConvNorm(filters, 3, strides=strides, rate=rate, name="conv1", **norm),
                ConvNorm(filters, 3, relu=False, name="conv2", **norm),
            ]
        self.shortcut = None
        if project:
            width = 4 * filters if bottleneck else filters
            self.shortcut = ConvNorm(width, 1, strides=strides, relu=False, name="shortcut", **norm)

    def call(self, inputs, training=False):
        outputs = inputs
        for conv in self.convs:
            outputs = conv(outputs, training=training)
        shortcut = self.shortcut(inputs, training=training) if self.shortcut else inputs
        return tf.nn.relu(outputs + shortcut)

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ResNet(tf.keras.layers.Layer):
    """A ResNet without classifier: normalised images [B, H, W, 3] -> {stage: features}."""

    def __init__(
        self,
        depth: int,
        *,
        stem: str = "v1",
        output_stride: int = 32,
        multi_grid: Sequence[int] = (),
        batch_norm_decay: float = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "depth": depth,
            "stem": stem,
            "output_stride": output_stride,
            "multi_grid": list(multi_grid),
            "batch_norm_decay": batch_norm_decay,
        }
        self.stem = [
            ConvNorm(
                filters,
                kernel,
                strides=strides,
                batch_norm_decay=batch_norm_decay,
                name=f"stem{index + 1}",
            )
            for index, (filters, kernel, strides) in enumerate(STEMS[stem])
        ]
        num_blocks, bottleneck = DEPTHS[depth]
        self.blocks = [  # one flat list: Keras does not save layers in nested ones
            ResidualBlock(
                32 * 2**stage,
                bottleneck=bottleneck,
                strides=strides,
                rate=rate,
                project=block == 0 and (bottleneck or stage > 1),
                batch_norm_decay=batch_norm_decay,
                name=f"stage{stage}_block{block + 1}",
            )
            for stage, plan in enumerate(
                stage_plans(num_blocks, output_stride, multi_grid), start=1
            )
            for block, (strides, rate) in enumerate(plan)
        ]

    def call(self, inputs, training=False):
        outputs = inputs
        for conv in self.stem:
            outputs = conv(outputs, training=training)
        # Zeros serve as padding of the maximum: what comes out of a ReLU is never below them.
        outputs = tf.nn.max_pool2d(pad_symmetric(outputs, [1, 1]), 3, 2, "VALID")
        features = {}
        for block in self.blocks:
            outputs = block(outputs, training=training)
            features[block.name.split("_")[0]] = outputs
        return features

    def get_config(self):
        return super().get_config() | self._settings


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

"""MobileNets: V2, V3 for segmentation, and EdgeTPU, as official DeepLab has them.

(Sandler et al. 2018, arXiv:1801.04381; Howard et al. 2019, arXiv:1905.02244; official slim,
nets/mobilenet, and feature_extractor.py.) All convolutions pad by TensorFlow's SAME, those with a
stride too.

Features are named after their stages, "stage1" to "stage5". Without dilation, stage n has stride
2^n. Once the output stride is reached, later stages are dilated instead and keep the size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models import initializers
from deeplab_tf.models.layers import (
    NAMESPACE,
    ConvNorm,
    DepthwiseConvNorm,
    Foldable,
    hard_sigmoid,
)
from deeplab_tf.ops.pooling import whole_mean
from deeplab_tf.ops.recompute import recomputed

NUM_STAGES = 5
_EPSILON = 1e-3  # of batch normalisation: slim's default

R, R6, HS = "relu", "relu6", "hard_swish"


class Unit(NamedTuple):
    """One row of a network's table: an inverted residual, at a depth multiplier of 1.

    Attributes:
      kernel: kernel size of its spatial convolution.
      expansion: factor on the channels of its input that gives its inner channels.
      filters: channels of its result.
      strides, activation: of the spatial convolution; the expansion has the same activation.
      gated: whether it has a squeeze-and-excite gate.
      fused: whether one full convolution both expands and looks around, and none is depthwise.
      residual: whether the input is added to a result that has the same shape.
    """

    kernel: int
    expansion: float
    filters: int
    strides: int
    activation: str
    gated: bool = False
    fused: bool = False
    residual: bool = True


class Network(NamedTuple):
    """A MobileNet at a depth multiplier of 1.

    Attributes:
      filters: channels of the first convolution, a 3x3 with stride 2.
      units: the inverted residuals after it.
      last_filters: channels of the 1x1 convolution at the end; 0 if there is none.
      activation: of these two convolutions.
    """

    filters: int
    units: tuple[Unit, ...]
    last_filters: int
    activation: str


_V2 = Network(
    filters=32,
    units=(
        Unit(3, 1, 16, 1, R6),
        Unit(3, 6, 24, 2, R6),
        Unit(3, 6, 24, 1, R6),
        Unit(3, 6, 32, 2, R6),
        Unit(3, 6, 32, 1, R6),
        Unit(3, 6, 32, 1, R6),
        Unit(3, 6, 64, 2, R6),
        Unit(3, 6, 64, 1, R6),
        Unit(3, 6, 64, 1, R6),
        Unit(3, 6, 64, 1, R6),
        Unit(3, 6, 96, 1, R6),
        Unit(3, 6, 96, 1, R6),
        Unit(3, 6, 96, 1, R6),
        Unit(3, 6, 160, 2, R6),
        Unit(3, 6, 160, 1, R6),
        Unit(3, 6, 160, 1, R6),
        Unit(3, 6, 320, 1, R6),
    ),
    last_filters=0,  # DeepLab leaves out the 1280 of the classifier
    activation=R6,
)
# The last stage of V3 has half the channels that it has in the classifier (Howard et al. 2019,
# sec. 6.4).
_V3_LARGE = Network(
    filters=16,
    units=(
        Unit(3, 1, 16, 1, R),
        Unit(3, 4, 24, 2, R),
        Unit(3, 3, 24, 1, R),
        Unit(5, 3, 40, 2, R, gated=True),
        Unit(5, 3, 40, 1, R, gated=True),
        Unit(5, 3, 40, 1, R, gated=True),
        Unit(3, 6, 80, 2, HS),
        Unit(3, 2.5, 80, 1, HS),
        Unit(3, 184 / 80, 80, 1, HS),
        Unit(3, 184 / 80, 80, 1, HS),
        Unit(3, 6, 112, 1, HS, gated=True),
        Unit(3, 6, 112, 1, HS, gated=True),
        Unit(5, 3, 80, 2, HS, gated=True),
        Unit(5, 6, 80, 1, HS, gated=True),
        Unit(5, 6, 80, 1, HS, gated=True),
    ),
    last_filters=480,
    activation=HS,
)
_V3_SMALL = Network(
    filters=16,
    units=(
        Unit(3, 1, 16, 2, R, gated=True),
        Unit(3, 72 / 16, 24, 2, R),
        Unit(3, 88 / 24, 24, 1, R),
        Unit(5, 4, 40, 2, HS, gated=True),
        Unit(5, 6, 40, 1, HS, gated=True),
        Unit(5, 6, 40, 1, HS, gated=True),
        Unit(5, 3, 48, 1, HS, gated=True),
        Unit(5, 3, 48, 1, HS, gated=True),
        Unit(5, 3, 48, 2, HS, gated=True),
        Unit(5, 6, 48, 1, HS, gated=True),
        Unit(5, 6, 48, 1, HS, gated=True),
    ),
    last_filters=288,
    activation=HS,
)
_EDGETPU = Network(
    filters=32,
    units=(
        Unit(3, 1, 16, 1, R, fused=True),
        Unit(3, 8, 32, 2, R, fused=True),
        Unit(3, 4, 32, 1, R, fused=True),
        Unit(3, 4, 32, 1, R, fused=True),
        Unit(3, 4, 32, 1, R, fused=True),
        Unit(3, 8, 48, 2, R, fused=True),
        Unit(3, 4, 48, 1, R, fused=True),
        Unit(3, 4, 48, 1, R, fused=True),
        Unit(3, 4, 48, 1, R, fused=True),
        Unit(3, 8, 96, 2, R),
        Unit(3, 4, 96, 1, R),
        Unit(3, 4, 96, 1, R),
        Unit(3, 4, 96, 1, R),
        Unit(3, 8, 96, 1, R, residual=False),
        Unit(3, 4, 96, 1, R),
        Unit(3, 4, 96, 1, R),
        Unit(3, 4, 96, 1, R),
        Unit(5, 8, 160, 2, R),
        Unit(5, 4, 160, 1, R),
        Unit(5, 4, 160, 1, R),
        Unit(5, 4, 160, 1, R),
        Unit(3, 8, 192, 1, R),
    ),
    last_filters=1280,
    activation=R,
)
NETWORKS = {"v2": _V2, "v3_large": _V3_LARGE, "v3_small": _V3_SMALL, "edgetpu": _EDGETPU}


def divisible(width: float, divisor: int, least: int) -> int:
    """Returns the multiple of `divisor` nearest to a width, and not below nine tenths of it.

    Args:
      least: smallest result, even if it is no multiple.
    """
    nearest = max(least, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def scaled(filters: int, version: str, *, depth_multiplier: float, divisible_by: int = 0) -> int:
    """Returns the number of channels that a layer has at a depth multiplier.

    V3 and EdgeTPU always have multiples of 8. So has V2 at a multiplier of 1; at any other one
    official DeepLab rounds its widths to whole numbers.

    Args:
      filters: the number at a multiplier of 1.
      version: a key of NETWORKS.
      divisible_by: for V2 a number that the widths are multiples of instead; 0 for none.
    """
    least = 8 if version != "v2" or depth_multiplier == 1 else 1
    divisor = divisible_by if version == "v2" and divisible_by else least
    return divisible(filters * depth_multiplier, divisor, least)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SqueezeExcite(Foldable, tf.keras.layers.Layer):
    """Multiplies each channel by a gate that looks at the mean of the whole map.

    (Hu et al. 2018, arXiv:1709.01507, with the piecewise linear gate of Howard et al. 2019.)
    [B, H, W, channels] -> the same shape.

    Args:
      channels: number of channels; a quarter of it, as a multiple of 8, is between the two layers.
      initializer: as in `ConvNorm`.
    """

    def __init__(self, channels: int, *, initializer: str = "pytorch", **kwargs):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {"channels": channels, "initializer": initializer}

        squeezed = divisible(channels / 4, 8, 8)
        self.reduce = self._conv(squeezed, channels, activation="relu", name="reduce")
        self.gate = self._conv(channels, squeezed, activation=None, name="gate")

    def _conv(self, filters, inputs, **settings):
        style = self._settings["initializer"]
        return tf.keras.layers.Conv2D(
            filters,
            1,
            kernel_initializer=initializers.kernel_initializer(style, "separable_backbone"),
            bias_initializer=initializers.bias_initializer(style, inputs),
            data_format="channels_last",
            **settings,
        )

    def fold(self, map_size: tuple[int, ...] = ()):
        """Names the weights for inference, which are the layer's own."""
        self.use_in_inference(*self.reduce.weights, *self.gate.weights)

    def call(self, inputs):
        gate = self.gate(self.reduce(whole_mean(inputs)))
        return inputs * hard_sigmoid(gate)

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class InvertedResidual(tf.keras.layers.Layer):
    """Expands by a 1x1, looks around by a depthwise convolution, and projects by a 1x1.

    Returns two maps: the result, [B, ceil(H / strides), ceil(W / strides), filters], and what its
    spatial convolution gave, of the same height and width with `inner` channels, where official
    DeepLab's decoder starts.

    Args:
      filters: channels of the result, which has no activation.
      inner: channels between expansion and projection.
      expand: whether there is an expansion; without it, `inner` is the channels of the input.
      kernel_size, strides, rate, activation: of the depthwise convolution.
      gated: whether a squeeze-and-excite gate follows on it.
      fused: whether the expansion has kernel and stride, and there is no depthwise convolution.
      add_input: whether the input is added to the result.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: int,
        *,
        inner: int,
        expand: bool,
        kernel_size: int = 3,
        strides: int = 1,
        rate: int = 1,
        activation: str = R6,
        gated: bool = False,
        fused: bool = False,
        add_input: bool = False,
        batch_norm_decay: float = 0.997,
        initializer: str = "official",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "inner": inner,
            "expand": expand,
            "kernel_size": kernel_size,
            "strides": strides,
            "rate": rate,
            "activation": activation,
            "gated": gated,
            "fused": fused,
            "add_input": add_input,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        self.add_input = add_input
        common = _common(batch_norm_decay, initializer)
        spatial: dict[str, Any] = {"strides": strides, "activation": activation, **common}

        self.expand = self.depthwise = self.squeeze_excite = None
        if expand and fused:
            self.expand = ConvNorm(
                inner, kernel_size, part="separable_backbone", name="expand", **spatial
            )
        elif expand:
            self.expand = ConvNorm(
                inner, 1, activation=activation, part="separable_backbone", name="expand", **common
            )

        if not fused:
            self.depthwise = DepthwiseConvNorm(
                kernel_size, rate=rate, part="backbone_depthwise", name="depthwise", **spatial
            )
        if gated:
            self.squeeze_excite = SqueezeExcite(
                inner, initializer=initializer, name="squeeze_excite"
            )
        self.project = ConvNorm(
            filters, 1, activation="", part="separable_backbone", name="project", **common
        )

    def call(self, inputs, training=False, update_averages=True):
        norm = {"training": training, "update_averages": update_averages}

        inner = inputs
        if self.expand:
            inner = self.expand(inner, **norm)
        if self.depthwise:
            inner = self.depthwise(inner, **norm)

        gated = self.squeeze_excite(inner) if self.squeeze_excite else inner
        outputs = self.project(gated, **norm)
        return (outputs + inputs if self.add_input else outputs), inner

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class MobileNet(tf.keras.layers.Layer):
    """A MobileNet without classifier: normalised images [B, H, W, 3] -> {stage: features}.

    In addition to "stage1" to "stage5" it returns "stage1_inner" to "stage5_inner": what the
    spatial convolution of the stage's last unit gave, before its gate and its projection. (Official
    DeepLab gives EdgeTPU no decoder; here it has one, by the same rule.)

    Args:
      version: a key of NETWORKS.
      depth_multiplier, divisible_by: as in `scaled`.
      output_stride: as in `unit_plans`.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    context_end_point = "stage5"
    auxiliary_end_point = "stage4"

    def __init__(
        self,
        version: str,
        *,
        depth_multiplier: float = 1.0,
        divisible_by: int = 0,
        output_stride: int = 32,
        batch_norm_decay: float = 0.997,
        initializer: str = "official",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "version": version,
            "depth_multiplier": depth_multiplier,
            "divisible_by": divisible_by,
            "output_stride": output_stride,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        network = NETWORKS[version]
        width = functools.partial(
            scaled, version=version, depth_multiplier=depth_multiplier, divisible_by=divisible_by
        )
        plans = unit_plans(network, width, output_stride)
        common = _common(batch_norm_decay, initializer)
        ends = {"activation": network.activation, "part": "separable_backbone", **common}

        self.conv = ConvNorm(width(network.filters), 3, strides=2, name="conv", **ends)
        self.units = [
            InvertedResidual(
                batch_norm_decay=batch_norm_decay,
                initializer=initializer,
                name=f"expanded_conv_{index}" if index else "expanded_conv",
                **settings,
            )
            for index, (_, settings) in enumerate(plans)
        ]
        self._stages = tuple(stage for stage, _ in plans)

        self.conv_1 = None
        if network.last_filters:
            self.conv_1 = ConvNorm(width(network.last_filters), 1, name="conv_1", **ends)

    def call(self, inputs, training=False, recompute_stages=0):
        """Returns the features.

        Args:
          recompute_stages: number of stages whose inner results are not kept in memory until the
            backward pass, which computes them again.
        """
        features: dict[str, tf.Tensor] = {}
        outputs = inputs

        for stage in range(1, NUM_STAGES + 1):
            whole = functools.partial(self._run_stage, stage, training=training)
            run = recomputed(whole) if training and stage <= recompute_stages else whole

            outputs, inner = run(outputs)
            features |= {f"stage{stage}": outputs, f"stage{stage}_inner": inner}
        return features

    def _run_stage(self, stage, outputs, training, update_averages=True):
        norm = {"training": training, "update_averages": update_averages}
        if stage == 1:
            outputs = self.conv(outputs, **norm)

        inner = outputs  # for V3 small, whose first stage has no unit
        for unit_stage, unit in zip(self._stages, self.units, strict=True):
            if unit_stage == stage:
                outputs, inner = unit(outputs, **norm)

        if stage == NUM_STAGES and self.conv_1:
            outputs = self.conv_1(outputs, **norm)
        return outputs, inner

    def decoder_end_point(self, stride: int) -> str:
        """Returns the name of the feature map that a decoder takes at a stride of 4, 8 or 16."""
        return {4: "stage2_inner", 8: "stage3_inner", 16: "stage4_inner"}[stride]

    def get_config(self):
        return super().get_config() | self._settings


def build(config: ModelConfig, *, name: str) -> MobileNet:
    """Builds the MobileNet that the settings name."""
    return MobileNet(
        **BACKBONES[config.model_variant].layer,
        depth_multiplier=config.depth_multiplier,
        divisible_by=config.divisible_by,
        output_stride=config.output_stride,
        batch_norm_decay=config.batch_norm_decay,
        initializer=config.initializer,
        name=name,
    )


def unit_plans(
    network: Network, width: Callable[[int], int], output_stride: int
) -> list[tuple[int, dict[str, Any]]]:
    """Returns for each unit its stage and the arguments of its layer.

    Once the output stride is reached, a unit with a stride doubles the rate of all later ones
    instead. It keeps the rate of those before it. If it also keeps the number of channels, as in V3
    small, its input is then added to its result, which is so only at a finer output stride.

    Args:
      width: from channels at a depth multiplier of 1 to channels at the wanted one.
      output_stride: 8, 16 or 32.
    """
    plans = []
    inputs = width(network.filters)
    stage, stride, rate = 1, 2, 1

    for unit in network.units:
        stage += unit.strides == 2
        strides, next_rate = unit.strides, rate
        if stride == output_stride:
            strides, next_rate = 1, rate * unit.strides
        else:
            stride *= unit.strides

        filters = width(unit.filters)
        expand = unit.expansion != 1
        settings = {
            "filters": filters,
            "inner": divisible(inputs * unit.expansion, 8, 8) if expand else inputs,
            "expand": expand,
            "kernel_size": unit.kernel,
            "strides": strides,
            "rate": rate,
            "activation": unit.activation,
            "gated": unit.gated,
            "fused": unit.fused,
            "add_input": unit.residual and strides == 1 and filters == inputs,
        }
        plans.append((stage, settings))
        inputs, rate = filters, next_rate
    return plans


def _common(batch_norm_decay: float, initializer: str) -> dict[str, Any]:
    """Returns the arguments that all convolutions have in common."""
    return {
        "symmetric": False,
        "epsilon": _EPSILON,
        "batch_norm_decay": batch_norm_decay,
        "initializer": initializer,
    }

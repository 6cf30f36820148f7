"""Xception 41, 65 and 71 as official DeepLab has them (core/xception.py).

Chollet's Xception (2017, arXiv:1610.02357), made deeper, with strided separable convolutions in
place of max pooling, and with batch normalisation after the depthwise convolutions too (Chen et al.
2018, arXiv:1802.02611, sec. 3.3 and fig. 4).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.layers import ACTIVATIONS, NAMESPACE, ConvNorm, SeparableConvNorm
from deeplab_tf.ops.recompute import recomputed

# By depth: the (filters, stride) of each block of the entry flow, and the number of units of the
# middle flow.
DEPTHS = {
    41: (((128, 2), (256, 2), (728, 2)), 8),
    65: (((128, 2), (256, 2), (728, 2)), 16),
    71: (((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 16),
}
_EPSILON = 1e-3  # of batch normalisation; xception_arg_scope


class UnitPlan(NamedTuple):
    """What a unit of the network looks like; `name` apart, the fields are arguments of `Unit`."""

    name: str
    filters: tuple[int, int, int]
    shortcut: str
    strides: int
    rates: tuple[int, int, int] = (1, 1, 1)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Unit(tf.keras.layers.Layer):
    """Three separable 3x3 convolutions and a shortcut around them.

    With a shortcut, a ReLU comes before each separable convolution and none after it: the shortcut
    takes the inputs, and the sum leaves the unit, without a ReLU. Without a shortcut, a ReLU
    follows each batch normalisation instead.

    Returns two maps: the output, [B, ceil(H / strides), ceil(W / strides), filters[2]], and the
    result of the second separable convolution, [B, H, W, filters[1]], which official DeepLab's
    decoder takes.

    Args:
      filters: channels of each separable convolution.
      shortcut: conv (1x1), identity, or empty for none.
      strides: of the third separable convolution and of the shortcut; 1 with identity.
      rates: dilation of each separable convolution; the third has none if there is a stride.
      bounded: whether activations are limited to 6: ReLU6 takes the place of ReLU, whatever would
        have no ReLU is clipped to -6..6, and the sum has a ReLU6. A stride is then padded by
        TensorFlow's SAME.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: Sequence[int],
        *,
        shortcut: str,
        strides: int = 1,
        rates: Sequence[int] = (1, 1, 1),
        bounded: bool = False,
        batch_norm_decay: float = 0.9997,
        initializer: str = "official",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "filters": list(filters),
            "shortcut": shortcut,
            "strides": strides,
            "rates": list(rates),
            "bounded": bounded,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        relu, linear = ("relu6", "clip6") if bounded else ("relu", "")
        self.before = ACTIVATIONS[relu if shortcut else ""]
        self.clip = ACTIVATIONS[linear]
        self.after_sum = ACTIVATIONS[relu if bounded else ""]

        common: dict[str, Any] = {
            "activation": linear if shortcut else relu,
            "batch_norm_decay": batch_norm_decay,
            "epsilon": _EPSILON,
            "initializer": initializer,
        }
        self.convs = [
            SeparableConvNorm(
                width,
                strides=strides if index == 3 else 1,
                rate=rate,
                symmetric=not bounded,
                part="backbone_depthwise",
                pointwise_part="separable_backbone",
                name=f"separable_conv{index}",
                **common,
            )
            for index, (width, rate) in enumerate(zip(filters, rates, strict=True), start=1)
        ]

        self.shortcut = None
        if shortcut == "conv":
            self.shortcut = ConvNorm(
                filters[2], 1, strides=strides, part="separable_backbone", name="shortcut", **common
            )

    def call(self, inputs, training=False, update_averages=True):
        norm = {"training": training, "update_averages": update_averages}
        outputs, results = inputs, []
        for conv in self.convs:
            outputs = conv(self.before(outputs), **norm)
            results.append(outputs)

        if self._settings["shortcut"]:
            shortcut = self.shortcut(inputs, **norm) if self.shortcut else self.clip(inputs)
            outputs = self.after_sum(outputs + shortcut)
        return outputs, results[1]

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Xception(tf.keras.layers.Layer):
    """An Xception without classifier: normalised images [B, H, W, 3] -> {name: features}.

    The features are "middle_flow", with 728 channels; "exit_flow", with 2048; and one for each
    stride at which a decoder can start, whose name `decoder_end_point` returns.

    Args:
      depth: a key of DEPTHS.
      output_stride, multi_grid, multi_grid_replaces_rates: as in `unit_plans`.
      bounded: as in `Unit`; the two convolutions before the units then have a ReLU6.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    context_end_point = "exit_flow"
    auxiliary_end_point = "middle_flow"

    def __init__(
        self,
        depth: int,
        *,
        output_stride: int = 32,
        multi_grid: Sequence[int] = (),
        multi_grid_replaces_rates: bool = False,
        bounded: bool = False,
        batch_norm_decay: float = 0.9997,
        initializer: str = "official",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "depth": depth,
            "output_stride": output_stride,
            "multi_grid": list(multi_grid),
            "multi_grid_replaces_rates": multi_grid_replaces_rates,
            "bounded": bounded,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        common: dict[str, Any] = {"batch_norm_decay": batch_norm_decay, "initializer": initializer}
        self.stem = [
            ConvNorm(
                filters,
                3,
                strides=strides,
                activation="relu6" if bounded else "relu",
                epsilon=_EPSILON,
                part="separable_backbone",
                name=name,
                **common,
            )
            for name, filters, strides in (("conv1_1", 32, 2), ("conv1_2", 64, 1))
        ]

        plans = unit_plans(
            depth,
            output_stride,
            multi_grid,
            multi_grid_replaces_rates=multi_grid_replaces_rates,
        )
        self.units = [Unit(**plan._asdict(), bounded=bounded, **common) for plan in plans]

    def call(self, inputs, training=False, recompute_stages=0):
        """Returns the features.

        Args:
          recompute_stages: number of parts whose inner results are not kept in memory until the
            backward pass, which computes them again. The parts, which need about equal memory, are
            the first two convolutions with the first unit; the rest of the entry flow; the halves
            of the middle flow; and the exit flow.
        """
        entry, middle = [
            [unit for unit in self.units if unit.name.startswith(flow)]
            for flow in ("entry_flow", "middle_flow")
        ]
        half = len(middle) // 2
        parts: list[list[Any]] = [
            [*self.stem, entry[0]],
            entry[1:],
            middle[:half],
            middle[half:],
            self.units[-2:],
        ]

        features: dict[str, tf.Tensor] = {}
        outputs = inputs
        for number, layers in enumerate(parts):
            run: Callable[..., Any] = functools.partial(self._run, layers, training=training)
            if training and number < recompute_stages:
                run = recomputed(run)
            outputs, details = run(outputs)

            features |= details
            if layers[-1] is middle[-1]:
                features["middle_flow"] = outputs
        return features | {"exit_flow": outputs}

    def _run(self, layers, outputs, training, update_averages=True):
        """Returns the output of the layers, and the features for decoders that they make."""
        norm = {"training": training, "update_averages": update_averages}
        end_points = _decoder_units(self._settings["depth"]).values()

        details = {}
        for layer in layers:
            if layer in self.stem:
                outputs = layer(outputs, **norm)
                continue

            outputs, detail = layer(outputs, **norm)
            if layer.name in end_points:
                details[_detail_name(layer.name)] = detail
        return outputs, details

    def decoder_end_point(self, stride: int) -> str:
        """Returns the name of the feature map that a decoder takes at a stride of 4, 8 or 16."""
        return _detail_name(_decoder_units(self._settings["depth"])[stride])

    def get_config(self):
        return super().get_config() | self._settings


def build(config: ModelConfig, *, name: str) -> Xception:
    """Builds the Xception that the settings name."""
    return Xception(
        **BACKBONES[config.model_variant].layer,
        output_stride=config.output_stride,
        multi_grid=config.multi_grid,
        multi_grid_replaces_rates=config.multi_grid_replaces_rates,
        bounded=config.use_bounded_activation,
        batch_norm_decay=config.batch_norm_decay,
        initializer=config.initializer,
        name=name,
    )


def unit_plans(
    depth: int,
    output_stride: int,
    multi_grid: Sequence[int] = (),
    *,
    multi_grid_replaces_rates: bool = False,
) -> list[UnitPlan]:
    """Returns the units of a network in their order.

    Once the output stride is reached, a unit that would have a stride has none, and doubles the
    rates of all units after it instead.

    Args:
      depth: a key of DEPTHS.
      output_stride: 8, 16 or 32.
      multi_grid: factors on the rates of the last unit's separable convolutions.
      multi_grid_replaces_rates: whether `multi_grid` is the rates themselves.
    """
    *units, last = _undilated(depth)

    plans, stride, rate = [], 2, 1  # the first convolution makes stride 2
    for unit in units:
        if stride < output_stride:
            plans.append(unit)
            stride *= unit.strides
        else:
            plans.append(unit._replace(strides=1, rates=(rate,) * 3))
            rate *= unit.strides

    factors = multi_grid or (1, 1, 1)
    unit_rate = 1 if multi_grid and multi_grid_replaces_rates else rate
    first, second, third = (unit_rate * factor for factor in factors)
    return [*plans, last._replace(rates=(first, second, third))]


def _undilated(depth: int) -> list[UnitPlan]:
    """Returns the units of a network at output stride 32."""
    entry, middle_units = DEPTHS[depth]
    return [
        *(
            UnitPlan(f"entry_flow_block{block}_unit1", (filters,) * 3, "conv", strides)
            for block, (filters, strides) in enumerate(entry, start=1)
        ),
        *(
            UnitPlan(f"middle_flow_block1_unit{unit}", (728, 728, 728), "identity", 1)
            for unit in range(1, middle_units + 1)
        ),
        UnitPlan("exit_flow_block1_unit1", (728, 1024, 1024), "conv", 2),
        UnitPlan("exit_flow_block2_unit1", (1536, 1536, 2048), "", 1),
    ]


def _decoder_units(depth: int) -> dict[int, str]:
    """Returns the unit in which a decoder starts, by the stride.

    It is the unit that leaves this stride at output stride 32, before its strided convolution.
    """
    strided = [unit.name for unit in _undilated(depth) if unit.strides > 1]
    return dict(zip((4, 8, 16), strided[1:], strict=True))


def _detail_name(unit: str) -> str:
    """Returns the name of the features after a unit's second separable convolution."""
    return f"{unit}/separable_conv2"

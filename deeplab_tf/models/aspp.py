"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, sec. 3.3)."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.models.layers import (
    NAMESPACE,
    BiasedConv2D,
    ConvNorm,
    SeparableConvNorm,
    hard_sigmoid,
)
from deeplab_tf.ops import pooling
from deeplab_tf.ops.dropout import drop_numbers
from deeplab_tf.ops.resize import resize_bilinear


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ASPP(tf.keras.layers.Layer):
    """Joins and projects a 1x1 branch, an atrous 3x3 branch for each rate, and image pooling.

    [B, H, W, C] -> [B, H, W, filters]; without projection the channels of all branches.

    The branches are joined in SSSegmentation's order: 1x1, rates, pooling. mmsegmentation and
    official DeepLab put pooling first, so their projection kernels must be reordered on import.

    Args:
      filters: channels of each branch and of the projection.
      rates: dilation of the atrous branches, one for each; there may be none.
      separable: whether the atrous branches are depthwise separable.
      image_pooling: whether there is a branch that pools the whole image.
      pooling_window: height and width in cells. If given, image pooling is a moving average over
        this window, as in official DeepLab; smaller images are pooled whole.
      pooling_stride: stride of that window, down and across in cells.
      gate: "" if image pooling is a branch. Otherwise it multiplies the result, through
        "sigmoid", or "hard_sigmoid" for ReLU6(x + 3) / 6 (Lite R-ASPP, Howard et al. 2019,
        arXiv:1905.02244, sec. 6.4). Without projection, a gate needs that there are no rates.
      projection: whether the joined branches are projected.
      projection_kernel_size: 1 in the paper, 3 in SSSegmentation.
      dropout_rate: share of the projection's numbers that training drops; without projection none
        are dropped (official model.py).
      bounded: whether activations are limited to 6, except in the image pooling branch.
      align_corners: as in `resize_bilinear`, for enlarging the moving average.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: int,
        *,
        rates: Sequence[int],
        separable: bool = False,
        image_pooling: bool = True,
        pooling_window: Sequence[int] = (),
        pooling_stride: Sequence[int] = (1, 1),
        gate: str = "",
        projection: bool = True,
        projection_kernel_size: int = 1,
        dropout_rate: float = 0.0,
        bounded: bool = False,
        align_corners: bool = False,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "filters": filters,
            "rates": list(rates),
            "separable": separable,
            "image_pooling": image_pooling,
            "pooling_window": list(pooling_window),
            "pooling_stride": list(pooling_stride),
            "gate": gate,
            "projection": projection,
            "projection_kernel_size": projection_kernel_size,
            "dropout_rate": dropout_rate,
            "bounded": bounded,
            "align_corners": align_corners,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        common: dict[str, Any] = {"batch_norm_decay": batch_norm_decay, "initializer": initializer}
        activated: dict[str, Any] = common | {"activation": "relu6" if bounded else "relu"}
        atrous = SeparableConvNorm if separable else functools.partial(ConvNorm, kernel_size=3)
        self.branches = [ConvNorm(filters, 1, name="branch1", **activated)] + [
            atrous(filters, rate=rate, name=f"branch{index}", **activated)
            for index, rate in enumerate(rates, start=2)
        ]

        self.pooling = self.gate = self.projection = None
        if image_pooling and gate:
            self.gate = BiasedConv2D(filters, 1, initializer=initializer, name="gate")
        elif image_pooling:
            self.pooling = ConvNorm(filters, 1, name="pooling", **common)
        if projection:
            self.projection = ConvNorm(
                filters, projection_kernel_size, name="projection", **activated
            )

    def call(
        self,
        inputs,
        training=False,
        norm_training=None,
        seed=None,
        part=(0, 1),
        for_xla=False,
    ):
        """Returns the features.

        Args:
          training: whether dropout is active.
          norm_training: whether batch normalisation uses batch statistics; None as `training`.
          seed, part: as in `drop_numbers`.
          for_xla: as in `resize_bilinear`.
        """
        norm_training = training if norm_training is None else norm_training
        branches = [branch(inputs, training=norm_training) for branch in self.branches]
        if self.pooling:
            pooled = self.pooling(self._pool(inputs), training=norm_training)
            branches.append(self._enlarge(pooled, branches[0], training=training, for_xla=for_xla))

        outputs = tf.concat(branches, axis=-1)
        if self.projection:
            outputs = self.projection(outputs, training=norm_training)
            if training and self._settings["dropout_rate"]:
                rate = self._settings["dropout_rate"]
                outputs = drop_numbers(outputs, rate, seed=seed, part=part)

        if self.gate:
            gate = _GATES[self._settings["gate"]](self.gate(self._pool(inputs), training=training))
            outputs *= self._enlarge(gate, outputs, training=training, for_xla=for_xla)
        return outputs

    def _pool(self, inputs):
        """Returns the mean of the whole map, [B, 1, 1, C], or the moving averages of the window."""
        window = self._settings["pooling_window"]
        if not window:
            return pooling.whole_mean(inputs)
        return pooling.window_means(inputs, window, self._settings["pooling_stride"])

    def _enlarge(self, pooled, other, *, training, for_xla):
        """Enlarges what was pooled to the height and width of another map."""
        shape = tf.shape(other)
        if not self._settings["pooling_window"] and (training or for_xla):
            # To resize a single cell is to repeat it, under either corner rule.
            return tf.broadcast_to(pooled, shape)

        # Prediction resizes even a single cell: TensorFlow Lite would turn repeating it into a
        # product with a constant of the map's size, which may be larger than the network.
        corners = self._settings["align_corners"]
        resized = resize_bilinear(pooled, shape[1:3], align_corners=corners, for_xla=for_xla)
        return tf.cast(resized, pooled.dtype)

    def get_config(self):
        return super().get_config() | self._settings


_GATES = {"sigmoid": tf.nn.sigmoid, "hard_sigmoid": hard_sigmoid}

"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, sec. 3.3)."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.models.layers import NAMESPACE, ConvNorm, SeparableConvNorm
from deeplab_tf.ops.resize import resize_bilinear


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ASPP(tf.keras.layers.Layer):
    """Joins and projects a 1x1 branch, an atrous 3x3 branch for each rate, and image pooling.

    [B, H, W, C] -> [B, H, W, filters].

    The branches are joined in SSSegmentation's order: 1x1, rates, pooling. mmsegmentation and
    official DeepLab put pooling first, so their projection kernels must be reordered on import.

    Args:
      filters: channels of each branch and of the result.
      rates: dilation of the atrous branches, one for each.
      separable: whether the atrous branches are depthwise separable.
      image_pooling: whether there is a branch that pools the whole image.
      pooling_window: height and width in cells. If given, image pooling is a moving average over
        this window, as in official DeepLab; smaller images are pooled whole.
      projection_kernel_size: 1 in the paper, 3 in SSSegmentation.
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
        projection_kernel_size: int = 1,
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
            "align_corners": align_corners,
            "projection_kernel_size": projection_kernel_size,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        common: dict[str, Any] = {"batch_norm_decay": batch_norm_decay, "initializer": initializer}
        atrous = SeparableConvNorm if separable else functools.partial(ConvNorm, kernel_size=3)
        self.branches = [ConvNorm(filters, 1, name="branch1", **common)] + [
            atrous(filters, rate=rate, name=f"branch{index}", **common)
            for index, rate in enumerate(rates, start=2)
        ]
        self.pooling = ConvNorm(filters, 1, name="pooling", **common) if image_pooling else None
        self.projection = ConvNorm(filters, projection_kernel_size, name="projection", **common)

    def call(self, inputs, training=False, for_xla=False):
        """Returns the projected features; `for_xla` as in `resize_bilinear`."""
        outputs = [branch(inputs, training=training) for branch in self.branches]
        if self.pooling:
            pooled = self.pooling(self._pool(inputs), training=training)
            outputs.append(self._enlarge(pooled, tf.shape(outputs[0]), for_xla))
        return self.projection(tf.concat(outputs, axis=-1), training=training)

    def _pool(self, inputs):
        """Returns the mean of the whole map, [B, 1, 1, C], or the moving averages of the window."""
        window = self._settings["pooling_window"]

        # A sum over thousands of cells is too inexact in half precision.
        features = tf.cast(inputs, tf.float32)
        mean = functools.partial(tf.reduce_mean, features, axis=[1, 2], keepdims=True)
        if not window:
            return tf.cast(mean(), inputs.dtype)

        fits = tf.reduce_all(tf.shape(inputs)[1:3] >= window)
        pooled = tf.cond(fits, lambda: tf.nn.avg_pool2d(features, window, 1, "VALID"), mean)
        return tf.cast(pooled, inputs.dtype)

    def _enlarge(self, pooled, shape, for_xla):
        """Enlarges what was pooled to the height and width of the other branches."""
        if not self._settings["pooling_window"]:
            # To resize a single cell is to repeat it, under either corner rule.
            return tf.broadcast_to(pooled, shape)

        corners = self._settings["align_corners"]
        resized = resize_bilinear(pooled, shape[1:3], align_corners=corners, for_xla=for_xla)
        return tf.cast(resized, pooled.dtype)

    def get_config(self):
        return super().get_config() | self._settings

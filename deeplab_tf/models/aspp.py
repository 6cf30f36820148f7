"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, sec. 3.3)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.models.layers import NAMESPACE, ConvNorm


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ASPP(tf.keras.layers.Layer):
    """A 1x1 branch, an atrous 3x3 branch for each rate and image pooling, joined and projected.

    The branches are joined in this order, which is SSSegmentation's; others put pooling first.
    The projection is 1x1 in the paper and 3x3 in SSSegmentation.

    [B, H, W, C] -> [B, H, W, filters].
    """

    def __init__(
        self,
        filters: int,
        *,
        rates: Sequence[int],
        image_pooling: bool = True,
        projection_kernel_size: int = 1,
        batch_norm_decay: float = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "rates": list(rates),
            "image_pooling": image_pooling,
            "projection_kernel_size": projection_kernel_size,
            "batch_norm_decay": batch_norm_decay,
        }
        norm: dict[str, Any] = {"batch_norm_decay": batch_norm_decay}
        self.branches = [ConvNorm(filters, 1, name="branch1", **norm)] + [
            ConvNorm(filters, 3, rate=rate, name=f"branch{index}", **norm)
            for index, rate in enumerate(rates, start=2)
        ]
        self.pooling = ConvNorm(filters, 1, name="pooling", **norm) if image_pooling else None
        self.projection = ConvNorm(filters, projection_kernel_size, name="projection", **norm)

    def call(self, inputs, training=False):
        outputs = [branch(inputs, training=training) for branch in self.branches]
        if self.pooling:
            pooled = tf.reduce_mean(inputs, axis=[1, 2], keepdims=True)
            pooled = self.pooling(pooled, training=training)
            # Enlarging a single cell gives it everywhere, whatever the corner rule.
            outputs.append(tf.broadcast_to(pooled, tf.shape(outputs[0])))
        return self.projection(tf.concat(outputs, axis=-1), training=training)

    def get_config(self):
        return super().get_config() | self._settings

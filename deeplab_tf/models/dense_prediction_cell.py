"""Dense prediction cells (Chen et al. 2018, arXiv:1809.04184), searched graphs instead of ASPP."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.config import cells
from deeplab_tf.models.layers import NAMESPACE, ConvNorm, SeparableConvNorm
from deeplab_tf.ops import pooling
from deeplab_tf.ops.dropout import drop_numbers
from deeplab_tf.ops.resize import resize_bilinear


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DensePredictionCell(tf.keras.layers.Layer):
    """Runs the branches of a cell, each on the features or on an earlier branch, and projects them.

    [B, H, W, C] -> [B, H, W, filters]. A branch is a 1x1 convolution, a separable atrous 3x3
    convolution, or pyramid pooling: means of windows, a 1x1 convolution, and resizing to H x W. All
    branches are joined in their order, even those that others take. (Official
    core/dense_prediction_cell.py.)

    Args:
      cell: the cell's JSON, as `cells.canonical` returns it.
      filters: channels of each branch and of the result. Differs: official DeepLab always has 256.
      output_stride: input pixels per cell of the features; the rates of the JSON are those at 16.
      pooling_crop_size: height and width in pixels that pyramid pooling divides into its grid, as
        if it were the size of every image; empty divides the image itself.
      dropout_rate: share of the joined branches' numbers that training drops.
      align_corners: as in `resize_bilinear`.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        cell: str,
        *,
        filters: int = 256,
        output_stride: int = 16,
        pooling_crop_size: Sequence[int] = (),
        dropout_rate: float = 0.0,
        align_corners: bool = False,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "cell": cell,
            "filters": filters,
            "output_stride": output_stride,
            "pooling_crop_size": list(pooling_crop_size),
            "dropout_rate": dropout_rate,
            "align_corners": align_corners,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        common: dict[str, Any] = {"batch_norm_decay": batch_norm_decay, "initializer": initializer}
        self._plan = cells.branches(cell)
        self.branches = []
        for index, branch in enumerate(self._plan):
            name = f"branch{index}"
            if branch.kernel == 3:
                rate = [16 // output_stride * part for part in branch.rate]
                self.branches.append(SeparableConvNorm(filters, rate=rate, name=name, **common))
            else:
                self.branches.append(ConvNorm(filters, 1, name=name, **common))
        self.projection = ConvNorm(filters, 1, name="projection", **common)

    def call(
        self,
        inputs,
        training=False,
        norm_training=None,
        seed=None,
        part=(0, 1),
        for_xla=False,
    ):
        """Returns the features; the arguments are as in `ASPP.call`."""
        norm_training = training if norm_training is None else norm_training
        size = tf.shape(inputs)[1:3]
        corners = self._settings["align_corners"]

        outputs: list[tf.Tensor] = []
        for branch, conv in zip(self._plan, self.branches, strict=True):
            features = inputs if branch.input < 0 else outputs[branch.input]
            if branch.kernel:
                outputs.append(conv(features, training=norm_training))
                continue

            pooled = conv(self._pool(features, branch.grid), training=norm_training)
            resized = resize_bilinear(pooled, size, align_corners=corners, for_xla=for_xla)
            outputs.append(tf.cast(resized, pooled.dtype))

        joined = tf.concat(outputs, axis=-1)
        if training and self._settings["dropout_rate"]:
            joined = drop_numbers(joined, self._settings["dropout_rate"], seed=seed, part=part)
        return self.projection(joined, training=norm_training)

    def _pool(self, features, grid):
        """Returns the means of all windows of 1 / grid of the image, or of `pooling_crop_size`."""
        crop = self._settings["pooling_crop_size"]
        if not crop:
            return pooling.grid_means(features, grid)

        stride = self._settings["output_stride"]
        window = [
            (side - 1) // (stride * parts) + 1 for side, parts in zip(crop, grid, strict=True)
        ]
        return pooling.window_means(features, window)

    def get_config(self):
        return super().get_config() | self._settings

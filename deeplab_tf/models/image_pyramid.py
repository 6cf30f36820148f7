"""A network that looks at each image at several scales (official model.py, multi_scale_logits)."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf.ops.resize import resize_bilinear

MERGED: dict[str, Callable[..., tf.Tensor]] = {"max": tf.reduce_max, "avg": tf.reduce_mean}


def over_scales(
    outputs_of: Callable[[tf.Tensor, int], dict[str, tf.Tensor]],
    images: tf.Tensor,
    *,
    scales: Sequence[float],
    merge_method: str,
    stride: int,
    align_corners: bool,
    for_xla: bool = False,
) -> dict[str, Any]:
    """Runs a network at each scale of the images, and merges the logits.

    The logits of all scales are resized to the largest scale's size, or to the size of scale 1 if
    all are smaller.

    Args:
      outputs_of: takes the images at one scale and the scale's index; returns a dict of the
        network's outputs, among them `logits`.
      images: [B, H, W, 3].
      merge_method: a key of MERGED.
      stride: pixels per cell of the logits, along each side.
      align_corners, for_xla: as in `resize_bilinear`.
    Returns:
      The outputs of a single scale; of several, `logits`, merged, and `scales`, the outputs of each
      scale in turn.
    """

    def resized(values, size):
        return resize_bilinear(values, size, align_corners=align_corners, for_xla=for_xla)

    size = _scaled_size(images, max(1.0, *scales) / stride)
    outputs_of_scales = []
    for index, scale in enumerate(scales):
        scaled = images
        if scale != 1.0:
            scaled = resized(images, _scaled_size(images, scale))
        outputs = outputs_of(scaled, index)
        outputs_of_scales.append(outputs | {"logits": resized(outputs["logits"], size)})

    if len(scales) == 1:
        return outputs_of_scales[0]
    stacked = tf.stack([outputs["logits"] for outputs in outputs_of_scales])
    return {"logits": MERGED[merge_method](stacked, axis=0), "scales": tuple(outputs_of_scales)}


def scaled_side(side: int, factor: float) -> int:
    """Returns a side of n pixels times a factor, so that k * stride + 1 keeps its form."""
    return int((side - 1) * factor + 1)


def _scaled_size(images: tf.Tensor, factor: float) -> list[int | tf.Tensor]:
    """Returns height and width times a factor; Python numbers where they are known."""
    sizes = tf.unstack(tf.shape(images)[1:3])
    return [
        scaled_side(side, factor)
        if side is not None
        else tf.cast(tf.cast(size - 1, tf.float64) * factor + 1, tf.int32)
        for side, size in zip(images.shape[1:3], sizes, strict=True)
    ]

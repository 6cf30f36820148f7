"""Losses on class scores. Labels are never reduced; scores are enlarged to them."""

import tensorflow as tf

from deeplab_tf.models.layers import resize_bilinear


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, *, ignore_label: int, align_corners: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Enlarges class scores to the label grid and sums the cross-entropy of valid pixels.

    Logits are enlarged rather than labels reduced, so that fine labels survive (Chen et al. 2017,
    sec. 4.1). The mean is left to the caller, who alone knows how many pixels count in all.

    Args:
      logits: [B, h, w, classes], unnormalised.
      labels: [B, H, W, 1], integer; `ignore_label` marks pixels that do not count.
    Returns:
      Sum over valid pixels in nats, and the number of valid pixels, both scalar float32.
    """
    logits = resize_bilinear(logits, tf.shape(labels)[1:3], align_corners=align_corners)
    labels = labels[..., 0]
    valid = tf.not_equal(labels, ignore_label)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.where(valid, labels, 0), logits=logits
    )
    return (
        tf.reduce_sum(tf.where(valid, losses, 0.0)),
        tf.reduce_sum(tf.cast(valid, tf.float32)),
    )

"""Losses of a region: one value for many pixels, from how a class's pixels overlap its label.

Definitions and defaults follow segmentation_models.pytorch 0.6, in its multiclass mode.
"""

import tensorflow as tf

from deeplab_tf.models.layers import NAMESPACE
from deeplab_tf.models.pixel_losses import LogitLoss
from deeplab_tf.ops import lovasz, replicas


class RegionLoss(LogitLoss):
    """A loss of all pixels together. Give it to `SegmentationLoss` or `DeepLab.compile`."""

    def call(self, y_true, y_pred):
        classes = tf.cast(y_true[..., 0], tf.int32)
        return self.of_batch(y_pred, classes, tf.ones(tf.shape(classes)))


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DiceLoss(RegionLoss):
    """1 minus the Dice coefficient of each class, averaged over all classes.

    The coefficient of a class is (I + smooth) / max(S / 2 + smooth, eps), where I adds up its
    probability over its own pixels, and S its probability over all pixels, plus the number of its
    own. These sums are over the whole batch, and over all replicas. A class without pixels in the
    batch has the loss 0, and counts in the mean. (Milletari et al. 2016, arXiv:1606.04797, have the
    squares of the probabilities in S. Where others write (2 I + s) / (S + s), s is twice `smooth`.)

    `sample_weight` multiplies a pixel's part in all sums, so equal weights change nothing.

    Args:
      smooth: number added to numerator and denominator.
      log_loss: takes -log(max(coefficient, eps)) in place of 1 minus the coefficient.
      eps: smallest denominator.
    """

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        log_loss: bool = False,
        eps: float = 1e-7,
        name: str = "dice",
    ):
        super().__init__(name=name)
        self.smooth = smooth
        self.log_loss = log_loss
        self.eps = eps

    def of_batch(self, logits, classes, weights, label_weights=()):
        number = logits.shape[-1]
        weights = weights[..., tf.newaxis]
        chances = tf.nn.softmax(logits) * weights
        own = tf.one_hot(classes, number)

        pixels = [0, 1, 2]
        sums = tf.stack(
            [
                tf.reduce_sum(chances * own, pixels),
                tf.reduce_sum(chances, pixels),
                tf.reduce_sum(own * weights, pixels),
            ]
        )

        # The gradient goes back only into this replica's part of the sums, so that replicas wait
        # for each other once.
        hits, predicted, actual = tf.unstack(sums + tf.stop_gradient(replicas.total(sums) - sums))

        size = (predicted + actual) / 2 + self.smooth
        score = (hits + self.smooth) / tf.maximum(size, self.eps)
        losses = -tf.math.log(tf.maximum(score, self.eps)) if self.log_loss else 1 - score
        losses = tf.where(actual > 0, losses, 0.0)
        if label_weights:
            losses *= tf.constant(label_weights, tf.float32)
        loss = tf.reduce_mean(losses)

        # All replicas have the same value, and each has only its own part of the gradient.
        number_of_replicas = replicas.number()
        return loss * number_of_replicas - tf.stop_gradient(loss * (number_of_replicas - 1))

    def get_config(self):
        return {
            "smooth": self.smooth,
            "log_loss": self.log_loss,
            "eps": self.eps,
            "name": self.name,
        }


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class LovaszSoftmaxLoss(RegionLoss):
    """The Lovasz extension of 1 minus the IoU of each class, averaged over the classes present.

    (Berman et al. 2018, arXiv:1705.08790.) It sorts all pixels once for each class that is present.
    On several replicas it is the mean of the replicas' own losses: the whole batch could only be
    sorted in one place.

    `sample_weight` counts a pixel several times, so equal weights change nothing.

    Args:
      per_image: takes the mean of the images' own losses, which is the same on any number of
        replicas. An image without a pixel that counts has the loss 0 in it.
    """

    def __init__(self, *, per_image: bool = False, name: str = "lovasz_softmax"):
        super().__init__(name=name)
        self.per_image = per_image

    def of_batch(self, logits, classes, weights, label_weights=()):
        number = logits.shape[-1]
        groups = tf.shape(classes)[0] if self.per_image else 1
        losses, present = lovasz.jaccard_losses(
            tf.reshape(tf.nn.softmax(logits), [groups, -1, number]),
            tf.reshape(classes, [groups, -1]),
            tf.reshape(weights, [groups, -1]),
        )

        if label_weights:
            losses *= tf.constant(label_weights, tf.float32)
        count = tf.reduce_sum(tf.cast(present, tf.float32), axis=1)
        return tf.reduce_mean(tf.math.divide_no_nan(tf.reduce_sum(losses, axis=1), count))

    def get_config(self):
        return {"per_image": self.per_image, "name": self.name}

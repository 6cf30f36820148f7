"""Losses of a pixel, from class numbers and logits: which of Keras' can be used, and focal loss."""

import inspect
from collections.abc import Hashable
from typing import Any

import tensorflow as tf

from deeplab_tf.models.inputs import InputError, check_values, class_labels, pixel_weights
from deeplab_tf.models.layers import NAMESPACE
from deeplab_tf.ops.cross_entropy import enlarge

# Keras' losses that are defined on logits, by the name of the function that computes the same.
_KERAS_LOSSES = {
    "sparse_categorical_crossentropy": tf.keras.losses.SparseCategoricalCrossentropy,
    "categorical_crossentropy": tf.keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": tf.keras.losses.CategoricalFocalCrossentropy,
    "binary_crossentropy": tf.keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": tf.keras.losses.BinaryFocalCrossentropy,
}
_ONE_HOT_LOSSES = tuple(
    kind for name, kind in _KERAS_LOSSES.items() if not name.startswith("sparse")
)
# The same classes by every way to name them: the function's name, the class's, and the function.
GIVEN_AS = (
    _KERAS_LOSSES
    | {kind.__name__: kind for kind in _KERAS_LOSSES.values()}
    | {getattr(tf.keras.losses, name): kind for name, kind in _KERAS_LOSSES.items()}
)


class LogitLoss(tf.keras.losses.Loss):
    """A loss of class numbers and logits, which takes and checks labels like `SegmentationLoss`.

    Used by itself, it has no label to ignore: SegmentationLoss(loss, ignore_label=255) has.
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns the mean loss, scalar float32."""
        labels = class_labels(y_true, y_true, y_pred.shape[-1])
        weights = None if sample_weight is None else pixel_weights(sample_weight, labels)
        _, labels, _ = check_values(labels, labels, num_classes=y_pred.shape[-1], ignore_label=None)

        classes = tf.cast(labels[..., 0], tf.int32)
        logits = enlarge(y_pred, tf.shape(classes)[1:3])
        counts = tf.ones(tf.shape(classes)) * (1.0 if weights is None else weights)
        return self.of_batch(logits, classes, counts)

    def of_batch(
        self,
        logits: tf.Tensor,
        classes: tf.Tensor,
        weights: tf.Tensor,
        label_weights: tuple[float, ...] = (),
    ) -> tf.Tensor:
        """Returns the loss of the batch, scalar float32; 0 if no pixel counts.

        With several replicas, the mean of their values is the loss, and the mean of their gradients
        its gradient.

        Args:
          logits: float32 [B, H, W, classes].
          classes: int32 [B, H, W], every one a class.
          weights: float32 [B, H, W], how much each pixel counts; 0 for pixels that do not.
          label_weights: factors on the losses of the classes; empty means 1.
        """
        raise NotImplementedError


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class FocalLoss(LogitLoss):
    """The focal loss of each class against all others (Lin et al. 2017, arXiv:1708.02002).

    With p the sigmoid of a class's logit where the pixel is of this class, and 1 minus it
    elsewhere, the loss of a pixel is the mean over all classes of -(1 - p)^gamma log p. That is the
    definition of segmentation_models.pytorch 0.6, in its multiclass mode; up to 0.5 it was the sum.

    Args:
      gamma: how strongly the loss of what is classified well is lowered; 0 gives the binary
        cross-entropies.
      alpha: factor on the term of the pixel's own class; the others get 1 - alpha. None: both 1.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None, name: str = "focal"):
        super().__init__(name=name)
        self.gamma = gamma
        self.alpha = alpha

    def of_batch(self, logits, classes, weights, label_weights=()):
        losses = self.call(classes[..., tf.newaxis], logits) * weights
        if label_weights:
            losses *= tf.gather(tf.constant(label_weights, tf.float32), classes)
        return tf.reduce_mean(losses)

    def call(self, y_true, y_pred):
        """Returns the losses of the pixels, float32 [B, H, W]."""
        own = tf.one_hot(tf.cast(y_true[..., 0], tf.int32), y_pred.shape[-1])
        margins = tf.where(own > 0, y_pred, -y_pred)

        # As powers of e: the gradient of (1 - p)^gamma itself is NaN at p = 1 if gamma is below 1.
        losses = tf.exp(-self.gamma * tf.nn.softplus(margins)) * tf.nn.softplus(-margins)
        if self.alpha is not None:
            losses *= self.alpha * own + (1 - self.alpha) * (1 - own)
        return tf.reduce_mean(losses, axis=-1)

    def get_config(self):
        return {"gamma": self.gamma, "alpha": self.alpha, "name": self.name}


def name_of(loss: Any) -> str:
    """Returns what to call a loss in a sentence."""
    return getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))


def given_loss(loss: Any) -> Any:
    """Returns a loss as None, a loss object or a function, from any way it can be given.

    Raises:
      InputError: if there is no such loss, or it does not take class numbers and logits.
    """
    if isinstance(loss, Hashable):
        loss = GIVEN_AS.get(loss, loss)
    if isinstance(loss, type) and issubclass(loss, tf.keras.losses.Loss):
        loss = loss(from_logits=True) if loss in _KERAS_LOSSES.values() else loss()

    if loss is not None and not callable(loss):
        raise InputError(
            f"loss={loss!r} is not possible; allowed: None (cross-entropy), "
            f"{', '.join(_KERAS_LOSSES)}, or one function or tf.keras.losses.Loss of labels "
            "and logits."
        )

    all_of_keras = vars(tf.keras.losses).values()
    is_of_keras = loss in all_of_keras or type(loss) in all_of_keras
    if is_of_keras and type(loss) not in _KERAS_LOSSES.values():
        raise InputError(
            f"The loss {name_of(loss)} is not defined on class numbers and logits; allowed of "
            f"Keras' losses: {', '.join(_KERAS_LOSSES)}."
        )

    if not isinstance(loss, tf.keras.losses.Loss):
        return loss
    if not loss.get_config().get("from_logits", True):
        raise InputError(
            f"The loss {name_of(loss)} takes probabilities, but the model returns logits; write "
            f"{type(loss).__name__}(from_logits=True)."
        )
    ignored = loss.get_config().get("ignore_class")
    if ignored is not None:
        raise InputError(
            f"The loss {name_of(loss)} has ignore_class={ignored}, whose pixels would count in the "
            f"mean with a loss of 0; leave it out, and give compile ignore_label={ignored}."
        )
    if loss.reduction not in ("auto", "sum_over_batch_size"):
        raise InputError(
            f"The loss {name_of(loss)} has reduction={loss.reduction!r}, but only the mean over "
            "the pixels that count is possible; leave reduction out."
        )
    return loss


def averages_pixels(loss: Any) -> bool:
    """Returns whether a function takes the weights of the pixels, and so averages them itself."""
    if loss is None or isinstance(loss, tf.keras.losses.Loss):
        return False
    return "sample_weight" in inspect.signature(loss).parameters


def losses_of_pixels(loss: Any, logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns what a given loss returns for enlarged logits: [B, H, W], [B] or a scalar."""
    labels = classes[..., tf.newaxis]
    if isinstance(loss, _ONE_HOT_LOSSES):
        labels = tf.one_hot(classes, logits.shape[-1])

    # `call` returns the losses of the pixels; calling the object itself would reduce them.
    function = loss.call if isinstance(loss, tf.keras.losses.Loss) else loss
    losses = tf.cast(function(labels, logits), tf.float32)

    if losses.shape.rank == 4 and losses.shape[-1] == 1:
        losses = losses[..., 0]
    per_pixel = losses.shape.rank == 3 and losses.shape.is_compatible_with(classes.shape)
    if not per_pixel and losses.shape.rank not in (0, 1):
        raise InputError(
            f"The loss {name_of(loss)} returned the shape {losses.shape} for labels "
            f"{labels.shape}; return a number for each pixel, [B, H, W]."
        )
    return losses

"""The loss of a batch: the loss of each pixel, which pixels count, and with what factor.

Logits are enlarged to the labels' size. Labels reduced to the logits' size would lose their fine
detail (Chen et al. 2017, sec. 4.1).
"""

import dataclasses
import inspect
from collections.abc import Hashable
from typing import Any

import tensorflow as tf

from deeplab_tf.config import LossConfig
from deeplab_tf.models.inputs import (
    InputError,
    after,
    check_values,
    class_labels,
    is_valid,
    make_settings,
    pixel_weights,
    require_in_step,
)
from deeplab_tf.models.layers import NAMESPACE
from deeplab_tf.ops.cross_entropy import enlarge, pixel_losses

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
_GIVEN_AS = (
    _KERAS_LOSSES
    | {kind.__name__: kind for kind in _KERAS_LOSSES.values()}
    | {getattr(tf.keras.losses, name): kind for name, kind in _KERAS_LOSSES.items()}
)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SegmentationLoss(tf.keras.losses.Loss):
    """The mean loss over the pixels that count: cross-entropy, or any other loss of a pixel.

    Logits are enlarged to the labels' size. Pixels with the label `ignore_label` have no influence:
    the loss sees class 0 there, and the sum and the number of pixels leave them out.
    `sample_weight` and `label_weights` are factors on a pixel's loss; the sum is still divided by
    the number of pixels that count.

    `DeepLab.compile` makes one of its `loss`. In any other Keras model, use it like one of Keras'
    losses, on labels [B, H, W, 1] or [B, H, W] and logits [B, h, w, classes]. With several replicas
    Keras then averages the means of the replicas.

    Args:
      pixel_loss: None for cross-entropy; one of Keras' cross-entropies, as name, class or instance
        (with from_logits=True); or your own function or tf.keras.losses.Loss. Yours takes int32
        labels [B, H, W, 1] and float32 logits [B, H, W, classes], and returns a number for each
        pixel, [B, H, W]. If it returns one number for the batch or for each image, pixels cannot be
        masked afterwards. So it needs labels without ignored pixels, or a third parameter
        `sample_weight`, float32 [B, H, W], which is 0 for pixels that do not count.
      ignore_label: label of pixels that do not count; None if all pixels count.
      align_corners: as in `resize_bilinear`. DeepLab uses the one of its configuration instead.
      **settings: the settings of `LossConfig`.
    Raises:
      InputError: if there is no such loss, or it takes probabilities instead of logits.
    """

    def __init__(
        self,
        pixel_loss: Any = None,
        *,
        ignore_label: int | None = 255,
        align_corners: bool = False,
        name: str = "segmentation_loss",
        **settings: Any,
    ):
        super().__init__(name=name)

        # Keras restores a saved loss with lists, and settings hold tuples.
        if "label_weights" in settings:
            settings["label_weights"] = tuple(settings["label_weights"])
        self.settings = make_settings(LossConfig, settings)

        self.ignore_label = ignore_label
        self.pixel_loss = _pixel_loss(pixel_loss)
        self.align_corners = align_corners

        if self.averages_pixels and self.selects_pixels:
            raise InputError("top_k_percent_pixels needs a loss that returns a number per pixel.")

    @property
    def selects_pixels(self) -> bool:
        """Whether only the hardest pixels count."""
        return self.settings.top_k_percent_pixels != 1.0

    @property
    def averages_pixels(self) -> bool:
        """Whether the pixel loss takes sample_weight, and so averages the pixels itself."""
        loss = self.pixel_loss
        if loss is None or isinstance(loss, tf.keras.losses.Loss):
            return False
        return "sample_weight" in inspect.signature(loss).parameters

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns the mean loss, scalar float32."""
        labels = class_labels(y_true, y_true, y_pred.shape[-1])
        if self.selects_pixels and self.settings.hard_example_mining_step:
            raise InputError("hard_example_mining_step needs the step that DeepLab.fit counts.")

        weights = None if sample_weight is None else pixel_weights(sample_weight, labels)
        _, labels, _ = check_values(
            labels,
            labels,
            num_classes=y_pred.shape[-1],
            ignore_label=self.ignore_label,
        )
        total, count = self.sums(y_pred, labels, weights=weights)
        return total if count is None else tf.math.divide_no_nan(total, count)

    def call(self, y_true, y_pred):
        return self(y_true, y_pred)

    def count(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns the number of pixels that count, float32."""
        return tf.reduce_sum(tf.cast(is_valid(labels, self.ignore_label), tf.float32))

    def sums(
        self,
        logits: tf.Tensor,
        labels: tf.Tensor,
        *,
        weights: tf.Tensor | None = None,
        step: tf.Tensor | int = 0,
        align_corners: bool | None = None,
        for_xla: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the sum of the pixels' losses and the number of pixels that count.

        Args:
          logits: [B, h, w, classes].
          labels: [B, H, W, 1], class numbers.
          weights: factors on the pixels' losses, float32, broadcast to [B, H, W].
          step: the training step, for `hard_example_mining_step`.
          align_corners: None means the one given to the constructor.
          for_xla: as in `resize_bilinear`.
        Returns:
          Two scalars, float32. If the loss averages pixels itself: its mean, and None.
        """
        settings = self.settings
        corners = self.align_corners if align_corners is None else align_corners
        labels = labels[..., 0]

        # Cross-entropy looks up the logit of every label, so ignored pixels get a valid class.
        valid = is_valid(labels, self.ignore_label)
        classes = tf.cast(tf.where(valid, labels, tf.zeros_like(labels)), tf.int32)

        factors: tf.Tensor | float = 1.0
        if settings.label_weights:
            factors = tf.gather(tf.constant(settings.label_weights, tf.float32), classes)
        if weights is not None:
            factors *= weights

        if self.pixel_loss is None:
            losses = pixel_losses(logits, classes, align_corners=corners, for_xla=for_xla)
        else:
            size = tf.shape(classes)[1:3]
            enlarged = enlarge(logits, size, align_corners=corners, for_xla=for_xla)

            if self.averages_pixels:
                factors = tf.where(valid, factors, 0.0)
                result = self.pixel_loss(classes[..., tf.newaxis], enlarged, sample_weight=factors)
                return tf.reduce_mean(tf.cast(result, tf.float32)), None

            losses = self._given_losses(enlarged, classes)
            if losses.shape.rank < 3:
                return self._plain_mean(losses, valid, weights), None

        losses = tf.where(valid, losses * factors, 0.0)
        if self.selects_pixels:
            share = hardest_share(
                settings.top_k_percent_pixels,
                step=step,
                ramp_steps=settings.hard_example_mining_step,
            )
            losses = _hardest(losses, share)
            valid = tf.not_equal(losses, 0.0)
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(valid, tf.float32))

    def _given_losses(self, logits, classes):
        """Returns what the pixel loss returns for enlarged logits: [B, H, W], [B] or a scalar."""
        loss, labels = self.pixel_loss, classes[..., tf.newaxis]
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
                f"The loss {_name_of(loss)} returned the shape {losses.shape} for labels "
                f"{labels.shape}; return a number for each pixel, [B, H, W]."
            )
        return losses

    def _plain_mean(self, losses, valid, weights):
        """Returns the mean of a loss that returned one number for each image, or for the batch.

        Raises:
          InputError: if pixels must be weighted or selected; a step with ignored pixels is stopped
            by `require_in_step`.
        """
        name = _name_of(self.pixel_loss)
        way_out = (
            "return a number for each pixel, [B, H, W], or take a third parameter sample_weight, "
            "which is 0 where pixels do not count"
        )
        if weights is not None or self.settings.label_weights or self.selects_pixels:
            raise InputError(
                f"The loss {name} returns one number for many pixels, which then cannot be "
                f"weighted or selected; {way_out}."
            )

        ignored = tf.reduce_sum(tf.cast(~valid, tf.int64))
        text = f"The loss {name} returns one number for many pixels; pixels to ignore:"
        check = require_in_step(tf.equal(ignored, 0), text, ignored, way_out)
        with after(check):  # XLA removes assertions; there the loss becomes NaN instead
            return tf.where(tf.equal(ignored, 0), tf.reduce_mean(losses), float("nan"))

    def get_config(self):
        loss = self.pixel_loss
        return dataclasses.asdict(self.settings) | {
            "ignore_label": self.ignore_label,
            "pixel_loss": loss and tf.keras.saving.serialize_keras_object(loss),
            "align_corners": self.align_corners,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        loss = config.get("pixel_loss")
        if isinstance(loss, dict):
            # When a SavedModel is loaded, the general function does not find Keras' own losses.
            of_keras = loss.get("class_name") in _GIVEN_AS
            general = tf.keras.saving.deserialize_keras_object
            loss = tf.keras.losses.deserialize(loss) if of_keras else general(loss)
        return cls(**config | {"pixel_loss": loss})


def _name_of(loss) -> str:
    return getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))


def _pixel_loss(loss: Any) -> Any:
    """Returns `pixel_loss` as None, a loss object or a function, from any way it can be given.

    Raises:
      InputError: if there is no such loss, or it does not take class numbers and logits.
    """
    if isinstance(loss, Hashable):
        loss = _GIVEN_AS.get(loss, loss)
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
            f"The loss {_name_of(loss)} is not defined on class numbers and logits; allowed of "
            f"Keras' losses: {', '.join(_KERAS_LOSSES)}."
        )

    if not isinstance(loss, tf.keras.losses.Loss):
        return loss
    if not loss.get_config().get("from_logits", True):
        raise InputError(
            f"The loss {_name_of(loss)} takes probabilities, but the model returns logits; write "
            f"{type(loss).__name__}(from_logits=True)."
        )
    if loss.reduction not in ("auto", "sum_over_batch_size"):
        raise InputError(
            f"The loss {_name_of(loss)} has reduction={loss.reduction!r}, but only the mean over "
            "the pixels that count is possible; leave reduction out."
        )
    return loss


def hardest_share(share: float, *, step: tf.Tensor, ramp_steps: int) -> float | tf.Tensor:
    """Returns the share of the pixels that counts at a step.

    It falls linearly from 1 to `share` in `ramp_steps` steps, and then stays.
    (Official DeepLab, utils/train_utils.py, hard_example_mining_step.)
    """
    if not ramp_steps:
        return share
    done = tf.minimum(tf.cast(step, tf.float64) / ramp_steps, 1.0)
    return done * share + (1.0 - done)


def _hardest(losses: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns all losses in descending order, with 0 after the first int(share * number), or 1."""
    ordered = tf.sort(tf.reshape(losses, [-1]), direction="DESCENDING")
    pixels = tf.size(ordered)
    kept = tf.cast(tf.cast(share, tf.float64) * tf.cast(pixels, tf.float64), tf.int32)
    kept = tf.maximum(kept, 1)  # without any, the loss would be 0 and nothing would be learnt

    # Not tf.math.top_k: under XLA its k must be known when the graph is made.
    return tf.where(tf.range(pixels) < kept, ordered, 0.0)

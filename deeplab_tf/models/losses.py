"""The loss of a batch: which losses are summed, which pixels count, and with what factor.

Logits are enlarged to the labels' size. Labels reduced to the logits' size would lose their fine
detail (Chen et al. 2017, sec. 4.1).
"""

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from deeplab_tf.config import LossConfig
from deeplab_tf.config.loss import LossWeights, all_losses
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
from deeplab_tf.models.pixel_losses import (
    GIVEN_AS,
    FocalLoss,
    averages_pixels,
    given_loss,
    losses_of_pixels,
    name_of,
)
from deeplab_tf.models.region_losses import DiceLoss, LovaszSoftmaxLoss, RegionLoss
from deeplab_tf.ops import replicas
from deeplab_tf.ops.cross_entropy import enlarge, pixel_losses
from deeplab_tf.ops.hard_pixels import hardest, hardest_share


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SegmentationLoss(tf.keras.losses.Loss):
    """The mean loss over the pixels that count: cross-entropy, any other loss, or several summed.

    Logits are enlarged to the labels' size. Pixels with the label `ignore_label` have no influence:
    the loss sees class 0 there, and the sum and the number of pixels leave them out.
    `sample_weight` and `label_weights` are factors on a pixel's loss; the sum is still divided by
    the number of pixels that count. `DiceLoss` and `LovaszSoftmaxLoss` say what the two are there.

    `DeepLab.compile` makes one of its `loss`. In any other Keras model, use it like one of Keras'
    losses, on labels [B, H, W, 1] or [B, H, W] and logits [B, h, w, classes]. With several replicas
    Keras then averages the means of the replicas.

    Args:
      pixel_loss: None for the setting `loss`, which is cross-entropy by default; one of its names;
        a `FocalLoss`, `DiceLoss` or `LovaszSoftmaxLoss`; one of Keras' cross-entropies, as name,
        class or instance (with from_logits=True); your own function or tf.keras.losses.Loss; or a
        list of several of these, which are added up. Yours takes int32 labels [B, H, W, 1] and
        float32 logits [B, H, W, classes], and returns a number for each pixel, [B, H, W]. If it
        returns one number for the batch or for each image, pixels cannot be masked afterwards. So
        it needs labels without ignored pixels, or a third parameter `sample_weight`, float32
        [B, H, W], which is 0 for pixels that do not count.
      loss_weights: factors on the losses, one for each; empty means 1.
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
        loss_weights: Any = (),
        ignore_label: int | None = 255,
        align_corners: bool = False,
        name: str = "segmentation_loss",
        **settings: Any,
    ):
        super().__init__(name=name)

        given = pixel_loss if isinstance(pixel_loss, list | tuple) else (pixel_loss,)
        if all(isinstance(loss, str) and loss in all_losses() for loss in given):
            settings["loss"], pixel_loss = given, None
        if pixel_loss is None:
            settings["loss_weights"] = loss_weights

        # Keras restores a saved loss with lists, and settings hold tuples.
        self.settings = make_settings(LossConfig, settings)
        if pixel_loss is None:
            given = self.settings.loss

        _require_effect(self.settings, given, is_restored="loss" in settings)
        self.losses = tuple(_built(loss, self.settings) for loss in given)
        self.loss_weights = _checked_weights(loss_weights, number=len(self.losses))
        self.ignore_label = ignore_label
        self.align_corners = align_corners

        of_many = [isinstance(x, RegionLoss) or averages_pixels(x) for x in self.losses]
        if self.selects_pixels and any(of_many):
            raise InputError("top_k_percent_pixels needs a loss that returns a number per pixel.")

    @property
    def pixel_loss(self) -> Any:
        """The loss, or the tuple of several; None is cross-entropy."""
        return self.losses[0] if len(self.losses) == 1 else self.losses

    @property
    def selects_pixels(self) -> bool:
        """Whether only the hardest pixels count."""
        return self.settings.top_k_percent_pixels != 1.0

    @property
    def exchanges_in_parts(self) -> bool:
        """Whether the replicas add up numbers for each part of a batch."""
        return self.selects_pixels or any(isinstance(loss, DiceLoss) for loss in self.losses)

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
        share, _ = self.share(y_pred, labels, weights=weights, across_replicas=False)
        return share

    def call(self, y_true, y_pred):
        return self(y_true, y_pred)

    def count(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns the number of pixels that count, float32."""
        return tf.reduce_sum(tf.cast(is_valid(labels, self.ignore_label), tf.float32))

    def share(
        self,
        logits: tf.Tensor,
        labels: tf.Tensor,
        *,
        weights: tf.Tensor | None = None,
        num_pixels: tf.Tensor | None = None,
        parts: int = 1,
        across_replicas: bool = True,
        **how: Any,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns this replica's share of the loss; the shares of all replicas add up to it.

        Args:
          logits, labels, weights: as in `sums`.
          num_pixels: number of pixels that count in the global batch; None counts them here.
          parts: number of equal parts that the batch is computed in; `labels` are one of them.
          across_replicas: false takes this replica for the only one.
          **how: the other arguments of `sums`.
        Returns:
          The share, and the number of pixels on all replicas that the loss averages over; if no
          loss has a number for each pixel, that is the number of images. Both scalar float32.
        """
        number = replicas.number() if across_replicas else 1
        total_of = replicas.total if across_replicas else tf.identity
        shares: list[tf.Tensor] = []
        averaged = None

        for place, (total, counted) in enumerate(self._sums(logits, labels, weights, **how)):
            if counted is None:  # `total` is a mean already; all replicas and parts weigh the same
                share = total / (number * parts)
            elif num_pixels is not None:
                averaged = num_pixels
                share = tf.math.divide_no_nan(total, num_pixels)
            else:
                # Each part selects its own hardest pixels, so the means of the parts are averaged.
                averaged = total_of(counted)
                share = tf.math.divide_no_nan(total, averaged) / parts
            shares.append(share * self.loss_weights[place] if self.loss_weights else share)

        if averaged is None:
            averaged = tf.cast(tf.shape(labels)[0] * number, tf.float32)
        return functools.reduce(tf.add, shares), averaged

    def sums(
        self,
        logits: tf.Tensor,
        labels: tf.Tensor,
        *,
        weights: tf.Tensor | None = None,
        **how: Any,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the sum of the pixels' losses and the number of pixels that count.

        It is for a single loss, and does not multiply it by `loss_weights`.

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
        (sums,) = self._sums(logits, labels, weights, **how)
        return sums

    def _sums(
        self,
        logits,
        labels,
        weights,
        *,
        step: tf.Tensor | int = 0,
        align_corners: bool | None = None,
        for_xla: bool = False,
    ) -> list[tuple[tf.Tensor, tf.Tensor | None]]:
        """Returns what `sums` does, for each loss."""
        corners = self.align_corners if align_corners is None else align_corners
        labels = labels[..., 0]

        # Cross-entropy looks up the logit of every label, so ignored pixels get a valid class.
        valid = is_valid(labels, self.ignore_label)
        classes = tf.cast(tf.where(valid, labels, tf.zeros_like(labels)), tf.int32)

        @functools.cache  # once for all losses
        def enlarged():
            size = tf.shape(classes)[1:3]
            return enlarge(logits, size, align_corners=corners, for_xla=for_xla)

        factors = self._factors(classes, weights)
        results: list[tuple[tf.Tensor, tf.Tensor | None]] = []
        for loss in self.losses:
            if isinstance(loss, RegionLoss):
                counts = tf.where(valid, 1.0 if weights is None else weights, 0.0)
                label_weights = self.settings.label_weights
                results.append((loss.of_batch(enlarged(), classes, counts, label_weights), None))
            elif averages_pixels(loss):
                masked = tf.where(valid, factors, 0.0)
                result = loss(classes[..., tf.newaxis], enlarged(), sample_weight=masked)
                results.append((tf.reduce_mean(tf.cast(result, tf.float32)), None))
            else:
                if loss is None:
                    losses = pixel_losses(
                        logits,
                        classes,
                        label_smoothing=self.settings.label_smoothing,
                        align_corners=corners,
                        for_xla=for_xla,
                    )
                else:
                    losses = losses_of_pixels(loss, enlarged(), classes)
                if losses.shape.rank < 3:
                    results.append((self._plain_mean(loss, losses, valid, weights), None))
                else:
                    results.append(self._selected(losses, factors, valid, step))
        return results

    def _factors(self, classes, weights):
        """Returns the factors on the losses of the pixels: [B, H, W], or one number."""
        factors: tf.Tensor | float = 1.0
        if self.settings.label_weights:
            factors = tf.gather(tf.constant(self.settings.label_weights, tf.float32), classes)
        if weights is not None:
            factors *= weights
        return factors

    def _selected(self, losses, factors, valid, step):
        """Returns the sum of the losses of the pixels that count, and their number."""
        losses = tf.where(valid, losses * factors, 0.0)
        if self.selects_pixels:
            share = hardest_share(
                self.settings.top_k_percent_pixels,
                step=step,
                ramp_steps=self.settings.hard_example_mining_step,
            )
            losses = hardest(losses, share)
            valid = tf.not_equal(losses, 0.0)
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(valid, tf.float32))

    def _plain_mean(self, loss, losses, valid, weights):
        """Returns the mean of a loss that returned one number for each image, or for the batch.

        Raises:
          InputError: if pixels must be weighted or selected; a step with ignored pixels is stopped
            by `require_in_step`.
        """
        name = name_of(loss)
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
        serialize = tf.keras.saving.serialize_keras_object
        stored = [loss and serialize(loss) for loss in self.losses]
        return dataclasses.asdict(self.settings) | {
            "ignore_label": self.ignore_label,
            "pixel_loss": stored[0] if len(stored) == 1 else stored,
            "loss_weights": self.loss_weights,
            "align_corners": self.align_corners,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        stored = config.get("pixel_loss")
        many = isinstance(stored, list | tuple)
        losses = [_restored(loss) for loss in stored] if many else _restored(stored)
        return cls(**config | {"pixel_loss": losses})


def _built(loss: Any, settings: LossConfig) -> Any:
    """Returns a loss as None for cross-entropy, a loss object or a function.

    Args:
      loss: a name of the setting `loss`, or whatever else `SegmentationLoss` takes.
    """
    if not isinstance(loss, str) or loss not in all_losses():
        return given_loss(loss)
    return {
        "cross_entropy": lambda: None,
        "focal": lambda: FocalLoss(gamma=settings.focal_gamma, alpha=settings.focal_alpha or None),
        "dice": lambda: DiceLoss(smooth=settings.dice_smooth, log_loss=settings.dice_log_loss),
        "lovasz_softmax": lambda: LovaszSoftmaxLoss(per_image=settings.lovasz_per_image),
    }[loss]()


def _require_effect(settings: LossConfig, given: Any, *, is_restored: bool) -> None:
    """Checks that the settings of single losses were given with these losses' names.

    Args:
      given: the losses, as `SegmentationLoss` takes them.
      is_restored: whether the loss was saved; then `settings.loss` has the names too.
    Raises:
      InputError: if one of them would have no effect, since its loss is missing or is an object
        with settings of its own.
    """
    names = {loss or "cross_entropy" for loss in given if loss is None or isinstance(loss, str)}
    names |= set(settings.loss) if is_restored else set()
    for field in dataclasses.fields(settings):
        (needed,) = field.metadata["only_with"].get("loss", ("",))
        if needed and needed not in names and getattr(settings, field.name) != field.default:
            raise InputError(
                f"{field.name}={getattr(settings, field.name)!r} has no effect without "
                f"loss={needed!r}; give that name, or leave {field.name} out: a loss object has "
                "such a setting itself."
            )


def _checked_weights(weights: Any, *, number: int) -> tuple[float, ...]:
    """Returns the factors on the losses.

    Raises:
      InputError: if they are not `number` numbers, or none.
    """
    weights = make_settings(LossWeights, {"loss_weights": weights}).loss_weights
    if len(weights) not in (0, number):
        raise InputError(
            f"loss_weights holds {len(weights)}; allowed: none, or {number} numbers, one for each "
            "loss."
        )
    return weights


def _restored(loss: Any) -> Any:
    """Returns a loss from its entry in a saved configuration."""
    if not isinstance(loss, dict):
        return loss
    # When a SavedModel is loaded, the general function does not find Keras' own losses.
    of_keras = loss.get("class_name") in GIVEN_AS
    general = tf.keras.saving.deserialize_keras_object
    return tf.keras.losses.deserialize(loss) if of_keras else general(loss)

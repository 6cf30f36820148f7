"""Losses on class scores. Labels are never reduced; scores are enlarged to them."""

import dataclasses
import inspect
from typing import Any

import tensorflow as tf

from deeplab_tf.models.inputs import (
    InputError,
    after,
    check_values,
    class_labels,
    is_valid,
    pixel_weights,
    require_in_step,
)
from deeplab_tf.models.layers import NAMESPACE, interpolation_matrix, resize_bilinear

_MEAN = "sum_over_batch_size"
_BAND_BYTES = 32 << 20  # of enlarged scores held at once on a CPU
# Keras' own losses that are defined on logits: class, by the name of its function.
_KERAS_LOSSES = {
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What makes one number of the pixels' losses; explained in TrainConfig.

    ignore_label: label of pixels that do not count; None if all do.
    """

    ignore_label: int | None = 255
    auxiliary_loss_weight: float = 0.4
    label_weights: tuple[float, ...] = ()
    top_k_percent_pixels: float = 1.0
    hard_example_mining_step: int = 0


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SegmentationLoss(tf.keras.losses.Loss):
    """The mean loss of the pixels that count: cross-entropy, or any other loss of a pixel.

    Logits are enlarged to the labels. Pixels labelled `ignore_label` have no influence: a pixel
    loss sees class 0 there, and its value is left out of sum and divisor. `sample_weight` and
    `label_weights` are factors on a pixel's loss; the divisor stays the number of pixels that
    count.

    `DeepLab.compile` makes one of whatever `loss` it is given. In another Keras model it is a loss
    like any other, on labels [B, H, W, 1] or [B, H, W] and logits [B, h, w, classes]; over several
    replicas Keras then averages the replicas' means.

    Args:
      pixel_loss: None for cross-entropy; one of Keras' cross-entropies, as name, class or instance
        (with from_logits=True); or a function or tf.keras.losses.Loss of one's own. That is given
        int32 labels [B, H, W, 1] and float32 logits [B, H, W, classes], and returns a number for
        each pixel, [B, H, W]. One that returns a single number or one for each image cannot be
        masked afterwards: it needs labels without ignored pixels, or a third parameter
        `sample_weight`, float32 [B, H, W], 0 where pixels do not count.
      align_corners: as of `resize_bilinear`; DeepLab's own configuration comes before it.
      **settings: the fields of `LossSettings`.
    Raises:
      InputError: if there is no such loss, or it takes probabilities, not logits.
    """

    def __init__(
        self,
        pixel_loss: Any = None,
        *,
        align_corners: bool = False,
        name: str = "segmentation_loss",
        **settings: Any,
    ):
        super().__init__(name=name)
        if "label_weights" in settings:
            settings["label_weights"] = tuple(settings["label_weights"])
        self.settings = LossSettings(**settings)
        self.pixel_loss = _pixel_loss(pixel_loss)
        self.align_corners = align_corners
        if self.reduces and self.mines:
            raise InputError("top_k_percent_pixels needs a loss that returns a number per pixel.")

    @property
    def mines(self) -> bool:
        """Whether the hardest pixels alone count."""
        return self.settings.top_k_percent_pixels != 1.0

    @property
    def reduces(self) -> bool:
        """Whether the pixel loss takes sample_weight and makes one number itself."""
        loss = self.pixel_loss
        if loss is None or isinstance(loss, tf.keras.losses.Loss):
            return False
        return "sample_weight" in inspect.signature(loss).parameters

    def __call__(self, y_true, y_pred, sample_weight=None):
        labels = class_labels(y_true, y_true, y_pred.shape[-1])
        if self.mines and self.settings.hard_example_mining_step:
            raise InputError("hard_example_mining_step needs the step that DeepLab.fit counts.")
        weights = None if sample_weight is None else pixel_weights(sample_weight, labels)
        _, labels, _ = check_values(
            labels,
            labels,
            num_classes=y_pred.shape[-1],
            ignore_label=self.settings.ignore_label,
        )
        total, count = self.sums(y_pred, labels, weights=weights)
        return total if count is None else tf.math.divide_no_nan(total, count)

    def call(self, y_true, y_pred):
        return self(y_true, y_pred)

    def sums(
        self,
        logits: tf.Tensor,
        labels: tf.Tensor,
        *,
        weights: tf.Tensor | None = None,
        step: tf.Tensor | int = 0,
        align_corners: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the sum of the pixels' losses and the number of pixels that count.

        Args:
          logits: [B, h, w, classes].
          labels: [B, H, W, 1], class numbers.
          weights: factors on the pixels' losses, float32, broadcast to [B, H, W].
          step: that of `hard_example_mining_step`.
        Returns:
          Two scalars, float32; the number is None for a loss that reduces itself, where the
          first is its mean.
        """
        settings = self.settings
        if align_corners is None:
            align_corners = self.align_corners
        labels = labels[..., 0]
        valid = is_valid(labels, settings.ignore_label)
        classes = tf.cast(tf.where(valid, labels, tf.zeros_like(labels)), tf.int32)
        if self.reduces:
            weights = _factors(classes, valid, settings.label_weights, weights)
            enlarged = enlarge(logits, tf.shape(classes)[1:3], align_corners=align_corners)
            result = self.pixel_loss(classes[..., tf.newaxis], enlarged, sample_weight=weights)
            return tf.reduce_mean(tf.cast(result, tf.float32)), None

        hardest = None
        if self.mines:
            hardest = hardest_share(
                settings.top_k_percent_pixels,
                step=step,
                ramp_steps=settings.hard_example_mining_step,
            )
        if self.pixel_loss is None:
            losses = pixel_losses(logits, classes, align_corners=align_corners)
        else:
            losses = self._own_losses(logits, classes, valid, align_corners)
            if losses.shape.rank < 3:
                return self._plain_mean(losses, valid, weights), None
        return _masked_sum(
            losses,
            classes,
            valid,
            label_weights=settings.label_weights,
            weights=weights,
            hardest=hardest,
        )

    def _own_losses(self, logits, classes, valid, align_corners):
        """Returns what the given loss makes of the enlarged logits: [B, H, W], [B] or a scalar."""
        loss, labels = self.pixel_loss, classes[..., tf.newaxis]
        enlarged = enlarge(logits, tf.shape(classes)[1:3], align_corners=align_corners)
        if _takes_one_hot(loss):
            labels = tf.one_hot(classes, logits.shape[-1])
        function = loss.call if isinstance(loss, tf.keras.losses.Loss) else loss
        losses = tf.cast(function(labels, enlarged), tf.float32)

        if losses.shape.rank == 4 and losses.shape[-1] == 1:
            losses = losses[..., 0]
        per_pixel = losses.shape.rank == 3 and losses.shape.is_compatible_with(classes.shape)
        if not per_pixel and losses.shape.rank not in (0, 1):
            raise InputError(
                f"The loss {_name_of(loss)} returned the shape {losses.shape} for labels "
                f"{labels.shape}; a loss returns a number for each pixel, [B, H, W]."
            )
        return losses

    def _plain_mean(self, losses, valid, weights):
        """Returns the mean of losses of whole images, whose pixels cannot be told apart."""
        name = _name_of(self.pixel_loss)
        way_out = (
            "return a number for each pixel, [B, H, W], or take a third parameter sample_weight, "
            "which is 0 where pixels do not count"
        )
        if weights is not None or self.settings.label_weights or self.mines:
            raise InputError(
                f"The loss {name} returns one number for many pixels, so that they cannot be "
                f"weighed or chosen; {way_out}."
            )
        ignored = tf.reduce_sum(tf.cast(~valid, tf.int64))
        text = f"The loss {name} returns one number for many pixels; pixels to ignore:"
        check = require_in_step(tf.equal(ignored, 0), text, ignored, way_out)
        with after(check):  # XLA leaves assertions out
            return tf.where(tf.equal(ignored, 0), tf.reduce_mean(losses), float("nan"))

    def get_config(self):
        loss = self.pixel_loss
        return dataclasses.asdict(self.settings) | {
            "pixel_loss": loss and tf.keras.saving.serialize_keras_object(loss),
            "align_corners": self.align_corners,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        loss = config.get("pixel_loss")
        if isinstance(loss, dict):
            # In a SavedModel the general function finds none of Keras' own losses.
            of_keras = loss.get("class_name") in _KERAS_LOSSES.values()
            general = tf.keras.saving.deserialize_keras_object
            loss = tf.keras.losses.deserialize(loss) if of_keras else general(loss)
        return cls(**config | {"pixel_loss": loss})


def _keras_losses():
    return {name: getattr(tf.keras.losses, kind) for name, kind in _KERAS_LOSSES.items()}


def _takes_one_hot(loss) -> bool:
    known = _keras_losses()
    return isinstance(loss, tuple(kind for name, kind in known.items() if "sparse" not in name))


def _name_of(loss) -> str:
    return getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))


def _pixel_loss(loss: Any) -> Any:
    """Returns None, a Keras loss on logits, or a function; makes them of names and classes."""
    known = _keras_losses()
    functions = {getattr(tf.keras.losses, name): kind for name, kind in known.items()}
    if isinstance(loss, str):
        kinds = {kind.__name__: kind for kind in known.values()}
        loss = (known | kinds).get(loss, loss)
    elif callable(loss) and not isinstance(loss, type):
        loss = functions.get(loss, loss)
    if isinstance(loss, type) and issubclass(loss, tf.keras.losses.Loss):
        loss = loss(from_logits=True) if loss in known.values() else loss()

    if loss is not None and not callable(loss):
        raise InputError(
            f"loss={loss!r} is not possible; allowed: None (cross-entropy), "
            f"{', '.join(known)}, or one function or tf.keras.losses.Loss of labels and logits."
        )
    own = vars(tf.keras.losses).values()
    if (loss in own or type(loss) in own) and type(loss) not in known.values():
        raise InputError(
            f"The loss {_name_of(loss)} is not defined on class numbers and logits; allowed of "
            f"Keras' losses: {', '.join(known)}."
        )
    if not isinstance(loss, tf.keras.losses.Loss):
        return loss
    if not loss.get_config().get("from_logits", True):
        raise InputError(
            f"The loss {_name_of(loss)} takes probabilities, but the model returns logits; write "
            f"{type(loss).__name__}(from_logits=True)."
        )
    if loss.reduction not in ("auto", _MEAN):
        raise InputError(
            f"The loss {_name_of(loss)} has reduction={loss.reduction!r}, but the mean of the "
            "pixels that count is taken; leave reduction out."
        )
    return loss


def _factors(classes, valid, label_weights, weights):
    """Returns each pixel's factor, float32: 0 where it does not count."""
    factors = tf.cast(valid, tf.float32)
    if label_weights:
        factors *= tf.gather(tf.constant(label_weights, tf.float32), classes)
    return factors if weights is None else factors * weights


def count_valid(labels: tf.Tensor, ignore_label: int | None) -> tf.Tensor:
    """Returns the number of pixels that count, float32."""
    return tf.reduce_sum(tf.cast(is_valid(labels, ignore_label), tf.float32))


def hardest_share(share: float, *, step: tf.Tensor, ramp_steps: int) -> float | tf.Tensor:
    """Returns the share of pixels mined at a step: from 1 linearly to `share`, then constant.

    (Official DeepLab, utils/train_utils.py, hard_example_mining_step.)
    """
    if not ramp_steps:
        return share
    done = tf.minimum(tf.cast(step, tf.float64) / ramp_steps, 1.0)
    return done * share + (1.0 - done)


def cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    ignore_label: int,
    align_corners: bool = False,
    label_weights: tuple[float, ...] = (),
    hardest: float | tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Enlarges class scores to the label grid and sums the cross-entropy of valid pixels.

    Logits are enlarged rather than labels reduced, so that fine labels survive (Chen et al. 2017,
    sec. 4.1). The mean is left to the caller, who alone knows how many pixels count in all.

    Args:
      logits: [B, h, w, classes], unnormalised.
      labels: [B, H, W, 1], integer; `ignore_label` marks pixels that do not count.
      label_weights: factor on the loss of each class's pixels; empty means 1.
      hardest: share of all pixels, ignored ones too, whose loss is highest and alone counts; None
        for all of them.
    Returns:
      Sum over valid pixels in nats, and the number of valid pixels (with `hardest`: of those of
      its pixels that have a loss), both scalar float32.
    """
    labels = labels[..., 0]
    valid = is_valid(labels, ignore_label)
    classes = tf.cast(tf.where(valid, labels, tf.zeros_like(labels)), tf.int32)
    losses = pixel_losses(logits, classes, align_corners=align_corners)
    return _masked_sum(losses, classes, valid, label_weights=label_weights, hardest=hardest)


def _masked_sum(losses, classes, valid, *, label_weights=(), weights=None, hardest=None):
    """Returns the sum of the losses [B, H, W] of pixels that count, and how many those are."""
    if label_weights:
        losses *= tf.gather(tf.constant(label_weights, tf.float32), classes)
    if weights is not None:
        losses *= weights
    losses = tf.where(valid, losses, 0.0)
    if hardest is not None:
        losses = _hardest(losses, hardest)
        valid = tf.not_equal(losses, 0.0)
    return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(valid, tf.float32))


def _hardest(losses: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns the losses in falling order, 0 after the first int(share * their number)."""
    ordered = tf.sort(tf.reshape(losses, [-1]), direction="DESCENDING")
    pixels = tf.size(ordered)
    kept = tf.cast(tf.cast(share, tf.float64) * tf.cast(pixels, tf.float64), tf.int32)
    return tf.where(tf.range(pixels) < kept, ordered, 0.0)  # XLA has no top k of a k it computes


def pixel_losses(logits: tf.Tensor, labels: tf.Tensor, *, align_corners: bool = False) -> tf.Tensor:
    """Returns each pixel's cross-entropy in nats, float32 [B, H, W].

    On CPUs the enlarged scores exist in bands of rows only, twice: for the loss and again for its
    gradient. For 150 classes on 512x512 pixels that saves about a gigabyte an image.

    Args:
      logits: [B, h, w, classes].
      labels: int32 [B, H, W], every one a class.
    """
    known = None not in (*logits.shape[1:], *labels.shape[1:])
    if not known or tf.config.list_logical_devices("GPU"):
        enlarged = enlarge(logits, tf.shape(labels)[1:3], align_corners=align_corners)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=enlarged)
    bands = _Bands(logits.shape[1:], labels.shape[1:], align_corners)

    @tf.custom_gradient
    def losses_of(logits):
        log_sums, losses = _for_each(bands.losses, (logits, labels), (tf.float32, tf.float32))

        def gradient(upstream):
            return _for_each(bands.gradient, (logits, labels, log_sums, upstream), tf.float32)

        return losses, gradient

    return losses_of(logits)


def enlarge(logits: tf.Tensor, size: tf.Tensor, *, align_corners: bool = False) -> tf.Tensor:
    """`resize_bilinear` with its gradient by a matrix product along each axis."""
    height, width = tf.unstack(size)

    @tf.custom_gradient
    def enlarged(logits):
        def gradient(upstream):
            batch, rows, columns, classes = tf.unstack(tf.shape(logits))
            down = interpolation_matrix(rows, height, align_corners=align_corners)
            across = interpolation_matrix(columns, width, align_corners=align_corners)
            upstream = tf.reshape(upstream, [batch, height, width * classes])
            upstream = tf.matmul(down, upstream, transpose_a=True)
            upstream = tf.reshape(upstream, [batch * rows, width, classes])
            upstream = tf.matmul(across, upstream, transpose_a=True)
            return tf.reshape(upstream, [batch, rows, columns, classes])

        return resize_bilinear(logits, size, align_corners=align_corners), gradient

    result = enlarged(tf.cast(logits, tf.float32))
    result.set_shape([None, None, None, logits.shape[-1]])
    return result


def _for_each(function, images, kinds):
    return tf.map_fn(
        lambda image: function(*image), images, fn_output_signature=kinds, parallel_iterations=1
    )


class _Bands:
    """The loss of one image and its gradient, in bands of rows one after the other.

    Bilinear enlarging is a matrix product along each axis, and so is the way back; columns are
    enlarged at once, rows band by band. Scores are [classes, rows, W]: reductions over classes
    then run along memory.
    """

    def __init__(self, cells: tf.TensorShape, pixels: tf.TensorShape, align_corners: bool):
        """Takes the shapes [h, w, classes] of logits and [H, W] of labels."""
        (height, width), (*self.cells, self.classes) = pixels, cells
        self.row_weights, self.column_weights = (
            interpolation_matrix(cells, size, align_corners=align_corners)
            for cells, size in zip(self.cells, pixels, strict=True)
        )
        count = -(-4 * self.classes * width * height // _BAND_BYTES)
        rows = -(-height // count)
        self.bands = [(first, min(first + rows, height)) for first in range(0, height, rows)]

    def _scores(self, wide, first, last):
        return tf.matmul(self.row_weights[first:last], wide)

    def _widen(self, logits):
        return tf.einsum("hwc,Ww->chW", logits, self.column_weights)

    def losses(self, logits, labels):
        """Returns the logarithms of the sums of exponentials, and the losses, both [H, W]."""
        wide = self._widen(logits)
        log_sums: list[tf.Tensor] = []
        losses: list[tf.Tensor] = []
        for first, last in self.bands:
            with tf.control_dependencies(losses[-1:]):
                scores = self._scores(wide, first, last)
            highest = tf.reduce_max(scores, axis=0)
            log_sum = tf.math.log(tf.reduce_sum(tf.exp(scores - highest), axis=0)) + highest
            pixels = tf.size(log_sum)
            places = tf.reshape(labels[first:last], [-1]) * pixels + tf.range(pixels)
            own = tf.gather(tf.reshape(scores, [-1]), places)
            log_sums.append(log_sum)
            losses.append(log_sum - tf.reshape(own, tf.shape(log_sum)))
        return tf.concat(log_sums, axis=0), tf.concat(losses, axis=0)

    def gradient(self, logits, labels, log_sums, upstream):
        """Returns the gradient by one image's logits, given that by its losses, [H, W]."""
        wide = self._widen(logits)
        total = tf.zeros_like(wide)
        for first, last in self.bands:
            with tf.control_dependencies([total]):
                scores = self._scores(wide, first, last)
            with tf.control_dependencies([scores]):
                own = tf.one_hot(labels[first:last], self.classes, axis=0, dtype=scores.dtype)
            errors = (tf.exp(scores - log_sums[first:last]) - own) * upstream[first:last]
            total += tf.matmul(self.row_weights[first:last], errors, transpose_a=True)
        return tf.einsum("chW,Ww->hwc", total, self.column_weights)

"""Checks what is given to `fit`, `evaluate` and `predict`: shapes, types and values.

Shapes and types are checked while a step is traced, which costs nothing; values in the graph. Every
fault ends in an `InputError` of one sentence.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.messages import UserError


class InputError(UserError, ValueError):
    """A model was given something it cannot take; a ValueError, as Keras users expect."""


def make_settings(kind: type, values: dict[str, Any]) -> Any:
    """Makes a settings group of keyword arguments.

    Raises:
      InputError: if a value is not allowed.
    """
    try:
        return kind(**values)
    except UserError as error:
        raise InputError(str(error).removeprefix("--")) from None


def check_images(images: Any) -> None:
    """Refuses everything but a batch of RGB images, [B, H, W, 3].

    Raises:
      InputError: naming the shape or type, as far as they are known.
    """
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise InputError(
            f"The images are a {type(images).__name__}; give one array or tensor, [B, H, W, 3]."
        )
    dtype = tf.as_dtype(images.dtype)
    if not (dtype.is_floating or dtype.is_integer):
        raise InputError(f"The images are of type {dtype.name}; give numbers in 0..255.")
    shape = tf.TensorShape(images.shape)
    if shape.rank is None or shape.is_compatible_with([None, None, None, 3]):
        return
    way_out = "give RGB images [B, H, W, 3] with values in 0..255"
    if shape.rank == 3 and shape[-1] == 3:
        way_out = "a batch [B, H, W, 3] is taken: images[np.newaxis] is a batch of one image"
    elif shape.rank == 4 and shape[1] == 3:
        way_out = "channels come last: np.moveaxis(images, 1, -1) gives [B, H, W, 3]"
    elif shape.rank == 3 or shape.rank == 4 and shape[-1] == 1:
        way_out = "give grey images three times, as red, green and blue: [B, H, W, 3]"
    elif shape.rank == 4 and shape[-1] == 4:
        way_out = "leave out the fourth channel: images[..., :3]"
    raise InputError(f"The images have the shape {_text(shape)}; {way_out}.")


def class_labels(labels: Any, images: Any, num_classes: int) -> tf.Tensor:
    """Returns labels as [B, H, W, 1]; refuses those that are no class numbers or fit no image.

    Args:
      labels: [B, H, W, 1] or [B, H, W], of any numeric type.
      images: what they belong to.
    Raises:
      InputError: naming the shape or type, as far as they are known.
    """
    if labels is None:
        raise InputError("There are images without labels; give (images, labels).")
    if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
        raise InputError(
            f"The labels are a {type(labels).__name__}; give one array or tensor, [B, H, W, 1]."
        )
    dtype = tf.as_dtype(labels.dtype)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise InputError(f"The labels are of type {dtype.name}; give class numbers, such as int32.")

    shape = tf.TensorShape(labels.shape)
    if shape.rank == 3:
        labels = tf.expand_dims(labels, -1)
    elif shape.rank is not None and not shape.is_compatible_with([None, None, None, 1]):
        way_out = "give class numbers [B, H, W] or [B, H, W, 1]"
        if shape.rank == 4 and shape[-1] == num_classes:
            way_out += "; np.argmax(labels, axis=-1) turns one-hot labels into them"
        raise InputError(f"The labels have the shape {_text(shape)}; {way_out}.")

    sizes = [tf.TensorShape(values.shape)[:3] for values in (images, labels)]
    if not sizes[0].is_compatible_with(sizes[1]):
        raise InputError(
            f"The images are {_text(sizes[0])} and the labels {_text(sizes[1])}: both need the "
            "same number, height and width."
        )
    return _as_integers_or_floats(labels)


def pixel_weights(weights: Any, labels: tf.Tensor) -> tf.Tensor:
    """Returns `sample_weight` for each pixel, float32 [B, H, W] or [B, 1, 1].

    Args:
      weights: one number for each image, [B] or [B, 1], or pixel, [B, H, W] or [B, H, W, 1].
      labels: [B, H, W, 1].
    Raises:
      InputError: naming the shape.
    """
    weights = tf.cast(weights, tf.float32)
    shape, size = weights.shape, labels.shape[:3]
    if shape.rank == 1 or shape.rank == 2 and shape[1] == 1:
        return tf.reshape(weights, [-1, 1, 1])
    if shape.rank == 4 and shape[-1] == 1:
        weights = weights[..., 0]
    if not weights.shape.is_compatible_with(size):
        raise InputError(
            f"sample_weight has the shape {_text(shape)}; give a number for each image, [B], or "
            f"for each pixel, {_text(size)}."
        )
    return weights


def check_values(
    images: tf.Tensor, labels: tf.Tensor, *, num_classes: int, ignore_label: int | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Stops a step whose labels are no class numbers, or do not have the images' size.

    Args:
      images: [B, H, W, 3].
      labels: [B, H, W, 1], as `class_labels` returned them.
    Returns:
      Both again, to be used from here on: nothing may be computed, and no weight changed, before
      they are checked; and whether all is well, since XLA leaves assertions out.
    Raises:
      tf.errors.InvalidArgumentError: which `one_sentence` turns into an InputError.
    """
    valid = is_valid(labels, ignore_label)
    inside = tf.where(valid, labels, tf.zeros_like(labels))
    low, high = tf.reduce_min(inside), tf.reduce_max(inside)
    known = (low >= 0) & (high < num_classes)
    strange = tf.where(low < 0, low, high)
    if labels.dtype.is_floating:
        broken = tf.reshape(tf.not_equal(inside, tf.floor(inside)), [-1])  # NaN too
        first = tf.gather(tf.reshape(inside, [-1]), tf.argmax(tf.cast(broken, tf.int32)))
        strange = tf.where(known, first, strange)
        known &= ~tf.reduce_any(broken)
    allowed = f"class numbers are 0 to {num_classes - 1}"
    if ignore_label is not None:
        allowed += f", and {ignore_label} (ignore_label) for pixels that do not count"

    sizes = tf.stack([tf.shape(images)[:3], tf.shape(labels)[:3]])
    fit = tf.reduce_all(tf.equal(sizes[0], sizes[1]))
    checks = [
        require_in_step(known, "The labels hold the value", strange, allowed),
        require_in_step(fit, "Number, height and width of images and labels differ:", sizes, ""),
    ]
    with after(*checks):
        return tf.identity(images), tf.identity(labels), known & fit


def is_valid(labels: tf.Tensor, ignore_label: int | None) -> tf.Tensor:
    """Returns which pixels count, bool, of the labels' shape."""
    if ignore_label is None:
        return tf.ones_like(labels, tf.bool)
    return tf.not_equal(labels, tf.cast(ignore_label, labels.dtype))


class ScaleWarning:
    """Warns once if images seem to be scaled: the model takes 0..255 and normalises inside."""

    def __init__(self):
        self.given = False

    def look_at(self, images: tf.Tensor) -> None:
        """Checks the images; called while a step is traced, or eagerly."""
        low, high = tf.reduce_min(images), tf.reduce_max(images)
        low, high = tf.cast(low, tf.float32), tf.cast(high, tf.float32)
        scaled = (low < 0) | ((high <= 1) & (high > 0))
        if tf.executing_eagerly():
            if scaled:
                self._warn(low.numpy(), high.numpy())
            return

        def warn():
            with tf.control_dependencies([tf.numpy_function(self._warn, [low, high], [])]):
                return tf.constant(True)

        tf.cond(scaled, warn, lambda: tf.constant(False))

    def _warn(self, low, high):
        if not self.given:
            self.given = True
            warnings.warn(
                f"The images' values are {low:g} to {high:g}, but the model takes 0 to 255 and "
                "normalises them itself: leave out the scaling before it.",
                stacklevel=2,
            )


def _as_integers_or_floats(labels):
    """Casts to what holds every value exactly: float64, int64 or int32."""
    dtype = tf.as_dtype(labels.dtype)
    if dtype.is_floating:
        return tf.cast(labels, tf.float64)
    wide = dtype in (tf.int64, tf.uint32, tf.uint64)
    return tf.cast(labels, tf.int64 if wide else tf.int32)


_MARK = "deeplab_tf"


def require_in_step(
    condition: tf.Tensor, text: str, value: tf.Tensor, way_out: str
) -> tf.Operation | None:
    """Stops a running step with the sentence "{text} {value}; {way_out}." unless `condition`.

    Returns the operation that later ones must wait for; None in eager mode, where it has run.
    """
    if tf.executing_eagerly():
        if not condition:
            raise InputError(_sentence(text, value.numpy(), way_out))
        return None
    return tf.debugging.Assert(condition, [_MARK, text, value, way_out, _MARK], summarize=6)


def after(*checks: tf.Operation | None):
    """Returns a context whose operations wait for `require_in_step`."""
    return tf.control_dependencies([check for check in checks if check is not None])


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turns the errors of a step into the `InputError` that caused them.

    An InputError raised while tracing arrives wrapped by AutoGraph, a failed assertion as an error
    of the runtime with the graph's call stack.
    """
    try:
        yield
    except Exception as error:
        found = _refusal(error)
        if found is None or found is error:
            raise
        raise found from None


def _refusal(error: BaseException | None) -> InputError | None:
    if isinstance(error, tf.errors.InvalidArgumentError):
        pattern = rf"\[{_MARK}\] \[(.*?)\] \[(.*?)\] \[(.*?)\] \[{_MARK}\]"
        failed = re.search(pattern, str(error), re.DOTALL)
        if failed:
            return InputError(_sentence(*failed.groups()))
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _sentence(text: str, value: object, way_out: str) -> str:
    numbers = " ".join(re.sub(r"[][]", " ", str(value)).split())
    return f"{text} {numbers}" + (f"; {way_out}." if way_out else ".")


def _text(shape) -> str:
    sizes = np.asarray(tf.TensorShape(shape).as_list(), object)
    return "[" + ", ".join("?" if n is None else str(n) for n in sizes) + "]"

"""Checks what is given to `fit`, `evaluate` and `predict`: shapes, types and values.

Shapes and types are checked while a step is traced, so they cost nothing in later steps. Values are
checked in the graph, in each step. Every fault ends in an `InputError` of one sentence.
"""

import contextlib
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.messages import UserError, counted


class InputError(UserError, ValueError):
    """A model was given something that it cannot take; a ValueError, as Keras users expect."""


def require_full_precision(policy: tf.keras.mixed_precision.Policy) -> None:
    """Checks that Keras keeps weights and metrics in float32 or better.

    Raises:
      InputError: if it keeps them in half precision, which is too coarse to train in.
    """
    half = ("float16", "bfloat16")
    if policy.variable_dtype in half or tf.keras.backend.floatx() in half:
        raise InputError(
            f"Keras keeps weights in {policy.variable_dtype} and metrics in "
            f"{tf.keras.backend.floatx()}, too coarse to train with; call "
            "tf.keras.backend.set_floatx('float32') and, to compute in half precision, "
            "tf.keras.mixed_precision.set_global_policy('mixed_float16')."
        )


def explained(method: Callable) -> Callable:
    """Wraps a method of tf.keras.Model so that an error in its inputs is one sentence."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(*args, **kwargs):
        if signature.bind(*args, **kwargs).arguments.get("class_weight") is not None:
            raise InputError(
                "class_weight is not possible here; give compile(label_weights=...), one number "
                "for each class, the factor on the loss of its pixels."
            )
        try:
            with one_sentence():
                return method(*args, **kwargs)
        except BaseException:  # also Ctrl-C in a notebook
            # Keras keeps a function whose first trace has failed, and TensorFlow would let it
            # create no variables, not even the optimizer's: no later call could train.
            model = args[0]
            model.train_function = model.test_function = model.predict_function = None
            raise

    return run


def make_settings(kind: type, values: dict[str, Any]) -> Any:
    """Makes a group of settings, such as `LossConfig`, from keyword arguments.

    Raises:
      InputError: if a value is not allowed.
    """
    try:
        return kind(**values)
    except UserError as error:
        raise InputError(str(error).removeprefix("--")) from None


def check_images(images: Any, channels: int = 3) -> None:
    """Checks that the images are one batch, [B, H, W, channels]; with three channels, RGB.

    Raises:
      InputError: if they are anything else, as far as their shape is known.
    """
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise InputError(
            f"The images are a {type(images).__name__}; give one array or tensor, "
            f"[B, H, W, {channels}]."
        )

    dtype = tf.as_dtype(images.dtype)
    if not (dtype.is_floating or dtype.is_integer):
        raise InputError(f"The images are of type {dtype.name}; give numbers in 0..255.")

    shape = tf.TensorShape(images.shape)
    if shape.rank is None or shape.is_compatible_with([None, None, None, channels]):
        return
    if channels != 3:
        raise InputError(
            f"The images have the shape {_text(shape)}; give a batch [B, H, W, {channels}] with "
            f"values in 0..255, since the model takes {counted(channels, 'channel')}."
        )

    way_out = "give RGB images [B, H, W, 3] with values in 0..255"
    if shape.rank == 3 and shape[-1] == 3:
        way_out = "give a batch [B, H, W, 3]: images[np.newaxis] is a batch of one image"
    elif shape.rank == 4 and shape[1] == 3:
        way_out = "channels come last: np.moveaxis(images, 1, -1) gives [B, H, W, 3]"
    elif shape.rank == 3 or shape.rank == 4 and shape[-1] == 1:
        way_out = "repeat grey images three times, as red, green and blue: [B, H, W, 3]"
    elif shape.rank == 4 and shape[-1] == 4:
        way_out = "leave out the fourth channel: images[..., :3]"
    raise InputError(f"The images have the shape {_text(shape)}; {way_out}.")


def class_labels(labels: Any, images: Any, num_classes: int) -> tf.Tensor:
    """Returns the labels as [B, H, W, 1], float64, int64 or int32, whichever is exact.

    Args:
      labels: [B, H, W, 1] or [B, H, W], of any numeric type.
      images: the images that the labels belong to.
    Raises:
      InputError: if the labels cannot be class numbers of these images, as far as the shapes are
        known.
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
            f"The images are {_text(sizes[0])} and the labels {_text(sizes[1])}; give both in the "
            "same number, height and width."
        )
    return _as_integers_or_floats(labels)


def pixel_weights(weights: Any, labels: tf.Tensor) -> tf.Tensor:
    """Returns `sample_weight` as factors on pixels, float32 [B, H, W] or [B, 1, 1].

    Args:
      weights: one number for each image, [B] or [B, 1], or for each pixel, [B, H, W] or
        [B, H, W, 1].
      labels: [B, H, W, 1].
    Raises:
      InputError: if the shape is another one.
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
    """Stops a step whose labels are not class numbers, or do not have the images' size.

    Args:
      images: [B, H, W, 3].
      labels: [B, H, W, 1], as `class_labels` returned them.
    Returns:
      The images and the labels; use these from here on, so that nothing is computed, and no weight
      is changed, before they are checked. Third, bool: whether all is well, for XLA, which removes
      assertions.
    Raises:
      tf.errors.InvalidArgumentError: in a graph; `one_sentence` turns it into an InputError.
      InputError: in eager mode.
    """
    valid = is_valid(labels, ignore_label)
    classes = tf.where(valid, labels, tf.zeros_like(labels))
    low, high = tf.reduce_min(classes), tf.reduce_max(classes)
    are_classes = (low >= 0) & (high < num_classes)
    bad_value = tf.where(low < 0, low, high)

    if labels.dtype.is_floating:
        is_fraction = tf.reshape(tf.not_equal(classes, tf.floor(classes)), [-1])  # also of NaN
        fraction = tf.gather(tf.reshape(classes, [-1]), tf.argmax(tf.cast(is_fraction, tf.int32)))
        bad_value = tf.where(are_classes, fraction, bad_value)
        are_classes &= ~tf.reduce_any(is_fraction)

    allowed = f"class numbers are 0 to {num_classes - 1}"
    if ignore_label is not None:
        allowed += f", and {ignore_label} (ignore_label) for pixels that do not count"

    sizes = tf.stack([tf.shape(images)[:3], tf.shape(labels)[:3]])
    have_same_size = tf.reduce_all(tf.equal(sizes[0], sizes[1]))
    sizes_differ = "Number, height and width of images and labels differ:"
    checks = [
        require_in_step(are_classes, "The labels hold the value", bad_value, allowed),
        require_in_step(have_same_size, sizes_differ, sizes, ""),
    ]
    with after(*checks):
        return tf.identity(images), tf.identity(labels), are_classes & have_same_size


def is_valid(labels: tf.Tensor, ignore_label: int | None) -> tf.Tensor:
    """Returns for each pixel whether it counts, bool, in the labels' shape."""
    if ignore_label is None:
        return tf.ones_like(labels, tf.bool)
    return tf.not_equal(labels, tf.cast(ignore_label, labels.dtype))


class ScaleWarning:
    """Warns once if images seem to be scaled already: the model takes 0..255 and scales itself."""

    def __init__(self):
        self.given = False

    def look_at(self, images: tf.Tensor) -> None:
        """Checks the images, now in eager mode, or in each step of the graph that is traced."""
        low, high = tf.reduce_min(images), tf.reduce_max(images)
        low, high = tf.cast(low, tf.float32), tf.cast(high, tf.float32)

        # Black images have the maximum 0 and say nothing about the scale.
        seem_scaled = (low < 0) | ((high <= 1) & (high > 0))
        if tf.executing_eagerly():
            if seem_scaled:
                self._warn(low.numpy(), high.numpy())
            return

        def warn():
            with tf.control_dependencies([tf.numpy_function(self._warn, [low, high], [])]):
                return tf.constant(True)

        tf.cond(seem_scaled, warn, lambda: tf.constant(False))

    def _warn(self, low, high):
        if not self.given:
            self.given = True
            warnings.warn(
                f"The images' values are {low:g} to {high:g}, but the model takes 0 to 255 and "
                "normalises them itself: leave out the scaling before it.",
                stacklevel=2,
            )


def _as_integers_or_floats(labels):
    """Casts labels to float64, int64 or int32, the one that holds every value exactly."""
    dtype = tf.as_dtype(labels.dtype)
    if dtype.is_floating:
        return tf.cast(labels, tf.float64)
    wide = dtype in (tf.int64, tf.uint32, tf.uint64)
    return tf.cast(labels, tf.int64 if wide else tf.int32)


_MARK = "deeplab_tf"  # marks our assertions in the text of TensorFlow's errors


def require_in_step(
    condition: tf.Tensor, text: str, value: tf.Tensor, way_out: str
) -> tf.Operation | None:
    """Stops a step with the sentence "{text} {value}; {way_out}." unless `condition` holds.

    Returns:
      The operation that later operations must wait for; None in eager mode, where it has run.
    Raises:
      InputError: in eager mode. In a graph, the running step raises an InvalidArgumentError.
    """
    if tf.executing_eagerly():
        if not condition:
            raise InputError(_sentence(text, value.numpy(), way_out))
        return None
    return tf.debugging.Assert(condition, [_MARK, text, value, way_out, _MARK], summarize=6)


def after(*checks: tf.Operation | None):
    """Returns a context whose operations wait for these results of `require_in_step`."""
    return tf.control_dependencies([check for check in checks if check is not None])


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turns an error of a step into the `InputError` that is its cause, if there is one.

    AutoGraph wraps an InputError that is raised while a step is traced. A failed assertion arrives
    as an error of the runtime, with the graph's call stack. Users need neither.
    """
    try:
        yield
    except Exception as error:
        cause = _input_error_in(error)
        if cause is None or cause is error:
            raise
        raise cause from None


def _input_error_in(error: BaseException | None) -> InputError | None:
    """Returns the InputError that an error reports or was raised for; None if there is none."""
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
    # Arrays print with brackets and line breaks.
    numbers = " ".join(re.sub(r"[][]", " ", str(value)).split())
    return f"{text} {numbers}" + (f"; {way_out}." if way_out else ".")


def _text(shape) -> str:
    sizes = np.asarray(tf.TensorShape(shape).as_list(), object)
    return "[" + ", ".join("?" if n is None else str(n) for n in sizes) + "]"

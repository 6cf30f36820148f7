"""Geometry of training and evaluation examples: pure functions of image, label and seed.

The arithmetic is OpenCV's, because the ancestor's recipes were tuned with it (SSSegmentation,
modules/datasets/pipelines). Images are resized bilinearly between half-pixel centres, without
antialiasing, and rounded to uint8; cell i of a resized label is cell floor(i * source / size).
A window (where a crop lies in the resized image) is drawn once, and cut from image and label.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MAX_CROP_DRAWS = 10  # SSSegmentation, RandomCrop; the last draw is kept in any case


class Window(NamedTuple):
    """Where a crop lies in the resized image, and whether it is mirrored.

    size: int32 [2], height and width of the whole resized image.
    offset: int32 [2], top and left of the crop.
    shape: int32 [2], height and width of the crop.
    flip: scalar bool.
    """

    size: tf.Tensor
    offset: tf.Tensor
    shape: tf.Tensor
    flip: tf.Tensor


def resized_size(
    size: tf.Tensor,
    *,
    min_resize_value: int,
    max_resize_value: int,
    resize_factor: int = 0,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Returns the size to resize an image to; the aspect ratio is kept.

    The shorter side becomes int(min_resize_value * scale). If the longer side would then exceed
    int(max_resize_value * scale), the longer side gets that length instead. Sizes are rounded half
    up. With `resize_factor`, the size follows from official DeepLab's rule instead (core/
    preprocess_utils.py, resize_to_range), and `scale` multiplies what comes out of it.

    Args:
      size: int [2], height and width.
      min_resize_value: 0 multiplies the image's own size by `scale`.
      max_resize_value: 0 sets no limit.
      resize_factor: both sides become a multiple of it plus one; 0 takes the rule above.
      scale: the random scale in training.
    Returns:
      int32 [2].
    """
    scale = tf.cast(scale, tf.float64)
    height_width = tf.cast(size, tf.float64)
    ratio = scale
    if min_resize_value and resize_factor:
        resized = _officially_resized(
            height_width, min_resize_value, max_resize_value, resize_factor
        )
        return tf.maximum(tf.cast(tf.floor(resized * scale), tf.int32), 1)

    if min_resize_value:
        ratio = tf.floor(min_resize_value * scale) / tf.reduce_min(height_width)
    if max_resize_value:
        longest = tf.floor(max_resize_value * scale)
        ratio = tf.minimum(longest / tf.reduce_max(height_width), ratio)
    resized = tf.minimum(tf.floor(height_width * ratio + 0.5), tf.int32.max)
    return tf.maximum(tf.cast(resized, tf.int32), 1)


def _officially_resized(height_width, least, most, factor):
    """Returns height and width by official DeepLab's rule, float64; see `resized_size`."""
    slack = 1e-6  # a side that is a whole number must not be rounded to the one below
    ratio = least / tf.reduce_min(height_width)
    if most:
        most -= (most - 1) % factor
        is_too_long = tf.floor(tf.reduce_max(height_width) * ratio + slack) > most
        ratio = tf.where(is_too_long, most / tf.reduce_max(height_width), ratio)

    sides = tf.floor(height_width * ratio + slack)
    return sides + (-(sides - 1)) % factor


def scaled(image: tf.Tensor, max_value: int) -> tf.Tensor:
    """Returns values of images, of 0 to `max_value` or more, as float32 of 0 to 255."""
    image = tf.cast(image, tf.float32)
    if max_value == 255:  # 8 bits cannot be more, and 8-bit RGB stays exactly as it is
        return image
    return tf.clip_by_value(image, 0.0, float(max_value)) * (255 / max_value)


def resize_image(
    image: tf.Tensor, size: tf.Tensor, *, dtype: tf.DType | type[np.integer] = np.uint8
) -> tf.Tensor:
    """Resizes whole numbers [..., H, W, C] bilinearly to [..., height, width, C], rounded.

    Args:
      dtype: of the result, into which the values must fit.
    """
    resized = tf.image.resize(image, size, method="bilinear", antialias=False)
    return tf.cast(tf.round(resized), dtype)


def nearest_cells(
    source: tf.Tensor, size: tf.Tensor, start: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Returns the source cell of each resized cell from start to start + count, int32 [count].

    This is OpenCV's rule, in double precision as there: floor(i * (1 / (size / source))).

    Args:
      source: number of cells before resizing.
      size: number of cells after resizing.
    """
    step = 1.0 / (tf.cast(size, tf.float64) / tf.cast(source, tf.float64))
    cells = tf.floor(tf.cast(start + tf.range(count), tf.float64) * step)
    return tf.minimum(tf.cast(cells, tf.int32), source - 1)


def cut_label(label: tf.Tensor, window: Window) -> tf.Tensor:
    """Cuts a window out of a label, [H, W, 1]; only the window is resized."""
    source = tf.shape(label)
    rows, columns = (
        nearest_cells(source[axis], window.size[axis], window.offset[axis], window.shape[axis])
        for axis in (0, 1)
    )
    columns = tf.cond(window.flip, lambda: tf.reverse(columns, [0]), lambda: columns)
    # Gathers whole rows twice, with transpositions: faster than gathering cells one by one.
    transposed = tf.transpose(tf.gather(label[..., 0], rows))
    return tf.transpose(tf.gather(transposed, columns))[..., tf.newaxis]


def cut_image(image: tf.Tensor, window: Window) -> tf.Tensor:
    """Cuts a window out of an image, uint8 or uint16 [H, W, C].

    Resizing only the window takes twice the time per pixel, so the whole image is resized if the
    window covers more than half of it.
    """
    image_pixels, window_pixels = (tf.reduce_prod(shape) for shape in (window.size, window.shape))
    cut = tf.cond(
        image_pixels < 2 * window_pixels,
        lambda: _window_of_resized(image, window),
        lambda: _resized_window(image, window),
    )
    return tf.cond(window.flip, lambda: tf.reverse(cut, [1]), lambda: cut)


def _window_of_resized(image, window):
    resized = resize_image(image, window.size, dtype=image.dtype)
    channels = image.shape[-1]
    return tf.slice(resized, [*tf.unstack(window.offset), 0], [*tf.unstack(window.shape), channels])


def _resized_window(image, window):
    """Returns what `_window_of_resized` returns, but resizes only the pixels that are needed."""
    # Where the centres of the window's first and last pixel lie in the source image.
    source = tf.shape(image)[:2]
    step = tf.cast(source, tf.float64) / tf.cast(window.size, tf.float64)
    corners = tf.stack([window.offset, window.offset + window.shape - 1])
    places = (tf.cast(corners, tf.float64) + 0.5) * step - 0.5

    # The source pixels around them.
    begin, last = tf.unstack(tf.cast(tf.floor(places), tf.int32))
    begin, end = tf.maximum(begin, 0), tf.minimum(last + 2, source)
    channels = image.shape[-1]
    part = tf.slice(image, [*tf.unstack(begin), 0], [*tf.unstack(end - begin), channels])
    part = tf.cast(part, tf.float32)

    # Repeats the border pixels once; tf.pad's symmetric mode takes ten times as long.
    part = tf.concat([part[:1], part, part[-1:]], axis=0)
    part = tf.concat([part[:, :1], part, part[:, -1:]], axis=1)

    # crop_and_resize takes the corners as shares of the part's height and width.
    shares = (places - tf.cast(begin, tf.float64) + 1) / tf.cast(end - begin + 1, tf.float64)
    box = tf.reshape(tf.cast(shares, tf.float32), [1, 4])
    cut = tf.image.crop_and_resize(part[tf.newaxis], box, [0], window.shape)[0]
    return tf.cast(tf.round(cut), image.dtype)


def random_scale(
    uniform: tf.Tensor,
    *,
    min_scale_factor: float,
    max_scale_factor: float,
    scale_factor_step_size: float,
) -> tf.Tensor:
    """Turns a number from [0, 1) into a scale, float64.

    It comes from the whole range if `scale_factor_step_size` is 0. Otherwise it is one of as many
    scales, equally far apart from the smallest to the largest, as steps of that size begin in the
    range (official DeepLab, `get_random_scale`); they are that far apart if the range is a multiple
    of it, and further apart if not.
    """
    uniform = tf.cast(uniform, tf.float64)
    span = max_scale_factor - min_scale_factor
    if not scale_factor_step_size:
        return min_scale_factor + uniform * span

    steps = int(span / scale_factor_step_size + 1e-6)
    return min_scale_factor + tf.floor(uniform * (steps + 1)) * (span / max(steps, 1))


def random_crop(
    label: tf.Tensor,
    *,
    seed: tf.Tensor,
    crop_size: tuple[int, ...],
    min_resize_value: int,
    max_resize_value: int,
    resize_factor: int = 0,
    min_scale_factor: float,
    max_scale_factor: float,
    scale_factor_step_size: float,
    one_category_max_ratio: float,
    ignore_label: int,
) -> tuple[Window, tf.Tensor]:
    """Draws scale, place and mirroring of a training crop, and cuts it out of the label.

    Args:
      label: [H, W, 1], integer.
      seed: int64 [2]; everything drawn follows from it.
      crop_size: height and width; smaller images give smaller windows.
      one_category_max_ratio: a crop is drawn again, up to 10 draws in all, if its most frequent
        class fills this share of the valid pixels or is the only class; 1 or more keeps the first
        draw.
    Returns:
      The window, mirrored with probability one half, and its part of the label.
    """
    draws = tf.random.stateless_uniform([2 + 2 * MAX_CROP_DRAWS], seed)
    scale = random_scale(
        draws[0],
        min_scale_factor=min_scale_factor,
        max_scale_factor=max_scale_factor,
        scale_factor_step_size=scale_factor_step_size,
    )
    size = resized_size(
        tf.shape(label)[:2],
        min_resize_value=min_resize_value,
        max_resize_value=max_resize_value,
        resize_factor=resize_factor,
        scale=scale,
    )

    shape = tf.minimum(size, crop_size)
    offsets = tf.reshape(draws[2:], [MAX_CROP_DRAWS, 2]) * tf.cast(size - shape + 1, tf.float32)
    offsets = tf.minimum(tf.cast(offsets, tf.int32), size - shape)

    def window(draw):
        return Window(size, offsets[draw], shape, draws[1] < 0.5)

    def is_refused(draw, crop):
        is_uniform = _is_uniform(crop, one_category_max_ratio, ignore_label)
        return (draw < MAX_CROP_DRAWS - 1) & is_uniform

    draw, crop = tf.constant(0), cut_label(label, window(0))
    if one_category_max_ratio < 1:
        draw, crop = tf.while_loop(
            is_refused,
            lambda draw, _: (draw + 1, cut_label(label, window(draw + 1))),
            (draw, crop),
        )
    return window(draw), crop


def _is_uniform(label: tf.Tensor, max_ratio: float, ignore_label: int) -> tf.Tensor:
    """Whether one class fills `max_ratio` of a label's valid pixels, or is the only one."""
    counts = tf.math.bincount(tf.cast(tf.reshape(label, [-1]), tf.int32), minlength=256)
    counts *= tf.constant(np.arange(256) != ignore_label, tf.int32)
    # A quotient in double precision, as numpy computes it in the ancestor.
    share = tf.cast(tf.reduce_max(counts), tf.float64) / tf.cast(tf.reduce_sum(counts), tf.float64)
    has_several = tf.math.count_nonzero(counts) > 1
    return tf.logical_not(has_several & (share < max_ratio))


def pad(
    tensor: tf.Tensor, *, size: tuple[int, ...], value: tuple | int, centred: bool
) -> tf.Tensor:
    """Pads [h, w, channels] to `size`.

    Args:
      tensor: image or label, no larger than `size`.
      size: height and width.
      value: one number, or one for each channel.
      centred: whether opposite sides get equally many cells, and bottom and right the odd one
        (SSSegmentation); otherwise all are added below and on the right (official DeepLab).
    """
    shape = tf.shape(tensor)
    missing = tf.constant(size) - shape[:2]
    before = missing // 2 if centred else tf.zeros_like(missing)
    after = missing - before
    paddings = tf.stack([[before[0], after[0]], [before[1], after[1]], [0, 0]])

    def padded_tensor():
        inside = tf.pad(tf.ones(tf.concat([shape[:2], [1]], 0), tf.bool), paddings)
        return tf.where(inside, tf.pad(tensor, paddings), tf.constant(value, tensor.dtype))

    padded = tf.cond(tf.reduce_all(tf.equal(shape[:2], size)), lambda: tensor, padded_tensor)
    padded.set_shape([*size, tensor.shape[-1]])
    return padded

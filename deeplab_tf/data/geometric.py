"""Geometry of finished training crops: rotation, GridMask and CutMix, as pure functions of a seed.

Image and label have the crop's size here, and are padded. Pixels that no image covers get the
mean colour and the ignored label.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf.ops import seeds


class Pair(NamedTuple):
    """A crop: image, float32 [H, W, C] in 0..255, and label, int32 [H, W, 1]."""

    image: tf.Tensor
    label: tf.Tensor


def random_rotation(
    pair: Pair,
    *,
    seed: tf.Tensor,
    max_degrees: float,
    ignore_label: int,
    image_mean: tuple[float, ...],
) -> Pair:
    """Rotates a crop by an angle drawn evenly from -max_degrees to max_degrees; as `rotate`."""
    degrees = tf.random.stateless_uniform([], seed, -max_degrees, max_degrees)
    return rotate(pair, degrees, ignore_label=ignore_label, image_mean=image_mean)


def rotate(
    pair: Pair,
    degrees: tf.Tensor | float,
    *,
    ignore_label: int,
    image_mean: tuple[float, ...],
) -> Pair:
    """Rotates image and label counter-clockwise around the centre of the crop.

    The image is interpolated bilinearly; the label takes the nearest cell, so it holds no new
    value.
    """
    height, width = (tf.cast(size, tf.float32) for size in tf.unstack(tf.shape(pair.image)[:2]))
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)

    # Where each pixel comes from: its place relative to the centre, turned back.
    x, y = (width - 1) / 2, (height - 1) / 2
    back = [cosine, -sine, x - x * cosine + y * sine, sine, cosine, y - x * sine - y * cosine, 0, 0]
    back = tf.stack([tf.cast(number, tf.float32) for number in back])[tf.newaxis]

    def moved(values, interpolation, fill):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=values[tf.newaxis],
            transforms=back,
            output_shape=tf.shape(values)[:2],
            fill_value=fill,
            interpolation=interpolation,
            fill_mode="CONSTANT",
        )[0]

    # The operation fills all channels with one number, which is the mean of what remains.
    image = moved(pair.image - image_mean, "BILINEAR", 0.0) + image_mean
    label = moved(pair.label, "NEAREST", float(ignore_label))
    return Pair(tf.ensure_shape(image, pair.image.shape), tf.ensure_shape(label, pair.label.shape))


def random_grid_mask(
    pair: Pair,
    *,
    seed: tf.Tensor,
    probability: float,
    ratio: float,
    sizes: tuple[int, ...],
    ignore_label: int,
    image_mean: tuple[float, ...],
) -> Pair:
    """Covers a crop with a grid of squares (GridMask, Chen et al. 2020, arXiv:2001.04086).

    The grid has cells of d x d pixels, with d from `sizes` and any offset; in each, a square of
    round((1 - ratio) * d) is covered. Unlike the paper's code it is not turned.

    Args:
      probability: of covering anything.
      ratio: share of a cell's side that stays visible.
      sizes: smallest and largest d.
    """
    happens, draw_of_side, *draws_of_offset = tf.unstack(tf.random.stateless_uniform([4], seed))
    smallest, largest = sizes
    side = smallest + tf.cast(draw_of_side * (largest - smallest + 1), tf.int32)
    side = tf.minimum(side, largest)
    covered_side = tf.cast(tf.round((1 - ratio) * tf.cast(side, tf.float32)), tf.int32)

    rows, columns = (
        (tf.range(size) + tf.cast(draw * tf.cast(side, tf.float32), tf.int32)) % side < covered_side
        for size, draw in zip(tf.unstack(tf.shape(pair.image)[:2]), draws_of_offset, strict=True)
    )
    covered = rows[:, tf.newaxis, tf.newaxis] & columns[tf.newaxis, :, tf.newaxis]
    covered &= happens < probability
    return Pair(
        tf.where(covered, tf.constant(image_mean, tf.float32), pair.image),
        tf.where(covered, ignore_label, pair.label),
    )


def is_mixed(*, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Draws whether CutMix changes a crop, scalar bool."""
    draw = tf.random.stateless_uniform([], seeds.stream(seed, "whether to mix"))
    return draw < probability


def cutmix(pair: Pair, other: Pair, *, seed: tf.Tensor) -> Pair:
    """Pastes a random box of another crop, with its label (Yun et al. 2019, arXiv:1905.04899).

    The box has the crop's proportions, an area drawn evenly from 0 to the whole, and its centre
    anywhere in the crop; what lies outside of the crop is cut off.
    """
    height, width = tf.unstack(tf.shape(pair.image)[:2])
    draws = tf.random.stateless_uniform([3], seeds.stream(seed, "box"))

    def inside(size, centre):
        size = tf.cast(size, tf.float32)
        length = tf.floor(size * tf.sqrt(draws[0]))
        start = tf.floor(centre * size) - tf.floor(length / 2)
        places = tf.range(size)
        return (places >= start) & (places < start + length)

    rows, columns = inside(height, draws[1]), inside(width, draws[2])
    box = rows[:, tf.newaxis, tf.newaxis] & columns[tf.newaxis, :, tf.newaxis]
    return Pair(
        tf.where(box, other.image, pair.image),
        tf.where(box, other.label, pair.label),
    )

"""RandAugment without its geometric operations (Cubuk et al. 2020, arXiv:1909.13719).

The operations, and how strong they are, follow keras-cv's RandAugment(geometric=False). That layer
draws from random generators with a state, so no resumed run would see the images of an
uninterrupted one. Here all draws follow from a seed, and keras-cv's layers get what was drawn.
"""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab_tf.ops import seeds
from deeplab_tf.startup.process_state import import_keras_cv

OPERATIONS = ("auto_contrast", "equalize", "solarize", "color", "contrast", "brightness")
# keras-cv, rand_augment.py
RATE = 10 / 11  # of operations that are applied
MAGNITUDE_STDDEV = 0.15
MAX_ADDITION = 110  # of solarize


class Step(NamedTuple):
    """One operation, and a strength for each that could be meant; scalars.

    operation: int32, place in `OPERATIONS`; the one after the last changes nothing.
    threshold, addition: of solarize; 0..255 and 0..`MAX_ADDITION`.
    color: 0..1; 1 gives a grey image.
    contrast: 0..2; factor on the difference from the mean of each channel.
    brightness: -255..255; what is added.
    """

    operation: tf.Tensor
    threshold: tf.Tensor
    addition: tf.Tensor
    color: tf.Tensor
    contrast: tf.Tensor
    brightness: tf.Tensor


def randaugment(
    image: tf.Tensor, *, seed: tf.Tensor, operations: int, magnitude: float
) -> tf.Tensor:
    """Applies random operations one after the other, each with probability `RATE`.

    Args:
      image: [H, W, 3], RGB, whole numbers in 0..255.
      seed: int64 [2].
      operations: how many; one may come more than once.
      magnitude: mean strength, 0..1.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    """
    image = tf.cast(image, tf.float32)
    for number in range(operations):
        image = apply(image, draw(seeds.stream(seed, f"operation {number}"), magnitude=magnitude))
    return image


def draw(seed: tf.Tensor, *, magnitude: float) -> Step:
    """Draws an operation and its strengths, as keras-cv's layers are distributed."""
    happens, which, place = tf.unstack(
        tf.random.stateless_uniform([3], seeds.stream(seed, "uniform"))
    )
    normal = tf.random.stateless_normal(
        [2], seeds.stream(seed, "normal"), magnitude, MAGNITUDE_STDDEV
    )
    strength, other_strength = tf.unstack(tf.clip_by_value(normal, 0, 1))
    change = magnitude * (2 * place - 1)
    none = len(OPERATIONS)
    return Step(
        operation=tf.where(happens < RATE, tf.cast(which * none, tf.int32), none),
        threshold=255 * (1 - strength),
        addition=MAX_ADDITION * other_strength,
        color=strength,
        contrast=1 + change,
        brightness=255 * change,
    )


def apply(image: tf.Tensor, step: Step) -> tf.Tensor:
    """Applies an operation to float32 [H, W, 3], whole numbers in 0..255; the result is such, too.

    As in keras-cv, solarize adds first; color takes colour away and adds none; contrast keeps the
    mean of each channel, and brightness adds to all values.
    """
    layers = _layers()
    strengths = {
        "auto_contrast": None,
        "solarize": {"thresholds": step.threshold, "additions": step.addition},
        "color": step.color,
        "contrast": step.contrast,
        "brightness": step.brightness,
    }

    def result(operation):
        if operation == "equalize":
            return equalize(image)
        images = layers[operation].augment_images(image[tf.newaxis], strengths[operation])
        return tf.round(images[0])

    branches = [functools.partial(result, operation) for operation in OPERATIONS]
    changed = tf.switch_case(step.operation, [*branches, lambda: tf.identity(image)])
    return tf.ensure_shape(changed, image.shape)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spreads the values of each channel evenly over 0..255, exactly as Pillow's ImageOps does.

    keras-cv's Equalization would take the count of the rarest value where Pillow takes that of the
    brightest, so a white image with one black dot would become black. It also needs AutoGraph.

    Args:
      image: float32 [H, W, C], whole numbers in 0..255.
    """

    def equalized(channel):
        counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256)
        step = (tf.size(channel) - counts[tf.reduce_max(channel)]) // 255
        levels = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1)
        return tf.where(step > 0, tf.gather(tf.minimum(levels, 255), channel), channel)

    channels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.cast(tf.stack([equalized(channel) for channel in channels], axis=-1), tf.float32)


@functools.cache
def _layers() -> dict[str, Any]:
    """Returns keras-cv's layers by operation; what they would draw themselves is not used."""
    with tf.init_scope():
        layers = import_keras_cv().layers
        return {
            "auto_contrast": layers.AutoContrast(value_range=(0, 255)),
            "solarize": layers.Solarization(value_range=(0, 255)),
            "color": layers.RandomColorDegeneration(factor=0.5),
            "contrast": layers.RandomContrast(factor=0.5, value_range=(0, 255)),
            "brightness": layers.RandomBrightness(factor=0.5, value_range=(0, 255)),
        }

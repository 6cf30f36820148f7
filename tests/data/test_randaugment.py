"""RandAugment's operations against Pillow's, and its draws against keras-cv's own."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image, ImageChops, ImageEnhance, ImageOps

from deeplab_tf.data import randaugment

NONE = len(randaugment.OPERATIONS)
NUM_DRAWS = 4000


def picture(number):
    """Random values, of a narrower range in each channel, and a different one."""
    rng = np.random.default_rng(number)
    values = rng.normal(rng.uniform(60, 190, 3), rng.uniform(5, 40, 3), (40, 31, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def step(operation, **strengths):
    """A step with these strengths; the others would make an image unlike any."""
    place = randaugment.OPERATIONS.index(operation) if operation else NONE
    unused = dict.fromkeys(randaugment.Step._fields, float("nan"))
    given = {"operation": place} | {name: float(value) for name, value in strengths.items()}
    return randaugment.Step(**{k: tf.constant(v) for k, v in (unused | given).items()})


def changed(image, operation, **strengths):
    given = tf.constant(image, tf.float32)
    found = randaugment.apply(given, step(operation, **strengths)).numpy()
    assert found.dtype == np.float32 and found.shape == image.shape
    assert found.min() >= 0 and found.max() <= 255 and (found == np.round(found)).all()
    return found


def by_channel(function, image):
    """What Pillow makes of each channel as a grey image."""
    channels = [function(Image.fromarray(image[..., channel])) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(float)


@pytest.mark.parametrize("number", range(5))
def test_auto_contrast_is_pillows(number):
    expected = np.array(ImageOps.autocontrast(Image.fromarray(picture(number))), float)
    # keras-cv does not truncate, and we round.
    np.testing.assert_allclose(changed(picture(number), "auto_contrast"), expected, atol=1)


def test_auto_contrast_leaves_channels_of_one_value():
    image = picture(0)
    image[..., 0], image[..., 1] = 0, 77
    found = changed(image, "auto_contrast")
    np.testing.assert_array_equal(found[..., :2], image[..., :2])
    assert found[..., 2].min() == 0 and found[..., 2].max() == 255


@pytest.mark.parametrize("number", range(5))
def test_equalize_is_pillows_bit_by_bit(number):
    image = picture(number)
    image[:8, :, 0] = 255  # an overexposed sky, which keras-cv's own layer would make grey
    expected = np.array(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(changed(image, "equalize"), expected)


def test_equalize_of_hardly_any_values_is_pillows():
    images = np.full([4, 40, 31, 3], 255, np.uint8)
    images[1, 0, 0] = 0  # keras-cv's own layer would make this one nearly black
    images[2], images[3] = 0, 90
    for image in images:
        expected = np.array(ImageOps.equalize(Image.fromarray(image)))
        np.testing.assert_array_equal(changed(image, "equalize"), expected)


@pytest.mark.parametrize("threshold", [0, 100, 255])
@pytest.mark.parametrize("addition", [0, 60])
def test_solarize_is_pillows_after_an_addition(threshold, addition):
    image = Image.fromarray(picture(0))
    brighter = ImageChops.add(image, Image.new("RGB", image.size, (addition,) * 3))
    expected = np.array(ImageOps.solarize(brighter, threshold))
    found = changed(picture(0), "solarize", threshold=threshold, addition=addition)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("color", [0.0, 0.3, 1.0])
def test_color_is_pillows(color):
    expected = np.array(ImageEnhance.Color(Image.fromarray(picture(0))).enhance(1 - color), float)
    # Pillow rounds the grey value and truncates the result; keras-cv does neither, and we round.
    np.testing.assert_allclose(changed(picture(0), "color", color=color), expected, atol=1)


@pytest.mark.parametrize("contrast", [0.1, 0.7, 1.0, 1.6])
def test_contrast_is_pillows_of_each_channel(contrast):
    """Pillow's, of an RGB image, is around one mean: that of the grey image."""
    found = changed(picture(0), "contrast", contrast=contrast)
    expected = by_channel(lambda grey: ImageEnhance.Contrast(grey).enhance(contrast), picture(0))
    # Pillow rounds the mean, which moves values by up to half of 0.9, and truncates the result.
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("brightness", [-120, 0, 55])
def test_brightness_adds_as_pillow_does(brightness):
    """Unlike ImageEnhance.Brightness, which multiplies and which the paper took."""
    image = Image.fromarray(picture(0))
    combine = ImageChops.subtract if brightness < 0 else ImageChops.add
    expected = np.array(combine(image, Image.new("RGB", image.size, (abs(brightness),) * 3)))
    found = changed(picture(0), "brightness", brightness=brightness)
    np.testing.assert_array_equal(found, expected)


def test_no_operation_changes_nothing():
    np.testing.assert_array_equal(changed(picture(0), ""), picture(0))


def draws(magnitude):
    numbers = tf.data.Dataset.range(NUM_DRAWS).map(
        lambda number: randaugment.draw(tf.stack([7, number]), magnitude=magnitude)
    )
    return next(numbers.batch(NUM_DRAWS).as_numpy_iterator())


def test_operations_come_equally_often():
    chosen = np.bincount(draws(0.5).operation, minlength=NONE + 1) / NUM_DRAWS
    # 10 of 11, shared by six: 0.152; the standard error is 0.006
    np.testing.assert_allclose(chosen, [10 / 11 / 6] * 6 + [1 / 11], atol=0.025)


@pytest.mark.parametrize("magnitude", [0.3, 0.9])
def test_strengths_are_those_that_keras_cv_draws(magnitude):
    from keras_cv.layers import RandAugment  # takes seconds

    found = draws(magnitude)
    policy = RandAugment.get_standard_policy((0, 255), magnitude, 0.15, geometric=False)
    assert [type(layer).__name__ for layer in policy] == [
        "AutoContrast",
        "Equalization",
        "Solarization",
        "RandomColorDegeneration",
        "RandomContrast",
        "RandomBrightness",
    ]
    theirs = [layer.get_random_transformation_batch(NUM_DRAWS) for layer in policy[2:]]
    for ours, wanted in (
        (found.threshold, theirs[0]["thresholds"]),
        (found.addition, theirs[0]["additions"]),
        (found.color, theirs[1]),
        (found.contrast, theirs[2]),
        (found.brightness, theirs[3]),
    ):
        # Of equal distributions, one pair in a million is farther apart.
        assert scipy.stats.ks_2samp(ours, np.ravel(wanted)).statistic < 0.06


def test_the_seed_decides_and_sizes_may_vary():
    """In tf.data, without AutoGraph, as the pipeline runs it."""

    @tf.autograph.experimental.do_not_convert
    def example(number):
        image = tf.constant(picture(0))[: 20 + tf.cast(number, tf.int32)]
        seed = tf.stack([3, number])
        return randaugment.randaugment(image, seed=seed, operations=3, magnitude=0.5)

    numbers = tf.data.Dataset.range(12)
    once = [*numbers.map(example).as_numpy_iterator()]
    for number, image in enumerate(once):
        assert image.shape == (20 + number, 31, 3)
        np.testing.assert_array_equal(image, example(tf.constant(number, tf.int64)))
    assert len({image[:20].tobytes() for image in once}) > 10


@pytest.mark.slow
def test_the_precision_of_the_network_does_not_matter(tmp_path):
    """In a process of its own, since the layers are made once; and keras-cv comes only then."""
    path = tmp_path / "images.npy"
    code = f"""
import sys
from tests.data.test_randaugment import all_operations, np, tf
import deeplab_tf.data.pipeline
assert "keras_cv" not in sys.modules
tf.keras.backend.set_floatx("float16")
tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
np.save({str(path)!r}, all_operations())
assert "keras_cv" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(path), all_operations())


def all_operations():
    strengths = {
        "threshold": 90,
        "addition": 20.3,
        "color": 0.4,
        "contrast": 0.7,
        "brightness": 9.4,
    }
    return np.stack(
        [changed(picture(0), operation, **strengths) for operation in randaugment.OPERATIONS]
    )

import colorsys
import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import photometric


def colors():
    corners = [[r, g, b] for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)]
    drawn = np.random.default_rng(0).integers(0, 256, (373, 3))
    return np.concatenate([corners, drawn]).astype(np.uint8).reshape(20, 20, 3)


def in_planes(function, image, change):
    planes = function(tf.transpose(image, [2, 0, 1]), change, image.shape[1])
    return tf.transpose(planes, [1, 2, 0])


def by_eight_bit_hsv(image, change):
    """Applies change(h 0..179, s, v) to each pixel, in 8-bit HSV of a BGR image."""
    result = np.zeros_like(image)
    for place in np.ndindex(image.shape[:2]):
        blue_first = image[place][::-1] / 255.0
        h, s, v = colorsys.rgb_to_hsv(*blue_first)
        h, s, v = change(int(h * 180 + 0.5) % 180, int(s * 255 + 0.5), round(v * 255))
        rgb = colorsys.hsv_to_rgb(h / 180, s / 255, v / 255)
        result[place] = [int(channel * 255 + 0.5) for channel in rgb[::-1]]
    return result


def assert_close(result, expected):
    """Equal within one grey level, but for the rare hue that lies just between two units."""
    difference = np.abs(result.numpy().astype(int) - expected)
    assert (difference > 1).mean() < 0.01 and difference.max() <= 255 / 30


@pytest.mark.parametrize("factor", [0.5, 0.93, 1.5])
def test_scale_saturation_works_in_eight_bits(factor):
    expected = by_eight_bit_hsv(colors(), lambda h, s, v: (h, min(int(s * factor), 255), v))
    assert_close(in_planes(photometric.scale_saturation, colors(), factor), expected)


@pytest.mark.parametrize("shift", [-18, -1, 17])
def test_shift_hue_turns_by_two_degrees_a_unit(shift):
    expected = by_eight_bit_hsv(colors(), lambda h, s, v: ((h + shift) % 180, s, v))
    assert_close(in_planes(photometric.shift_hue, colors(), shift), expected)


def test_shift_hue_turns_as_the_ancestor_does():
    # SSSegmentation takes BGR for RGB: +10 units turn pure red (hue 0) to 340 degrees, not 20.
    red = np.array([[[255, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(in_planes(photometric.shift_hue, red, 10), [[[255, 0, 85]]])


def test_scale_and_shift_clips_and_truncates():
    image = np.array([[[0, 100, 250]]], np.uint8)
    brighter = photometric.scale_and_shift(image, 1.0, 31.9).numpy()
    np.testing.assert_array_equal(brighter, [[[31, 131, 255]]])  # truncated, clipped
    stronger = photometric.scale_and_shift(image, 1.499, 0.0).numpy()
    np.testing.assert_array_equal(stronger, [[[0, 149, 255]]])


def test_distort_leaves_one_image_in_sixteen_alone_and_is_a_function_of_the_seed():
    image = tf.constant(colors())
    distort = functools.partial(photometric.distort, max_size=(24, 20))
    same = 0
    for number in range(320):
        seed = tf.constant([1, number], tf.int64)
        result = distort(image, seed=seed).numpy()
        np.testing.assert_array_equal(result, distort(image, seed=seed))
        same += (result == image.numpy()).all()
    assert same / 320 == pytest.approx(1 / 16, abs=0.045)  # four coins; 3 deviations are 0.041

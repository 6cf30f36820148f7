import colorsys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import appearance


def picture(height=20, width=31):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("turn", "saturation", "value"), [(0.1, 1.0, 1.0), (-0.3, 0.5, 1.2), (0.0, 1.7, 0.6)]
)
def test_hsv_is_that_of_colorsys(turn, saturation, value):
    image = picture(6, 7)
    found = appearance.change_hsv(
        tf.constant(image), turn=turn, saturation=saturation, value=value
    ).numpy()
    for place in np.ndindex(6, 7):
        h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255))
        rgb = colorsys.hsv_to_rgb((h + turn) % 1, min(s * saturation, 1), min(v * value, 1))
        np.testing.assert_allclose(found[place], np.array(rgb) * 255, atol=0.51)


def test_jitter_stays_within_its_shares():
    grey = tf.fill([4, 4, 3], 100.0)  # no hue and no saturation: only the value changes
    levels = [
        appearance.jitter_hsv(
            grey, seed=tf.constant([1, n], tf.int64), shares=(0.5, 1.0, 0.4)
        ).numpy()[0, 0, 0]
        for n in range(100)
    ]
    assert 60 <= min(levels) < 66 and 134 < max(levels) <= 140
    same = appearance.jitter_hsv(
        tf.constant(picture()), seed=tf.constant([1, 2], tf.int64), shares=(0.0, 0.0, 0.0)
    )
    np.testing.assert_array_equal(same, picture())


@pytest.mark.parametrize("sigma", [0.0, 0.8, 2.0])
@pytest.mark.parametrize("shape", [(20, 31), (3, 2)])
def test_blur_is_a_convolution_with_a_gaussian(sigma, shape):
    image = picture(*shape)
    found = appearance.gaussian_blur(tf.constant(image), sigma, max_sigma=2.0).numpy()
    places = np.arange(-6, 7)
    kernel = np.exp(-0.5 * (places / max(sigma, 0.01)) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(image.astype(float), [(6, 6), (6, 6), (0, 0)], mode="edge")
    expected = np.zeros(image.shape)
    for row, by_row in enumerate(kernel):
        for column, by_column in enumerate(kernel):
            part = padded[row : row + shape[0], column : column + shape[1]]
            expected += by_row * by_column * part
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert sigma or (found == image).all()


def test_every_second_image_is_blurred():
    image = tf.constant(picture())
    changed = [
        (appearance.random_blur(image, seed=tf.constant([5, n], tf.int64), max_sigma=3.0)
         .numpy() != picture()).any()
        for n in range(100)
    ]  # fmt: skip
    assert np.mean(changed) == pytest.approx(0.47, abs=0.15)  # one in sixteen blurs too little

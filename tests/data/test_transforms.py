import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.data import pipeline, transforms
from tests.conftest import coordinate_pair

IGNORE, MEAN = 255, (123.675, 116.28, 103.53)


def seed(number):
    return tf.constant([7, number], tf.int64)


@pytest.mark.parametrize(
    ("size", "least", "most", "expected"),
    [  # docs/ancestors.md, SSSegmentation, Augmentation, checked there against the ancestor
        ((375, 500), 512, 2048, (512, 683)),
        ((500, 333), 512, 2048, (769, 512)),
        ((256, 2000), 512, 2048, (262, 2048)),
        ((375, 500), 520, 520, (390, 520)),
        ((500, 333), 520, 520, (520, 346)),
        ((37, 53), 0, 0, (37, 53)),
    ],
)
def test_resized_size_equals_the_ancestors(size, least, most, expected):
    result = transforms.resized_size(size, min_resize_value=least, max_resize_value=most)
    assert tuple(result.numpy()) == expected


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        # 513 is 32 * 16 + 1. 375 x 500: times 513 / 500 is 384.75 x 513, up to 24 * 16 + 1.
        ((375, 500), 1.0, (385, 513)),
        ((500, 375), 1.0, (513, 385)),
        # 300 x 1000: times 0.513 is 153.9 x 513; 153 up to 10 * 16 + 1.
        ((300, 1000), 1.0, (161, 513)),
        # The scale multiplies the result and drops fractions: 385 * 0.75 = 288.75.
        ((375, 500), 0.75, (288, 384)),
    ],
)
def test_resize_factor_gives_the_official_sizes(size, scale, expected):
    result = transforms.resized_size(
        size, min_resize_value=513, max_resize_value=513, resize_factor=16, scale=scale
    )
    assert tuple(result.numpy()) == expected
    # A limit that is no multiple plus 1 is lowered to one: 520 to 513.
    wider = transforms.resized_size(
        size, min_resize_value=513, max_resize_value=520, resize_factor=16, scale=scale
    )
    assert tuple(wider.numpy()) == expected


def test_resized_size_scales_the_limits_before_rounding():
    # int(512 * 0.777) = 397, int(2048 * 0.777) = 1591; 397 / 375 = 1.058667; 500 * that = 529.33
    result = transforms.resized_size(
        (375, 500), min_resize_value=512, max_resize_value=2048, scale=0.777
    )
    assert tuple(result.numpy()) == (397, 529)


def bilinear(image, height, width):
    """Half-pixel bilinear in double precision, written from OpenCV's documentation."""

    def axis(source, size):
        position = (np.arange(size) + 0.5) * source / size - 0.5
        low = np.floor(position).astype(int)
        return np.clip(low, 0, source - 1), np.clip(low + 1, 0, source - 1), position - low

    top, bottom, y = axis(image.shape[0], height)
    left, right, x = axis(image.shape[1], width)
    y, x, image = y[:, None, None], x[None, :, None], image.astype(np.float64)
    upper = image[top][:, left] * (1 - x) + image[top][:, right] * x
    lower = image[bottom][:, left] * (1 - x) + image[bottom][:, right] * x
    return upper * (1 - y) + lower * y


@pytest.mark.parametrize(
    ("source", "size"), [((37, 53), (61, 20)), ((40, 30), (40, 30)), ((9, 7), (80, 99))]
)
def test_resize_image_is_half_pixel_bilinear(source, size):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    resized = transforms.resize_image(image, size).numpy()
    assert np.abs(resized - bilinear(image, *size)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("source", "size"), [(375, 683), (2, 98), (500, 1000), (1000, 333), (7, 7)]
)
def test_nearest_cells_follow_opencv(source, size):
    # cv::resize with INTER_NEAREST: ifx = 1 / (double(size) / source); floor(x * ifx)
    expected = [min(int(np.floor(i * (1 / (size / source)))), source - 1) for i in range(size)]
    cells = transforms.nearest_cells(tf.constant(source), tf.constant(size), 0, size).numpy()
    np.testing.assert_array_equal(cells, expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", [(5, 160), (140, 38), (117, 133), (250, 170)])
def test_image_and_label_move_together(shape, compiled):
    config = DataConfig(train_crop_size=(65, 97), scale_factor_step_size=0.0)
    image, label = coordinate_pair(*shape)

    def augment(number):
        return pipeline.augment(
            tf.constant(image * 10),
            tf.constant(label),
            config,
            seed=tf.stack([tf.constant(3, tf.int64), number]),
            ignore_label=IGNORE,
            image_mean=MEAN,
            centred_padding=True,
        )

    numbers = tf.data.Dataset.range(8)
    pairs = numbers.map(augment) if compiled else map(augment, tf.range(8, dtype=tf.int64))
    for changed, moved in pairs:
        changed, moved = np.asarray(changed), np.asarray(moved)[..., 0]
        assert changed.shape == (65, 97, 3) and moved.shape == (65, 97)
        valid = moved != IGNORE
        assert valid.any()
        # Off the edges of a column the bilinear image is exactly ten times its label.
        inner = valid & (np.abs(changed[..., 0] % 10) < 1e-4)
        assert inner.sum() > 0.6 * valid.sum()
        wrong = np.abs(changed[..., 0][inner] / 10 - moved[inner]) > 1
        assert not wrong.any()
        np.testing.assert_array_equal(
            changed[~valid], np.broadcast_to(np.float32(MEAN), changed[~valid].shape)
        )


@pytest.mark.parametrize(
    # Missing are 5 - 2 rows and 6 - 3 columns; the smaller half of 3 is 1.
    ("centred", "place"),
    [(True, np.s_[1:3, 1:4]), (False, np.s_[0:2, 0:3])],
)
def test_padding_keeps_the_image_in_its_place(centred, place):
    image = tf.constant(np.arange(2 * 3 * 3).reshape(2, 3, 3), tf.float32)
    padded = transforms.pad(image, size=(5, 6), value=MEAN, centred=centred).numpy()
    np.testing.assert_array_equal(padded[place], image)
    padded[place] = MEAN
    np.testing.assert_array_equal(padded, np.broadcast_to(np.float32(MEAN), padded.shape))


def random_crop(label, number, **settings):
    return cropping(tuple(settings.items()))(tf.constant(label), tf.constant(number, tf.int64))


@functools.cache
def cropping(settings):
    """Returns a traced `random_crop` of a label and a number: run eagerly, its loops take long."""
    defaults = {
        "crop_size": (32, 32),
        "min_resize_value": 0,
        "max_resize_value": 0,
        "min_scale_factor": 1.0,
        "max_scale_factor": 1.0,
        "scale_factor_step_size": 0.0,
        "one_category_max_ratio": 1.0,
        "ignore_label": IGNORE,
    }

    @tf.function(autograph=False)
    def crop(label, number):
        seed = tf.stack([tf.constant(7, tf.int64), number])
        return transforms.random_crop(label, seed=seed, **defaults | dict(settings))

    return crop


def test_crops_dominated_by_one_class_are_drawn_anew():
    label = np.zeros([32, 320, 1], np.uint8)
    label[:, 160:] = 1  # only windows across column 160 hold two classes
    shares = []
    for ratio in (1.0, 0.75):
        mixed = 0
        for number in range(150):
            _, crop = random_crop(label, number, one_category_max_ratio=ratio)
            mixed += 0.25 < (crop.numpy() == 1).mean() < 0.75
        shares.append(mixed / 150)
    # Of the 289 places, the 15 with 9..23 columns right of the border are strictly inside 1/4..3/4:
    # p = 15 / 289 = 0.052 for one draw, 1 - (1 - p)^10 = 0.413 for ten. 0.12 is 3 deviations.
    assert shares[0] == pytest.approx(0.052, abs=0.055)
    assert shares[1] == pytest.approx(0.413, abs=0.12)


def test_a_label_of_ignored_pixels_still_gives_a_crop():
    label = np.full([40, 40, 1], IGNORE, np.uint8)
    _, crop = random_crop(label, 0, one_category_max_ratio=0.75)
    assert crop.shape == (32, 32, 1) and (crop.numpy() == IGNORE).all()


def test_half_of_the_windows_are_mirrored_and_all_places_occur():
    label = np.zeros([40, 34, 1], np.uint8)
    windows = [random_crop(label, number)[0] for number in range(300)]
    assert np.mean([bool(w.flip) for w in windows]) == pytest.approx(0.5, abs=0.1)
    assert {int(w.offset[0]) for w in windows} == set(range(9))
    assert {int(w.offset[1]) for w in windows} == set(range(3))


@pytest.mark.parametrize(
    ("least", "most", "step", "scales"),
    [
        # np.linspace(least, most, int((most - least) / step + 1)), as in official DeepLab.
        (0.8, 1.2, 0.25, [0.8, 1.2]),
        (0.7, 1.4, 0.25, [0.7, 1.05, 1.4]),
        (0.5, 2.0, 0.4, [0.5, 1.0, 1.5, 2.0]),
        (1.0, 1.0, 0.25, [1.0]),
    ],
)
def test_the_largest_scale_is_reached_though_the_step_does_not_divide_the_range(
    least, most, step, scales
):
    found = transforms.random_scale(
        np.linspace(0, 1, 120, endpoint=False),
        min_scale_factor=least,
        max_scale_factor=most,
        scale_factor_step_size=step,
    )
    np.testing.assert_allclose(np.unique(found.numpy().round(9)), scales)


def test_scales_come_from_the_steps_or_the_whole_range():
    uniform = np.linspace(0, 1, 700, endpoint=False)
    settings = {"min_scale_factor": 0.5, "max_scale_factor": 2.0}
    stepped = transforms.random_scale(uniform, scale_factor_step_size=0.25, **settings).numpy()
    values, counts = np.unique(stepped, return_counts=True)
    np.testing.assert_allclose(values, [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2])
    assert set(counts) == {100}
    free = transforms.random_scale(uniform, scale_factor_step_size=0.0, **settings).numpy()
    np.testing.assert_allclose(free, 0.5 + 1.5 * uniform)

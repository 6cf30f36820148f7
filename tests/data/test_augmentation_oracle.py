"""Augmentation against an oracle: the ancestor's steps in numpy and OpenCV, as it has them.

Written from docs/ancestors.md, SSSegmentation, Augmentation. Only the random numbers are shared:
the oracle is given the draws that follow from the seed.
"""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.data import photometric, pipeline, transforms
from deeplab_tf.ops import seeds

IGNORE, MEAN = 255, (123.675, 116.28, 103.53)
CASES = 200
CPU_AVX2 = 11  # OpenCV's CvCpuFeatures, whose names Python lacks


def case(number):
    """A random image with smooth and sharp parts, and a random label in patches."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(24, 160, 2)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    image[:: rng.integers(2, 9)] = rng.integers(0, 256, 3)
    patches = rng.choice([0, 1, 2, 3, IGNORE], (4, 5), p=[0.55, 0.2, 0.1, 0.1, 0.05])
    label = cv2.resize(
        patches.astype(np.uint8), (int(width), int(height)), interpolation=cv2.INTER_NEAREST
    )
    return image, label


CONFIGS = {  # the recipes' rules of sizes, on a smaller scale
    "voc": ((64, 64), (64, 256)),
    "cityscapes": ((64, 128), (96, 192)),
    "context": ((60, 60), (65, 65)),
}


def config_of(name):
    crop, (least, most) = CONFIGS[name]
    return DataConfig(
        train_crop_size=crop,
        min_resize_value=least,
        max_resize_value=most,
        scale_factor_step_size=0,
        one_category_max_ratio=0.75,
    )


def is_accepted(crop):
    values, counts = np.unique(crop[crop != IGNORE], return_counts=True)
    return len(values) > 1 and counts.max() / counts.sum() < 0.75


def resize(image, label, base, ratio):
    target = int(base[0] * ratio), int(base[1] * ratio)
    height, width = label.shape
    scale = min(max(target) / max(height, width), min(target) / min(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)  # OpenCV: width first
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(label.astype(np.float32), size, interpolation=cv2.INTER_NEAREST),
    )


def geometry(image, label, name, draws):
    """Resize, RandomCrop, RandomFlip, Padding, with the 22 draws of `random_crop`."""
    crop_size, base = CONFIGS[name]
    image, label = resize(image, label, base, 0.5 + 1.5 * float(draws[0]))
    shape = np.minimum(label.shape, crop_size)
    room = (np.array(label.shape) - shape + 1).astype(np.float32)
    for attempt in range(10):
        top, left = (draws[2 + 2 * attempt : 4 + 2 * attempt] * room).astype(int)
        window = np.s_[top : top + shape[0], left : left + shape[1]]
        if is_accepted(label[window]):
            break
    image, label = image[window], label[window]
    if draws[1] < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    whole = np.broadcast_to(np.float32(MEAN), (*crop_size, 3)).copy()
    ignored = np.full(crop_size, IGNORE, np.float32)
    top, left = (np.array(crop_size) - shape) // 2
    inside = np.s_[top : top + shape[0], left : left + shape[1]]
    whole[inside], ignored[inside] = image, label
    return whole, ignored


@pytest.mark.parametrize("name", CONFIGS)
def test_geometry_equals_opencvs(name):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([None, None, 1], tf.uint8),
            tf.TensorSpec([2], tf.int64),
        ]
    )
    def augment(image, label, seed):
        return pipeline.augment(
            image,
            label,
            config_of(name),
            seed=seed,
            ignore_label=IGNORE,
            image_mean=MEAN,
            centred_padding=True,
        )

    padded = 0
    for number in range(CASES):
        image, label = case(number)
        seed = tf.constant([3, number], tf.int64)
        draws = tf.random.stateless_uniform([22], seeds.stream(seed, "crop")).numpy()
        ours, labels = augment(image, label[..., np.newaxis], seed)
        expected, expected_labels = geometry(image, label, name, draws)
        np.testing.assert_array_equal(labels[..., 0], expected_labels, err_msg=str(number))
        assert np.abs(ours - expected).max() <= 1.5, number
        padded += (ours.numpy() == np.float32(MEAN)).all(axis=-1).any()
    assert 20 < padded < CASES  # some are padded, some are not


def photometric_oracle(image, draws):
    """PhotoMetricDistortion on a BGR image, with the 9 draws of `photometric.distort`.

    The ancestor hands its BGR image to the conversion from RGB.
    """

    def clipped(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    def through_hsv(image, change):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        return cv2.cvtColor(change(hsv), cv2.COLOR_HSV2RGB)

    def saturate(hsv):
        factor = 0.5 + float(draws[7])
        hsv[..., 1] = clipped(hsv[..., 1].astype(np.float32) * np.float32(factor))
        return hsv

    def turn(hsv):
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(draws[8] * np.float32(36)) - 18) % 180
        return hsv

    happens, contrast_first = draws[:4] < 0.5, draws[4] < 0.5
    contrast = np.float32(0.5) + draws[6]
    if happens[0]:
        image = clipped(image.astype(np.float32) + (np.float32(64) * draws[5] - np.float32(32)))
    if happens[1] and contrast_first:
        image = clipped(image.astype(np.float32) * contrast)
    if happens[2]:
        image = through_hsv(image, saturate)
    if happens[3]:
        image = through_hsv(image, turn)
    if happens[1] and not contrast_first:
        image = clipped(image.astype(np.float32) * contrast)
    return image


def test_photometric_distortion_equals_opencvs():
    distort = tf.function(
        lambda image, seed: photometric.distort(image, seed=seed, max_size=(160, 160)),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int64)],
    )
    changed, differences = 0, []
    for number in range(CASES):
        image, _ = case(number)
        seed = tf.constant([5, number], tf.int64)
        draws = tf.random.stateless_uniform([9], seed).numpy()
        ours = distort(image, seed).numpy().astype(int)
        expected = photometric_oracle(image[..., ::-1].copy(), draws)[..., ::-1].astype(int)
        differences.append(np.abs(ours - expected).ravel())
        changed += (expected != image).any()
    difference = np.concatenate(differences)
    if cv2.checkHardwareSupport(CPU_AVX2):
        assert difference.max() <= 2
    else:  # OpenCV rounds other pixels there, and a level may become a unit of hue later on
        assert (difference > 2).mean() < 1e-3
    assert changed > 0.85 * CASES  # 15 in 16 are


def test_accepted_crops_are_distributed_as_the_oracles():
    """Places of accepted crops, drawn independently here and there (chi-squared, 15 classes)."""
    rng = np.random.default_rng(0)
    label = np.zeros([90, 120], np.uint8)
    label[20:50, 70:110], label[60:85, 10:40], label[:30, :25] = 1, 2, IGNORE
    count, crop = 3000, np.array([40, 40])
    room = np.array(label.shape) - crop + 1

    def accepted_place():
        for _ in range(10):
            place = rng.integers(0, room)
            if is_accepted(label[place[0] : place[0] + 40, place[1] : place[1] + 40]):
                break
        return place

    def window_place(number):
        window, _ = transforms.random_crop(
            tf.constant(label[..., np.newaxis]),
            seed=tf.stack([tf.constant(9, tf.int64), number]),
            crop_size=(40, 40),
            min_resize_value=0,
            max_resize_value=0,
            min_scale_factor=1.0,
            max_scale_factor=1.0,
            scale_factor_step_size=0.0,
            one_category_max_ratio=0.75,
            ignore_label=IGNORE,
        )
        return window.offset

    ours = np.array(list(tf.data.Dataset.range(count).map(window_place).as_numpy_iterator()))
    theirs = np.array([accepted_place() for _ in range(count)])
    plain = rng.integers(0, room, (count, 2))

    def histogram(places):
        bins = places * (4, 4) // room
        return np.bincount(bins[:, 0] * 4 + bins[:, 1], minlength=16)

    def chi_squared(first, second):
        total = np.maximum(first + second, 1)
        return ((first - second) ** 2 / total).sum()

    # 37.7 is exceeded once in a thousand with 15 degrees of freedom.
    assert chi_squared(histogram(ours), histogram(theirs)) < 37.7
    assert chi_squared(histogram(plain), histogram(theirs)) > 200  # the test can tell

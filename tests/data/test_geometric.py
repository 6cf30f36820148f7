import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import geometric
from deeplab_tf.data.geometric import Pair

MEAN = (123.675, 116.28, 103.53)
FILL = {"ignore_label": 255, "image_mean": MEAN}


def crop(height, width, number=0):
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.float32)
    return Pair(tf.constant(image), tf.constant(rng.integers(0, 7, (height, width, 1)), tf.int32))


def seed(number):
    return tf.constant([7, number], tf.int64)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_quarter_turns_are_those_of_numpy(turns):
    pair = crop(21, 21)
    turned = geometric.rotate(pair, 90.0 * turns, **FILL)
    np.testing.assert_array_equal(turned.label, np.rot90(pair.label, turns))
    np.testing.assert_allclose(turned.image, np.rot90(pair.image, turns), atol=0.01)


def test_an_oblong_keeps_its_size_and_what_comes_in_is_ignored():
    pair = crop(21, 31)
    image, label = geometric.rotate(pair, 90.0, **FILL)
    assert image.shape == (21, 31, 3) and label.shape == (21, 31, 1)
    inner = np.rot90(pair.label[:, 5:26], 1)  # the square around the centre
    np.testing.assert_array_equal(label[:, 5:26], inner)
    for side in (slice(0, 5), slice(26, 31)):
        assert (label[:, side].numpy() == 255).all()
        np.testing.assert_allclose(image[:, side], np.broadcast_to(MEAN, (21, 5, 3)), atol=1e-4)


def test_rotation_by_any_angle_interpolates_and_takes_the_nearest_label():
    pair, degrees = crop(33, 33), 31.0
    image, label = (values.numpy() for values in geometric.rotate(pair, degrees, **FILL))
    angle = np.deg2rad(degrees)
    for row, column in [(16, 16), (10, 20), (25, 12), (18, 7)]:
        x, y = column - 16, row - 16
        from_x = np.cos(angle) * x - np.sin(angle) * y + 16
        from_y = np.sin(angle) * x + np.cos(angle) * y + 16
        assert label[row, column] == pair.label[round(from_y), round(from_x)]
        left, top = int(from_x), int(from_y)
        right, low = from_x - left, from_y - top
        corners = pair.image.numpy()[top : top + 2, left : left + 2]
        across = corners[:, 0] * (1 - right) + corners[:, 1] * right
        expected = across[0] * (1 - low) + across[1] * low
        np.testing.assert_allclose(image[row, column], expected, atol=0.02)


def test_angles_fill_their_range():
    pair = crop(33, 33)
    kept = [
        float(
            np.mean(geometric.random_rotation(pair, seed=seed(n), max_degrees=45, **FILL)[1] < 255)
        )
        for n in range(40)
    ]
    # Turned by 45 degrees, a square keeps 2 (sqrt 2 - 1) = 83 % of itself.
    assert 0.82 < min(kept) < 0.86 and max(kept) > 0.97


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_grid_covers_its_share_and_nothing_else_changes(ratio):
    pair = crop(128, 160)
    mask = functools.partial(
        geometric.random_grid_mask, pair, probability=1.0, ratio=ratio, sizes=(16, 16), **FILL
    )
    for number in range(4):
        image, label = (values.numpy() for values in mask(seed=seed(number)))
        covered = label[..., 0] == 255
        assert covered.mean() == (1 - ratio) ** 2  # 16 divides the sides, and 1 - ratio a side
        np.testing.assert_allclose(image[covered], np.broadcast_to(MEAN, (covered.sum(), 3)))
        np.testing.assert_array_equal(image[~covered], pair.image[~covered])
        np.testing.assert_array_equal(label[~covered], pair.label[~covered])
        # Squares of one size in cells of 16: the grid repeats itself.
        np.testing.assert_array_equal(covered[16:], covered[:-16])
        np.testing.assert_array_equal(covered[:, 16:], covered[:, :-16])


def test_the_grid_comes_as_often_as_asked():
    pair = crop(32, 32)
    happened = [
        (geometric.random_grid_mask(
            pair, seed=seed(n), probability=0.25, ratio=0.5, sizes=(8, 16), **FILL
        )[1].numpy() == 255).any()
        for n in range(200)
    ]  # fmt: skip
    assert np.mean(happened) == pytest.approx(0.25, abs=0.1)


def test_cutmix_pastes_one_box_of_image_and_label():
    """Of an area that is even in 0..1 before the crop's edge cuts it off."""
    pair, other = crop(40, 60), Pair(tf.fill([40, 60, 3], 300.0), tf.fill([40, 60, 1], 99))
    sizes = []
    for number in range(120):
        image, label = (
            values.numpy() for values in geometric.cutmix(pair, other, seed=seed(number))
        )
        box = label[..., 0] == 99
        rows, columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, rows[:, None] & columns[None])
        for side in (rows, columns):
            assert np.abs(np.diff(side.astype(int))).sum() <= 2  # in one piece
        np.testing.assert_array_equal(image == 300, np.repeat(box[..., None], 3, axis=-1))
        np.testing.assert_array_equal(image[~box], pair.image[~box])
        np.testing.assert_array_equal(label[~box], pair.label[~box])

        if box.any() and not (rows[0] or rows[-1] or columns[0] or columns[-1]):
            assert rows.sum() / 40 == pytest.approx(columns.sum() / 60, abs=1 / 40)
        sizes.append(box.mean())
    # Half of a side of length s lies outside for 1/4 of its length on average: for sides s = sqrt u
    # and a centre anywhere, E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48 = 0.32.
    assert np.mean(sizes) == pytest.approx(0.32, abs=0.06)


def test_the_same_seed_gives_the_same_crop():
    pair, other = crop(24, 24), crop(24, 24, number=1)
    for change in (
        functools.partial(geometric.random_rotation, pair, max_degrees=30.0, **FILL),
        functools.partial(geometric.cutmix, pair, other),
    ):
        once, again, another = change(seed=seed(1)), change(seed=seed(1)), change(seed=seed(2))
        np.testing.assert_array_equal(once.image, again.image)
        assert (once.image.numpy() != another.image.numpy()).any()

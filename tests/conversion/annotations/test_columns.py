"""Polygons and run lengths, compared with what pycocotools drew (golden.py) and by hand."""

import json
import time

import numpy as np
import pytest
from pycocotools import mask

from deeplab_tf.conversion.annotations import columns, ellipses
from deeplab_tf.messages import UserError
from tests.conversion.annotations import golden

GOLDEN = json.loads(golden.PATH.read_text())


def filled(height, width, points):
    labels = np.zeros([height, width], np.uint8, order="F")
    columns.fill_polygon(labels, np.array(points, float), 1, "it")
    return labels


def of_counts(counts, height, width):
    labels = np.zeros([height, width], np.uint8, order="F")
    columns.fill_runs(labels, *columns.runs_of_counts(np.array(counts)), 1)
    return labels


def test_polygons_equal_those_of_pycocotools():
    for (height, width, points), text in zip(golden.polygons(), GOLDEN["polygons"], strict=True):
        expected = of_counts(columns.counts_of_text(text), height, width)
        np.testing.assert_array_equal(filled(height, width, points), expected)


def test_random_polygons_equal_those_of_pycocotools_itself():
    random = np.random.default_rng(0)
    for number in range(500):
        height, width = random.integers(1, 60, 2).tolist()
        far = (1, 1.5, 40)[number % 3]
        points = (random.random((int(random.integers(3, 12)), 2)) - 0.5) * far * [width, height]
        points = np.round(points + [width / 2, height / 2], number % 4)
        (code,) = mask.frPyObjects([points.ravel().tolist()], height, width)
        np.testing.assert_array_equal(filled(height, width, points), mask.decode(code))
        expected = of_counts(columns.counts_of_text(code["counts"].decode()), height, width)
        np.testing.assert_array_equal(mask.decode(code), expected)


def test_a_square_covers_its_pixels():
    """From 2 to 5 and from 1 to 3: pixels 2 to 4 across, 1 and 2 down."""
    expected = np.zeros([6, 8], np.uint8)
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(filled(6, 8, [[2, 1], [5, 1], [5, 3], [2, 3]]), expected)


def test_what_lies_outside_is_cut_off():
    assert filled(5, 7, [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]).all()
    assert not filled(5, 7, [[-9, -9], [-3, -9], [-3, 20]]).any()


def test_an_outline_without_end_is_refused():
    zigzag = np.array([[0, 0], [9000, 5]] * 120, float)  # 2.2 million crossings
    with pytest.raises(UserError, match=r"^it has an outline that crosses [\d,]+ columns"):
        columns.fill_polygon(np.zeros([10, 9001], np.uint8, order="F"), zigzag * 1.0, 1, "it")


def test_runs_go_down_the_columns():
    """Two outside, three inside: the third pixel of the first column, two of the second."""
    expected = [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(of_counts([2, 3, 4], 3, 3), expected)
    assert of_counts([0, 9], 3, 3).all() and not of_counts([9], 3, 3).any()


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        # One character for each: 48 + number.
        ("234", [2, 3, 4]),
        # The fourth number counts from the second one: 3 + 1.
        ("2341", [2, 3, 4, 4]),
        # 40 = 8 + 1 * 32: chr(48 + 32 + 8), chr(48 + 1).
        ("X1", [40]),
        # -1 is 5 bits of ones, which end with the sign: chr(48 + 31); 3 - 1 = 2.
        ("234O", [2, 3, 4, 2]),
        ("", []),
    ],
)
def test_compressed_counts_by_hand(text, counts):
    assert columns.counts_of_text(text).tolist() == counts


@pytest.mark.parametrize("text", ["X", "2 3", "é", "2\x7f", "XXXXXXXX1"])
def test_other_texts_are_no_counts(text):
    with pytest.raises(ValueError, match="no code of COCO"):
        columns.counts_of_text(text)


def test_ellipses_equal_those_of_opencv():
    for (height, width, *rest), text in zip(golden.ellipses(), GOLDEN["ellipses"], strict=True):
        labels = np.zeros([height, width], np.uint8)
        center, radii, rotation = rest
        ellipses.fill_ellipse(labels, np.array(center), np.array(radii), rotation, 1)
        np.testing.assert_array_equal(labels, golden.unpack(text, height, width))


def test_an_ellipse_far_above_the_image_is_the_same_moved_down():
    """It starts up to 490 rows above the image.

    OpenCV clips the lines of the outline before it steps along them, which moves a pixel or two.
    """
    for angle in (0, 20, 45, 133):
        large, small = np.zeros([700, 300], np.uint8), np.zeros([100, 300], np.uint8)
        ellipses.fill_ellipse(large, np.array([150, 350]), np.array([90, 340]), angle, 1)
        ellipses.fill_ellipse(small, np.array([150, -150]), np.array([90, 340]), angle, 1)
        assert (small != large[500:600]).sum() <= 2 and small.sum() > 1000


def test_a_huge_ellipse_takes_steps_in_the_image_only():
    began = time.perf_counter()
    labels = np.zeros([10, 10], np.uint8)
    ellipses.fill_ellipse(labels, np.array([5, 5]), np.array([1e6, 1e6]), 0, 1)
    assert labels.all() and time.perf_counter() - began < 1


def test_random_ellipses_equal_those_of_an_installed_opencv():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for number in range(300):
        size = random.integers(5, 120, 2).tolist()
        center, radii = random.random(2) * size[::-1], random.random(2) * (4, 40, 90)[number % 3]
        center[1] -= (0, 40)[number // 2 % 2]  # also above the image
        angle = (0.0, float(random.random() * 360))[number % 2]
        labels, expected = np.zeros([2, *size], np.uint8)
        ellipses.fill_ellipse(labels, center, radii, angle, 1)
        whole = [tuple(map(round, pair.tolist())) for pair in (center, radii)]
        cv2.ellipse(expected, *whole, angle, 0, 360, 1, thickness=-1)
        np.testing.assert_array_equal(labels, expected)

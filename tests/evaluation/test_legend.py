"""The legend of a picture, by the colours of its pixels."""

import numpy as np

from deeplab_tf.evaluation.legend import legend

NAMES = ["road", "sky", "a rather long name", "dog"]
COLORS = [(1, 2, 3), (250, 0, 0), (0, 250, 0), (0, 0, 250)]


def colors_in(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()} & set(COLORS)


def test_it_shows_the_classes_that_occur_and_no_other():
    picture = legend(NAMES, COLORS, [0, 3, 0, 255], width=200)
    assert picture.dtype == np.uint8 and picture.shape == (16, 200, 3)
    assert colors_in(picture) == {COLORS[0], COLORS[3]}


def test_it_takes_as_many_lines_as_its_width_asks_for():
    one, several = (legend(NAMES, COLORS, range(4), width=width) for width in (400, 90))
    assert one.shape == (16, 400, 3) and several.shape[0] > 16 and several.shape[1] == 90
    assert colors_in(one) == colors_in(several) == set(COLORS)


def test_no_class_makes_no_picture():
    assert legend(NAMES, COLORS, [255], width=50).shape == (0, 50, 3)


def test_names_in_any_script_are_drawn():
    assert legend(["道路"], COLORS[:1], [0], width=100).shape == (16, 100, 3)

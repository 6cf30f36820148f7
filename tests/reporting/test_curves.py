import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from deeplab_tf.reporting import curves


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1, 480, [0, 100, 200, 300, 400, 500]),
        (0.31, 2.07, [0, 0.5, 1, 1.5, 2, 2.5]),
        (5, 5, [2, 3, 4, 5, 6, 7, 8]),  # half of it to either side: 2.5 to 7.5
        (0, 0, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert curves.ticks(low, high) == pytest.approx(expected)


@given(some.floats(-1e6, 1e6), some.floats(0, 1e6))
def test_ticks_hold_all_values(low, width):
    found = curves.ticks(low, low + width)
    slack = 1e-6 * (found[1] - found[0])  # a thousandth of what a pixel shows
    assert found[0] <= low + slack and found[-1] >= low + width - slack
    assert 2 <= len(found) <= 9
    assert np.all(np.diff(found) > 0)


def test_many_points_become_means():
    points = [(step, step % 2) for step in range(1, 1201)]
    assert curves.thinned(points) == [(2 * n + 1.5, 0.5) for n in range(600)]
    assert curves.thinned(points[:600]) == points[:600]


def test_a_curve_lies_within_its_axes_and_rises_with_its_values():
    figure = curves.curve("IoU", [(0, 0.0), (50, 25.0), (100, 100.0)], unit="%", marked=True)
    line = figure[0].find("polyline").get("points")
    places = [tuple(map(float, place.split(","))) for place in line.split()]
    # Axes from 0 to 100 both; 720 x 260 with margins of 70, 16, 14 and 44 pixels.
    assert places == [(70, 216), (387, 165.5), (704, 14)]
    assert figure[0].get("aria-label") == (
        "IoU: 0 % at step 0, 100 % at step 100; lowest 0 % at step 0, highest 100 % at step 100."
    )
    assert len(figure[0].findall("circle")) == 3


def test_a_single_point_is_seen():
    figure = curves.curve("Training loss", [(7, 0.5)])
    assert figure[0].get("aria-label") == "Training loss: 0.5 at step 7."
    assert len(figure[0].findall("circle")) == 1

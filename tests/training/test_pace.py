"""The remaining time of a run, against arithmetic by hand."""

import math

import pytest

from deeplab_tf.training import pace as pacing


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test turns it: clock.now += seconds."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(pacing.time, "monotonic", lambda: Clock.now)
    return Clock


def test_the_remaining_time_includes_steps_saves_and_validations(clock):
    pace = pacing.Pace(100, pauses={"save": 10, "validation": 30, "never": 0})
    assert math.isnan(pace.seconds_left(0)) and not pace.is_steady()
    for seconds in (60.0, 30.0):  # calls that compile do not count
        pace.add_call(2, seconds)
    assert math.isnan(pace.seconds_left(4))
    for seconds in (3.0, 4.0, 5.0):
        assert not pace.is_steady()
        pace.add_call(2, seconds)
    assert pace.is_steady()

    # 12 s in 6 steps: 2 s each, and 90 are left. Saves come at 20, 30, ... 100, and validations
    # at 30, 60, 90 and 100, the last step.
    assert pace.seconds_left(10) == pytest.approx(180)
    assert pace.untimed_pauses(10) == {"save": 9, "validation": 4}

    with pace.pause("save"):
        clock.now += 3
    assert pace.seconds_left(10) == pytest.approx(180 + 9 * 3)
    with pace.pause("validation"):
        clock.now += 50  # it traces a graph
    with pace.pause("validation"):
        clock.now += 20
    assert pace.seconds_left(60) == pytest.approx(40 * 2 + 4 * 3 + 2 * 20)
    assert pace.untimed_pauses(60) == {}
    assert pace.seconds_left(100) == 0


def test_the_remaining_time_follows_the_newest_steps():
    pace = pacing.Pace(10_000, pauses={})
    for seconds in [1.0] * 150 + [4.0] * 100:
        pace.add_call(1, seconds)
    assert pace.seconds_left(250) == pytest.approx(4 * 9750)

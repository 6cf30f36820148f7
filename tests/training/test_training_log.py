"""Means over the steps between two lines of the log, against arithmetic by hand."""

import pytest

from deeplab_tf.training.training_log import StepDetails


def warmed_up():
    """The first two calls, which trace the graph, say nothing about waiting."""
    details = StepDetails()
    for _ in range(2):
        details.add({"input_ready": 90.0}, began=0.0, seconds=99.0, steps=1)
    assert details.take() == {}
    return details


def test_means_are_over_the_calls_since_the_last_time():
    details = warmed_up()
    # The first call waited 1 of 4 s, the second not at all, the third all of its 2 s.
    for norm, ready, began, seconds in [
        (1.0, 101.0, 100.0, 4.0),
        (2.0, 199.9, 200.0, 4.0),  # the clock of the day was set back
        (6.0, 310.0, 300.0, 2.0),
    ]:
        logs = {"loss": 9.0, "gradient_norm": norm, "input_ready": ready}
        details.add(logs, began=began, seconds=seconds, steps=1)
    taken = details.take()
    assert taken == {"gradient_norm": 3.0, "input_wait": pytest.approx(3.0 / 10.0)}
    assert details.take() == {}


def test_a_call_of_several_steps_says_nothing_about_waiting():
    details = warmed_up()
    details.add({"main_loss": 2.0, "input_ready": 1.0}, began=0.0, seconds=2.0, steps=5)
    assert details.take() == {"main_loss": 2.0}


def test_infinite_gradients_that_loss_scaling_skips_are_not_recorded():
    details = StepDetails()
    details.add({"gradient_norm": float("inf")}, began=0.0, seconds=2.0, steps=1)
    assert details.take() == {}

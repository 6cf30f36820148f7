"""The remaining time of a run, against arithmetic by hand; the progress bar; what stops a run."""

import errno
import io
import math
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from deeplab_tf.distribution import Workers
from deeplab_tf.training import callbacks


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test turns it: clock.now += seconds."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: Clock.now)
    return Clock


def test_the_remaining_time_includes_steps_saves_and_validations(clock):
    pace = callbacks.Pace(100, pauses={"save": 10, "validation": 30, "never": 0})
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
    pace = callbacks.Pace(10_000, pauses={})
    for seconds in [1.0] * 150 + [4.0] * 100:
        pace.add_call(1, seconds)
    assert pace.seconds_left(250) == pytest.approx(4 * 9750)


def test_the_progress_bar_counts_on_from_a_resumed_step(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = callbacks.ProgressBar(batch_size=8, last_step=10)
    bar.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=tf.Variable(4))))

    bar.on_train_begin()
    clock.now += 4.0
    bar.on_train_batch_end(1, {"loss": 0.75, "learning_rate": 0.01})  # two steps in one call
    bar.on_train_end()

    last = screen.getvalue().splitlines()[-1].split("\r")[-1]
    # 2 steps of 8 images in 4 s
    assert " 6/10 " in last and "loss 0.7500, lr 0.010000, 4.00 images/s" in last


def alone():
    return Workers(tf.distribute.get_strategy(), count=1, index=0)


def test_output_that_nobody_reads_stops_the_run_in_place_of_an_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", unread)
        with callbacks.StopOnSignal(alone()) as stop:
            callbacks.say("a line")
            callbacks.say("another")
        assert sys.stdout is unread
        assert stop.received == signal.SIGPIPE and isinstance(stop.fault, BrokenPipeError)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # takes what is left at the end


def test_a_full_disk_under_the_output_stops_the_run(monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with callbacks.StopOnSignal(alone()) as stop:
            print("a line", file=sys.stderr, flush=True)
        assert stop.received == signal.SIGPIPE and stop.fault.errno == errno.ENOSPC
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_second_one_is_as_it_was(number, capsys):
    calls = []
    before = signal.signal(number, lambda *_: calls.append("before"))
    try:
        with callbacks.StopOnSignal(alone()) as stop:
            signal.raise_signal(number)
            assert stop.received == number and not calls
            assert stop._agree(False) == (True, False)
            signal.raise_signal(number)
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert calls == ["before", "before"]
    assert f"{number.name}: saving after this step" in capsys.readouterr().out


def test_nohup_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with callbacks.StopOnSignal(alone()) as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_without_output_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with callbacks.StopOnSignal(alone()) as stop:
        callbacks.say("a line")
    assert stop.received is None

"""What stops a run: signals, and output that nobody takes."""

import errno
import os
import signal
import sys

import pytest
import tensorflow as tf

from deeplab_tf.distribution import Workers
from deeplab_tf.training.progress import say
from deeplab_tf.training.signals import StopOnSignal


def alone():
    return Workers(tf.distribute.get_strategy(), count=1, index=0)


def test_output_that_nobody_reads_stops_the_run_in_place_of_an_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", unread)
        with StopOnSignal(alone()) as stop:
            say("a line")
            say("another")
        assert sys.stdout is unread
        assert stop.received == signal.SIGPIPE and isinstance(stop.fault, BrokenPipeError)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # takes what is left at the end


def test_a_full_disk_under_the_output_stops_the_run(monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with StopOnSignal(alone()) as stop:
            print("a line", file=sys.stderr, flush=True)
        assert stop.received == signal.SIGPIPE and stop.fault.errno == errno.ENOSPC
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_second_one_is_as_it_was(number, capsys):
    calls = []
    before = signal.signal(number, lambda *_: calls.append("before"))
    try:
        with StopOnSignal(alone()) as stop:
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
        with StopOnSignal(alone()) as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_without_output_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with StopOnSignal(alone()) as stop:
        say("a line")
    assert stop.received is None

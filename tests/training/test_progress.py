"""The progress bar on a real pseudo-terminal, whose screen is computed from what was written."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from types import SimpleNamespace

import pytest
import tensorflow as tf

from deeplab_tf.training import pace, progress


def screen_of(written: str, columns: int) -> list[str]:
    """Returns the lines that a terminal of this width shows: \\r, \\n, "erase line", and wrapping.

    A full line keeps the cursor in its last column until the next letter comes, as in a VT100.
    """
    lines, row, column = [[]], 0, 0
    for part in re.findall(r"\x1b\[2K|\x1b\[A|.", written, re.DOTALL):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            column = column if len(part) > 1 else 0
        elif part == "\x1b[2K":
            lines[row] = []
        elif part == "\x1b[A":
            row = max(row - 1, 0)
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append([])
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = part
            column += 1
        while len(lines) <= row:
            lines.append([])
    return ["".join(line).rstrip() for line in lines]


class Terminal:
    """A pseudo-terminal of some width that takes what is written to standard error and output."""

    def __init__(self, columns: int):
        self.columns = columns
        self._master, slave = pty.openpty()
        self.resize(columns, slave)
        self.stream = os.fdopen(slave, "w", buffering=1)

    def resize(self, columns: int, slave: int | None = None) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self._master if slave is None else slave, termios.TIOCSWINSZ, size)

    def screen(self) -> list[str]:
        self.stream.flush()
        os.set_blocking(self._master, False)
        written = b""
        try:
            while True:
                written += os.read(self._master, 1 << 16)
        except BlockingIOError:
            pass
        self._so_far = getattr(self, "_so_far", "") + written.decode()
        return screen_of(self._so_far.replace("\r\n", "\n"), self.columns)


def attached(monkeypatch, columns: int) -> Terminal:
    """Returns a terminal that takes the output of this test from now on."""
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    return terminal


def started_bar(*, at=4, last_step=10, pauses=None):
    own = pace.Pace(last_step, pauses=pauses or {})
    bar = progress.ProgressBar(own, batch_size=8, last_step=last_step)
    bar.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=tf.Variable(at))))
    bar.on_train_begin()
    return bar, own


LOGS = {"loss": 0.75, "learning_rate": 0.01}


@pytest.mark.parametrize("columns", [80, 200])
def test_the_bar_counts_on_from_a_resumed_step(monkeypatch, columns):
    terminal = attached(monkeypatch, columns)
    bar, own = started_bar(pauses={"validation": 5})
    for _ in range(5):
        own.add_call(2, 4.0)  # 2 steps of 8 images in 4 s
    bar.on_train_batch_end(1, LOGS)  # two steps in one call
    bar.on_train_end()

    lines = terminal.screen()
    # 4 steps of 2 s are left, and one validation that was not timed yet.
    assert " 6/10 [00:00<00:08+, loss 0.7500, lr 0.010000, 4.00 images/s]" in lines[0]
    assert len(lines[0]) == terminal.columns - 3 and lines[1:] == [""]


@pytest.mark.parametrize("columns", [80, 200])
def test_lines_and_ctrl_c_leave_no_piece_of_the_bar(monkeypatch, columns):
    terminal = attached(monkeypatch, columns)
    bar, _ = started_bar()
    bar.on_train_batch_end(0, LOGS)
    progress.say("step 5  val mIoU 0.5000, the first")
    terminal.stream.write("^C")  # as a terminal echoes it
    progress.say("SIGINT: saving after this step")
    bar.on_train_end()

    lines = terminal.screen()
    assert lines[:2] == ["step 5  val mIoU 0.5000, the first", "SIGINT: saving after this step"]
    assert " 5/10 [" in lines[2] and lines[3:] == [""]


def test_the_bar_moves_during_a_validation_and_then_shows_the_loss(monkeypatch):
    terminal = attached(monkeypatch, 80)
    bar, _ = started_bar()
    bar.on_train_batch_end(0, LOGS)
    bar._shown = 0.0
    bar.show("validating 3 of 20 images")
    assert "validating 3 of 20 images" in terminal.screen()[0]
    bar.show("")
    assert "loss 0.7500" in terminal.screen()[0]


def test_the_bar_follows_the_width_of_the_terminal(monkeypatch):
    terminal = attached(monkeypatch, 200)
    bar, _ = started_bar()
    bar.on_train_batch_end(0, LOGS)
    terminal.resize(100)
    bar.show("")
    bar.on_train_end()
    assert len(terminal.screen()[0]) == 100 - 3

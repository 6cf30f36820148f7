"""How wide the scores of a validation are printed."""

import os

import pytest

from deeplab_tf.training import scoring


@pytest.mark.parametrize(("terminal", "used"), [(80, 80), (300, 100), (0, 100)])
def test_lines_fit_into_the_terminal_and_one_without_a_width(monkeypatch, terminal, used):
    size = os.terminal_size((terminal, 24))
    monkeypatch.setattr(scoring.shutil, "get_terminal_size", lambda fallback: size)
    assert scoring._columns() == used

"""Keeps the lines that TensorFlow prints while it is imported from those who run our programs.

TensorFlow 2.16 and later write them from C++ before the level in TF_CPP_MIN_LOG_LEVEL is read
(https://github.com/tensorflow/tensorflow/issues/100442). Everything else that is printed meanwhile
passes, even if the import ends the process.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

# Abseil's log lines below errors ("I0000 00:00:1795901625.115463 ..."), and what announces them.
_NOISE = r"^[IW][0-9]{4} [0-9:.]+ |^WARNING: All log messages before absl::InitializeLog"


def hide_start_up_lines() -> None:
    """Has the first import of TensorFlow, wherever it comes, print only what matters.

    Whoever sets TF_CPP_MIN_LOG_LEVEL below 3 wants to see them, and does.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if level == "3" and "tensorflow" not in sys.modules and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python would, but has it imported with filtered errors."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec

        execute = spec.loader.exec_module

        def exec_module(module):
            with _filtered_errors():
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()


@contextlib.contextmanager
def _filtered_errors() -> Iterator[None]:
    """Passes what this process writes to standard error through a filter.

    The filter is a process of its own: what a dying process wrote last is shown all the same.
    """
    try:
        sys.stderr.flush()
        original = os.dup(2)
    except (OSError, ValueError, AttributeError):  # standard error is closed
        yield
        return

    command = ["grep", "--line-buffered", "--invert-match", "--extended-regexp", _NOISE]
    try:
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=original)
    except OSError:  # there is no grep
        keeper = None
    try:
        if keeper and keeper.stdin:
            os.dup2(keeper.stdin.fileno(), 2)
            keeper.stdin.close()
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        if keeper:
            keeper.wait()

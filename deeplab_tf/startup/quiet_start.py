"""Hides the log lines that TensorFlow prints while it is imported, or first uses XLA.

TensorFlow 2.16 and later print them from C++, before they read TF_CPP_MIN_LOG_LEVEL
(https://github.com/tensorflow/tensorflow/issues/100442). All other output passes, even if the
import ends the process.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# Abseil's information and warning lines ("I0000 00:00:1795901625.115463 ..."), and the line that
# announces them.
_NOISE = r"^[IW][0-9]{4} [0-9:.]+ |^WARNING: All log messages before absl::InitializeLog"


def hide_start_up_lines() -> None:
    """Hides these lines at the first import of TensorFlow, wherever that is.

    They are shown if the user has set TF_CPP_MIN_LOG_LEVEL to a value below 3.
    """
    level = os.environ.setdefault(_LEVEL, "3")
    if level == "3" and "tensorflow" not in sys.modules and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python would, and filters standard error while it is imported."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "tensorflow":
            return None

        # Removed first: `importlib.util.find_spec` would ask this finder again.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec

        execute = spec.loader.exec_module

        def exec_module(module):
            with filtered_errors():
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()


@contextlib.contextmanager
def filtered_errors() -> Iterator[None]:
    """Keeps Abseil's information and warning lines out of standard error, inside the context.

    They are shown unless TF_CPP_MIN_LOG_LEVEL is 3, as in all programs whose users set nothing. The
    filter is another process, so the last words of a dying process are shown too.
    """
    if os.environ.get(_LEVEL) != "3":
        yield
        return
    try:
        sys.stderr.flush()
        original = os.dup(2)
    except (OSError, ValueError, AttributeError):  # standard error is closed
        yield
        return

    command = ["grep", "--line-buffered", "--invert-match", "--extended-regexp", _NOISE]
    try:
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=original)
    except OSError:  # grep is not installed: nothing is filtered
        grep = None

    try:
        if grep and grep.stdin:
            os.dup2(grep.stdin.fileno(), 2)
            grep.stdin.close()
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        if grep:
            grep.wait()

"""What is seen of an import of TensorFlow: a stand-in writes as TensorFlow 2.21 does."""

import os
import subprocess
import sys

import pytest

FIRST = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
INFO = "I0000 00:00:1795901625.115463    8424 cudart_stub.cc:31] Could not find cuda drivers."
FAULT = "F0000 00:00:1795901625.115463    8424 cpu_feature_guard.cc:5] No AVX on this machine."

STAND_IN = f"""
import contextlib, os, sys
with contextlib.suppress(OSError):
    os.write(2, b"{FIRST}\\n{INFO}\\n")
print("A warning of Python's own.", file=sys.stderr)
if "CRASH" in os.environ:
    os.write(2, b"{FAULT}\\n")
    os.abort()
if "FAIL" in os.environ:
    raise ImportError("A library is missing.")
"""
USER = """
from deeplab_tf.startup import quiet_start
quiet_start.hide_start_up_lines()
import sys
import tensorflow
import os
os.write(2, b"I0000 00:00:1.1    1 later.cc:1] After the import.\\n")
print("It is imported.")
"""


def run(tmp_path, code=USER, **environment):
    (tmp_path / "tensorflow.py").write_text(STAND_IN)
    kept = {name: text for name, text in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    places = os.pathsep.join([str(tmp_path), os.getcwd()])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"PYTHONPATH": places} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_only_what_matters_is_shown(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "It is imported.\n"
    own, later = done.stderr.splitlines()
    assert own == "A warning of Python's own." and "After the import." in later


@pytest.mark.parametrize("level", ["0", "1"])
def test_who_asks_for_the_lines_sees_them(tmp_path, level):
    done = run(tmp_path, TF_CPP_MIN_LOG_LEVEL=level)
    assert FIRST in done.stderr and INFO in done.stderr


def test_the_reason_of_a_failed_import_is_seen(tmp_path):
    done = run(tmp_path, FAIL="1")
    assert done.returncode == 1 and "ImportError: A library is missing." in done.stderr
    assert INFO not in done.stderr


def test_the_last_line_of_a_crash_is_seen(tmp_path):
    done = run(tmp_path, CRASH="1")
    assert done.returncode < 0 and FAULT in done.stderr
    assert INFO not in done.stderr


def test_a_closed_standard_error_is_no_fault(tmp_path):
    code = "import os, sys; os.close(2); sys.stderr = None\n" + USER.split("os.write")[0]
    done = run(tmp_path, code=code + "print('It is imported.')")
    assert done.returncode == 0 and done.stdout.endswith("It is imported.\n")


@pytest.mark.parametrize("level", ["3", pytest.param("0", marks=pytest.mark.slow)])
def test_the_first_use_of_xla_is_not_announced_in_the_middle_of_a_training(level):
    code = """
import tensorflow as tf
from deeplab_tf.data import photometric
image = tf.zeros([4, 4, 3], tf.uint8)
photometric.distort(image, seed=tf.constant([1, 2], tf.int64), max_size=(4, 4))
"""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ("Compiled cluster using XLA" in done.stderr) == (level == "0")

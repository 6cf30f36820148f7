"""Files of TensorFlow 2.15 and of 2.16 or later, each read by the other.

It takes two environments in the clone, such as `make test` and `make test PYTHON=3.13` leave.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.startup import legacy_keras
from tests.stack_files import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[1]
IS_NEWER = legacy_keras.tensorflow_version() >= (2, 16)


@pytest.fixture(scope="module")
def other() -> Path:
    """The interpreter of an environment with the other stack."""
    code = (
        "from deeplab_tf.startup import legacy_keras; "
        "print(legacy_keras.tensorflow_version() >= (2, 16))"
    )
    for python in sorted(ROOT.glob(".venv*/bin/python")):
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True)
        if done.stdout.strip() == str(not IS_NEWER):
            return python
    pytest.skip("no environment with the other TensorFlow stack is here (make test PYTHON=...)")


def run_together(task, folders, records):
    """Runs a task in several interpreters at once; each has a folder of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    processes = [
        subprocess.Popen(
            [python, "-m", "tests.stack_files", task, folder, records],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for python, folder in folders.items()
    ]
    for process in processes:
        errors = process.communicate(timeout=550)[1]
        assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def exchanged(other, records_dir, tmp_path_factory) -> dict[str, Path]:
    """Folders that one stack wrote and the other then read."""
    here, there = (tmp_path_factory.mktemp("exchanged") for _ in range(2))
    run_together("write", {sys.executable: here, other: there}, records_dir)
    run_together("read", {other: here, sys.executable: there}, records_dir)
    return {"to the other": here, "from the other": there}


@pytest.mark.parametrize("direction", ["to the other", "from the other"])
def test_what_one_stack_writes_the_other_reads_and_trains_on(exchanged, direction):
    folder = exchanged[direction]
    with np.load(folder / "written.npz") as written, np.load(folder / "read.npz") as read:
        formats = {"run", "model.keras", "savedmodel", "weights.h5"}
        assert set(written) == set(read) == {*formats, *OPTIMIZERS}
        for name, expected in written.items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(read[name], expected, rtol=0, atol=1e-5 * scale)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]

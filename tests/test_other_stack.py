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

from deeplab_tf import legacy_keras
from tests.stack_files import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[1]
IS_NEWER = legacy_keras.tensorflow_version() >= (2, 16)


@pytest.fixture(scope="module")
def other() -> Path:
    """The interpreter of an environment with the other stack."""
    code = (
        "from deeplab_tf import legacy_keras; print(legacy_keras.tensorflow_version() >= (2, 16))"
    )
    for python in sorted(ROOT.glob(".venv*/bin/python")):
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True)
        if done.stdout.strip() == str(not IS_NEWER):
            return python
    pytest.skip("no environment with the other TensorFlow stack is here (make test PYTHON=...)")


def run(python, task, folder, records):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [python, "-m", "tests.stack_files", task, folder, records],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("direction", ["to the other", "from the other"])
def test_what_one_stack_writes_the_other_reads_and_trains_on(
    other, direction, records_dir, tmp_path
):
    writer, reader = sys.executable, other
    if direction == "from the other":
        writer, reader = reader, writer
    run(writer, "write", tmp_path, records_dir)
    run(reader, "read", tmp_path, records_dir)

    with np.load(tmp_path / "written.npz") as written, np.load(tmp_path / "read.npz") as read:
        formats = {"run", "model.keras", "savedmodel", "weights.h5"}
        assert set(written) == set(read) == {*formats, *OPTIMIZERS}
        for name, expected in written.items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(read[name], expected, rtol=0, atol=1e-5 * scale)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]

"""Training gives PyTorch's weights after each step: same start and batches, no dropout, float64.

The peer is SSSegmentation's model in plain PyTorch (benchmarks/peers/model.py). It has its own
environment: `make benchmarks/.venv/installed`.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks/.venv/bin/python"
SNAPSHOTS = (1, 5, 20)


def write_job(folder, *, classes, output_stride, fine_tune_batch_norm, steps):
    """Writes batches of two images with ignored pixels; one image and one batch are all ignored."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((steps, 2, 33, 41, 3))
    labels = rng.integers(0, classes, (steps, 2, 33, 41))
    labels[rng.random(labels.shape) < 0.2] = 255
    labels[2, 1] = 255
    labels[3] = 255
    np.savez(folder / "batches.npz", normalized=images, labels=labels.astype(np.int32))
    job = {
        "classes": classes,
        "output_stride": output_stride,
        "fine_tune_batch_norm": fine_tune_batch_norm,
        "batch_size": 2,
        "blocks": [2, 2, 2, 2],  # a first block and a later one, which differ in rate
        "width": 16,
        "network": [
            *("model_variant", "output_stride", "aspp_convs_filters", "auxiliary_filters"),
            "aspp_projection_kernel_size",
        ],
        "base_learning_rate": 0.01,
        "end_learning_rate": 0.0001,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "total_steps": steps,
        "snapshots": SNAPSHOTS,
    }
    (folder / "job.json").write_text(json.dumps(job))


def in_our_layout(name, array):
    return array.transpose(2, 3, 1, 0) if name.endswith("kernel") else array


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the longest takes a minute on a quiet machine
@pytest.mark.parametrize(
    "settings",
    [
        {"classes": 150, "output_stride": 8, "fine_tune_batch_norm": True, "steps": 20},
        {"classes": 21, "output_stride": 16, "fine_tune_batch_norm": True, "steps": 5},
        {"classes": 21, "output_stride": 8, "fine_tune_batch_norm": False, "steps": 5},
    ],
    ids=["os8", "os16", "frozen"],
)
def test_training_equals_pytorchs(settings, tmp_path):
    if not PEERS.is_file():
        pytest.skip(f"{PEERS.relative_to(ROOT)} is not here; make benchmarks/.venv/installed")
    write_job(tmp_path, **settings)
    for command in (
        [PEERS, ROOT / "benchmarks/peers/training_parity.py", tmp_path],
        [sys.executable, "-m", "tests.training.parity", tmp_path],
    ):
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True)

    ours = json.loads((tmp_path / "ours.json").read_text())
    theirs = json.loads((tmp_path / "peers_losses.json").read_text())
    assert ours["dtypes"] == ["float64"]
    assert ours["losses"][3] == theirs[3] == 0  # the batch without a valid pixel
    assert min(theirs[:3]) > 1
    np.testing.assert_allclose(ours["losses"], theirs, rtol=1e-12)

    start = np.load(tmp_path / "peers_0.npz")
    for step in SNAPSHOTS[: 3 if settings["steps"] == 20 else 2]:
        here, there = (np.load(tmp_path / f"{who}_{step}.npz") for who in ("ours", "peers"))
        assert sum(name.startswith("momentum/") for name in here) > 60
        for name in here:
            variable = name.removeprefix("momentum/")
            origin = name.replace(variable, ours["origins"][variable])
            expected = in_our_layout(variable, there[origin])
            largest = np.abs(expected).max()
            np.testing.assert_allclose(
                here[name], expected, rtol=0, atol=1e-10 * max(largest, 1e-3), err_msg=name
            )
            is_statistic = "moving" in name
            trained = settings["fine_tune_batch_norm"] or not is_statistic
            if not name.startswith("momentum/"):
                changed = (there[origin] != start[origin]).any()
                assert changed == trained, name  # otherwise nothing was compared

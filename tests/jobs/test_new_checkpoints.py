from types import SimpleNamespace

import pytest

from deeplab_tf.config import Experiment, TrainConfig
from deeplab_tf.jobs import new_checkpoints
from deeplab_tf.runs.checkpoints import UnreadableCheckpointError


def follow(monkeypatch, *, at_most, kept, unreadable=(), train_logdir="run", stops_at=None):
    """Follows a run of 30 steps whose checkpoints appear while eval waits; returns those taken.

    stops_at: the step at which the run stops early, if it does.
    """
    taken, seconds = [], []
    train = TrainConfig(train_logdir=train_logdir, training_number_of_steps=30)
    experiment = Experiment(train=train)

    def take(path):
        if path in unreadable:
            raise UnreadableCheckpointError(f"{path} is gone.")
        taken.append(path)

    checkpoints = SimpleNamespace(
        steps=lambda: kept[min(len(seconds), len(kept) - 1)], prefix=lambda step: step
    )
    run = SimpleNamespace(
        checkpoints=checkpoints,
        experiment=lambda: experiment,
        may_begin=lambda: not kept[min(len(seconds), len(kept) - 1)],
        path="run",
        stopped_early=lambda: checkpoints.steps()[-1:] == [stops_at],
    )
    monkeypatch.setattr(new_checkpoints, "RunDir", lambda folder: run)
    monkeypatch.setattr(new_checkpoints.time, "sleep", seconds.append)
    new_checkpoints.follow("run", take, at_most=at_most, interval_secs=7)
    return taken, seconds


@pytest.mark.parametrize(
    ("at_most", "kept", "unreadable", "taken", "waits"),
    [
        (1, [[]], (), ["run"], 0),  # the chosen one, which `take` looks for
        (0, [[], [10], [10], [10, 20], [20, 30]], (), [10, 20, 30], 4),
        (2, [[10], [10, 20], [20, 30]], (), [10, 20], 1),
        (0, [[10, 20, 30]], (), [30], 0),  # older ones are passed over
        (2, [[10], [20], [30]], (20,), [10, 30], 2),
    ],
)
def test_each_new_checkpoint_is_taken_once(monkeypatch, at_most, kept, unreadable, taken, waits):
    found = follow(monkeypatch, at_most=at_most, kept=kept, unreadable=unreadable)
    assert found == (taken, [7] * waits)


def test_a_run_that_stops_early_is_followed_to_its_last_checkpoint(monkeypatch):
    kept = [[], [10], [10, 20]]
    assert follow(monkeypatch, at_most=0, kept=kept, stops_at=20) == ([10, 20], [7] * 2)


@pytest.mark.parametrize("at_most", [0, -1, 3])
def test_imported_weights_are_taken_once(monkeypatch, at_most):
    """Nothing trains them, so there is nothing to wait for."""
    assert follow(monkeypatch, at_most=at_most, kept=[[0]], train_logdir="") == (["run"], [])

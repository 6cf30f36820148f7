"""How many validations did not improve the score, from what is left of a run's files."""

import json

import pytest

from deeplab_tf.config import TrainConfig
from deeplab_tf.runs.run_dir import RunDir


def run_with(folder, mious, *, split="val"):
    """A run whose validations came every 10 steps, with a checkpoint at the last one."""
    run = RunDir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, miou in enumerate(mious, 1):
        run.metrics.record({"step": 10 * number, "loss": 1.0})
        run.metrics.record({"step": 10 * number, "split": split, "miou": miou})
        run.metrics.note_best()
    (folder / f"model.ckpt-{10 * len(mious)}.index").touch()
    return run


@pytest.mark.parametrize(
    ("mious", "min_delta", "waited"),
    [
        ([], 0.0, 0),
        ([0.5], 0.0, 0),
        ([0.5, 0.5, 0.4], 0.0, 2),  # an equal score is no improvement
        ([0.5, 0.4, 0.6], 0.0, 0),
        # 0.52 and 0.54 are within 0.05 of 0.5, 0.56 is not.
        ([0.5, 0.52, 0.54], 0.05, 2),
        ([0.5, 0.52, 0.54, 0.56, 0.6], 0.05, 1),
        ([0.0, 0.0], 0.0, 1),
        ([0.5, None, 0.4], 0.0, 1),  # a validation without any score tells nothing
    ],
)
def test_the_latest_validations_without_improvement_are_counted(tmp_path, mious, min_delta, waited):
    assert run_with(tmp_path, mious).metrics.without_improvement(min_delta) == waited


def test_only_scores_of_the_last_split_are_compared(tmp_path):
    run = run_with(tmp_path, [0.9, 0.8, 0.7], split="train")
    run.metrics.record({"step": 40, "split": "val", "miou": 0.1})
    assert run.metrics.without_improvement(0.0) == 0


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("inference", {"eval_scales": "1.0"}, {"eval_scales": "0.5,1.0"}),
        ("pixels_per_class", {"sky": 10}, {"sky": 20}),  # the split was built again
    ],
)
def test_only_scores_of_the_same_settings_and_records_are_compared(tmp_path, key, first, second):
    metrics = RunDir(tmp_path).metrics
    for step, miou, value in ((10, 0.9, first), (20, 0.2, second), (30, 0.1, second)):
        metrics.record({"step": step, "split": "val", "miou": miou, key: value})
    assert metrics.best()["step"] == 20 and metrics.without_improvement(0.0) == 1
    assert metrics.best(like={"split": "val", key: first})["step"] == 10
    assert metrics.steps_to_keep() == {10, 20}  # the best of each kind

    # An earlier version did not note them.
    metrics.record({"step": 5, "split": "val", "miou": 0.5})
    assert metrics.best()["step"] == 5


def test_a_best_score_that_only_its_own_file_tells_counts(tmp_path):
    run = run_with(tmp_path, [0.9, 0.8, 0.7])
    path = tmp_path / "metrics.jsonl"
    last = path.read_text().splitlines()[-1]
    assert json.loads(last)["miou"] == 0.7
    path.write_text(last + "\n")
    assert run.metrics.without_improvement(0.0) == 1


def test_a_run_has_stopped_early_once_its_newest_checkpoint_was_scored(tmp_path):
    run = run_with(tmp_path, [0.5, 0.4, 0.4])
    assert run.stopped_early(TrainConfig(eval_interval_steps=1, early_stopping_patience=2))
    assert not run.stopped_early(TrainConfig(eval_interval_steps=1, early_stopping_patience=3))
    assert not run.stopped_early(TrainConfig(eval_interval_steps=1, early_stopping_patience=0))
    (tmp_path / "model.ckpt-35.index").touch()  # it went on, with a larger patience
    assert not run.stopped_early(TrainConfig(eval_interval_steps=1, early_stopping_patience=2))


def test_a_run_that_goes_back_forgets_the_scores_of_steps_that_it_trains_again(tmp_path):
    """The best one, of step 30, and all after step 20; the weights of step 20 stay as they are."""
    metrics = run_with(tmp_path, [0.5, 0.6, 0.9, 0.7]).metrics
    assert metrics.best()["step"] == 30
    metrics.forget_after(20)
    assert {entry["step"] for entry in metrics.entries()} == {10, 20}
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 20
    metrics.record({"step": 30, "split": "val", "miou": 0.4})
    assert metrics.best()["step"] == 20 and metrics.scores_at(30)[0]["miou"] == 0.4

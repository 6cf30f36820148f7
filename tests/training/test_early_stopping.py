"""Runs that end because their score no longer rises: when, what they say, and how they go on."""

import dataclasses
from types import SimpleNamespace

import pytest

from deeplab_tf.jobs import new_checkpoints
from deeplab_tf.runs import run_dir
from deeplab_tf.training.between_steps import BetweenSteps
from deeplab_tf.training.signals import Interrupted
from deeplab_tf.training.trainer import Trainer
from deeplab_tf.training.training_log import TrainingLog


@pytest.fixture
def constant(tiny_experiment):
    """Returns settings of a run whose weights stay as they are, and so do its scores."""

    def settings(**values):
        group = dataclasses.replace(
            tiny_experiment.train,
            base_learning_rate=0.0,
            fine_tune_batch_norm=False,
            training_number_of_steps=8,
            save_interval_steps=1,
            **{"eval_interval_steps": 1, "early_stopping_patience": 2} | values,
        )
        return dataclasses.replace(tiny_experiment, train=group)

    return settings


def scored(experiment):
    entries = run_dir.RunDir(experiment.train.train_logdir).metrics.entries()
    return [entry["step"] for entry in entries if "miou" in entry]


@pytest.mark.slow
def test_a_run_ends_after_its_patience_also_if_it_was_interrupted(constant, monkeypatch, capsys):
    experiment = constant()
    on_step = TrainingLog.on_step

    def interrupted(self, step, logs):
        if step == 3:
            raise Interrupted
        on_step(self, step, logs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "on_step", interrupted)
        assert Trainer(experiment).run() == 3  # done, but neither saved nor scored
    assert scored(experiment) == [1, 2]

    # The score of step 1 is the best; steps 2 and 3 equal it.
    trainer = Trainer(experiment)
    assert trainer.run() == 3 and scored(experiment) == [1, 2, 3]
    output = capsys.readouterr().out
    assert "not the best" in output and "; 2 of 2 without improvement" in output
    assert "stopped early, at step 3 of 8: 2 validations in sequence" in trainer.ending(3)

    again = Trainer(experiment)
    assert again.run() == 3 and scored(experiment) == [1, 2, 3]
    assert again.ending(3) == trainer.ending(3)
    assert "Continuing" in capsys.readouterr().out

    train = dataclasses.replace(experiment.train, early_stopping_patience=3)
    longer = dataclasses.replace(experiment, train=train)
    assert Trainer(longer).run() == 4 and scored(experiment) == [1, 2, 3, 4]


@pytest.mark.slow
def test_eval_that_follows_a_run_ends_with_it(constant, monkeypatch):

    experiment = constant()
    Trainer(experiment).run()
    taken = []
    monkeypatch.setattr(new_checkpoints.time, "sleep", lambda _: pytest.fail("it waits"))
    new_checkpoints.follow(experiment.train.train_logdir, taken.append, at_most=0, interval_secs=1)
    assert [path.rsplit("-", 1)[1] for path in taken] == ["3"]


@pytest.mark.parametrize("chiefs", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_all_workers_do_what_the_chief_says(constant, chiefs, own):
    """A follower reads the folder at another moment; if it stopped alone, the chief would wait."""
    sent = []

    def of_chief(value):
        sent.append(value)
        return int(chiefs)

    job = SimpleNamespace(
        _experiment=constant(),
        _run=SimpleNamespace(stopped_early=lambda train: own),
        _workers=SimpleNamespace(is_chief=False, of_chief=of_chief),
    )
    assert BetweenSteps.is_enough(job) is chiefs
    assert sent == [0]

    job._workers.is_chief = True
    BetweenSteps.is_enough(job)
    assert sent == [0, int(own)]


def test_without_validation_there_is_nothing_to_wait_for(constant):
    experiment = constant(eval_interval_steps=0)
    run = run_dir.RunDir(experiment.train.train_logdir)
    run.checkpoints = SimpleNamespace(steps=lambda: [3])
    run.metrics = SimpleNamespace(
        scores_at=lambda step: [{"miou": 0.5}], without_improvement=lambda least: 7
    )
    assert not run.stopped_early(experiment.train)
    assert run.stopped_early(constant().train)

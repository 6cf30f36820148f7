"""Faults during a run: what is kept, and what the user is told."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from deeplab_tf.data import pipeline
from deeplab_tf.distribution import LostWorkerError
from deeplab_tf.messages import UserError
from deeplab_tf.training.trainer import Trainer
from tests.training.test_trainer import assert_same_weights, change


def test_a_loss_that_is_not_finite_stops_the_run(tiny_experiment):
    experiment = change(tiny_experiment, "train", base_learning_rate=1e9, save_interval_steps=1)
    message = "at step [2-4].*; the last good checkpoint is model.ckpt-[1-3]"
    with pytest.raises(UserError, match=message):
        Trainer(experiment).run()


def test_a_bad_label_stops_the_run_with_the_image_named(tiny_experiment):
    trainer = Trainer(tiny_experiment)
    trainer.info = dataclasses.replace(trainer.info, classes=trainer.info.classes[:3])
    message = r"'train_\d{4}' \(record \d of \d in .*\) holds the value [3-6]"
    with pytest.raises(UserError, match=message):
        trainer.run()


@pytest.mark.slow
def test_a_run_that_met_a_bad_record_continues_exactly_without_it(tiny_experiment, tmp_path):
    """As if the next record had been in its place from the start."""
    folder = tmp_path / "records"
    shutil.copytree(tiny_experiment.data.dataset_dir, folder)
    experiment = change(tiny_experiment, "data", dataset_dir=str(folder))
    experiment = change(experiment, "train", save_interval_steps=1, train_batch_size=2)
    table = Trainer(experiment).train_table
    order = pipeline._shuffled_order(len(table), first=0, last=8, seed=experiment.train.seed)
    (*_, (_, index)) = order.as_numpy_iterator()  # the last one that is read

    shard, place = Path(table.files[table.file_index[index]]), int(table.offsets[index]) + 100
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    trainer = Trainer(experiment)
    with pytest.raises(UserError, match="checksum is wrong"):
        trainer.run()
    assert max(trainer.run_dir.checkpoints.steps()) >= 1

    skipping = change(experiment, "data", max_bad_records=1)
    assert Trainer(skipping).run() == 4
    whole = change(skipping, "train", train_logdir=str(tmp_path / "whole"))
    Trainer(whole).run()
    assert_same_weights(tmp_path / "whole", Path(experiment.train.train_logdir))


def test_a_full_disk_keeps_the_previous_checkpoint(tiny_experiment, monkeypatch):
    trainer = Trainer(tiny_experiment)
    trainer.run_dir.checkpoints.save(trainer.checkpoint, 0, keep=5)

    def full(prefix):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(trainer.checkpoint, "write", full)
    with pytest.raises(UserError, match="step 1 could not be written .*No space.* model.ckpt-0"):
        trainer.run_dir.checkpoints.save(trainer.checkpoint, 1, keep=5)
    assert trainer.run_dir.checkpoints.restore_newest(trainer.checkpoint) == 0


def test_a_worker_lost_while_saving_is_not_reported_as_a_disk_fault(tiny_experiment, monkeypatch):
    trainer = Trainer(tiny_experiment)

    def lost(prefix):
        raise tf.errors.UnavailableError(None, None, "Socket closed")

    monkeypatch.setattr(trainer.checkpoint, "write", lost)
    monkeypatch.setattr(trainer, "workers", dataclasses.replace(trainer.workers, count=2))
    with (
        pytest.raises(LostWorkerError, match="Socket closed"),
        trainer.workers.reports_lost_workers(),
    ):
        trainer._save(1, keep=5)


@pytest.mark.slow
def test_a_resumed_run_writes_the_best_json_that_a_killed_run_did_not(tiny_experiment):
    experiment = change(tiny_experiment, "train", eval_interval_steps=4)
    trainer = Trainer(experiment)
    trainer.run()
    best = trainer.run_dir.path / "best.json"
    content = best.read_text()
    best.unlink()
    assert Trainer(experiment).run() == 4
    assert best.read_text() == content

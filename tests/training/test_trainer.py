"""Runs from start to end: what they write, and that they continue exactly."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import config_flags
from deeplab_tf.config import UserError
from deeplab_tf.data import records
from deeplab_tf.training import run_dir
from deeplab_tf.training.trainer import Trainer, require_even_batch
from tests.conftest import two_replicas


def change(experiment, section, **values):
    group = dataclasses.replace(getattr(experiment, section), **values)
    return dataclasses.replace(experiment, **{section: group})


def weights(folder):
    """Every number in the newest checkpoint: weights, moving averages, momentum, step."""
    reader = tf.train.load_checkpoint(run_dir.RunDir(folder).prefix(4))
    names = [name for name in reader.get_variable_to_shape_map() if "loss_tracker" not in name]
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys() and len(first) > 100
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def start(experiment, tmp_path, *flags):
    """Starts the command line's trainer on these settings in a process of its own."""
    flagfile = tmp_path / "settings.flags"
    flagfile.write_text(config_flags.flagfile_text(experiment))
    command = [sys.executable, "-m", "deeplab_tf.train", f"--flagfile={flagfile}", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.is_file() or not path.stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def test_interrupted_runs_continue_exactly(tiny_experiment, tmp_path):
    """SIGTERM in one run, kill -9 in another: their last weights are those of a whole run.

    Validations fall between the saves, so that checkpoints of both kinds are resumed from.
    """
    settings = {"eval_interval_steps": 1, "save_interval_steps": 3}
    straight = change(tiny_experiment, "train", train_logdir=str(tmp_path / "straight"), **settings)
    Trainer(straight).run()
    for name, awaited in (("terminated", "metrics.jsonl"), ("killed", "model.ckpt-2.index")):
        folder = tmp_path / name
        folder.mkdir()
        experiment = change(straight, "train", train_logdir=str(folder / "run"))
        process = start(experiment, folder)
        wait_for(folder / "run" / awaited, process)
        process.send_signal(signal.SIGTERM if name == "terminated" else signal.SIGKILL)
        output = process.communicate(timeout=120)[0]
        if name == "terminated":
            assert process.returncode == 0 and "the same command continues" in output
        again = start(experiment, folder)
        output = again.communicate(timeout=300)[0]
        assert again.returncode == 0, output
        assert "Continuing" in output and "at step 4 of 4" in output
        assert_same_weights(tmp_path / "straight", folder / "run")
        histories = []
        for run in (tmp_path / "straight", folder / "run"):
            lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            histories.append([(e["step"], e.get("loss"), e.get("miou")) for e in lines])
        assert len(histories[0]) == 8 and histories[0] == histories[1]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tiny_experiment):
    trainer = Trainer(tiny_experiment)
    folder = trainer.run_dir.path
    (folder / "model.ckpt-0.data-00000-of-00001").write_bytes(b"cut")  # killed while writing it
    (folder / "model.ckpt-0_temp").mkdir()
    assert trainer.run() == 4
    assert not list(folder.glob("*_temp"))


def test_a_data_sets_folder_is_no_runs_folder(tiny_experiment, records_dir):
    with pytest.raises(UserError, match="is the folder of a data set"):
        Trainer(change(tiny_experiment, "train", train_logdir=str(records_dir)))
    folder = Trainer(tiny_experiment).run_dir.path
    other = change(tiny_experiment, "train", train_logdir=str(folder) + "2")
    with pytest.raises(UserError, match="is the folder of a run"):
        Trainer(change(other, "data", dataset_dir=str(folder)))


def test_a_batch_of_one_is_refused_where_it_leaves_no_statistics(tiny_experiment):
    with pytest.raises(UserError, match="--train_batch_size=1"):
        Trainer(change(tiny_experiment, "train", train_batch_size=1))


def test_a_run_writes_its_files_and_keeps_the_best(tiny_experiment):
    experiment = change(
        tiny_experiment, "train", eval_interval_steps=2, keep_checkpoints=1, save_interval_steps=1
    )
    assert Trainer(experiment).run() == 4
    run = run_dir.RunDir(experiment.train.train_logdir)
    assert run.experiment() == experiment
    entries = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4]
    assert [e["learning_rate"] for e in entries if "loss" in e] == pytest.approx(
        [0.01 * (1 - step / 4) ** 0.9 for step in range(4)]
    )
    scored = {e["step"]: e["miou"] for e in entries if "miou" in e}
    assert set(scored) == {2, 4} and all(e["images"] == 5 for e in entries if "miou" in e)
    best = max(scored, key=lambda step: (scored[step], -step))
    assert json.loads((run.path / "best.json").read_text())["step"] == best
    assert run.checkpoint_steps() == sorted({best, 4})
    for step in run.checkpoint_steps():
        reader = tf.train.load_checkpoint(run.prefix(step))
        assert reader.get_tensor("optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE") == step
    assert json.loads((run.path / "environment.json").read_text())["tensorflow"] == tf.__version__
    assert list(run.path.glob("events.out.tfevents.*"))


def test_damage_never_restarts_a_run_from_scratch(tiny_experiment, capsys):
    experiment = change(tiny_experiment, "train", save_interval_steps=1, keep_checkpoints=4)
    trainer = Trainer(experiment)
    folder = trainer.run_dir.path
    trainer.run()
    expected = weights(folder)
    (folder / "checkpoint").write_text("garbage")
    newest = folder / "model.ckpt-4.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    (folder / "model.ckpt-3.index").write_bytes(b"")
    assert Trainer(experiment).run() == 4
    assert "at step 2" in capsys.readouterr().out
    for name, value in weights(folder).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert (folder / "damaged-model.ckpt-3.index").is_file()
    for index in folder.glob("model.ckpt-*.index"):
        index.unlink()
    with pytest.raises(UserError, match="no whole checkpoint"):
        Trainer(experiment).run()


def test_changed_settings_are_refused_with_the_difference(tiny_experiment):
    Trainer(tiny_experiment)
    changed = change(tiny_experiment, "model", output_stride=8)
    changed = change(changed, "train", base_learning_rate=0.5, log_steps=3)
    with pytest.raises(UserError) as error:
        Trainer(changed)
    assert "--output_stride: 16 -> 8" in str(error.value)
    assert "--base_learning_rate: 0.01 -> 0.5" in str(error.value)
    assert "log_steps" not in str(error.value)  # which may change


def test_a_loss_that_is_not_finite_stops_the_run(tiny_experiment):
    experiment = change(tiny_experiment, "train", base_learning_rate=1e30, save_interval_steps=1)
    with pytest.raises(
        UserError, match=r"at step [2-4]; the last good checkpoint is model.ckpt-[1-3]"
    ):
        Trainer(experiment).run()


def test_a_bad_label_stops_the_run_with_the_image_named(tiny_experiment, monkeypatch):
    trainer = Trainer(tiny_experiment)
    parse = records.parse

    def spoiled(serialized):
        record = parse(serialized)
        return record | {"label": record["label"] + tf.constant(100, tf.uint8)}

    monkeypatch.setattr(records, "parse", spoiled)
    with pytest.raises(UserError, match=r"'train_\d{4}' holds the value 1\d\d"):
        trainer.run()


def test_two_replicas_train_like_one(tiny_experiment, tmp_path):
    settings = {"eval_interval_steps": 4, "recompute_stages": 1}
    tiny_experiment = change(tiny_experiment, "train", **settings)
    results = []
    for name, strategy in (
        ("one", tf.distribute.OneDeviceStrategy("CPU:0")),
        ("two", two_replicas()),
    ):
        experiment = change(tiny_experiment, "train", train_logdir=str(tmp_path / name))
        Trainer(experiment, strategy).run()
        model = run_dir.load(tmp_path / name).model
        results.append([v.numpy() for layer in model.layers for v in layer.variables])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-2, atol=2e-4)


def test_a_batch_that_can_not_be_shared_names_the_nearest():
    with pytest.raises(
        UserError, match="train_batch_size=7 .* 4 replicas; the nearest that can is 8"
    ):
        require_even_batch(7, 4)
    require_even_batch(8, 4)


def test_a_full_disk_keeps_the_previous_checkpoint(tiny_experiment, monkeypatch):
    trainer = Trainer(tiny_experiment)
    trainer.run_dir.save(trainer.checkpoint, 0, keep=5)

    def full(prefix):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(trainer.checkpoint, "write", full)
    with pytest.raises(UserError, match="step 1 could not be written .*No space.* model.ckpt-0"):
        trainer.run_dir.save(trainer.checkpoint, 1, keep=5)
    assert trainer.run_dir.restore_newest(trainer.checkpoint) == 0

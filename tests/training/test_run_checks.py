"""Which folders can take a run, and which runs may be continued or made longer."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.config import Experiment, TrainConfig
from deeplab_tf.data import catalog
from deeplab_tf.data.records import RecordTable
from deeplab_tf.messages import UserError
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training import run_checks
from tests.runs.test_run_dir import INFO


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """Makes the records of a test go with pytest's folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("records")))


def table(images, *, length=100):
    """Returns records of this many images, each `length` bytes long in its own shard."""
    folder = Path(tempfile.mkdtemp())
    shards = [folder / f"train-{index:05}-of-{images:05}.tfrecord" for index in range(images)]
    for shard in shards:
        shard.write_bytes(bytes(length))
    places = np.arange(images, dtype=np.int32)
    return RecordTable(tuple(map(str, shards)), places, np.zeros(images, np.int64))


def start(run, experiment, info=INFO, records=None):
    """Does with a run's folder what the trainer does at its start; returns the warning."""
    records = records or table(9)
    run_checks.require_place(run)
    warning = run_checks.require_trainable(run, experiment, info, records)
    run.open_for_training(experiment, info, records)
    return warning


@pytest.mark.parametrize(
    ("settings", "done", "steps"),
    [
        ({"learning_policy": "step"}, 1000, 2000),
        ({"learning_policy": "step", "slow_start_step": 10}, 1000, 2000),
        ({"end_learning_rate": 0.1}, 1000, 2000),  # equal to the first: constant
        ({"learning_power": 0.0}, 1000, 2000),
        ({"decay_steps": 1000, "end_learning_rate": 0.01}, 1000, 2000),
        ({"decay_steps": 900, "learning_policy": "cosine", "end_learning_rate": 0.01}, 1000, 1500),
        ({"decay_steps": 4000}, 1000, 2000),
        ({"learning_policy": "step"}, 500, 700),  # fewer steps, but not fewer than are done
        ({}, 0, 2000),
    ],
)
def test_a_run_is_made_longer_if_its_past_rates_stay_the_same(tmp_path, settings, done, steps):
    assert longer(tmp_path, settings, done, steps).experiment().train == TrainConfig(
        **{"base_learning_rate": 0.1, "training_number_of_steps": steps} | settings
    )


@pytest.mark.parametrize(
    ("settings", "done", "steps", "sentence"),
    [
        ({}, 1000, 2000, r"policy=poly falls .* become one; train on .*=1000\.$"),
        ({}, 500, 2000, r"give 1000 to finish it, or train on .*=1500\.$"),
        ({"learning_policy": "cosine"}, 1000, 1001, "policy=cosine falls"),
        ({"slow_start_step": 10}, 1000, 1100, "policy=poly falls"),
        ({"decay_steps": 1000}, 1000, 2000, r"come down to 0 .* so 1000 further steps would"),
        ({"learning_policy": "step"}, 1000, 900, "is at step 1000 already, past .*its own 1000"),
    ],
)
def test_other_past_rates_are_refused_with_the_way_out(tmp_path, settings, done, steps, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        longer(tmp_path, settings, done, steps)
    assert f"--tf_initial_checkpoint={tmp_path} --train_logdir=DIR" in str(error.value)
    assert RunDir(tmp_path).experiment().train.training_number_of_steps == 1000


def longer(folder, settings, done, steps):
    """Opens a run of 1000 steps that has done `done` of them, as a run of `steps` steps."""
    train = TrainConfig(base_learning_rate=0.1, training_number_of_steps=1000, **settings)
    run = RunDir(folder)
    start(run, Experiment(train=train))
    (folder / f"model.ckpt-{done}.index").touch()
    train = dataclasses.replace(train, training_number_of_steps=steps)
    start(run, Experiment(train=train))
    return run


@pytest.mark.parametrize("more_steps", [0, 10])
def test_a_run_is_not_continued_on_more_or_fewer_images(tmp_path, more_steps):
    """Every place in an epoch would have another image, also if the number of steps stays."""
    run = RunDir(tmp_path)
    train = TrainConfig(training_number_of_steps=100, learning_policy="step")
    start(run, Experiment(train=train), records=table(9))
    start(run, Experiment(train=train), records=table(10))  # allowed, since nothing was trained yet
    (tmp_path / "model.ckpt-50.index").touch()
    written = (tmp_path / catalog.MANIFEST).read_bytes()

    train = dataclasses.replace(train, training_number_of_steps=100 + more_steps)
    for images in (9, 11):
        sentence = f"did its 50 steps on 10 images, but the split 'train' .* has {images}, .*; give"
        with pytest.raises(UserError, match=sentence) as error:
            start(run, Experiment(train=train), records=table(images))
        assert str(error.value).endswith(
            f": --tf_initial_checkpoint={tmp_path} --train_logdir=DIR."
        )
    assert (tmp_path / catalog.MANIFEST).read_bytes() == written
    assert start(run, Experiment(train=train), records=table(10)) == ""


def test_records_that_were_built_again_cause_one_warning(tmp_path):
    run = RunDir(tmp_path)
    start(run, Experiment())
    (tmp_path / "model.ckpt-50.index").touch()
    mended = table(9, length=101)
    assert start(run, Experiment(), records=mended).startswith(
        "Warning: the records of 'train' in  are not those that the run was trained on"
    )
    assert start(run, Experiment(), records=mended) == ""


def test_a_run_of_an_earlier_version_goes_on_and_then_knows_its_images(tmp_path):
    run = RunDir(tmp_path)
    run.open_for_training(Experiment(), INFO)  # as earlier versions did, without the records
    (tmp_path / "model.ckpt-50.index").touch()
    assert run.trained_on() == {}
    assert start(run, Experiment(), records=table(9)) == ""
    assert run.trained_on()["images"] == 9 and run.dataset() == INFO


def test_a_renamed_data_set_is_the_same_and_other_classes_are_named(tmp_path):
    run = RunDir(tmp_path)
    start(run, Experiment())
    renamed = dataclasses.replace(INFO, name="records")
    start(run, Experiment(), renamed)
    assert run.dataset() == renamed
    other = dataclasses.replace(
        INFO, classes=(*INFO.classes[:2], catalog.LabelClass("d", (0,) * 3))
    )
    with pytest.raises(
        UserError, match=r"classes \(class 2 is 'c' in the run, 'd' in the records\)"
    ):
        start(run, Experiment(), other)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("runs[1]", r"has \[1\] in its path, which TensorFlow takes for a pattern"),
        ("a*", "takes for a pattern"),
        ("a?", "takes for a pattern"),
        ("a\\b", "takes for a pattern"),
        ("a\nb", r"run's folder .*/a\\nb has control characters"),
        (
            os.fsdecode(b"caf\xe9"),
            r"caf\\udce9 has control .* bytes that are not UTF-8",
        ),
        ("é" * 128, "has a path that is too long; allowed: 255 bytes in each name"),
        ("/".join(["a" * 200] * 20), "too long; .* 3840 in all"),
    ],
)
def test_a_folder_that_tensorflow_cannot_write_weights_to_is_refused(tmp_path, name, sentence):
    with pytest.raises(UserError, match=sentence):
        start(RunDir(tmp_path / name), Experiment())
    assert list(tmp_path.iterdir()) == []


def test_an_image_replaced_by_one_of_equal_size_is_told(tmp_path):
    run = RunDir(tmp_path)
    before = dataclasses.replace(table(9), checksums=np.arange(9, dtype=np.uint32))
    start(run, Experiment(), records=before)
    (tmp_path / "model.ckpt-50.index").touch()
    assert start(run, Experiment(), records=before) == ""
    after = dataclasses.replace(before, checksums=np.arange(1, 10, dtype=np.uint32))
    assert "are not those that the run was trained on" in start(run, Experiment(), records=after)


@pytest.mark.parametrize("length", [100, 101])
def test_a_run_that_noted_only_the_places_of_its_records_goes_on(tmp_path, length):
    run, records = RunDir(tmp_path), table(9)
    start(run, Experiment(), records=records)
    (tmp_path / "model.ckpt-50.index").touch()
    noted = {"images": 9, "records": records.digest_of_places()}
    content = run.manifest() | {"trained_on": noted}
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(content))
    told = start(run, Experiment(), records=table(9, length=length))
    assert ("Warning" in told) == (length == 101)
    assert set(run.trained_on()) == {"images", "contents"}

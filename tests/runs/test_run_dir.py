"""Which checkpoint of a run is taken, and what is said of it."""

import dataclasses
import gc
import io
import json
import logging
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf.config import Experiment, ModelConfig, TrainConfig, as_flag, checkpoint_choice
from deeplab_tf.config.programs import EvalJobConfig
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.runs import loaded_run
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training import initialization

INFO = catalog.DatasetInfo(
    name="own", classes=tuple(catalog.LabelClass(name, (0, 0, 0)) for name in ("a", "b", "c"))
)
MODEL = ModelConfig(
    model_variant="resnet_v1b_18", atrous_rates=(1,), aspp_convs_filters=2, dropout_rate=0
)


def test_a_run_may_begin_where_nothing_is_yet(tmp_path):
    assert RunDir(tmp_path / "later").may_begin()
    assert not RunDir(tmp_path / "model.ckpt-0").may_begin()  # nothing begins in a checkpoint
    assert RunDir(tmp_path).may_begin()

    # What eval and a training that starts write first.
    (tmp_path / "eval").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / "dataset.json").touch()
    assert RunDir(tmp_path).may_begin()

    # A run, or somebody else's folder.
    for name in ("experiment.flags", "photo.jpg"):
        (tmp_path / name).touch()
        assert not RunDir(tmp_path).may_begin()
        (tmp_path / name).unlink()

    # A folder of runs, or of an exported model's versions.
    for name in ("run/experiment.flags", "1/saved_model.pb"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        assert not RunDir(tmp_path).may_begin()
        (tmp_path / name).unlink()

    (tmp_path / "file").touch()
    assert not RunDir(tmp_path / "file").may_begin()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with steps 0, 500, 800 and 1000; the first bias of the classifier is the step."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    run = RunDir(folder)
    run.open_for_training(Experiment(model=MODEL, train=TrainConfig(train_logdir="run")), INFO)
    model = build_model(MODEL, num_classes=3)
    for step in (0, 500, 800, 1000):
        bias(model).assign([float(step), 0, 0])
        run.checkpoints.write(tf.train.Checkpoint(model=model), step)
    return folder


def bias(model):
    return next(v for v in model.trainable_variables if v.shape == [3] and "bias" in v.name)


@pytest.fixture
def run(kept, tmp_path):
    """A copy of it, in which step 800 was scored best."""
    shutil.copytree(kept, tmp_path / "run")
    found = RunDir(tmp_path / "run")
    for step, miou in ((500, 0.3), (800, 0.534), (1000, 0.529)):
        found.metrics.record({"step": step, "split": "val", "miou": miou})
    found.metrics.note_best()
    return found


@pytest.mark.parametrize(
    ("choice", "step", "said"),
    [
        (
            "",
            1000,
            "step 1000 (newest, mIoU 52.90 in validation); step 800 scored better: 53.40 against "
            "52.90; --checkpoint=best takes it",
        ),
        (
            "best",
            800,
            "step 800 (best, mIoU 53.40 in validation); step 1000 is newer; --checkpoint=newest "
            "takes it",
        ),
        ("model.ckpt-0", 0, "step 0 (before any training); step 1000 is newer; --checkpoint="),
    ],
)
def test_what_is_chosen_is_loaded_and_said(run, choice, step, said):
    loaded = loaded_run.load(run.path, checkpoint=choice, written=as_flag)
    assert loaded.step == step == bias(loaded.model).numpy()[0]
    assert loaded.standing.startswith(said)


def test_a_path_names_a_step_by_any_of_its_files(run):
    for ending in ("", ".index", ".data-00000-of-00001"):
        path = f"{run.checkpoints.prefix(500)}{ending}"
        assert checkpoint_choice.split(path) == (run.path, 500)
        checkpoint_choice.require_one_choice("500", path, "checkpoint_dir")
    for choice in ("newest", "best", "800"):
        message = f"names step 500, but --checkpoint={choice} names another"
        with pytest.raises(UserError, match=message):
            checkpoint_choice.require_one_choice(choice, path, "checkpoint_dir")
    loaded = loaded_run.load(path, written=as_flag)
    assert loaded.step == 500 and f"it is {run.checkpoints.prefix(800)}" in loaded.standing


def test_what_is_not_kept_is_refused_with_what_is(run):
    with pytest.raises(UserError, match="no checkpoint of step 900; it has: 0, 500, 800, 1000"):
        loaded_run.load(run.path, checkpoint="900")
    for file in run.path.glob("model.ckpt-800.*"):
        file.unlink()
    with pytest.raises(UserError, match="of step 800, its best; it has: 0, 500, 1000"):
        loaded_run.load(run.path, checkpoint="best")
    assert "53.40 against 52.90; it is not kept" in loaded_run.load(run.path).standing


def test_without_validation_there_is_no_best(run):
    (run.path / "metrics.jsonl").unlink()
    assert run.metrics.best()["step"] == 800  # as best.json tells
    (run.path / "best.json").unlink()
    assert loaded_run.load(run.path).standing == "step 1000 (newest)"
    with pytest.raises(UserError, match=r"no best .* \(--eval_interval_steps\); it has: 0, 500"):
        loaded_run.load(run.path, checkpoint="best")


def test_a_damaged_checkpoint_is_passed_over_only_for_the_newest(run, capsys):
    for step in (800, 1000):
        data = run.path / f"model.ckpt-{step}.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:100])
    loaded = loaded_run.load(run.path)
    assert loaded.step == 500 and loaded.title.endswith("validation, 800, 1000 damaged)")
    told = capsys.readouterr().err
    assert told.startswith(f"Warning: {run.path}/model.ckpt-1000 (") and told.count("\n") == 1
    assert f", {run.path}/model.ckpt-800 (" in told
    assert "are damaged: step 500 is taken instead; restore" in told
    with pytest.raises(UserError, match="model.ckpt-800 cannot be read: .*also has: 0, 500, 1000"):
        loaded_run.load(run.path, checkpoint="best")
    assert not capsys.readouterr().err


def test_a_users_copies_are_no_checkpoint_files(run):
    """They are neither renamed when a checkpoint is damaged nor deleted with an old one."""
    names = [f"model.ckpt-{step}.{end}" for step in (500, 1000) for end in ("index.bak", "txt")]
    for name in names:
        (run.path / name).write_text("mine")
    data = run.path / "model.ckpt-1000.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    model = build_model(MODEL, num_classes=3)
    assert run.checkpoints.restore_newest(tf.train.Checkpoint(model=model)) == 800
    assert {path.name for path in run.path.glob("damaged-*")} == {
        "damaged-model.ckpt-1000.index",
        "damaged-model.ckpt-1000.data-00000-of-00001",
    }
    run.checkpoints.prune(keep=1)
    assert 500 not in run.checkpoints.steps()
    assert all((run.path / name).read_text() == "mine" for name in names)


def test_damage_is_told_in_one_line(run, monkeypatch):
    logger = tf.get_logger()
    monkeypatch.setattr(logger, "filters", [])
    told = io.StringIO()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(told)])
    model = build_model(MODEL, num_classes=3)
    whole = tf.train.Checkpoint(model=model, optimizer=tf.Variable(0.0))  # which no eval reads
    whole.write(run.checkpoints.prefix(1000))
    bias(model).assign([1.0, 2.0, 3.0])
    whole.write(str(run.path / "other"))  # whose weights do not fit the check sums of the first
    (run.path / "other.data-00000-of-00001").rename(
        run.path / "model.ckpt-1000.data-00000-of-00001"
    )

    assert loaded_run.load(run.path).step == 800
    gc.collect()  # TensorFlow lists what it did not restore when it deletes what it had read
    assert told.getvalue() == ""


def test_scores_of_another_split_are_not_compared(run):
    run.metrics.record({"step": 1000, "split": "test", "miou": 0.4})
    assert run.metrics.best() == {"step": 1000, "miou": 0.4, "split": "test"}
    assert loaded_run.standing(run, 1000) == (
        "step 1000 (newest, best, mIoU 40.00 in validation)",
        [],
    )


def test_a_damaged_line_of_scores_is_named_and_nothing_is_lost(run):
    """Only the last line may be cut, by a kill: without the others the best may be another."""
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 10')
    assert run.metrics.best()["step"] == 800
    for number, damage in ((1, b"\xff"), (2, b"x"), (3, b"[]\n")):
        lines = whole.splitlines(keepends=True)
        lines[number - 1] = damage + lines[number - 1][1:] if number < 3 else damage
        path.write_bytes(b"".join(lines))
        for reading in (
            run.metrics.best,
            lambda: run.metrics.forget_after(1000),
            lambda: run.checkpoints.prune(keep=1),
        ):
            with pytest.raises(UserError, match=f"Line {number} of .*metrics.jsonl is damaged"):
                reading()
        assert path.read_bytes() == b"".join(lines)
    assert run.checkpoints.steps() == [0, 500, 800, 1000]


def test_load_model_takes_the_choice_and_warns_of_a_better_one(run, caplog):
    assert bias(deeplab_tf.load_model(run.path)).numpy()[0] == 1000
    assert "step 800 scored better" in caplog.text and "checkpoint='best' takes it" in caplog.text
    caplog.clear()
    for checkpoint, step in (("best", 800), (500, 500)):
        assert bias(deeplab_tf.load_model(run.path, checkpoint=checkpoint)).numpy()[0] == step
    assert not caplog.text


@pytest.mark.parametrize(
    ("path", "settings", "sentence"),
    [
        ("", {"checkpoint": "last"}, "checkpoint='last' is not possible; allowed: newest, best"),
        ("model.ckpt-500", {"checkpoint": 800}, "run_dir='.*' and checkpoint='800'"),
        ("", {"output_stride": 12}, "output_stride=12 is not possible; allowed: one of 8, 16, 32"),
        ("", {"output_stride": 32}, r"output_stride=32 .* the rates \(1,\) stay whole numbers"),
    ],
)
def test_load_model_names_its_arguments(run, path, settings, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        deeplab_tf.load_model(run.path / path, **settings)
    assert "--" not in str(error.value)


@pytest.mark.parametrize("train_logdir", ["run", ""])
def test_records_that_ignore_another_label_name_the_way_out(run, tmp_path, train_logdir):
    records = tmp_path / "records"
    records.mkdir()
    (records / catalog.MANIFEST).write_text(
        json.dumps(dataclasses.replace(INFO, ignore_label=0).to_json() | {"splits": {}})
    )
    loaded = dataclasses.replace(
        loaded_run.load(run.path),
        experiment=Experiment(train=TrainConfig(train_logdir=train_logdir)),
    )
    with pytest.raises(UserError, match="255 in the model, 0 in the records; .*") as error:
        loaded.dataset_at(str(records))
    assert "build the records again with --ignore_label=255" in str(error.value)
    imported = "import its weights again with the --class_list of the records and --ignore_label=0"
    assert (imported in str(error.value)) == (not train_logdir)


def test_a_new_run_says_which_step_it_starts_from(run):
    model = build_model(MODEL, num_classes=3)
    said = initialization.initialize(model, str(run.path))
    assert "is step 1000 (newest, mIoU 52.90 in validation); step 800 scored better" in said
    assert f"; it is {run.checkpoints.prefix(800)}." in said


def test_following_a_run_takes_no_choice(run):
    for settings in (
        {"checkpoint": "best", "checkpoint_dir": str(run.path)},
        {"checkpoint_dir": run.checkpoints.prefix(500)},
    ):
        with pytest.raises(UserError, match="=0 takes each new checkpoint of a run"):
            EvalJobConfig(eval_logdir="x", max_number_of_evaluations=0, **settings)


def test_a_run_without_its_classes_says_to_restore_them(run):
    (run.path / catalog.MANIFEST).unlink()
    with pytest.raises(UserError, match="There is no dataset.json .*: restore it from a copy of"):
        loaded_run.load(run.path)


def test_a_checkpoint_counts_as_saved_once_it_is_found_again(run):
    """As on a disk that loses what it has taken, or at a path that TensorFlow misreads."""

    def lossy(spoil):
        class Lossy(tf.train.Checkpoint):
            def write(self, prefix):
                super().write(prefix)
                spoil(Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001"))

        return Lossy(value=tf.Variable(tf.zeros([1000])))

    for spoil in (
        lambda index, data: index.unlink(),
        lambda index, data: data.write_bytes(data.read_bytes()[:-600]),
        lambda index, data: data.write_bytes(b""),
    ):
        with pytest.raises(
            UserError, match="cannot be read: .*; the last whole one is model.ckpt-10"
        ):
            run.checkpoints.save(lossy(spoil), 1500, keep=1)
        assert run.checkpoints.steps() == [0, 500, 800, 1000]


def test_two_trainings_do_not_write_to_one_run_but_it_can_be_read(run):
    with run.sole_training():
        with (
            pytest.raises(UserError, match="Another training is writing .*run; wait until it has"),
            RunDir(run.path).sole_training(),
        ):
            pass
        assert loaded_run.load(run.path).step == 1000
    with run.sole_training():
        pass
    assert not list(run.path.glob(".*"))

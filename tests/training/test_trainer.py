"""Whole runs: what they write, and that a resumed run ends with the same weights."""

import collections
import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deeplab_tf import train
from deeplab_tf.config import Experiment, flags
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.runs import averaging, loaded_run, run_dir
from deeplab_tf.training import compilation, run_checks
from deeplab_tf.training.signals import Interrupted
from deeplab_tf.training.trainer import Trainer
from deeplab_tf.training.training_log import TrainingLog
from tests.conftest import tiny_run, two_replicas, write_shapes


def change(experiment, section, **values):
    group = dataclasses.replace(getattr(experiment, section), **values)
    return dataclasses.replace(experiment, **{section: group})


def weights(folder):
    """Every number in the newest checkpoint: weights, moving averages, momentum, step."""
    reader = tf.train.load_checkpoint(run_dir.RunDir(folder).checkpoints.prefix(4))
    names = [name for name in reader.get_variable_to_shape_map() if "loss_tracker" not in name]
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys() and len(first) > 100
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@dataclasses.dataclass(frozen=True)
class WholeRun:
    """A run of four steps that was not interrupted.

    given: its settings. stored: the settings that it stored, with epochs turned into steps.
    printed: its output. traces: how often each function was traced. leftovers: what is left of
    unfinished checkpoints.
    """

    given: Experiment
    stored: Experiment
    printed: str
    traces: dict[str, int]
    leftovers: list[Path]

    @property
    def path(self) -> Path:
        return Path(self.given.train.train_logdir)

    def copy(self, folder: Path) -> Experiment:
        """Copies it to `folder`; returns settings that continue it there without validation."""
        shutil.copytree(self.path, folder)
        return change(self.stored, "train", train_logdir=str(folder), eval_interval_steps=0)


@pytest.fixture(scope="module")
def whole(records_dir, tmp_path_factory) -> WholeRun:
    """Trains once, for all tests that need a whole run or compare with one.

    The folder holds what a run leaves that was killed while it wrote its first checkpoint.
    """
    experiment = change(
        tiny_run(records_dir, tmp_path_factory.mktemp("whole") / "run"),
        "train",
        training_number_of_steps=0,
        train_epochs=1.75,  # of 9 images in batches of 4
        eval_interval_steps=1,
        save_interval_steps=1,
        keep_checkpoints=3,
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed, counted_traces() as traces:
        trainer = Trainer(experiment)
        folder = trainer.run_dir.path
        (folder / "model.ckpt-0.data-00000-of-00001").write_bytes(b"cut")
        for step in (0, 9):  # a save of step 0 would remove only the first
            (folder / f"model.ckpt-{step}_temp").mkdir()
        assert trainer.run() == 4
    leftovers = [*folder.glob("*_temp"), *folder.glob("damaged-*")]
    return WholeRun(experiment, trainer.experiment, printed.getvalue(), traces, leftovers)


@contextlib.contextmanager
def counted_traces():
    """Counts how often the functions that become graphs are traced."""
    counts = collections.Counter()

    def counted(function):
        def wrapper(self, *args):
            counts[function.__name__] += 1
            return function(self, *args)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in ("train_step", "infer"):
            patch.setattr(DeepLab, name, counted(getattr(DeepLab, name)))
        yield counts


def start(experiment, tmp_path, *options):
    """Starts `python -m deeplab_tf.train` with these settings in another process."""
    flagfile = tmp_path / "settings.flags"
    flagfile.write_text(flags.flagfile_text(experiment))
    command = [sys.executable, "-m", "deeplab_tf.train", f"--flagfile={flagfile}", *options]
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


@pytest.mark.parametrize(
    ("ending", "awaited"),
    [
        (signal.SIGTERM, "metrics.jsonl"),
        pytest.param(signal.SIGHUP, "metrics.jsonl", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "model.ckpt-2.index", marks=pytest.mark.slow),
    ],
)
def test_interrupted_runs_continue_exactly(
    whole, tiny_experiment, tmp_path, capsys, ending, awaited
):
    """The last weights are the same as without an interruption.

    Validations fall between the saves, so that runs resume from checkpoints of both kinds.
    """
    run = tmp_path / "run"
    settings = {"eval_interval_steps": 1, "save_interval_steps": 3}
    experiment = change(tiny_experiment, "train", train_logdir=str(run), **settings)
    process = start(experiment, tmp_path)
    wait_for(run / awaited, process)
    process.send_signal(ending)
    output = process.communicate(timeout=30)[0]  # the grace period of preemption
    if ending != signal.SIGKILL:
        assert process.returncode == 0 and "the same command continues" in output
    train.main(experiment.model, experiment.data, experiment.train, experiment.eval)
    output = capsys.readouterr().out
    assert "Continuing" in output and "at step 4 of 4" in output
    assert_same_weights(whole.path, run)
    histories = []
    for folder in (whole.path, run):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        histories.append([(e["step"], e.get("loss"), e.get("miou")) for e in lines])
    assert len(histories[0]) == 8 and histories[0] == histories[1]


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_any_more_is_saved(tiny_experiment, tmp_path):
    """As with `train | head`."""
    process = start(change(tiny_experiment, "train", save_interval_steps=100), tmp_path)
    next(line for line in process.stdout if line.startswith("step 1/4"))
    process.stdout.close()
    assert process.wait(timeout=60) == 141  # as shells report SIGPIPE
    steps = run_dir.RunDir(tmp_path / "run").checkpoints.steps()
    assert steps[0] == 0 and steps[-1] in (2, 3)


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole):
    assert whole.leftovers == []


def test_a_run_of_epochs_stores_its_steps(whole, shapes_dir, tmp_path, capsys):
    # 1.75 epochs are 15.75 images, in batches of 4.
    assert "4 steps of 4 crops of 33x33: 1.78 epochs" in whole.printed
    assert "RANDOM" in whole.printed
    assert run_dir.RunDir(whole.path).experiment().train.training_number_of_steps == 4

    assert Trainer(whole.given).run() == 4
    printed = capsys.readouterr().out
    assert "RANDOM" not in printed and "at step 4 of 4, 0 steps left" in printed

    write_shapes(shapes_dir, tmp_path / "more", "train", times=2)
    unvalidated = change(whole.given, "train", eval_interval_steps=0)
    with pytest.raises(UserError, match="4 steps on 9 images, but .* now has 18"):
        Trainer(change(unvalidated, "data", dataset_dir=str(tmp_path / "more")))


def test_a_run_and_a_data_set_cannot_share_a_folder(tiny_experiment, records_dir):
    with pytest.raises(UserError, match="is the folder of a data set"):
        Trainer(change(tiny_experiment, "train", train_logdir=str(records_dir)))
    folder = Trainer(tiny_experiment).run_dir.path
    other = change(tiny_experiment, "train", train_logdir=str(folder) + "2")
    with pytest.raises(UserError, match="is the folder of a run"):
        Trainer(change(other, "data", dataset_dir=str(folder)))


def test_a_split_or_folder_that_is_not_there_names_the_way_out(tiny_experiment, tmp_path):
    with pytest.raises(UserError, match="no split 'tr'; it has: train, val; name .*--train_split"):
        Trainer(change(tiny_experiment, "data", train_split="tr"))
    validated = change(tiny_experiment, "train", eval_interval_steps=1)
    with pytest.raises(UserError, match="no split 'test'; .*--eval_interval_steps=0"):
        Trainer(change(validated, "eval", eval_split="test"))
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(UserError, match=r"file is a file; give a folder's path"):
            Trainer(change(tiny_experiment, "train", train_logdir=str(path)))


def test_a_batch_of_one_is_refused_where_it_leaves_no_statistics(tiny_experiment):
    with pytest.raises(UserError, match="--train_batch_size=1"):
        Trainer(change(tiny_experiment, "train", train_batch_size=1))


def test_a_run_writes_its_files_and_keeps_the_best(whole):
    assert whole.traces == {"train_step": 1, "infer": 1}  # though crops and images differ in size
    run = run_dir.RunDir(whole.path)
    assert run.experiment() == whole.stored
    assert whole.stored == change(
        whole.given, "train", train_epochs=0.0, training_number_of_steps=4
    )
    entries = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4]
    assert [e["learning_rate"] for e in entries if "loss" in e] == pytest.approx(
        [0.01 * (1 - step / 4) ** 0.9 for step in range(4)]
    )
    scored = {e["step"]: e["miou"] for e in entries if "miou" in e}
    assert set(scored) == {1, 2, 3, 4} and all(e["images"] == 5 for e in entries if "miou" in e)
    best = max(scored, key=lambda step: (scored[step], -step))
    assert json.loads((run.path / "best.json").read_text())["step"] == best
    assert run.checkpoints.steps() == sorted({best, 2, 3, 4})
    for step in run.checkpoints.steps():
        reader = tf.train.load_checkpoint(run.checkpoints.prefix(step))
        assert reader.get_tensor("optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE") == step
    assert json.loads((run.path / "environment.json").read_text())["tensorflow"] == tf.__version__

    losses = [entry for entry in entries if "loss" in entry]
    for entry in losses:  # the aux head's part is weighted, so it is a part of the loss
        assert entry["main_loss"] + entry["auxiliary_loss"] == pytest.approx(entry["loss"])
    assert all(entry["gradient_norm"] > 0 for entry in losses)
    assert all(0 <= entry["input_wait"] <= 1 for entry in losses[2:])  # two steps are traced
    events = EventAccumulator(str(run.path), size_guidance={"tensors": 1}).Reload()
    scalars = {f"train/{name}" for name in losses[-1] if name not in ("step", "checksum")}
    pictures = {"eval/confusion_matrix", "eval/image_label_prediction"}
    others = {"eval/miou", "experiment.flags", "train/image_label_prediction"}
    assert set(events.Tags()["tensors"]) >= scalars | pictures | others


@pytest.mark.slow
def test_steps_run_in_one_call_leave_the_same_run(tiny_experiment, tmp_path):
    logs, counts = [], []
    for together in (1, 3):
        settings = {"training_number_of_steps": 7, "log_steps": 3, "save_interval_steps": 3}
        folder = tmp_path / str(together)
        experiment = change(
            tiny_experiment,
            "train",
            train_logdir=str(folder),
            steps_per_execution=together,
            **settings,
        )
        with counted_traces() as traces:
            assert Trainer(experiment).run() == 7
        counts.append(traces["train_step"])
        assert run_dir.RunDir(folder).checkpoints.steps() == [0, 3, 6, 7]
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    for one, other in zip(*logs, strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert counts == [1, 2]  # Keras traces the first step of a call before its loop over the others
    assert Trainer(experiment).run() == 7  # nothing is left to do, so 3 need not divide 7


def assert_resumed_exactly(whole, parts, monkeypatch):
    """Trains both, the second in two parts; returns the model of the first."""
    trainer = Trainer(whole)
    trainer.run()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        Trainer(parts).run()
    assert run_dir.RunDir(parts.train.train_logdir).checkpoints.steps() == [0, 2]
    assert Trainer(parts).run() == 4
    assert_same_weights(whole.train.train_logdir, parts.train.train_logdir)
    return trainer.model


def interrupt_at(monkeypatch, last):
    """Ends a run at a step, before it saves and validates, as a signal in a validation does."""
    on_step = TrainingLog.on_step

    def interrupted(self, step, logs):
        if step == last:
            raise Interrupted
        on_step(self, step, logs)

    monkeypatch.setattr(TrainingLog, "on_step", interrupted)


def test_a_resumed_step_must_be_a_multiple_of_steps_per_execution(whole, tmp_path):
    experiment = whole.copy(tmp_path / "run")
    for step in (3, 4):  # as if it had been interrupted before
        (tmp_path / f"run/model.ckpt-{step}.index").unlink()
    several = {"steps_per_execution": 4, "log_steps": 4, "save_interval_steps": 4}
    with pytest.raises(UserError, match="steps_per_execution=4 does not divide 2, .* such as 1"):
        Trainer(change(experiment, "train", **several)).run()


def test_damage_never_restarts_a_run_from_scratch(whole, tmp_path, capsys):
    experiment, folder = whole.copy(tmp_path / "run"), tmp_path / "run"
    expected = weights(folder)
    (folder / "checkpoint").write_text("garbage")
    newest = folder / "model.ckpt-4.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    (folder / "model.ckpt-3.index").write_bytes(b"")
    assert Trainer(experiment).run() == 4
    told = capsys.readouterr()
    assert "at step 2" in told.out
    assert "Warning: " in told.err and "training continues from step 2, and the damaged" in told.err
    for name, value in weights(folder).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert (folder / "damaged-model.ckpt-3.index").is_file()
    for index in folder.glob("model.ckpt-*.index"):
        index.unlink()
    with pytest.raises(UserError, match="no whole checkpoint"):
        Trainer(experiment).run()


@pytest.fixture
def other_keras_settings():
    """What a notebook or ~/.keras/keras.json may have set."""
    backend = tf.keras.backend
    backend.set_floatx("float64")
    backend.set_image_data_format("channels_first")
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    backend.set_floatx("float32")
    backend.set_image_data_format("channels_last")
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.slow
def test_training_and_loading_ignore_keras_settings(whole, tiny_experiment, request):
    expected = loaded_run.load(whole.path).model.get_weights()
    request.getfixturevalue("other_keras_settings")
    Trainer(tiny_experiment).run()
    weights = loaded_run.load(tiny_experiment.train.train_logdir).model.get_weights()

    assert [value.dtype for value in weights] == [np.dtype(np.float32)] * len(expected)
    for value, other in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(value, other)
    assert tf.keras.backend.floatx() == "float64"
    assert tf.keras.backend.image_data_format() == "channels_first"
    assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"


@pytest.mark.slow
def test_half_precision_continues_exactly(tiny_experiment, tmp_path, monkeypatch):
    half = change(tiny_experiment, "train", dtype_policy="mixed_float16")
    whole, parts = (
        change(half, "train", train_logdir=str(tmp_path / name)) for name in ("whole", "parts")
    )
    Trainer(whole).run()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        Trainer(parts).run()
    assert run_dir.RunDir(tmp_path / "parts").checkpoints.steps() == [0, 2]
    trainer = Trainer(parts)
    assert trainer.run() == 4
    assert trainer.model.compute_dtype == "float16"
    assert any("current_loss_scale" in name for name in weights(tmp_path / "parts"))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "ema_decay": 0.5, "eval_interval_steps": 2},
        {"optimizer": "sgdw", "learning_policy": "step", "learning_rate_decay_step": 2},
        {
            "optimizer": "adamw",
            "learning_policy": "cosine",
            "slow_start_step": 2,
            "slow_start_burnin_type": "linear",
        },
        {"optimizer": "lamb", "slow_start_step": 3},
        {"optimizer": "momentum", "dtype_policy": "mixed_bfloat16"},
        {"optimizer": "sgdw", "dtype_policy": "mixed_float16"},
        {
            "ema_decay": 0.5,
            "dtype_policy": "mixed_float16",
            "gradient_accumulation_steps": 2,
            "clip_gradient_norm": 1.0,
            "top_k_percent_pixels": 0.5,
            "hard_example_mining_step": 3,
        },
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_all_that_an_optimizer_keeps_is_restored(tiny_experiment, tmp_path, monkeypatch, settings):
    whole, parts = (
        change(tiny_experiment, "train", train_logdir=str(tmp_path / name), **settings)
        for name in ("whole", "parts")
    )
    model = assert_resumed_exactly(whole, parts, monkeypatch)
    if "ema_decay" in settings:
        assert_averages_are_loaded(whole, model)


def assert_averages_are_loaded(experiment, model):
    """Checks that a run is loaded with the optimizer's averages, which differ from the weights."""
    loaded = loaded_run.load(experiment.train.train_logdir).model
    weights = [variable.numpy() for variable in model.variables]
    with averaging.averaged(model):
        averages = [variable.numpy() for variable in model.variables]
    for found, average, weight in zip(loaded.variables, averages, weights, strict=True):
        np.testing.assert_array_equal(found.numpy(), average)
        if "kernel" in found.name or "moving" in found.name:
            assert (average != weight).any(), found.name


def test_changed_settings_are_refused_with_the_difference(tiny_experiment, monkeypatch):
    """The refusal comes before the model is built, which takes minutes."""
    Trainer(tiny_experiment)
    monkeypatch.delattr("deeplab_tf.training.trainer.compiled_model")
    changed = change(tiny_experiment, "model", output_stride=8)
    changed = change(changed, "train", base_learning_rate=0.5, log_steps=3)
    with pytest.raises(UserError) as error:
        Trainer(changed)
    assert "--output_stride: 16 -> 8" in str(error.value)
    assert "--base_learning_rate: 0.01 -> 0.5" in str(error.value)
    assert "log_steps" not in str(error.value)  # this setting may change


def test_a_run_remembers_the_weights_that_it_started_from(tiny_experiment):
    """Another --tf_initial_checkpoint has no effect on a resumed run."""
    run = run_dir.RunDir(tiny_experiment.train.train_logdir)
    first = change(tiny_experiment, "train", tf_initial_checkpoint="first.pth")
    run.open_for_training(first, catalog.load("", tiny_experiment.data.dataset_dir))
    resumed = change(tiny_experiment, "train", tf_initial_checkpoint="second.pth", log_steps=7)
    kept = run_checks.with_first_weights(run, resumed).train
    assert kept.tf_initial_checkpoint == "first.pth" and kept.log_steps == 7


@pytest.mark.slow
def test_a_finished_run_made_longer_equals_a_run_of_that_length(tiny_experiment, tmp_path):
    """Compares weights, statistics, momentum and step; the records may be renamed in between."""
    settings = {"learning_policy": "step", "learning_rate_decay_step": 3}
    straight, longer = (
        change(tiny_experiment, "train", train_logdir=str(tmp_path / name), **settings)
        for name in ("straight", "longer")
    )
    Trainer(straight).run()
    assert Trainer(change(longer, "train", training_number_of_steps=2)).run() == 2
    assert Trainer(change(longer, "data", dataset="renamed")).run() == 4
    assert_same_weights(tmp_path / "straight", tmp_path / "longer")


@pytest.mark.slow
def test_two_replicas_train_like_one(whole, tiny_experiment):
    settings = {"eval_interval_steps": 4, "recompute_stages": 1}  # the whole run recomputed nothing
    experiment = change(tiny_experiment, "train", **settings)
    Trainer(experiment, two_replicas()).run()
    results = []
    for folder in (whole.path, experiment.train.train_logdir):
        model = loaded_run.load(folder).model
        results.append([v.numpy() for layer in model.layers for v in layer.variables])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-2, atol=2e-4)


def test_label_weights_need_one_number_for_each_class(tiny_experiment):
    with pytest.raises(UserError, match="--label_weights=1.0,2.0 .* numbers, one for each class"):
        Trainer(change(tiny_experiment, "train", label_weights=(1.0, 2.0)))


def test_jit_compile_is_refused_for_replicas_on_cpus(tiny_experiment):
    with pytest.raises(UserError, match="--jit_compile cannot be given with several replicas"):
        Trainer(change(tiny_experiment, "train", jit_compile=True), two_replicas())


@pytest.mark.parametrize(("device", "stages"), [("CPU:0", 3), ("GPU:0", 0)])
def test_gpus_recompute_nothing_unless_told(tiny_experiment, device, stages):
    config = dataclasses.replace(tiny_experiment.train, recompute_stages=-1)
    with tf.distribute.OneDeviceStrategy(device).scope():  # works without such a device
        assert compilation._recompute_stages(config) == stages
        assert compilation._recompute_stages(dataclasses.replace(config, recompute_stages=2)) == 2

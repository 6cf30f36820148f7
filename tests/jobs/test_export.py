"""From a run's folder to a server's: the flags, the card, and the scores."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import __version__
from deeplab_tf.config import ServingConfig
from deeplab_tf.config.programs import ExportConfig
from deeplab_tf.data import catalog, records
from deeplab_tf.jobs import export
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.serving import model_card
from deeplab_tf.serving.export import ExportedPredictor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tiny_experiment):
    """A run's folder with checkpoints of two steps, untrained, and scores of the first."""
    run = RunDir(tiny_experiment.train.train_logdir)
    info = catalog.load("", tiny_experiment.data.dataset_dir)
    run.open_for_training(tiny_experiment, info)
    tf.keras.utils.set_random_seed(0)
    model = build_model(tiny_experiment.model, num_classes=info.num_classes)
    model.classifier.conv.kernel.assign(model.classifier.conv.kernel * 100)
    for step in (2, 4):
        run.checkpoints.save(tf.train.Checkpoint(model=model), step, keep=2)
    run.metrics.record({"step": 2, "miou": 0.25, "split": "val"})
    return run


def succeed(program, *arguments):
    command = [sys.executable, "-m", f"deeplab_tf.{program}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


INFERENCE = {  # how `run` predicts
    "output_stride": "16",
    "atrous_rates": "1,2,3",
    "min_resize_value": "0",
    "max_resize_value": "0",
    "eval_scales": "1.0",
    "add_flipped_images": "false",
    "inference_mode": "whole",
}


def write_results(folder, *, miou, step=2, inference=INFERENCE, **others):
    folder.mkdir()
    results = {"step": step, "split": "val", "miou": miou, "inference": inference} | others
    (folder / "results.json").write_text(json.dumps(results))


def test_the_card_tells_what_was_exported(run, tmp_path, capsys):
    write_results(run.path / "eval", miou=0.5)
    write_results(run.path / "hurt", miou=0.9)
    hurt = run.path / "hurt" / "results.json"
    hurt.write_text(hurt.read_text()[:-3])
    (tmp_path / "other").mkdir()
    write_results(run.path / "other_run", miou=0.55, checkpoint=f"{tmp_path}/other/model.ckpt-2")
    write_results(run.path / "moved", miou=0.5, checkpoint="before/model.ckpt-2")
    write_results(run.path / "other_step", miou=0.6, step=4)
    other_scales = INFERENCE | {"eval_scales": "1.0,2.0"}
    write_results(run.path / "other_way", miou=0.7, inference=other_scales)
    write_results(run.path / "unknown_way", miou=0.8, inference=None)
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    job = ExportConfig(
        checkpoint_path=run.checkpoints.prefix(2), export_dir=str(folder), model_name="shapes"
    )
    export.main(job, ServingConfig(max_batch_size=2))
    assert f"Warning: The file of scores {hurt} is damaged" in capsys.readouterr().err
    assert (folder / "2" / "saved_model.pb").is_file()
    assert sorted(path.name for path in folder.iterdir()) == [
        "1",
        "2",
        "batching_parameters.txt",
        "model.config",
    ]
    assert 'base_path: "/models/shapes"' in (folder / "model.config").read_text()
    assert "max_batch_size { value: 2 }" in (folder / "batching_parameters.txt").read_text()
    card = json.loads((folder / "2" / "model_card.json").read_text())
    assert card["version"] == 2 and card["step"] == 2
    assert card["training"]["model_variant"] == "resnet_v1b_18"
    assert card["inference"] == {}
    assert card["serving"]["max_batch_size"] == 2
    assert card["dataset"]["name"] == "shapes" and len(card["dataset"]["classes"]) == 7
    assert [(m["file"], m["miou"]) for m in card["metrics"]] == [
        ("metrics.jsonl", 0.25),
        ("eval/results.json", 0.5),
        ("moved/results.json", 0.5),
    ]
    for program in ("training", "export"):
        versions = card["versions"][program]
        assert versions["deeplab_tf"] == __version__ and versions["tensorflow"] == tf.__version__
        assert set(versions) == {"deeplab_tf", "git_commit", "tensorflow", "python"}
    assert set(card["signatures"]) == {"serving_default", "serve_encoded"}


def test_the_card_has_no_scores_of_weights_that_were_trained_again(run, capsys):
    for step in (2, 4):
        digest = run.checkpoints.digest(step)
        write_results(run.path / f"of_{step}", miou=0.5, step=step, checkpoint_digest=digest)
    write_results(run.path / "of_earlier_version", miou=0.5)
    variable = tf.Variable(1.0)
    run.checkpoints.save(tf.train.Checkpoint(variable=variable), 2, keep=2)

    def card_of(step):
        scores = model_card.metrics_of(run, step, INFERENCE, of_run=INFERENCE)
        return [entry["file"] for entry in scores], capsys.readouterr().err

    assert card_of(4) == (["of_4/results.json"], "")
    listed, told = card_of(2)
    assert listed == ["metrics.jsonl", "of_earlier_version/results.json"]
    assert f"{run.path}/of_2/results.json scores other weights of step 2 than " in told
    assert "score step 2 again with eval, or delete the file.\n" in told
    (run.path / "of_2" / "results.json").unlink()
    assert card_of(2) == (listed, "")


def test_one_checkpoint_or_one_run_is_exported():
    for given in ({}, {"train_logdir": "a", "checkpoint_path": "b"}):
        with pytest.raises(UserError, match="Give either --train_logdir or --checkpoint_path"):
            ExportConfig(export_dir="x", **given)


def test_a_folder_that_takes_no_weights_is_refused_before_the_run_is_read(tmp_path):
    job = ExportConfig(train_logdir=str(tmp_path / "none"), export_dir=str(tmp_path / "e[1]"))
    with pytest.raises(UserError, match=r"--export_dir .*e\[1\] has \[1\] in its path, which"):
        export.main(job, ServingConfig())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_output_stride_is_served_as_it_is_scored(run, records_dir, tmp_path):
    flags = ("--output_stride=8", "--eval_scales=0.75,1", "--add_flipped_images")
    run.metrics.record(
        {"step": 4, "miou": 0.25, "split": "val"}
    )  # as trained, so of another stride
    folder, scored = tmp_path / "model", run.path / "as_exported"
    for name, given in ((scored.name, flags), ("as_trained", ())):
        logdir = f"--eval_logdir={run.path / name}"
        succeed("eval", f"--checkpoint_dir={run.path}", logdir, *given)
    succeed("export_model", f"--train_logdir={run.path}", f"--export_dir={folder}", *flags)
    plain = tmp_path / "plain"
    succeed("export_model", f"--train_logdir={run.path}", f"--export_dir={plain}")
    card = json.loads((folder / "1" / "model_card.json").read_text())
    assert card["inference"] == {
        "output_stride": "8",
        "atrous_rates": "2,4,6",
        "eval_scales": "0.75,1.0",
        "add_flipped_images": "true",
    }
    results = json.loads((scored / "results.json").read_text())
    assert results["checkpoint"] == run.checkpoints.prefix(4) and results["dataset_dir"] == str(
        records_dir
    )
    assert card["step"] == 4
    assert card["metrics"] == [{"file": "as_exported/results.json", **results}]
    of_plain = json.loads((plain / "1" / "model_card.json").read_text())["metrics"]
    assert [entry["file"] for entry in of_plain] == ["metrics.jsonl", "as_trained/results.json"]

    info = catalog.load("", records_dir)
    table = records.open_split(records_dir, "val", info)
    served, other = ExportedPredictor(folder), ExportedPredictor(plain)
    matrix, differ = np.zeros([7, 7], np.int64), 0
    for index in range(len(table)):
        record = records.parse(table.read(tf.constant(index)))
        image, label = record["image"][tf.newaxis], record["label"].numpy()[..., 0]
        predicted = served.labels(image)[0]
        differ += (predicted != other.labels(image)[0]).sum()
        np.add.at(matrix, (label[label != 255], predicted[label != 255]), 1)
    assert differ > 0  # the flags mean something
    assert results["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-3)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    found = [results["per_class"][name] for name in info.class_names]
    np.testing.assert_allclose(np.array(found, float), np.diag(matrix) / union, atol=1e-3)

"""The page about a run: whole, readable without a network, and true."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import deeplab_tf.eval
from deeplab_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig, flags
from deeplab_tf.config.programs import EvalJobConfig, ReportConfig
from deeplab_tf.data import catalog, records
from deeplab_tf.jobs import evaluation, run_report
from deeplab_tf.messages import UserError
from deeplab_tf.runs import sealed
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training.trainer import Trainer
from tests.conftest import tiny_run
from tests.test_architecture import ROOT

VOID = {"meta", "img", "br", "link", "input", "hr"}
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Reads a page by the standard library's parser; notes what is not in balance."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.faults = [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open and not self.faults, (self.open, self.faults)

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.faults.append(f"an attribute twice in {tag}")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data):
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag="body"):
        return " ".join(" ".join(self.texts.get(tag, [])).split())


def require_accessible(page):
    """What a reader without eyes, mouse or network needs."""
    assert page.all("html") == [{"lang": "en"}] and page.text("title")
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    targets = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(targets)) == len(targets)
    assert {link["href"][1:] for link in page.all("a")} <= {*targets}
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name in ("src", "href") or "://" not in (value or "") or name == "alt"


@pytest.fixture(scope="module")
def scored_run(records_dir, tmp_path_factory):
    """A run at step 0 with some lines of metrics, and its evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    trainer = Trainer(tiny_run(records_dir, folder))
    run = trainer.run_dir
    run.checkpoints.save(trainer.checkpoint, 0, keep=1)
    for step in (1, 2, 3, 4):
        run.metrics.record({"step": step, "loss": 2.0 / step, "learning_rate": 0.01})
    job = EvalJobConfig(
        checkpoint_dir=str(folder), eval_logdir=str(folder / "eval"), boundary_f_score=True
    )
    evaluation.main(job)
    return folder


@pytest.fixture
def run(scored_run, tmp_path):
    shutil.copytree(scored_run, tmp_path / "copy")
    return tmp_path / "copy"


def report_on(run, *, num_images=0, **settings):
    """Returns the page about a run; pictures take seconds, so they are made only on request."""
    run_report.main(ReportConfig(train_logdir=str(run), num_images=num_images, **settings))
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    require_accessible(page)
    return page


def test_the_page_shows_what_eval_wrote(run, records_dir):
    page = report_on(run, num_images=2)
    text = page.text()
    results = json.loads((run / "eval/results.json").read_text())
    for name, iou in results["per_class"].items():
        assert name in text
        assert iou is None or f"{100 * iou:.2f}" in text
    assert f"{100 * results['miou']:.2f} %" in text
    # 5 images: results.json has the two worst, the two best are others.
    for name in results["worst_images"][:2]:
        assert f"{name}, mIoU" in text
    panels = [image["alt"].split(": ") for image in page.all("img")]
    titles = ["image", "label", "prediction", "overlay", "errors in red"]
    assert [title for _, title in panels] == 4 * titles
    pictures = [image for image in page.all("img") if "prediction" in image["alt"]]
    assert [image["alt"].split(":")[0] for image in pictures[:2]] == results["worst_images"][:2]
    assert pictures[2]["alt"].split(":")[0] == results["worst_images"][-1]
    # The curves say in words what they show: 2, 1, 2/3, 1/2.
    loss = next(d["aria-label"] for d in page.all("svg") if d["aria-label"].startswith("Training"))
    assert loss == (
        "Training loss: 2 at step 1, 0.5 at step 4; lowest 0.5 at step 4, highest 2 at step 1."
    )
    # What is missing is said with the command that makes it.
    assert "The run was not validated during training (--eval_interval_steps=0)" in text
    assert f"python -m deeplab_tf.inspect_data --dataset_dir={records_dir}" in text
    assert "--model_variant resnet_v1b_18 mobilenet_v2" in text
    # The run was trained on records, but not validated.
    assert "split trained on train" in text and "split validated on" not in text
    assert "trained from random weights" in text
    assert f"which scored {results['checkpoint']}" in text


def test_shares_of_the_classes_are_those_of_the_records(run, records_dir):
    text = report_on(run).text("table")
    splits = json.loads((records_dir / catalog.MANIFEST).read_text())["splits"]
    pixels = splits["train"]["statistics"]["pixels"]
    share = 100 * pixels["disc"] / sum(pixels.values())
    assert f"disc {share:.3f} {splits['train']['statistics']['images_with']['disc']}" in text


def test_the_matrix_is_that_of_the_scores(run):
    lines = (run / "eval/confusion_matrix.csv").read_text().splitlines()
    matrix = np.array([[int(n) for n in line.split(",")[1:]] for line in lines[1:]])
    results = json.loads((run / "eval/results.json").read_text())
    names = lines[0].split(",")[1:]
    assert names == [*results["per_class"]] == [line.split(",")[0] for line in lines[1:]]
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    for name, hits, of in zip(names, np.diag(matrix), union, strict=True):
        assert results["per_class"][name] == (pytest.approx(hits / of) if of else None)
    background = matrix[0] / matrix[0].sum()
    shown = " ".join(f"{100 * share:.1f}" for share in background)
    assert f"background {shown}" in report_on(run).text("table")


def test_a_run_without_evaluation_says_so(run):
    shutil.rmtree(run / "eval")
    (run / "metrics.jsonl").unlink()
    page = report_on(run)
    text = page.text()
    command = f"python -m deeplab_tf.eval --checkpoint_dir={run} --eval_logdir={run}/eval"
    assert text.count("The run has no evaluation yet") == 3
    assert command in text
    assert "holds no losses: a line comes every" in text
    assert not page.all("svg")


def test_a_loss_that_is_not_finite_is_told(run):
    """Training leaves such a value out of its line."""
    for values in ({"step": 5}, {"step": 6, "loss": 0.25}):
        RunDir(run).metrics.record(values | {"learning_rate": 0.01})
    page = report_on(run)
    assert "Training loss: 1 line of metrics.jsonl without a finite number." in page.text()
    assert any("0.25 at step 6" in drawing["aria-label"] for drawing in page.all("svg"))


def test_without_evaluation_the_classes_are_those_of_the_best_validation(run):
    """Of three validations, the second is the best."""
    results = json.loads((run / "eval/results.json").read_text())
    shutil.rmtree(run / "eval")
    for step, miou in ((1, 0.25), (2, 0.5), (3, 0.4375)):
        entry = results | {"step": step, "miou": miou}
        entry["per_class"] = dict.fromkeys(results["per_class"], miou)
        RunDir(run).metrics.record(entry)
    text = report_on(run).text()
    assert "step 2; from the best validation during training" in text
    assert "mean IoU 50.00" in text and "disc 50.00" in text
    assert text.count("The run has no evaluation yet") == 2
    assert "split validated on val" in text
    assert "mIoU in validation, split val: 25 % at step 1, 43.75 % at step 3; lowest" in text
    assert "All 3 validations" in text
    # The checkpoint of step 0 is the only one.
    assert "step 2 is the best that has a score, 50.00; this one has none; it is not kept" in text


def test_texts_of_users_are_shown_and_not_run(run, monkeypatch):
    """Class names, names of images and folders may hold what a browser would run."""
    renamed = run.parent / SCRIPT.replace("/", "_")
    run.rename(renamed)
    for path in (renamed / "dataset.json", *(renamed / "eval").glob("*.*")):
        if path.suffix in (".json", ".csv"):
            content = path.read_text()
            content = content.replace("val_0003", "</td><img src=x onerror=alert(1)>")
            content = content.replace("disc", json.dumps(SCRIPT)[1:-1])
            if path.name == "dataset.json":
                content = json.loads(content)
                del content["checksum"]
                content = json.dumps(content)
            path.write_text(content)
    page = report_on(renamed, num_images=5)
    text = page.text("th")
    assert SCRIPT in text and "onerror=alert(1)" in text
    assert not page.all("script")
    assert SCRIPT not in (renamed / "report.html").read_text()


def test_another_runs_scores_are_refused(run, tmp_path):
    shutil.move(run / "eval", tmp_path / "eval")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is not in --train_logdir=.*; give the folder of this run"):
        report_on(run, eval_logdir=str(tmp_path / "eval"))
    assert not (run / "report.html").exists()
    # The way out that the sentence names.
    shutil.move(tmp_path / "eval", run / "eval")
    report_on(run, eval_logdir=str(run / "eval"))


def test_results_outside_the_run_that_name_it_are_taken(scored_run, tmp_path):
    shutil.copytree(scored_run / "eval", tmp_path / "eval")
    output = tmp_path / "page.html"
    run_report.main(
        ReportConfig(
            train_logdir=str(scored_run), eval_logdir=str(tmp_path / "eval"), output=str(output)
        )
    )
    assert str(tmp_path / "eval") in Page(output.read_text()).text()


@pytest.mark.parametrize("of_other", ["weights", "settings"])
def test_scores_of_another_run_in_the_folder_are_refused(run, scored_run, of_other):
    """The results name a run that is there, and has other weights, or none and other settings."""
    other = run.parent / "other"
    shutil.copytree(scored_run, other)
    (weights,) = other.glob("model.ckpt-0.data-*")
    if of_other == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        weights.unlink()
        lines = (other / "experiment.flags").read_text().splitlines()[1:]
        text = "\n".join(lines) + "\n"
        (other / "experiment.flags").write_text(
            re.sub("^--train_logdir=.*$", "--train_logdir=other", text, flags=re.MULTILINE)
        )
    content = json.loads((run / "eval/results.json").read_text())
    content["checkpoint"] = str(other / "model.ckpt-0")
    (run / "eval/results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="but in another run; give the folder of this run's res"):
        report_on(run)
    # The ways out that the sentence names.
    shutil.move(run / "eval", run.parent / "eval")
    assert "The run has no evaluation yet" in report_on(run).text()
    shutil.copytree(scored_run / "eval", run / "own")
    report_on(run, eval_logdir=str(run / "own"))


def test_scores_of_a_step_that_was_trained_again_are_refused(run):
    path = run / "eval/results.json"
    content = json.loads(path.read_text())
    index = (run / "model.ckpt-0.index").read_bytes()
    assert content["checkpoint_digest"] == hashlib.sha256(index).hexdigest()
    content["checkpoint"] = str(run / "model.ckpt-0")  # not the run that this is a copy of
    path.write_text(json.dumps(content))
    report_on(run)

    tf.train.Checkpoint(other=tf.Variable(1.0)).write(str(run / "model.ckpt-0"))
    with pytest.raises(UserError, match=f"{path} scores other weights of step 0 .*; score the ch"):
        report_on(run)

    # What is gone contradicts nothing, and earlier versions did not note the weights.
    (run / "model.ckpt-0.index").unlink()
    report_on(run)
    (run / "model.ckpt-0.index").write_bytes(index)
    del content["checkpoint_digest"]
    path.write_text(json.dumps(content))
    report_on(run)


@pytest.mark.slow
def test_the_command_that_scores_a_step_again_makes_the_report_possible(run, records_dir, tmp_path):
    content = json.loads((run / "eval/results.json").read_text())
    content["checkpoint"] = str(run / "model.ckpt-0")
    (run / "eval/results.json").write_text(json.dumps(content))
    again = tiny_run(records_dir, tmp_path / "again")
    trainer = Trainer(dataclasses.replace(again, train=dataclasses.replace(again.train, seed=7)))
    RunDir(run).checkpoints.save(trainer.checkpoint, 0, keep=1)
    with pytest.raises(UserError, match="scores other weights") as error:
        report_on(run)

    (command,) = re.findall("score the checkpoint again: `(.*)`", str(error.value))
    words = [sys.executable, *shlex.split(command)[1:]]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    report_on(run)


@pytest.mark.parametrize("key", ["per_class", "per_class_boundary_f_score"])
def test_scores_of_other_classes_are_refused(run, key):
    content = json.loads((run / "eval/results.json").read_text())
    content[key] = {f"new {name}": score for name, score in content[key].items()}
    (run / "eval/results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"scores another run: the classes of its {key} differ"):
        report_on(run)


def test_runs_below_the_run_are_not_searched(run):
    shutil.copytree(run, run.parent / "inner")
    shutil.move(run.parent / "inner", run / "inner")
    shutil.copy(run / "eval/results.json", run / "inner")
    assert f"from {run}/eval, which" in report_on(run).text()


def test_sample_pages_are_those_of_the_records(run, records_dir, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(records_dir, folder)
    manifest = json.loads((folder / catalog.MANIFEST).read_text())
    del manifest["splits"]["val"]["uncounted_labels"]  # as earlier versions wrote it
    (folder / catalog.MANIFEST).write_text(json.dumps(manifest))
    pages = folder / "inspection"
    pages.mkdir()
    built = (folder / catalog.MANIFEST).stat().st_mtime

    def shown(age):
        for name in ("train", "val"):
            os.utime(pages / f"{name}.png", (built + age, built + age))
        page = report_on(run, dataset_dir=str(folder))
        found = [one["alt"] for one in page.all("img") if one["alt"].startswith("Samples of ")]
        return [alternative.split(":")[0] for alternative in found], page.text()

    for name in ("train", "val"):
        Image.new("RGB", (9, 9)).save(pages / f"{name}.png")
    assert shown(10)[0] == ["Samples of train", "Samples of val"]
    found, text = shown(-10)
    assert not found and "val.png is older than the records. This command makes it:" in text
    (pages / "val.png").write_bytes((pages / "val.png").read_bytes()[:40])
    found, text = shown(10)
    assert found == ["Samples of train"] and "There is no page of samples of val: " in text


def test_several_evaluations_are_not_guessed_among(run):
    shutil.copytree(run / "eval", run / "eval_again")
    with pytest.raises(UserError, match="holds 2 evaluations: .*eval .step 0, val., .*--eval_log"):
        report_on(run)
    report_on(run, eval_logdir=str(run / "eval_again"))


@pytest.mark.parametrize("name", ["per_image.csv", "confusion_matrix.csv"])
def test_files_of_two_evaluations_are_refused(run, name):
    path = run / "eval" / name
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    place = 4 if name == "per_image.csv" else 1
    cells[place] = str(int(cells[place]) + 1)
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=f"results.json and {name} in .* are not of one evaluation"):
        report_on(run)


def test_pictures_are_only_of_the_images_that_were_scored(run):
    """The scores of two images are exchanged, as if the records had been built in another order."""
    path = run / "eval/per_image.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    column = lines[0].index("miou")
    by_score = sorted(lines[1:], key=lambda line: float(line[column]))
    low, high = by_score[0], by_score[-1]
    low[column], high[column] = str(float(high[column]) + 0.2), low[column]
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    page = report_on(run, num_images=4)
    assert "now gets an mIoU of" in page.text()
    assert not [image for image in page.all("img") if "prediction" in image["alt"]]


@pytest.mark.slow
def test_records_elsewhere_are_named_by_a_flag(run, records_dir, tmp_path):
    shutil.copytree(records_dir, tmp_path / "moved")
    path = run / "experiment.flags"
    lines = path.read_text().splitlines()[1:]  # a person who changes it deletes the heading
    path.write_text("\n".join(lines).replace(str(records_dir), str(tmp_path / "gone")) + "\n")
    results = json.loads((run / "eval/results.json").read_text())
    results["dataset_dir"] = str(tmp_path / "gone")
    (run / "eval/results.json").write_text(json.dumps(results))
    text = report_on(run, num_images=4).text()
    assert "There are no pictures" in text and "there is no " in text
    page = report_on(run, num_images=4, dataset_dir=str(tmp_path / "moved"))
    assert len([image for image in page.all("img") if "prediction" in image["alt"]]) == 5
    assert "shares of the classes are not known" not in page.text()
    with pytest.raises(UserError, match="--dataset_dir=nowhere is no folder; give"):
        report_on(run, dataset_dir="nowhere")


def test_other_records_than_those_trained_on_are_not_described(run):
    content = json.loads((run / "dataset.json").read_text())
    content["trained_on"]["contents"] = "0" * 64
    del content["checksum"]
    (run / "dataset.json").write_text(sealed.to_json(content))
    text = report_on(run).text()
    assert "are not those that the run was trained on" in text
    assert "Classes in the labels" not in text


def test_a_checkpoint_that_is_gone_leaves_the_rest(run):
    for path in run.glob("model.ckpt-*"):
        path.unlink()
    text = report_on(run, num_images=4).text()
    assert "There is no model card, since the checkpoint cannot be restored" in text
    assert "Scores of the classes" in text


@pytest.mark.slow
def test_the_commands_make_it_again(run, tmp_path, monkeypatch):
    """The recipe of the page is a flagfile, and the command of the scores scores the same."""
    started = {"command": ["/venv/bin/deeplab-train", "--flagfile=own_data", "--dataset_dir=a b"]}
    (run / "environment.json").write_text(json.dumps(started))
    page = report_on(run, num_images=4)
    shown = page.texts["pre"]
    assert "python -m deeplab_tf.train --flagfile=own_data '--dataset_dir=a b'" in shown
    assert f"python -m deeplab_tf.report --train_logdir={run}" in shown

    (recipe,) = (text for text in shown if text.startswith("# Written by"))
    (tmp_path / "recipe.flags").write_text(recipe)
    (command,) = (text for text in shown if "--flagfile=recipe.flags" in text)
    program, *words = shlex.split(command.removeprefix("python -m "))
    assert program == "deeplab_tf.train"
    monkeypatch.chdir(tmp_path)
    groups = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
    given = flags.parse(words, groups)
    experiment = RunDir(run).experiment()
    model, data, train, evaluated = map(given.read, groups)
    assert model == experiment.model and evaluated == experiment.eval and data == experiment.data
    assert train == dataclasses.replace(experiment.train, train_logdir="NEW_RUN")

    before = json.loads((run / "eval/results.json").read_text())
    (command,) = (text for text in shown if text.startswith("python -m deeplab_tf.eval"))
    words = shlex.split(command.removeprefix("python -m "))
    (run / "eval/results.json").unlink()
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:  # app.run always ends so
        deeplab_tf.eval.run()
    assert not end.value.code
    assert json.loads((run / "eval/results.json").read_text()) == before | {
        "checkpoint": f"{run}/model.ckpt-0"
    }


def test_imported_weights_have_no_curves(run):
    path = run / "experiment.flags"
    experiment = RunDir(run).experiment()
    train = dataclasses.replace(experiment.train, train_logdir="")
    path.write_text(flags.flagfile_text(dataclasses.replace(experiment, train=train)))
    (run / "metrics.jsonl").unlink()
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    content = json.loads((run / "eval/results.json").read_text())
    content["checkpoint"] = str(run / "model.ckpt-0")
    (run / "eval/results.json").write_text(json.dumps(content))
    text = report_on(run).text()
    assert "The weights were imported, not trained here" in text
    assert "weights imported, not trained here" in text and "random weights" not in text


def test_imported_weights_name_no_records(run):
    """Then the command that scores them asks for a folder."""
    lines = (run / "experiment.flags").read_text().splitlines()[1:]
    lines = ["--dataset_dir=" if one.startswith("--dataset_dir=") else one for one in lines]
    (run / "experiment.flags").write_text("\n".join(lines) + "\n")
    shutil.rmtree(run / "eval")
    text = report_on(run).text()
    assert f"--checkpoint_dir={run} --dataset_dir=RECORDS --eval_logdir={run}/eval" in text


def test_damaged_results_are_scored_again_in_the_same_way(run, records_dir):
    path = run / "eval/per_image.csv"
    path.write_text("name\n")
    with pytest.raises(UserError, match="is damaged") as error:
        report_on(run)
    command = f"--checkpoint=0 --dataset_dir={records_dir} --eval_split=val --eval_logdir={run}/ev"
    assert command in str(error.value)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_results_are_refused_and_the_old_page_is_kept(run, share, named):
    path = run / "eval/results.json"
    whole = path.read_text()
    path.write_text(whole[: int(share * len(whole))])
    (run / "report.html").write_text("the old page")
    settings = {"eval_logdir": str(run / "eval")} if named else {}
    with pytest.raises(
        UserError, match=f"^The file of scores {path} is damaged .*; score the run again"
    ):
        report_on(run, **settings)
    assert (run / "report.html").read_text() == "the old page"


def test_another_programs_results_are_no_evaluation(run):
    """They may have any content, and the run's own evaluation is taken."""
    for name, content in (("a", "[1]"), ("b", '{"step": "last"}')):
        (run / name).mkdir()
        (run / name / "results.json").write_text(content)
    assert f"from {run}/eval, which" in report_on(run).text()


def test_a_score_that_only_best_json_tells_is_told(run):
    shutil.rmtree(run / "eval")
    (run / "metrics.jsonl").unlink()
    (run / "best.json").write_text(sealed.to_json({"step": 7, "miou": 0.25, "split": None}))
    text = report_on(run).text()
    assert "Step 7 has a mean IoU of 25.00 %, the best in validation." in text
    assert "by best.json, step 7 was the best, with 25.00 %." in text
    assert "split None" not in text and "not scored yet" not in text


@pytest.mark.parametrize("kind", ["contents", "records", ""])
def test_records_are_compared_as_training_does(run, records_dir, kind):
    info = RunDir(run).dataset()
    table = records.open_split(str(records_dir), "train", info)
    content = json.loads((run / "dataset.json").read_text())
    del content["trained_on"]["contents"], content["checksum"]
    values = {"contents": table.digest(), "records": table.digest_of_places(), "": None}
    content["trained_on"] |= {kind: values[kind]} if kind else {}
    (run / "dataset.json").write_text(sealed.to_json(content))
    text = report_on(run).text()
    assert "Classes in the labels" in text
    assert ("does not say which records it was trained on" in text) == (not kind)


@pytest.mark.slow
def test_records_without_a_description_are_scored_on(run, records_dir, tmp_path):
    """Like the official package's records, which eval takes."""
    shutil.copytree(records_dir, tmp_path / "plain")
    (tmp_path / "plain" / catalog.MANIFEST).unlink()
    page = report_on(run, num_images=4, dataset_dir=str(tmp_path / "plain"))
    assert "The shares of the classes are not known: there is no" in page.text()
    (tmp_path / "other").mkdir()
    other = json.loads((records_dir / catalog.MANIFEST).read_text())
    other["classes"][1]["name"] = "another"
    del other["splits"]
    (tmp_path / "other" / catalog.MANIFEST).write_text(json.dumps(other))
    with pytest.raises(UserError, match="The classes in --dataset_dir=.*other differ from the run"):
        report_on(run, num_images=4, dataset_dir=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"output": "page.pdf"},
            "--output=page.pdf is not possible; allowed: a file that ends in .html",
        ),
        ({"eval_logdir": "none"}, "--eval_logdir=none holds no results.json; score the run first"),
    ],
)
def test_mistakes_are_one_sentence(run, settings, message):
    with pytest.raises(UserError, match=message):
        report_on(run, **settings)
    assert not (run / "report.html").exists()

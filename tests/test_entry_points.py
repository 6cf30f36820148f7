"""What a user of the command line sees: help at once, one sentence for a mistake, the whole way."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import deeplab_tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = [
    "deeplab_tf.train",
    "deeplab_tf.eval",
    "deeplab_tf.vis",
    "deeplab_tf.predict",
    "deeplab_tf.export_model",
    "deeplab_tf.convert_model",
    "deeplab_tf.import_weights",
    "deeplab_tf.inspect_data",
    "deeplab_tf.report",
    "deeplab_tf.data_service",
    "deeplab_tf.benchmark",
    "datasets.build_ade20k_data",
    "datasets.build_cityscapes_data",
    "datasets.build_folder_data",
    "datasets.build_pascal_context_data",
    "datasets.build_shapes_data",
    "datasets.build_voc2012_data",
    "datasets.remove_gt_colormap",
]


def start(program, *arguments):
    """Runs a program in a process of its own, as its user does."""
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def call(capfd, monkeypatch):
    """Calls a program's `run` in this process: a start of TensorFlow takes longer than most.

    Returns what `start` does; what TensorFlow itself writes to the streams is in it too.
    """

    def run(program, *arguments):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit) as end:  # app.run always ends so
            importlib.import_module(program).run()
        written = capfd.readouterr()
        status, sentence = end.value.code or 0, ""
        if isinstance(status, str):  # which Python prints as it exits
            status, sentence = 1, status + "\n"
        return SimpleNamespace(returncode=status, stdout=written.out, stderr=written.err + sentence)

    return run


def start_and_look(program, *arguments):
    """As `start`; the last line says whether the program has imported TensorFlow."""
    code = (
        f"import sys, runpy; sys.argv = {[program, *map(str, arguments)]}\n"
        "try:\n"
        f"    runpy.run_module('{program}', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print('tensorflow' in sys.modules)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_answers_without_tensorflow(program):
    done = start_and_look(program, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {program}" in done.stdout and "  --" in done.stdout
    assert not re.search("(:|of) ,", done.stdout)  # an empty choice has a word
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("deeplab_tf.predict", "--checkpoint_dir=x --output_dir=x --input=none.jpg"),
        (
            "deeplab_tf.convert_model",
            "--export_dir=x --format=tflite_int8 --output=x.tflite --calibration_images=none.jpg",
        ),
    ],
)
def test_a_mistake_in_a_path_is_reported_without_tensorflow(program, arguments):
    done = start_and_look(program, *arguments.split())
    assert_one_sentence(done, "=none.jpg names no image")
    assert done.stdout.splitlines() == ["False"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset_dir=none --train_logdir=x", "--dataset_dir=none is not a folder; give"),
        ("--dataset_dir=. --train_logdir=x", "--dataset_dir=. has no dataset.json, which names"),
    ],
)
def test_training_refuses_without_tensorflow_what_it_can(arguments, message):
    done = start_and_look("deeplab_tf.train", *arguments.split())
    assert_one_sentence(done, message)
    assert done.stdout.splitlines() == ["False"]


def test_training_says_something_before_tensorflow_is_imported():
    code = (
        "import sys\n"
        "from deeplab_tf import jobs, train\n"
        "jobs.start = lambda *_: print('tensorflow' in sys.modules)\n"
        "sys.argv = ['train', '--num_classes=3', '--dataset_dir=records', '--train_logdir=run']\n"
        "train.run()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    first, imported = done.stdout.splitlines()
    assert first.startswith("Training mobilenet_v2 on records (3 classes) in run; starting Tensor")
    assert imported == "False"


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (
            "deeplab_tf.train",
            ["--ouput_stride=8"],
            "Unknown command line flag 'ouput_stride'. Did you mean: output_stride",
        ),
        (
            "deeplab_tf.train",
            ["--output_stride=12"],
            "--output_stride=12 is not possible; allowed: one of 8, 16, 32",
        ),
        (
            "deeplab_tf.train",
            ["--train_batch_size=many"],
            "--train_batch_size=many is not possible; allowed: a whole number",
        ),
        (
            "datasets.build_voc2012_data",
            ["--voc_root=none", "--output_dir=x"],
            "none does not exist; unpack http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        ),
        (
            "datasets.build_cityscapes_data",
            ["--download", "--output_dir=x"],
            "There is no --download: no program can log in for you; log in at https://www.city",
        ),
        (
            "deeplab_tf.import_weights",
            ["--source=none.pth", "--output=x"],
            "none.pth does not exist; allowed: a .pth",
        ),
        ("deeplab_tf.inspect_data", ["--dataset_dir=none"], "=none is not a folder; give"),
        ("deeplab_tf.train", ["run"], "'run' is not a flag"),
        ("deeplab_tf.train", ["--flagfile=none.flags"], "none.flags"),
        ("deeplab_tf.eval", ["--eval_logdir=x"], "--checkpoint_dir is missing"),
        (
            "deeplab_tf.eval",
            ["--checkpoint_dir=none", "--eval_logdir=x"],
            "none is not a run's folder",
        ),
        (
            "deeplab_tf.predict",
            ["--input=a.jpg", "--output_dir=x", "--export_dir=y", "--model_name=deeplab2"],
            "--model_name=deeplab2 has no effect without --server; give that too, or leave",
        ),
        (
            "deeplab_tf.train",
            ["--flagfile=configs/shapes_r18_os8.flags", "--learning_rate_decay_step=7"],
            "--learning_rate_decay_step=7 has no effect without --learning_policy=step; give",
        ),
        (
            "deeplab_tf.predict",
            ["--input=none.jpg", "--output_dir=x", "--export_dir=y"],
            "--input=none.jpg names no image",
        ),
        ("deeplab_tf.report", ["--train_logdir=none"], "none is not a run's folder: it does not"),
        (
            "deeplab_tf.report",
            ["--train_logdir=x", "--checkpoint=best"],
            "the page is about the checkpoint that eval scored",
        ),
        (
            "deeplab_tf.report",
            ["--train_logdir=x/model.ckpt-7"],
            "--train_logdir=x/model.ckpt-7 is not possible; allowed: the folder of a run, x; the",
        ),
        (
            "deeplab_tf.export_model",
            ["--train_logdir=none", "--export_dir=x"],
            "none is not a run's folder",
        ),
    ],
)
def test_a_mistake_is_one_sentence(call, program, arguments, message):
    assert_one_sentence(call(program, *arguments), message)


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        # Seen in the flags; by a builder; and once TensorFlow is there, which must add nothing.
        ("deeplab_tf.train", ["--ouput_stride=8"], "Did you mean: output_stride"),
        ("datasets.build_voc2012_data", ["--voc_root=none", "--output_dir=x"], "does not exist;"),
        (
            "deeplab_tf.eval",
            ["--checkpoint_dir=none", "--eval_logdir=x"],
            "none is not a run's folder",
        ),
    ],
)
def test_a_process_ends_with_one_sentence_too(program, arguments, message):
    assert_one_sentence(start(program, *arguments), f"python -m {program}: ", message)


def assert_one_sentence(done, *messages):
    assert done.returncode == 1
    for message in messages:
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_ade20k_recipe_says_how_to_build_its_data(call, tmp_path):
    recipe = ["deeplab_tf.train", "--flagfile=configs/ade20k_r101_os16.flags"]
    done = call(*recipe)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "python -m datasets.build_ade20k_data --output_dir=DIR" in done.stderr
    done = call(*recipe, f"--dataset_dir={tmp_path}")
    assert f"datasets.build_ade20k_data --output_dir={tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_whole_way(call, shapes_dir, tmp_path):
    """Files -> records -> train -> resume -> evaluate -> report -> paint -> export -> predict."""

    def succeed(program, *arguments, call=call):
        done = call(program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    records, run = tmp_path / "records", tmp_path / "run"
    succeed(
        "datasets.build_folder_data",
        f"--images_dir={shapes_dir}/images",
        f"--masks_dir={shapes_dir}/masks",
        f"--class_list={shapes_dir}/classes.csv",
        f"--output_dir={records}",
        "--dataset=shapes",
    )
    train = [
        "deeplab_tf.train",
        "--flagfile=configs/shapes_r18_os8.flags",
        f"--dataset_dir={records}",
        f"--train_logdir={run}",
        "--training_number_of_steps=2",
        "--train_crop_size=49,49",
        "--train_batch_size=4",
        "--aspp_convs_filters=16",
        "--auxiliary_filters=16",
        "--recompute_stages=0",  # traces in half the time
        "--eval_interval_steps=0",  # the next program evaluates
    ]
    assert "is at step 2 of 2" in succeed(*train, call=start)
    assert "is at step 2 of 2" in succeed(*train)  # a second call has nothing to do
    printed = succeed(
        "deeplab_tf.eval",
        f"--checkpoint_dir={run}",
        f"--eval_logdir={tmp_path / 'eval'}",
        "--eval_batch_size=2",
    )
    assert "mIoU" in printed and "triangle" in printed
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["step"] == 2 and results["images"] == 5
    assert set(results) >= {"miou", "pixel_accuracy", "mean_accuracy", "per_class"}
    # In the order of the data set, though batches hold images of one size.
    with (tmp_path / "eval" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"val/val_{number:04d}" for number in range(5)]
    assert sum(int(row["valid_pixels"]) for row in rows) == sum(
        results["pixels_per_class"].values()
    )
    by_miou = sorted(rows, key=lambda row: (float(row["miou"]), row["name"]))
    assert results["worst_images"] == [row["name"] for row in by_miou]
    assert set(results["per_class"]) == {
        "background",
        "disc",
        "square",
        "triangle",
        "star",
        "ring",
        "cross",
    }
    printed = succeed(
        "deeplab_tf.report", f"--train_logdir={run}", f"--eval_logdir={tmp_path / 'eval'}"
    )
    assert f"{run}/report.html: " in printed
    page = (run / "report.html").read_text()
    assert f"{100 * results['miou']:.2f} %" in page and "Training loss: " in page
    assert "python -m deeplab_tf.train --flagfile=recipe.flags" in page

    succeed("deeplab_tf.vis", f"--checkpoint_dir={run}", f"--vis_logdir={tmp_path / 'vis'}")
    painted = list((tmp_path / "vis" / "segmentation_results").iterdir())
    assert len(painted) == 4 * 5

    succeed(
        "deeplab_tf.export_model", f"--train_logdir={run}", f"--export_dir={tmp_path / 'export'}"
    )
    images = f"{shapes_dir}/images/val,{shapes_dir}/images/train/train_000[01].jpg"
    for source, by in (
        (f"--export_dir={tmp_path / 'export'}", start),
        (f"--checkpoint_dir={run}", call),
    ):
        succeed(
            "deeplab_tf.predict",
            source,
            f"--input={images}",
            f"--output_dir={tmp_path / source[2:5]}",
            call=by,
        )
    for kind in ("index", "color", "overlay"):
        by_export = sorted((tmp_path / "exp" / kind).iterdir())
        assert len(by_export) == 7
        for path in by_export:
            by_run = tmp_path / "che" / kind / path.name
            np.testing.assert_array_equal(
                np.asarray(Image.open(path)), np.asarray(Image.open(by_run))
            )

    model = deeplab_tf.load_model(run)
    pixels = np.zeros([1, 64, 64, 3], np.float32)
    assert {k: v.shape[1:3] for k, v in model(pixels).items()} == {
        "logits": (8, 8),
        "aux_logits": (8, 8),
    }
    assert deeplab_tf.load_model(run, output_stride=16)(pixels)["logits"].shape[1:3] == (4, 4)

    serve = tf.saved_model.load(str(tmp_path / "export" / "1")).signatures["serving_default"]
    image = np.asarray(Image.open(shapes_dir / "images/val/val_0000.jpg"))
    result = serve(images=tf.constant(np.stack([image, image])))
    assert set(result) == {"labels"}
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(images=tf.constant(image))  # a rank of 3
    expected = np.asarray(Image.open(tmp_path / "exp" / "index" / "val_0000.png"))
    for label in result["labels"].numpy():
        np.testing.assert_array_equal(label, expected)


def test_importing_the_package_does_not_import_tensorflow():
    code = "import deeplab_tf, sys; print(deeplab_tf.__version__, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [deeplab_tf.__version__, "False"], done.stderr

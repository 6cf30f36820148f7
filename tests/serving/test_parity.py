"""A trained model in every format: the checkpoint's labels and scores on real photographs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import convert_model
from deeplab_tf.config.programs import SUFFIXES, ConvertConfig
from deeplab_tf.conversion import masks
from deeplab_tf.data import image_files
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.runs import loaded_run
from deeplab_tf.serving.export import ExportedPredictor

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLASSES = ROOT / "deeplab_tf/data/labels/camvid.csv"
TRAINING = {  # about a minute; enough for most classes to be told apart
    "model_variant": "resnet_v1b_18",
    "aspp_convs_filters": 64,
    "train_crop_size": "128,128",
    "train_batch_size": 8,
    "training_number_of_steps": 200,
    "base_learning_rate": 0.05,
    "initializer": "he_normal",  # the default learns too slowly for 200 steps
    "recompute_stages": 0,
}


def call(program, **flags):
    command = [sys.executable, "-m", program, *(f"--{name}={v}" for name, v in flags.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def camvid():
    folder = ROOT.parent / "shared" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="module")
def run(camvid, tmp_path_factory):
    """A run of a few steps on CamVid's training images."""
    records, run = tmp_path_factory.mktemp("records"), tmp_path_factory.mktemp("run")
    call(
        "datasets.build_folder_data",
        images_dir=camvid / "images",
        masks_dir=camvid / "labels",
        class_list=CLASSES,
        output_dir=records,
        dataset="camvid",
    )
    call("deeplab_tf.train", dataset_dir=records, train_logdir=run, **TRAINING)
    return run


@pytest.fixture(scope="module")
def export_dir(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    call("deeplab_tf.export_model", train_logdir=run, export_dir=folder)
    return folder


@pytest.fixture(scope="module")
def photographs(camvid):
    """Every fifth validation image and its mask: uint8 [21, 360, 480, 3] and [21, 360, 480]."""
    paths = sorted((camvid / "images" / "val").iterdir())[::5]
    coding = masks.MaskCoding(num_classes=11, ignore_label=255)
    labels = [
        masks.read_mask(camvid / "labels" / "val" / f"{path.stem}.png", coding) for path in paths
    ]
    return np.stack([image_files.read_image(path) for path in paths]), np.stack(labels)


def labels_of(predict, images):
    return np.concatenate([np.asarray(predict(image[np.newaxis])) for image in images])


@pytest.fixture(scope="module")
def expected(run, photographs):
    """The checkpoint's labels."""
    loaded = loaded_run.load(run)
    predictor = build_predictor(loaded.model, loaded.experiment.data, loaded.experiment.eval)
    labels = labels_of(predictor.labels, photographs[0])
    share = np.bincount(labels.ravel(), minlength=11) / labels.size
    assert np.sum(share > 0.01) >= 3  # else any file would agree
    return labels


def miou(labels, masks):
    """In %, over the classes that occur, from the definition."""
    counted, ious = masks != 255, []
    for index in range(11):
        label, mask = (labels == index) & counted, masks == index
        if (label | mask).any():
            ious.append((label & mask).sum() / (label | mask).sum())
    return 100 * np.mean(ious)


def converted(format, export_dir, camvid, folder):
    """Returns the prediction of a converted file."""
    file = folder / f"model{SUFFIXES[format]}"
    training_images = (str(camvid / "images" / "train"),) if format == "tflite_int8" else ()
    convert_model.main(
        ConvertConfig(
            export_dir=str(export_dir),
            format=format,
            output=str(file),
            calibration_images=training_images,
        )
    )
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda images: session.run(["labels"], {"images": images})[0]
    runner = tf.lite.Interpreter(str(file), num_threads=2).get_signature_runner("serving_default")
    return lambda images: runner(images=images)["labels"]


@pytest.mark.parametrize(
    ("format", "least_same", "most_off"),
    [
        ("saved_model", 0.999, 0.1),
        ("onnx", 0.999, 0.1),
        ("tflite_float32", 0.999, 0.1),
        ("tflite_float16", 0.999, 0.1),
        ("tflite_int8", 0, 1.0),
    ],
)
def test_a_trained_models_labels_and_scores_survive(
    format, least_same, most_off, export_dir, expected, photographs, camvid, tmp_path
):
    images, masks = photographs
    if format == "saved_model":
        predict = ExportedPredictor(export_dir).labels
    else:
        predict = converted(format, export_dir, camvid, tmp_path)
    labels = labels_of(predict, images)
    same, off = np.mean(labels == expected), miou(labels, masks) - miou(expected, masks)
    print(f"{format}: {100 * same:.3f} % of the labels, mIoU {off:+.3f} of {miou(expected, masks)}")
    assert same >= least_same and abs(off) <= most_off

import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import convert_model
from deeplab_tf.config import ModelConfig, ServingConfig
from deeplab_tf.config.programs import SUFFIXES, ConvertConfig
from deeplab_tf.data.catalog import read_class_table
from deeplab_tf.messages import UserError
from deeplab_tf.serving import comparison, formats
from deeplab_tf.serving.export import ExportedPredictor
from tests.serving.models import CLASSES, pictures, tiny_export


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    return tiny_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def several_scales(tmp_path_factory):
    inference = {"scales": (0.75, 1.0), "add_flipped_images": True}
    return tiny_export(tmp_path_factory.mktemp("scales"), **inference)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index, (height, width) in enumerate([(65, 81), (65, 81), (70, 50)]):
        picture = pictures(1, height, width, seed=index)[0]
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


def convert(export_dir, output, **settings):
    job = ConvertConfig(export_dir=str(export_dir), output=str(output), **settings)
    convert_model.main(job)
    return output


def run_tflite(file, images):
    runner = tf.lite.Interpreter(str(file)).get_signature_runner("serving_default")
    return runner(images=images)["labels"]


def agreement(labels, images, export_dir, *, classes=3):
    expected = ExportedPredictor(export_dir).labels(images)
    assert len(np.unique(expected)) >= classes  # else any file would agree
    assert labels.shape == expected.shape and labels.dtype == expected.dtype
    return np.mean(labels == expected)


@pytest.mark.slow
def test_a_model_for_cpus_has_the_same_labels_and_is_not_converted(export_dir, tmp_path):
    for_cpus = tmp_path / "for_cpus"
    serving = ServingConfig(serving_device="cpu")
    tiny_export(for_cpus, serving=serving, warmup_size=(513, 513))  # which decides what is fastest
    plain, larger = (
        next(folder.rglob("variables.data-*")).stat().st_size for folder in (export_dir, for_cpus)
    )
    # ResNet-18's 3x3 convolutions of 256 channels or more and without a stride: 16 matrices for 9.
    wide = 3 * 256 * 256 + 256 * 512 + 3 * 512 * 512
    assert larger - plain == pytest.approx(4 * 7 * wide, abs=20_000)
    images = pictures(2, 65, 81, seed=7)
    found = ExportedPredictor(for_cpus).labels(images)
    assert agreement(found, images, export_dir) > 0.9999
    with pytest.raises(UserError, match="--serving_device=cpu, .* with --serving_device=any"):
        convert(for_cpus, tmp_path / "model.onnx", format="onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("missing", ["model_card.json", "assets/labels.csv"])
def test_a_part_of_an_export_is_refused(export_dir, tmp_path, missing):
    version = export_dir / "1"
    shutil.copytree(version, tmp_path / "part")
    (tmp_path / "part" / missing).unlink()
    with pytest.raises(UserError, match=f"has no {missing}; give --export_dir a whole folder"):
        convert(tmp_path / "part", tmp_path / "model.onnx", format="onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tflite_float32", "tflite_float16", "tflite_int8"])
def test_tensorflow_lite_gives_the_exports_labels_at_any_size(export_dir, photos, tmp_path, format):
    settings = {"calibration_images": (str(photos),)} if format == "tflite_int8" else {}
    file = convert(export_dir, tmp_path / "model.tflite", format=format, **settings)
    least = {"tflite_float32": 0.9999, "tflite_float16": 0.99, "tflite_int8": 0.9}[format]
    for count, height, width in [(2, 65, 81), (1, 90, 47)]:
        images = pictures(count, height, width, seed=7)
        assert agreement(run_tflite(file, images), images, export_dir) >= least
    # A weight takes 4, 2 or 1 bytes; ResNet-18 has 11.2 million.
    size = {"tflite_float32": 44.7e6, "tflite_float16": 22.4e6, "tflite_int8": 11.2e6}[format]
    assert size < file.stat().st_size < 1.06 * size
    assert read_class_table(tmp_path / "model.labels.csv") == CLASSES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.labels.csv", "model.tflite"]


@pytest.mark.slow
def test_a_fixed_size_leaves_nothing_to_resize_to(export_dir, tmp_path):
    settings = {"format": "tflite_float32", "image_size": (49, 64)}
    file = convert(export_dir, tmp_path / "model.tflite", **settings)
    (details,) = tf.lite.Interpreter(str(file)).get_input_details()
    assert details["shape_signature"].tolist() == [1, 49, 64, 3]
    images = pictures(1, 49, 64, seed=7)
    assert agreement(run_tflite(file, images), images, export_dir) > 0.9999


def run_onnx(file, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (labels,) = session.run(["labels"], {"images": images})
    return labels, session.get_modelmeta().custom_metadata_map


@pytest.mark.slow
def test_onnx_gives_the_exports_labels_and_holds_the_classes(export_dir, tmp_path):
    pytest.importorskip("tf2onnx")
    file = convert(export_dir, tmp_path / "model.onnx", format="onnx")
    for count, height, width in [(2, 65, 81), (1, 90, 47)]:
        images = pictures(count, height, width, seed=7)
        labels, metadata = run_onnx(file, images)
        assert agreement(labels, images, export_dir) > 0.9999
    table = tmp_path / "labels.csv"
    table.write_text(metadata["labels.csv"])
    assert read_class_table(table) == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "converter"),
    [("onnx", "onnx"), ("tflite_float32", "tflite")],
)
def test_a_file_with_other_labels_is_not_written(
    export_dir, tmp_path, monkeypatch, format, converter
):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    # Scores of another size of cells: what a wrong operation in the converter looks like.
    other = formats.open_export(
        tiny_export(tmp_path / "other", size_divisor=64), image_size=(97, 130)
    )
    convert_right = getattr(formats, converter)
    monkeypatch.setattr(formats, converter, lambda served, **settings: convert_right(other))
    settings = {"format": format, "image_size": (97, 130)}
    output = tmp_path / f"model{SUFFIXES[format]}"
    with pytest.raises(UserError, match=r"in only \d\d\.\d% of the pixels .* was not written"):
        convert(export_dir, output, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("serving", "content", "image_size", "reason"),
    [
        pytest.param(
            {"max_image_pixels": 5_000}, b"", (), "more than 5000 pixels", marks=pytest.mark.slow
        ),
        ({}, b"no model", (), "TensorFlow Lite cannot run it"),
    ],
)
def test_it_says_why_it_could_not_compare(tmp_path, serving, content, image_size, reason):
    folder = tiny_export(tmp_path, serving=ServingConfig(**serving), warmup_size=(49, 49))
    served = formats.open_export(folder, image_size=image_size)
    said = comparison.compared(served, content, "tflite_float32")
    assert said.startswith("NOT COMPARED with the SavedModel: ") and reason in said


def test_a_test_image_of_one_class_is_said_to_show_little(export_dir, monkeypatch):
    served = formats.open_export(export_dir)
    images = np.zeros([1, 97, 130], np.int64)
    monkeypatch.setattr(served, "serve", lambda _: {"labels": tf.constant(images)})
    monkeypatch.setattr(comparison, "_tflite_labels", lambda *_: images)
    said = comparison.compared(served, b"", "tflite_float32")
    assert "100.00% of the pixels" in said and "one class only, which shows little" in said


@pytest.mark.slow
def test_several_scales_need_a_fixed_size_in_tensorflow_lite(several_scales, tmp_path):
    settings = {"format": "tflite_float32", "image_size": (49, 64)}
    file = convert(several_scales, tmp_path / "model.tflite", **settings)
    images = pictures(1, 49, 64, seed=7)
    assert agreement(run_tflite(file, images), images, several_scales) > 0.999
    with pytest.raises(UserError, match=r"lacks operations of this model \(.*Floor.*--image_size"):
        convert(several_scales, tmp_path / "other.tflite", format="tflite_float32")
    assert not list(tmp_path.glob("*other*"))


@pytest.mark.slow
def test_onnx_holds_several_scales(several_scales, tmp_path):
    pytest.importorskip("tf2onnx")
    file = convert(several_scales, tmp_path / "model.onnx", format="onnx")
    images = pictures(1, 65, 81, seed=7)
    assert agreement(run_onnx(file, images)[0], images, several_scales) > 0.999


SLIDE = {"window_size": (49, 49), "window_stride": (33, 33)}
SEPARABLE = ModelConfig(
    model_variant="resnet_v1b_18",
    aspp_with_separable_conv=True,
    decoder_output_stride=(4,),
    decoder_filters=16,
    align_corners=True,
)


def labels_of(file, images):
    return run_onnx(file, images)[0] if file.suffix == ".onnx" else run_tflite(file, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "model", "least"),
    [
        ("onnx", SLIDE, 0.999),
        ("tflite_float32", SLIDE, 0.999),
        ("tflite_int8", SLIDE, 0.9),
        ("onnx", {"config": SEPARABLE}, 0.999),
        ("tflite_float32", {"config": SEPARABLE}, 0.999),
        ("onnx", {"min_resize_value": 50, "max_resize_value": 90}, 0.999),
        ("onnx", {"size_divisor": 16}, 0.999),
        ("tflite_float32", {"size_divisor": 16}, 0.999),
        ("onnx", {"size_divisor": 16, "config": SEPARABLE}, 0.999),
    ],
)
def test_other_models_keep_their_labels(format, model, least, photos, tmp_path):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    export_dir = tiny_export(tmp_path / "export", **model)
    settings = {"calibration_images": (str(photos),)} if format == "tflite_int8" else {}
    output = tmp_path / f"model{SUFFIXES[format]}"
    file = convert(export_dir, output, format=format, **settings)
    for count, height, width in [(2, 65, 81), (1, 90, 47)]:
        images = pictures(count, height, width, seed=7)
        assert agreement(labels_of(file, images), images, export_dir, classes=2) >= least


@pytest.mark.slow
def test_windows_are_not_calibrated_at_one_size(photos, tmp_path):
    export_dir = tiny_export(tmp_path / "export", **SLIDE)
    settings = {"calibration_images": (str(photos),), "image_size": (65, 81)}
    with pytest.raises(UserError, match="calibration crashes for windows .*--image_size empty"):
        convert(export_dir, tmp_path / "model.tflite", format="tflite_int8", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite_float32"])
def test_scores_and_probabilities_keep_their_names(format, tmp_path):
    serving = ServingConfig(add_scores=True, add_probabilities=True)
    export_dir = tiny_export(tmp_path / "export", serving=serving)
    images = pictures(2, 65, 81, seed=7)
    signature = tf.saved_model.load(str(export_dir / "1")).signatures["serving_default"]
    expected = signature(images=tf.constant(images))
    output = tmp_path / f"model{SUFFIXES[format]}"
    file = convert(export_dir, output, format=format)
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, {"images": images}), strict=True))
    else:
        found = tf.lite.Interpreter(str(file)).get_signature_runner()(images=images)
    assert set(found) == set(expected) == {"labels", "scores", "probabilities"}
    assert np.mean(found["labels"] == expected["labels"]) > 0.999
    for name in ("scores", "probabilities"):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3)


def test_onnx_without_tf2onnx_names_the_extra(export_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"pip install tf2onnx \S*onnx"):
        convert(export_dir, tmp_path / "model.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "model.onnx"}, "--output=model.onnx is not possible; allowed: a file .tflite"),
        ({"output": ""}, "--output is missing; give it a file .tflite"),
        ({"format": "tflite_int8"}, "--calibration_images is missing"),
        ({"image_size": (65,)}, "--image_size=65 is not possible; allowed: height,width"),
        ({"format": "tflite_int8", "calibration_images": ("none",)}, "none names no image"),
        ({"export_dir": "none"}, "--export_dir=none holds no SavedModel"),
        ({"output": "old.tflite"}, "would replace old.tflite, which exists; give another name"),
        ({"output": "table.tflite"}, "would replace table.labels.csv, which exists"),
        (
            {"format": "tflite_int8", "calibration_images": ("", "")},
            "--calibration_images=, is not possible; allowed: a list without empty parts",
        ),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    mine = ["old.tflite", "table.labels.csv"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    settings = {"export_dir": "x", "format": "tflite_float32", "output": "model.tflite"} | changes
    with pytest.raises(UserError, match=message):
        convert_model.main(ConvertConfig(**settings))
    assert sorted(path.name for path in tmp_path.iterdir()) == mine
    assert all((tmp_path / name).read_text() == "mine" for name in mine)

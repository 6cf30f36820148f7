"""The exported model in this process: what it returns, refuses, and consists of."""

import json
import os
import re

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.config import ServingConfig
from deeplab_tf.data import encoded, records
from deeplab_tf.data.image_files import read_image
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.evaluation.predictor import Predictor, label_dtype
from deeplab_tf.files import exif_orientation
from deeplab_tf.messages import UserError
from deeplab_tf.serving import export, warmup
from tests.serving import cases


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return cases.write(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def elaborate():
    """A predictor of resized views, mirrored ones too."""
    return Predictor(
        cases.model(),
        min_resize_value=40,
        max_resize_value=70,
        scales=(0.5, 1.0),
        add_flipped_images=True,
    )


@pytest.fixture(scope="module")
def elaborately_exported(elaborate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elaborate")
    outputs = {"add_scores": True, "add_probabilities": True, "serving_size": (36, 50)}
    return cases.write(folder, predictor=elaborate, **outputs)


@pytest.fixture(scope="module")
def elaborate_signatures(elaborately_exported):
    return tf.saved_model.load(str(elaborately_exported)).signatures


def test_the_card_tells_what_each_input_and_output_means(elaborately_exported):
    """A SavedModel has no place for it; clients of other programs rely on these sentences."""
    described = json.loads((elaborately_exported / "model_card.json").read_text())["signatures"]
    outputs = {
        "labels": "The class of each pixel, an index into assets/labels.csv.",
        "scores": "The probability of each pixel's label, averaged over scales and flips.",
        "probabilities": "The probability of each class, adding up to 1 at each pixel.",
    }
    for signature, inputs in {
        "serving_default": {"images": "RGB images of one size, of any height and width."},
        "serve_encoded": {"encoded_images": "JPEG or PNG files; over REST each as {'b64': ...}."},
    }.items():
        for kind, meanings in (("inputs", inputs), ("outputs", outputs)):
            found = described[signature][kind]
            assert {name: entry["meaning"] for name, entry in found.items()} == meanings


@pytest.mark.parametrize("max_value", [10_000, pytest.param(100, marks=pytest.mark.slow)])
def test_three_channels_of_another_range_are_not_taken_for_rgb(tmp_path, max_value):
    kind = ImageKind(3, max_value)
    predictor = Predictor(cases.model(), image_kind=kind)
    cases.write(tmp_path, predictor=predictor)
    loaded = export.ExportedPredictor(tmp_path)
    assert loaded.image_kind == kind

    image = np.round(cases.pictures(1) / 255 * max_value).astype(kind.dtype)
    labels = predictor.labels(image).numpy()
    np.testing.assert_array_equal(loaded.labels(image), labels)
    as_rgb = Predictor(cases.model()).labels(np.minimum(image, 255).astype(np.uint8))
    assert (labels != as_rgb.numpy()).any()


def test_names_and_types_are_the_published_ones(exported, signatures):
    assert set(signatures) == {"serving_default", "serve_encoded"}
    for name, (given, dtype, shape) in {
        "serving_default": ("images", tf.uint8, [None, None, None, 3]),
        "serve_encoded": ("encoded_images", tf.string, [None]),
    }.items():
        _, inputs = signatures[name].structured_input_signature
        assert {key: (spec.dtype, spec.shape.as_list()) for key, spec in inputs.items()} == {
            given: (dtype, shape)
        }
        outputs = signatures[name].structured_outputs
        assert {key: (spec.dtype, spec.shape.as_list()) for key, spec in outputs.items()} == {
            "labels": (tf.uint8, [None, None, None])
        }
    described = json.loads((exported / "model_card.json").read_text())["signatures"]
    assert described["serving_default"] == {
        "inputs": {
            "images": {
                "dtype": "uint8",
                "shape": [None, None, None, 3],
                "meaning": "RGB images of one size, of any height and width.",
            }
        },
        "outputs": {
            "labels": {
                "dtype": "uint8",
                "shape": [None, None, None],
                "meaning": "The class of each pixel, an index into assets/labels.csv.",
            }
        },
    }
    assert described["serve_encoded"]["inputs"]["encoded_images"]["dtype"] == "string"


def test_the_labels_are_those_of_the_predictor(signatures):
    predictor = Predictor(cases.model())
    for size in (cases.SIZE, (1, 1), (1, 50), (34, 33)):
        images = cases.pictures(size=size)
        expected = predictor.labels(images).numpy()
        found = signatures["serving_default"](images=tf.constant(images))["labels"].numpy()
        assert (found == expected).mean() > 0.999  # folded weights round otherwise
        assert len(np.unique(expected)) > 1 or min(size) == 1
        files = tf.constant([cases.encode(image) for image in images])
        decoded = signatures["serve_encoded"](encoded_images=files)["labels"].numpy()
        np.testing.assert_array_equal(decoded, found)


def test_views_scores_and_probabilities_are_in_the_graph(elaborate, elaborate_signatures):
    images = cases.pictures()
    found = elaborate_signatures["serving_default"](images=tf.constant(images))
    labels, probabilities = elaborate.predict(images)
    assert (found["labels"] == labels).numpy().mean() > 0.999
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"].numpy().sum(-1), 1, atol=1e-5)
    of_label = np.take_along_axis(
        found["probabilities"].numpy(), found["labels"].numpy()[..., np.newaxis], axis=-1
    )
    np.testing.assert_array_equal(found["scores"], of_label[..., 0])


def test_files_of_several_sizes_are_resized_as_opencv_does(elaborate, elaborate_signatures):
    images = [cases.pictures(1, size)[0] for size in ((45, 60), (20, 31), (36, 50))]
    files = [cases.encode(images[0], "JPEG"), *map(cases.encode, images[1:])]
    found = elaborate_signatures["serve_encoded"](encoded_images=tf.constant(files))["labels"]
    images[0] = cv2.cvtColor(cv2.imdecode(np.frombuffer(files[0], np.uint8), 1), cv2.COLOR_BGR2RGB)
    resized = np.stack([cv2.resize(image, (50, 36)) for image in images])
    assert found.shape == (3, 36, 50)
    assert (found == elaborate.labels(resized)).numpy().mean() > 0.99  # rounding of the resizing


def kinds_of_images(folder):
    rgb = Image.fromarray(cases.pictures(1)[0])
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, [45, 1])))
    kinds = {
        "rgb.png": rgb,
        "rgb.jpg": rgb,
        "grey.png": rgb.convert("L"),
        "grey.jpg": rgb.convert("L"),
        "palette.png": rgb.quantize(16),
        "rgba.png": clear,
        "grey_alpha.png": clear.convert("LA"),
        "one_bit.png": rgb.convert("1"),
    }
    for name, image in kinds.items():
        image.save(folder / name)
    few = rgb.quantize(4)
    few.save(folder / "transparent_palette.png", transparency=1, bits=2)
    rgb.save(folder / "progressive.jpg", progressive=True, subsampling=0)
    rgb.save(folder / "interlaced.png", interlace=1)
    for number in range(1, 10):  # 9 has no meaning
        for ending in ("jpg", "png"):
            exif = Image.Exif()
            exif[0x0112] = number
            exif[0x010F] = "a maker"
            rgb.save(folder / f"turned_{number}.{ending}", exif=exif)
    return sorted(folder.iterdir())


def with_exif_last(png):
    """A PNG whose EXIF data come after its pixels, as ExifTool wrote them for long."""
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    last = png.index(b"IEND") - 4
    return png[:start] + png[end:last] + png[start:end] + png[last:]


def test_all_kinds_of_images_are_read_as_prediction_reads_them(tmp_path):
    signature = [tf.TensorSpec([], tf.string)]
    read = tf.function(
        lambda file: (
            encoded.image_size(file),
            encoded.upright(records.decode_image(file), file),
        ),
        signature,
    )
    paths = kinds_of_images(tmp_path)
    (tmp_path / "last.png").write_bytes(with_exif_last((tmp_path / "turned_6.png").read_bytes()))
    for path in [*paths, tmp_path / "last.png"]:
        size, pixels = read(path.read_bytes())
        expected = read_image(path)
        assert tuple(size) == expected.shape[:2], path.name
        np.testing.assert_array_equal(pixels, expected, err_msg=path.name)


def test_damaged_exif_data_turn_an_image_as_prediction_does(tmp_path):
    """Each byte of the EXIF data is changed, and each length is cut off."""
    orientation = tf.function(encoded.orientation, [tf.TensorSpec([], tf.string)])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    file = cases.encode(cases.pictures(1, size=(2, 3))[0], "JPEG", exif=exif)
    start = file.index(b"Exif\0\0") + 6
    data = file[start : start + 50]
    for position in range(50):
        for value in (0, 3, 8, 255):
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            turned = int(orientation(file[:start] + changed + file[start + 50 :]))
            assert turned == exif_orientation(changed), (position, value)
        assert 1 <= int(orientation(file[: start + position])) <= 8


@pytest.mark.parametrize("case", cases.bad_images())
def test_bad_images_are_refused(case, signatures):
    images, reason = cases.bad_images()[case]
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        signatures["serving_default"](images=tf.constant(images))
    assert reason in str(refusal.value)


def test_bad_files_are_refused(signatures):
    for case, (files, reason) in (cases.bad_files() | cases.bad_ranks()).items():
        with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
            signatures["serve_encoded"](encoded_images=tf.constant(files, tf.string))
        assert reason in str(refusal.value), case


def test_an_image_of_the_most_pixels_is_taken(signatures):
    images = cases.pictures(1, size=(160, 250))
    assert images[0, ..., 0].size == cases.LIMITS["max_image_pixels"]
    labels = signatures["serving_default"](images=tf.constant(images))["labels"]
    files = tf.constant([cases.encode(images[0])])
    of_files = signatures["serve_encoded"](encoded_images=files)["labels"]
    assert labels.shape == of_files.shape == (1, 160, 250)


def test_the_limit_holds_for_the_resized_image_too(elaborate):
    """A line of 1 x 10,000 pixels whose shorter side becomes 1024 has 1024 x 10,240,000."""
    assert elaborate.most_pixels([45, 60]).numpy() == 45 * 60  # resized to 40 x 53, 20 x 27
    assert elaborate.most_pixels([15, 30]).numpy() == 35 * 70  # the longer side is at its limit
    growing = Predictor(cases.model(), min_resize_value=512, scales=(1.0, 2.0))
    assert growing.most_pixels([1, 10_000]).numpy() == 1024 * 10_240_000
    most = growing.most_pixels([1, 2**30]).numpy()
    assert most > 2**40  # beyond int32's range, and not wrapped


def test_warm_up_requests_are_whole(exported):
    dataset = tf.data.TFRecordDataset(str(exported / "assets.extra/tf_serving_warmup_requests"))
    found = dict(map(warmup.parse, dataset.as_numpy_iterator()))
    assert set(found) == {"serving_default", "serve_encoded"}
    assert found["serving_default"]["images"].shape == (1, 45, 60, 3)
    (file,) = found["serve_encoded"]["encoded_images"]
    assert tf.io.decode_jpeg(file).shape == (45, 60, 3)


def test_warm_up_requests_are_what_tensorflow_serving_reads(exported):
    api = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    dataset = tf.data.TFRecordDataset(str(exported / "assets.extra/tf_serving_warmup_requests"))
    for serialized in dataset.as_numpy_iterator():
        log = api.PredictionLog.FromString(serialized)
        request = log.predict_log.request
        assert log.WhichOneof("log_type") == "predict_log"
        assert request.model_spec.name == "deeplab"
        signature, inputs = warmup.parse(serialized)
        assert request.model_spec.signature_name == signature
        for name, value in inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), value)
        assert log.ByteSize() == len(serialized)


@pytest.mark.parametrize(
    ("scales", "limit", "share"),
    [((1.0,), 45 * 60, 1), ((1.0,), 45 * 60 - 1, 0.85), ((0.5, 1.5), 800, 0.85)],
)
def test_warm_up_images_are_as_large_as_requests_may_be(scales, limit, share):
    predictor = Predictor(cases.model(), scales=scales)
    config = ServingConfig(max_image_pixels=limit)
    height, width = export._allowed_size(predictor, cases.SIZE, config)
    assert share * limit <= height * width * max(scales) ** 2 <= limit
    assert height / width == pytest.approx(45 / 60, abs=0.03)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        pytest.param({}, "45x60", marks=pytest.mark.slow),
        ({"serving_size": (20, 30), "max_image_pixels": 600}, "20x30"),
    ],
)
def test_a_model_that_refuses_its_warm_up_is_not_published(config, size, tmp_path):
    growing = Predictor(cases.model(), min_resize_value=500)
    with pytest.raises(UserError, match=f"refuses an image of {size} pixels .*--max_image_pixels"):
        cases.write(tmp_path / "model", predictor=growing, base_path="/models/x", **config)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.slow
def test_a_version_appears_after_its_warm_up_and_the_servers_files(tmp_path, monkeypatch):
    folder, replay, seen = tmp_path / "model", warmup.replay, []

    def watched(model_dir):
        assert (model_dir / "saved_model.pb").is_file()
        seen.append(export.versions(folder))
        replay(model_dir)

    def renamed(source, target):
        seen.append(sorted(path.name for path in folder.glob("[!.]*.*")))
        assert (source / "model_card.json").is_file() and not target.exists()
        rename(source, target)

    rename = os.rename
    monkeypatch.setattr(warmup, "replay", watched)
    monkeypatch.setattr(os, "rename", renamed)
    limit = 800  # of the pixels of a request, fewer than cases.SIZE has
    written = cases.write(folder, base_path="/models/x", max_image_pixels=limit)
    assert written == folder / "1"
    assert seen == [[], ["batching_parameters.txt", "model.config"]]
    assert export.versions(folder) == [1]
    requests = tf.data.TFRecordDataset(str(written / warmup.PATH)).as_numpy_iterator()
    _, height, width, _ = dict(map(warmup.parse, requests))["serving_default"]["images"].shape
    assert 0.85 * limit <= height * width <= limit


OPERATIONS = {  # what a plain export consists of; another one needs a reason
    "saving": "MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch",
    "variables": "AssignVariableOp DisableCopyOnRead ReadVariableOp VarHandleOp VarIsInitializedOp",
    "structure": "Const Identity If NoOp Placeholder StatefulPartitionedCall StatelessIf",
    "checks": "All Assert EnsureShape Equal Greater Less LessEqual LogicalAnd NotEqual Select "
    "SelectV2",
    "sizes": "AddV2 Maximum Pack Prod Range Shape Size StridedSlice Sub",
    "files": "DecodeImage DecodeJpeg DecodePaddedRaw ExtractJpegShape StringJoin Substr",
    "EXIF data": "AddN Any DecodeRaw FloorDiv FloorMod GatherV2 GreaterEqual LogicalOr Minimum "
    "Reshape Squeeze StringLength Sum Transpose Where",
    "a file at a time": "StatelessWhile TensorListFromTensor TensorListGetItem TensorListReserve "
    "TensorListSetItem TensorListStack",
    "network": "ArgMax BiasAdd BroadcastTo Cast ConcatV2 Conv2D Max MaxPool Mean Mul Pad RealDiv "
    "Relu ResizeBilinear",
}


def test_the_graph_is_lean(exported):
    """Only what inference needs: no normalisation, auxiliary head, dropout, or Python."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    content = SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    graph = content.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operations = {node.op for node in nodes}
    assert operations <= set(" ".join(OPERATIONS.values()).split())
    assert {"Conv2D", "EnsureShape", "Assert", "DecodeJpeg", "ExtractJpegShape"} <= operations
    largest = max(node.ByteSize() for node in nodes if node.op == "Const")
    assert largest < 6000, "weights are variables: constants in a graph take GBs to load"

    unused = set(cases.model().auxiliary_head.submodules)
    convolutions = [
        part for part in cases.model().submodules if hasattr(part, "fold") and part not in unused
    ]
    # A folded convolution has its kernel and a bias.
    parameters = sum(
        int(np.prod(part.conv.kernel.shape)) + part.conv.kernel.shape[-1] for part in convolutions
    )
    variables = exported / "variables" / "variables.data-00000-of-00001"
    assert 4 * parameters <= variables.stat().st_size < 4 * parameters + 20_000
    names = [name for name, _ in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert sum("used_variables" in name for name in names) == 2 * len(convolutions)
    everything = sum(file.stat().st_size for file in exported.rglob("*") if file.is_file())
    assert everything < 4 * parameters + 1_000_000


def test_batching_parameters_have_the_largest_size_alone(tmp_path):
    """A list of allowed sizes would make a server pad, and end at a request without images."""
    export.write_server_files(tmp_path, model_name="x", base_path="/x", max_batch_size=12)
    lines = (tmp_path / "batching_parameters.txt").read_text().splitlines()
    assert "max_batch_size { value: 12 }" in lines
    # The fields of BatchingParameters in session_bundle_config.proto that are whole numbers.
    known = r"(max_batch_size|batch_timeout_micros|max_enqueued_batches|num_batch_threads)"
    assert all(re.fullmatch(known + r" \{ value: \d+ \}", line) for line in lines)


def test_the_model_config_is_read_by_the_servers_own_class(tmp_path):
    export.write_server_files(
        tmp_path, model_name='a "b"', base_path="/models/x", max_batch_size=12
    )
    api = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    from google.protobuf import text_format

    text = (tmp_path / "model.config").read_text()
    (model,) = text_format.Parse(text, api.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == ('a "b"', "/models/x")
    assert model.model_platform == "tensorflow"


def test_versions_count_up_and_are_never_overwritten(exported, monkeypatch):
    model = exported.parent
    assert [path.name for path in model.iterdir()] == ["1"]  # nothing else is left
    with pytest.raises(UserError, match="exists; give another --export_version"):
        export.export(Predictor(cases.model()), cases.INFO, model, version=1)
    (model / "7").mkdir()
    (model / "building-x").mkdir()
    assert export.versions(model) == [1, 7]
    os.rmdir(model / "7")
    os.rmdir(model / "building-x")


def test_an_exported_predictor_says_what_it_can_not_do(exported):
    predictor = export.ExportedPredictor(exported.parent)
    assert predictor.classes == cases.INFO.classes
    with pytest.raises(UserError, match="more than 40000 pixels.*a higher --max_image_pixels"):
        predictor.labels(np.zeros([1, 201, 200, 3], np.uint8))
    with pytest.raises(UserError, match="returns no probabilities; export it again with --add_pro"):
        predictor.labels_and_probabilities(cases.pictures(1))


def test_an_exported_predictor_gives_the_models_probabilities(elaborate, elaborately_exported):
    images = cases.pictures()
    predictor = export.ExportedPredictor(elaborately_exported)
    labels, probabilities = predictor.labels_and_probabilities(images)
    np.testing.assert_array_equal(labels, predictor.labels(images))
    np.testing.assert_allclose(probabilities, elaborate.probabilities(images), atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(-1), labels)


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [(2, "uint8"), (256, "uint8"), (257, "int16"), (32768, "int16"), (32769, "int32")],
)
def test_the_last_class_fits_the_label_type(classes, dtype):
    assert label_dtype(classes).name == dtype
    assert label_dtype(classes).max >= classes - 1


@pytest.mark.parametrize(("label", "fits"), [(18, True), (127, True), (128, False)])
def test_one_images_labels_fit_into_a_reply_of_up_to_128_classes(label, fits):
    """As a server sends them: tensor.cc writes uint8 as int_val, and gRPC's default is 4 MiB."""
    pixels = ServingConfig().max_image_pixels
    labels = tf.make_tensor_proto(0, tf.uint8, shape=[1, 1, pixels])
    labels.int_val[:] = [label] * pixels
    names_and_model = 1000  # of a PredictResponse, generously
    assert (labels.ByteSize() + names_and_model < 4 * 2**20) == fits


def test_a_serving_size_above_the_limit_is_refused():
    with pytest.raises(UserError, match="--serving_size=20,30 is not possible"):
        ServingConfig(serving_size=(20, 30), max_image_pixels=599)
    with pytest.raises(UserError, match="two numbers"):
        ServingConfig(serving_size=(20,))

"""A data set of 4 channels and 16 bits, from its files through records, a run and an export."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import deeplab_tf
from datasets import build_folder_data
from deeplab_tf.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    ServingConfig,
    TrainConfig,
    flags,
)
from deeplab_tf.config.programs import (
    BenchmarkConfig,
    EvalJobConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    ReportConfig,
)
from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.data.record_checks import naming_bad_records
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.inference import replicas
from deeplab_tf.jobs import (
    benchmark,
    data_inspection,
    evaluation,
    export,
    paths,
    prediction,
    run_report,
)
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.runs import loaded_run
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.serving import formats
from deeplab_tf.training import run_checks
from deeplab_tf.training.trainer import Trainer
from tests import other_images
from tests.conftest import two_replicas
from tests.other_images import KIND
from tests.training.test_pictures import panel

MEAN = (10.0, 20.0, 30.0, 40.0)


def folder_config(root, **settings):
    usual = {
        "masks_dir": str(root / "masks"),
        "output_dir": str(root / "records"),
        "num_shards": 1,
        "image_channels": 4,
        "image_max_value": 10_000,
    }
    return build_folder_data.FolderConfig(
        images_dir=str(root / "images"),
        class_list=str(root / "classes.txt"),
        **usual | settings,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    other_images.write_tree(root)
    build_folder_data.main(folder_config(root))
    return root


def source(tree, name):
    """The values of an image's file, as NumPy or TensorFlow reads it."""
    path = tree / "images" / f"{name}.npy"
    if path.is_file():
        return np.load(path)
    return tf.io.decode_png(path.with_suffix(".png").read_bytes(), 4, tf.uint16).numpy()


def experiment(tree, folder, **train):
    return Experiment(
        model=ModelConfig(
            model_variant="resnet_v1b_18",
            atrous_rates=(1,),
            aspp_convs_filters=8,
            batch_norm_decay=0.9,
            output_stride=8,
            initializer="he_normal",
        ),
        data=DataConfig(
            dataset_dir=str(tree / "records"),
            train_crop_size=(40, 48),
            min_scale_factor=1.0,
            max_scale_factor=1.0,
        ),
        train=TrainConfig(
            train_logdir=str(folder),
            **{
                "train_batch_size": 4,
                "training_number_of_steps": 60,
                "optimizer": "adam",
                "adam_learning_rate": 0.003,
                "summary_images": 1,
                "recompute_stages": 0,
                "fine_tune_batch_norm": True,
                "eval_interval_steps": 60,
            }
            | train,
        ),
        eval=EvalConfig(),
    )


def train_batches(tree, config, *, steps):
    """The first batches of four crops: images and labels."""
    info = catalog.load("", tree / "records")
    batches = pipeline.train_batches(
        records.open_split(tree / "records", "train", info),
        config,
        info,
        steps=range(steps),
        batch_size=4,
        seed=0,
        image_mean=MEAN,
        centred_padding=True,
    )
    return [*batches.as_numpy_iterator()]


@pytest.fixture(scope="module")
def trained(tree, tmp_path_factory):
    """A run that learns what only channel 4 shows."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    Trainer(experiment(tree, folder)).run()
    return folder


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory):
    """A run of an untrained network, which predicts both classes."""
    settings = experiment(tree, tmp_path_factory.mktemp("runs") / "run")
    settings = dataclasses.replace(settings, model=settings.model.with_channels(4))
    run = RunDir(settings.train.train_logdir)
    info = catalog.load("", tree / "records")
    run.open_for_training(settings, info)

    tf.keras.utils.set_random_seed(0)
    model = build_model(settings.model, num_classes=2)
    # The bias divides the pixels of an image where their logits are furthest apart.
    image = source(tree, "val/0")[np.newaxis]
    odds = Predictor(model, image_kind=KIND).probabilities(image)
    logits = np.sort(np.log(odds[..., 1] / odds[..., 0]), axis=None)
    middle = logits[len(logits) // 4 : -len(logits) // 4]
    widest = np.diff(middle).argmax()
    model.classifier.conv.bias.assign([middle[widest : widest + 2].mean(), 0.0])

    run.checkpoints.save(tf.train.Checkpoint(model=model), 1, keep=1)
    return run.path


def test_records_hold_the_values_of_the_files(tree):
    info = catalog.load("", tree / "records")
    assert info.image_kind == KIND
    table = records.open_split(tree / "records", "train", info)
    settings = {"num_classes": 2, "ignore_label": 255, "image_kind": KIND}
    batches = list(pipeline.eval_batches(table, batch_size=4, **settings))
    assert sum(len(batch.names) for batch in batches) == 4
    for batch in batches:
        for name, image, label in zip(batch.names, batch.images, batch.labels, strict=True):
            assert image.dtype == np.uint16
            np.testing.assert_array_equal(image, np.minimum(source(tree, name), 10_000))
            np.testing.assert_array_equal(label[..., 0] == 1, image[..., 3] == 9000)


def test_what_was_clipped_is_told_and_kept(tree, tmp_path, capsys):
    build_folder_data.main(folder_config(tree, output_dir=str(tmp_path)))
    said = capsys.readouterr().out
    # 1 of 6 * 40 * 48 * 4 values in train and val each: 2 / 46080
    assert "images: 4 channels of 0..10000; the largest value is 20000; values above" in said
    assert "0.00434 %." in said
    counts = json.loads((tmp_path / "dataset.json").read_text())["splits"]["val"]["image_values"]
    assert counts == {"total": 2 * 40 * 48 * 4, "clipped": 1, "largest": 20_000}


@pytest.mark.parametrize(
    "maximum, warning",
    # An eighth of the values of three channels, and class 1's in the fourth.
    [(7000, "13 % of the values are above --image_max_value=7000"), (10_000, "")],
)
def test_a_maximum_that_hardly_fits_is_told(tree, tmp_path, capsys, maximum, warning):
    build_folder_data.main(folder_config(tree, output_dir=str(tmp_path), image_max_value=maximum))
    said = capsys.readouterr().err
    assert warning in said and (warning or not said)


def test_annotations_are_drawn_in_arrays_and_pngs(tree, tmp_path):
    """labelme's: a square of class 1 in both."""
    shutil.copytree(tree / "images", tmp_path / "images")
    shutil.copy(tree / "classes.txt", tmp_path)
    square = {"label": "plants", "shape_type": "rectangle", "points": [[10, 10], [19, 19]]}
    for path in [*(tmp_path / "images").rglob("*.*")]:
        content = {"imagePath": path.name, "imageHeight": 40, "imageWidth": 48, "imageData": None}
        path.with_suffix(".json").write_text(json.dumps(content | {"shapes": [square]}))
    build_folder_data.main(
        folder_config(
            tmp_path,
            masks_dir="",
            annotations=(str(tmp_path / "images"),),
            unlabeled="ignore",
            val_fraction=0.0,
        )
    )
    info = catalog.load("", tmp_path / "records")
    assert info.splits == {"train": 4, "val": 2}
    table = records.open_split(tmp_path / "records", "train", info)
    for index in range(4):
        record = records.parse(table.read(index), KIND)
        name = record["name"].numpy().decode()
        np.testing.assert_array_equal(record["image"], np.minimum(source(tree, name), 10_000))
        assert set(np.unique(record["label"])) == {1, 255}


def test_the_program_leaves_gpus_to_trainers(tree, monkeypatch):
    rgb = {"image_channels": 3, "image_max_value": 0}
    configs = [folder_config(tree), folder_config(tree, **rgb)]
    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: calls.append(given))
    monkeypatch.setattr(build_folder_data, "main", calls.append)
    monkeypatch.setattr(build_folder_data.flags, "run", lambda main, *_: [*map(main, configs)])
    build_folder_data.run()
    assert calls == [([], "GPU"), *configs]


def test_turned_images_cannot_be_taken_as_they_are(tree):
    with pytest.raises(UserError, match="--exif_orientation=ignore .* apply for .* not 8-bit RGB"):
        folder_config(tree, exif_orientation="ignore")
    folder_config(tree, exif_orientation="ignore", image_channels=3, image_max_value=0)


def test_trees_and_lists_know_arrays(tmp_path, capsys):
    other_images.write_tree(tmp_path)
    for path in tmp_path.glob("*/*/[02].png"):
        path.unlink()  # leaves arrays
    (tmp_path / "spare").mkdir()
    shutil.copy(tmp_path / "images/val/1.npy", tmp_path / "spare/1.npy")
    settings = {"data_dir": str(tmp_path), "images_dir": "", "masks_dir": ""}
    config = dataclasses.replace(folder_config(tmp_path), **settings)
    splits = build_folder_data.find_splits(config)
    names = {split: [pair.image_path.name for pair in pairs] for split, pairs in splits.items()}
    assert names == {"train": ["1.npy", "3.npy"], "val": ["1.npy"]}
    assert "left out spare" in capsys.readouterr().err


def test_a_list_for_rgb_names_no_arrays(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.png")
    (tmp_path / "list.txt").write_text("a.npy\n")
    rgb = {"image_channels": 3, "image_max_value": 0}
    config = folder_config(tmp_path, **rgb, split_lists=(f"all={tmp_path / 'list.txt'}",))
    with pytest.raises(UserError, match="'a.npy', names no image in"):
        build_folder_data.find_splits(config)


def test_dark_images_are_told(tmp_path, capsys):
    other_images.write_tree(tmp_path)
    for path in tmp_path.glob("images/*/0.png"):
        path.unlink()
    build_folder_data.main(folder_config(tmp_path, image_max_value=65_535))
    assert "no value is above 9000, less than a quarter of --image_max_value=65535" in (
        capsys.readouterr().err
    )


def test_a_folder_keeps_its_kind(tree):
    for settings in ({"image_max_value": 9000}, {"image_channels": 3, "image_max_value": 0}):
        with pytest.raises(UserError, match="have 4 channels of 0..10000, not .* give --image_ch"):
            build_folder_data.main(folder_config(tree, **settings))


def test_without_the_kind_arrays_are_not_listed_and_16_bits_refused(tree, tmp_path):
    with pytest.raises(UserError, match="16 bits per channel, .*--image_max_value.*image_channels"):
        build_folder_data.main(
            folder_config(tree, output_dir=str(tmp_path), image_channels=3, image_max_value=0)
        )
    assert not (tmp_path / "dataset.json").exists()


def test_crops_are_scaled_values_by_hand(tree):
    """The records of one image, at its own size and larger than the crop: 255 / 10000 of each."""
    config = DataConfig(train_crop_size=(44, 48), min_scale_factor=1.0, max_scale_factor=1.0)
    ((images, labels),) = train_batches(tree, config, steps=1)
    sources = [np.minimum(source(tree, f"train/{i}"), 10_000) for i in range(4)]
    expected = [image.astype(np.float64) * 255 / 10_000 for image in sources]
    expected += [image[:, ::-1] for image in expected]
    assert images.shape == (4, 44, 48, 4)
    for image, label in zip(images, labels, strict=True):
        # 40 rows of the image, with 2 rows of the mean above and below
        assert (image[[0, 1, 42, 43]] == np.float32(MEAN)).all()
        assert (label[[0, 1, 42, 43]] == 255).all()
        assert min(abs(image[2:42] - each).max() for each in expected) < 1e-4


def test_resized_crops_and_blur_keep_channels_and_depth(tree):
    config = DataConfig(
        train_crop_size=(20, 24),
        min_resize_value=30,
        max_blur_sigma=1.0,
        max_rotation_degrees=10.0,
        grid_mask_probability=0.5,
        grid_mask_size=(4, 8),
        cutmix_probability=0.5,
    )
    images = np.concatenate([images for images, _ in train_batches(tree, config, steps=2)])
    assert images.shape == (8, 20, 24, 4) and images.min() >= 0 and images.max() <= 255
    assert len(np.unique(images[..., 3])) > 256  # more than 8 bits have


def test_a_record_of_another_kind_is_named(tree):
    info = catalog.load("", tree / "records")
    table = records.open_split(tree / "records", "train", info)
    for kind in (
        dataclasses.replace(KIND, channels=5),
        dataclasses.replace(KIND, channels=2),
        dataclasses.replace(KIND, max_value=255),
    ):
        other = dataclasses.replace(info, image_kind=kind)
        checks = pipeline.checks_of(other)
        with (
            pytest.raises(
                UserError, match=r"The image .train/0. .* not one of .* dataset.json says"
            ),
            naming_bad_records(table, checks),
        ):
            checks.parse(table.read(0))
    checks = pipeline.checks_of(dataclasses.replace(info, image_kind=catalog.RGB))
    with pytest.raises(UserError, match="16 bits"), naming_bad_records(table, checks):
        checks.parse(table.read(0))


@pytest.mark.parametrize(
    "variant",
    ["resnet_v1b_18", "mobilenet_v2", pytest.param("xception_41", marks=pytest.mark.slow)],
)
def test_a_network_looks_at_every_channel(variant):
    config = ModelConfig(model_variant=variant, atrous_rates=(1,)).with_channels(4)
    model = build_model(config, num_classes=2)
    images = tf.random.stateless_uniform([1, 33, 33, 4], [0, 0], 0, 255)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(tf.square(model(images)["logits"]))
    gradients = abs(tape.gradient(total, images).numpy()).sum(axis=(0, 1, 2))
    assert (gradients > 0).all() and gradients.shape == (4,)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"min_resize_value": 30, "scales": (0.75, 1.0), "add_flipped_images": True},
        pytest.param({"padded_size": (65, 65)}, marks=pytest.mark.slow),
        pytest.param({"size_divisor": 16}, marks=pytest.mark.slow),
        {"window_size": (32, 32), "window_stride": (16, 16)},
    ],
    ids=["plain", "views", "padded", "divisor", "windows"],
)
def test_a_predictor_scales_as_training_does(settings):
    """Values of 0..51 times 5, and values of 8 bits that are that already, give the same labels."""
    config = ModelConfig(model_variant="resnet_v1b_18", atrous_rates=(1,), image_mean=MEAN)
    model = build_model(config, num_classes=3)
    image = np.random.default_rng(0).integers(0, 52, [1, 40, 48, 4], np.uint8)
    fifth = Predictor(model, image_kind=catalog.ImageKind(4, 51), **settings)
    given = fifth.probabilities(image)
    clipped = np.where(image == 51, 200, image).astype(np.uint8)
    np.testing.assert_array_equal(given, fifth.probabilities(clipped))

    whole = Predictor(model, image_kind=catalog.ImageKind(4), **settings)
    # Resizing rounds to whole values before they are scaled.
    tolerance = 0.02 if "scales" in settings else 1e-6
    np.testing.assert_allclose(given, whole.probabilities(image * 5), atol=tolerance)


@pytest.mark.slow
def test_a_run_learns_what_only_channel_4_shows(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("miou", 0) for line in lines) > 0.6
    text = (trained / "experiment.flags").read_text()
    # The further channel's mean is the mean of the RGB ones: (123.675 + 116.28 + 103.53) / 3
    assert "--image_mean=123.675,116.28,103.53,114.495\n" in text


@pytest.mark.slow
def test_pictures_of_training_show_what_the_model_predicts(trained):
    """The prediction next to a crop is neither all of one class nor unlike its label."""
    pages = {}
    for path in trained.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "train/image_label_prediction" and event.step == 60:
                    pages = tf.io.decode_png(value.tensor.string_val[2]).numpy()
    # Crops of 48x40 pixels are enlarged five times.
    label, prediction = (panel(pages, *place, 200, 240) for place in ((0, 1), (1, 0)))
    assert (label == prediction).all(axis=-1).mean() > 0.8
    assert len(np.unique(prediction.reshape(-1, 3), axis=0)) == 2


@pytest.mark.slow
def test_two_replicas_train_score_and_predict(tree, tmp_path):
    config = experiment(tree, tmp_path / "run", training_number_of_steps=2, eval_interval_steps=2)
    Trainer(config, two_replicas()).run()
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1:]
    assert json.loads(line)["images"] == 2

    images = [source(tree, f"val/{i}") for i in (0, 1)]
    alone = Predictor(loaded_run.load(tmp_path / "run").model, image_kind=KIND)
    with two_replicas().scope():
        shared = Predictor(loaded_run.load(tmp_path / "run").model, image_kind=KIND)
    together = replicas.predict_on(two_replicas(), shared)(images)
    for image, (labels, _) in zip(images, together, strict=True):
        np.testing.assert_array_equal(labels, alone.labels(image[np.newaxis])[0])


@pytest.fixture
def in_tree(tree, monkeypatch):
    monkeypatch.chdir(tree)
    return tree


def predict(**settings):
    job = PredictConfig(input=("images/val/0.png", "images/val/1.npy"), **settings)
    prediction.main(job, paths.images_to_predict(job))


def index_of(folder):
    return [np.asarray(Image.open(f"{folder}/index/{name}.png")) for name in (0, 1)]


@pytest.mark.slow
def test_files_records_arrays_and_exports_are_predicted_alike(run, in_tree, capsys):
    predict(checkpoint_dir=str(run), output_dir="out")
    assert "with values above 10000, which count as 10000" in capsys.readouterr().err
    by_file = index_of("out")
    assert np.asarray(Image.open("out/overlay/0.png")).shape == (40, 48, 3)

    loaded = loaded_run.load(run)
    predictor = Predictor(loaded.model, image_kind=KIND)
    table = records.open_split("records", "val", loaded.info)
    settings = {"num_classes": 2, "ignore_label": 255, "image_kind": KIND}
    batches = pipeline.eval_batches(table, batch_size=1, **settings)
    by_record = {
        batch.names[0].removeprefix("val/"): predictor.labels(batch.images).numpy()[0]
        for batch in batches
    }
    assert 0 < by_file[0].mean() < 1  # both classes
    for name in (0, 1):
        np.testing.assert_array_equal(by_file[name], by_record[str(name)])

    segmenter = deeplab_tf.load(run)
    np.testing.assert_array_equal(segmenter.predict(np.load("images/val/1.npy")).labels, by_file[1])

    export.main(ExportConfig(train_logdir=str(run), export_dir="model"), ServingConfig())
    assert "arrays of 4 channels of 0..10000, and no encoded images" in capsys.readouterr().out
    served = tf.saved_model.load("model/1").signatures
    assert list(served) == ["serving_default"]
    predict(export_dir="model", output_dir="exported")
    for ours, theirs in zip(by_file, index_of("exported"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    card = json.loads((in_tree / "model/1/model_card.json").read_text())
    said = {key: value for key, value in card["dataset"].items() if key.startswith("image")}
    assert said == {"image_channels": 4, "image_max_value": 10_000}
    with pytest.raises(UserError, match="ONNX or TensorFlow Lite file needs 8-bit RGB"):
        formats.open_export(in_tree / "model")

    # Without its card, nobody knows what the values mean.
    (in_tree / "model/1/model_card.json").unlink()
    with pytest.raises(UserError, match="does not say what images the model takes .4 channels"):
        deeplab_tf.load("model")


@pytest.mark.slow
def test_the_report_paints_the_images(trained, tmp_path):
    job = EvalJobConfig(checkpoint_dir=str(trained), eval_logdir=str(tmp_path / "eval"))
    evaluation.main(job)
    page = tmp_path / "report.html"
    run_report.main(
        ReportConfig(train_logdir=str(trained), eval_logdir=job.eval_logdir, output=str(page))
    )
    text = page.read_text()
    assert "There are no pictures" not in text
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', text)
    assert sum("prediction" in alt for alt in alts) == 2


@pytest.mark.parametrize(
    "image, reason",
    [
        (np.zeros([5, 5, 4], np.uint8), "8 bits per channel, .* 16 bits"),
        (np.zeros([5, 5, 3], np.uint16), r"shape \[5, 5, 3\], .* give \[height, width, 4\]"),
        (np.zeros([5, 5, 4]), "array of float64"),
        (Image.new("RGBA", (5, 5)), "give the path of such a file, or an array, uint16"),
    ],
)
def test_other_images_are_refused_in_python(run, image, reason):
    with pytest.raises(UserError, match=reason):
        deeplab_tf.load(run).predict(image)


def test_what_needs_rgb_refuses_the_run(run, in_tree):
    with pytest.raises(UserError, match="frozen graph of --export_path needs 8-bit RGB"):
        export.main(ExportConfig(train_logdir=str(run), export_path="frozen.pb"), ServingConfig())
    with pytest.raises(UserError, match="--serving_size, .* needs 8-bit RGB .*; leave it out"):
        export.main(
            ExportConfig(train_logdir=str(run), export_dir="sized"),
            ServingConfig(serving_size=(33, 33)),
        )
    assert not (in_tree / "sized").exists() and not (in_tree / "frozen.pb").exists()

    (in_tree / "clip.mp4").write_bytes(b"")
    job = PredictConfig(input=("clip.mp4",), checkpoint_dir=str(run), output_dir="clips")
    with pytest.raises(UserError, match="The video clip.mp4 needs 8-bit RGB images"):
        prediction.main(job, paths.images_to_predict(job))


def test_records_of_another_kind_are_refused_for_a_run(run, records_dir, tree, tmp_path):
    loaded = loaded_run.load(run)
    with pytest.raises(UserError, match="4 channels of 0..10000 of the model, 8-bit RGB in the"):
        loaded.dataset_at(str(records_dir))

    build_folder_data.main(
        folder_config(tree, output_dir=str(tmp_path / "records"), image_max_value=65_535)
    )
    other = experiment(tmp_path, run)
    with pytest.raises(UserError, match="with these: the images have 4 channels of 0..10000 in"):
        Trainer(other)


def test_a_run_whose_description_lost_its_kind_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    content = json.loads((copy / "dataset.json").read_text())
    del content["image_channels"], content["image_max_value"], content["checksum"]
    (copy / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="says that images are 8-bit RGB, .* takes 4 channels"):
        loaded_run.load(copy)


@pytest.mark.parametrize(
    "group, settings, reason",
    [
        ("data", {"photometric_distortion": True}, "; give --photometric_distortion=false.$"),
        ("data", {"hsv_jitter": (0.1, 0.1, 0.1)}, "; give --hsv_jitter= .nothing after the =.*"),
        ("data", {"randaugment_operations": 2}, "; give --randaugment_operations=0.$"),
        ("model", {"image_mean": (1.0,) * 5}, "have 5 numbers, .* have 4 channels"),
        ("model", {"image_mean": (1.0,) * 3}, "have 3 numbers, .* 4 channels.*; give 4, or leave"),
        ("model", {"image_std": (1.0,) * 3}, "have 3 numbers, .* 4 channels.*; give 4, or leave"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(tree, tmp_path, group, settings, reason):
    config = experiment(tree, tmp_path / "run")
    changed = dataclasses.replace(getattr(config, group), **settings)
    if group == "model":
        changed = ModelConfig(model_variant="resnet_v1b_18", **settings)
    with pytest.raises(UserError, match=reason):
        Trainer(dataclasses.replace(config, **{group: changed}))
    assert not (tmp_path / "run").exists()


def test_the_recipe_for_own_data_takes_other_images_without_distortion(tree):
    """The flags that the refusals name are a way out, one after the other."""
    groups = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig, "eval": EvalConfig}
    info = catalog.load("", tree / "records")

    def fitted(words):
        given = flags.parse(words, groups.values())
        config = Experiment(**{name: given.read(group) for name, group in groups.items()})
        return run_checks.fitted_to_images(config, info)

    words = ["--flagfile=configs/own_data.flags", f"--dataset_dir={tree / 'records'}"]
    words += ["--train_logdir=run", "--hsv_jitter=0.1,0.1,0.1", "--randaugment_operations=2"]
    for way_out in (
        "--photometric_distortion=false",
        "--hsv_jitter=",
        "--randaugment_operations=0",
    ):
        with pytest.raises(UserError, match=f"; give {way_out}"):
            fitted(words)
        words = [word for word in words if not word.startswith(way_out.partition("=")[0])]
        words.append(way_out)
    assert fitted(words).model.image_channels == 4


@pytest.mark.slow
def test_inspection_and_benchmark_take_the_records(tree, tmp_path, capsys):
    data_inspection.main(InspectConfig(dataset_dir=str(tree / "records"), output_dir=str(tmp_path)))
    values = np.concatenate(
        [np.minimum(source(tree, f"train/{i}"), 10_000).reshape(-1, 4) for i in range(4)]
    )
    mean, std = (getattr(values, name)(axis=0) * 255 / 10_000 for name in ("mean", "std"))
    said = capsys.readouterr().out
    assert "to start from weights for RGB, keep the weights' numbers for the first three" in said
    words = said.split()
    for name, expected in (("mean", mean), ("std", std)):
        flag = next(word for word in words if word.startswith(f"--image_{name}="))
        numbers = [float(number) for number in flag.split("=")[1].split(",")]
        np.testing.assert_allclose(numbers, expected, atol=6e-4)

    config = experiment(tree, tmp_path / "run")
    job = BenchmarkConfig(warmup_steps=1, benchmark_steps=1)
    benchmark.main(job, config.model, config.data, config.train, config.eval)
    assert "training: " in capsys.readouterr().out

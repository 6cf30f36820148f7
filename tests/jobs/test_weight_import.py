import re
import resource
import tarfile

import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf import files, predict
from deeplab_tf.config.programs import ImportConfig, PredictConfig
from deeplab_tf.data import catalog
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.jobs import weight_import
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run
from deeplab_tf.runs.run_dir import RunDir
from tests.weights import writers
from tests.weights.test_mmseg_config import CONFIG
from tests.weights.test_official import Oracle as OfficialOracle
from tests.weights.test_ssseg import IMAGES, Oracle, error_of


def run(source, output, **settings):
    weight_import.main(ImportConfig(source=str(source), output=str(output), **settings))


def write_mmseg(path, classes):
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6, 12), classes, False)
    oracle.arrays["extra.weight"] = np.zeros(2, np.float32)
    writers.write_pth(path, {"state_dict": oracle.arrays})


@pytest.mark.parametrize(
    ("classes", "dataset", "resize", "mode"),
    [
        (21, "pascal_voc_seg", (512, 2048), "whole"),
        (19, "cityscapes", (1024, 2048), "whole"),
        (59, "pascal_context_59", (520, 520), "slide"),
        (7, "classes_7", (0, 0), "whole"),
    ],
)
def test_a_run_is_written_with_its_classes_and_scoring(
    tmp_path, capsys, classes, dataset, resize, mode
):
    write_mmseg(tmp_path / "m.pth", classes)
    run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    printed = capsys.readouterr().out
    assert "mmsegmentation, resnet_v1b_18" in printed and "unused: extra.weight" in printed
    folder = RunDir(tmp_path / "out")
    experiment = folder.experiment()
    assert folder.dataset().name == dataset and folder.dataset().num_classes == classes
    assert (experiment.data.min_resize_value, experiment.data.max_resize_value) == resize
    assert experiment.eval.inference_mode == mode
    assert deeplab_tf.load_model(tmp_path / "out").num_classes == classes


NAMES, PALETTE = ["road", "kerb ", "grass"], [[9, 8, 7], [0, 255, 0], [1, 2, 3]]


def write_trained(path, config=CONFIG, *, classes=3, names=NAMES, palette=PALETTE, new=False):
    """Writes a file as mmsegmentation's trainer does; returns the network's logits."""
    oracle = Oracle()
    logits, _ = oracle.mmseg(IMAGES, 18, "v1c", 8, (12, 24), classes, False)
    meta = {"config": config, "CLASSES": tuple(names), "PALETTE": palette, "iter": 9}
    if new:  # 1.x
        meta = {"cfg": config, "dataset_meta": {"classes": list(names), "palette": palette}}
    writers.write_pth(path, {"meta": meta, "state_dict": oracle.arrays})
    return logits


@pytest.mark.parametrize("new", [False, True])
def test_what_mmsegmentation_tells_in_its_file_is_heeded(tmp_path, capsys, new):
    not_aligned = CONFIG.replace("align_corners=True", "align_corners=False")
    usual = not_aligned.replace("100.0, 110.5, 120", "123.675, 116.28, 103.53")
    usual = usual.replace("50.0, 60.0, 70.0", "58.395, 57.12, 57.375")
    if new:
        usual = usual.replace("img_norm_cfg", "data_preprocessor").replace("to_rgb", "bgr_to_rgb")
    logits = write_trained(tmp_path / "usual.pth", usual, new=new)
    run(tmp_path / "usual.pth", tmp_path / "usual")
    model = deeplab_tf.load_model(tmp_path / "usual")
    assert error_of(model(IMAGES)["logits"].numpy(), logits.numpy()) < 5e-4

    write_trained(tmp_path / "own.pth", new=new)
    run(tmp_path / "own.pth", tmp_path / "own")
    folder = RunDir(tmp_path / "own")
    model, data, scoring = (getattr(folder.experiment(), n) for n in ("model", "data", "eval"))
    assert model.align_corners and model.output_stride == 8 and model.atrous_rates == (12, 24)
    assert (model.image_mean, model.image_std) == ((100, 110.5, 120), (50, 60, 70))
    assert (data.min_resize_value, data.max_resize_value) == (800, 1600)
    assert (scoring.inference_mode, scoring.eval_crop_size) == ("slide", (80, 96))
    assert scoring.eval_crop_stride == (64, 48)
    assert folder.dataset().class_names == ["road", "kerb", "grass"]
    assert folder.dataset().colors == [(9, 8, 7), (0, 255, 0), (1, 2, 3)]
    printed = capsys.readouterr()
    assert "class names: from the file" in printed.out and "Warning" not in printed.err


def test_contradictions_to_what_the_file_tells_are_warned_of(tmp_path, capsys):
    write_trained(tmp_path / "m.pth")
    (tmp_path / "classes.csv").write_text("name\nroad\ngrass\nkerb\n")
    asked = {"output_stride": 16, "align_corners": False, "atrous_rates": (12, 24)}
    run(tmp_path / "m.pth", tmp_path / "out", class_list=str(tmp_path / "classes.csv"), **asked)
    model = RunDir(tmp_path / "out").experiment().model
    assert not model.align_corners and model.output_stride == 16
    assert RunDir(tmp_path / "out").dataset().class_names == ["road", "grass", "kerb"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 3
    assert "has --output_stride=8; --output_stride=16 is used" in warnings[0]
    assert "has --align_corners=true; --align_corners=false is used" in warnings[1]
    assert "calls class 1 'kerb', and not 'grass'" in warnings[2]


def test_a_network_that_cannot_be_computed_is_refused(tmp_path):
    write_trained(tmp_path / "m.pth", CONFIG.replace("to_rgb=True", "to_rgb=False"))
    message = "cannot be computed here: its config says that its images .* blue, green, red; give"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "m.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predict_takes_an_import_as_it_is(tmp_path, shapes_dir):
    write_mmseg(tmp_path / "m.pth", 7)
    run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    predict.main(
        PredictConfig(
            input=(f"{shapes_dir}/images/val/val_0000.jpg",),
            output_dir=str(tmp_path / "predicted"),
            checkpoint_dir=str(tmp_path / "out"),
        )
    )
    assert (tmp_path / "predicted/index/val_0000.png").is_file()


def test_own_classes_are_named_and_scored_on_records_built_with_their_list(
    tmp_path, shapes_dir, records_dir
):
    write_mmseg(tmp_path / "m.pth", 7)
    for name, settings in (("numbered", {}), ("own", {"class_list": f"{shapes_dir}/classes.csv"})):
        run(tmp_path / "m.pth", tmp_path / name, atrous_rates=(6, 12), **settings)

    with pytest.raises(UserError, match="class 0 is 'class_0' in the model, 'background' in the r"):
        loaded_run.load(tmp_path / "numbered").dataset_at(str(records_dir))
    loaded = loaded_run.load(tmp_path / "own")
    assert loaded.standing == "step 0 (imported weights)"
    assert loaded.dataset_at(str(records_dir)).splits == {"train": 9, "val": 5}
    other = tmp_path / "other.csv"
    other.write_text("name,r,g,b\na,0,0,0\nb,1,1,1\n")
    with pytest.raises(UserError, match=r"other.csv has 2 classes, the weights of .* have 7; give"):
        run(tmp_path / "m.pth", tmp_path / "x", atrous_rates=(6, 12), class_list=str(other))


def test_a_known_data_sets_classes_are_known_in_any_list(tmp_path):
    """With their way of scoring, but in the list's colours."""
    write_mmseg(tmp_path / "m.pth", 19)
    names = catalog.load("cityscapes", "").class_names
    lines = [f"{name},{index},0,0" for index, name in enumerate(names)]
    (tmp_path / "mine.csv").write_text("\n".join(["name,r,g,b", *lines]))
    settings = {"atrous_rates": (6, 12), "class_list": str(tmp_path / "mine.csv")}
    run(tmp_path / "m.pth", tmp_path / "out", **settings)
    folder = RunDir(tmp_path / "out")
    assert folder.experiment().data.min_resize_value == 1024
    assert folder.dataset().name == "cityscapes" and folder.dataset().colors[18] == (18, 0, 0)
    run(tmp_path / "m.pth", tmp_path / "with_zero", ignore_label=0, **settings)
    assert RunDir(tmp_path / "with_zero").dataset().name == "classes_19"


@pytest.mark.slow
def test_an_official_tar_is_unpacked_and_scored_at_native_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    oracle = OfficialOracle()
    oracle.logits(
        IMAGES, depth=50, beta=True, stride=16, rates=(6, 12, 18), grid=(), separable=True,
        decoder=(4, "separable"), classes=21,
    )  # fmt: skip
    writers.write_tf1_checkpoint(tmp_path / "deeplab/model.ckpt", oracle.arrays)
    with tarfile.open(tmp_path / "deeplab.tar.gz", "w:gz", compresslevel=0) as tar:
        tar.add(tmp_path / "deeplab", "deeplab")
    source = tmp_path / "deeplab.tar.gz"
    for asked in (tmp_path, tmp_path / "deeplab", tmp_path / "deeplab/model.ckpt"):
        with pytest.raises(UserError) as error:
            loaded_run.load(asked)
        command = re.search(
            r"`python -m deeplab_tf.import_weights --source=(\S+) ", str(error.value)
        )
        assert command[1] == str(tmp_path / "deeplab/model.ckpt")
    rates = {"atrous_rates": (6, 12, 18)}
    run(command[1], tmp_path / "by_command", **rates)  # as the sentence says
    assert deeplab_tf.load_model(tmp_path / "by_command").num_classes == 21
    run(source, tmp_path / "out", image_pooling_crop_size=(513, 513), **rates)
    assert ": official DeepLab, resnet_v1_50_beta\n" in capsys.readouterr().out
    experiment = RunDir(tmp_path / "out").experiment()
    assert experiment.data.min_resize_value == 0 and experiment.model.align_corners
    assert experiment.model.decoder_output_stride == (4,)
    assert experiment.model.image_pooling_crop_size == (513, 513)


def test_a_backbone_gets_new_heads_and_it_is_said(tmp_path, capsys):
    oracle = Oracle()
    oracle.backbone(IMAGES, "", 18, "v1", 16)
    writers.write_pth(tmp_path / "r.pth", oracle.arrays)
    run(tmp_path / "r.pth", tmp_path / "out", dataset="camvid")
    assert "new: the whole head" in capsys.readouterr().out
    assert deeplab_tf.load_model(tmp_path / "out").num_classes == 11


def test_mistakes_are_one_sentence_and_write_nothing(tmp_path):
    write_mmseg(tmp_path / "m.pth", 7)
    with pytest.raises(UserError, match="--dataset=cityscapes has 19 classes, the weights have 7"):
        run(tmp_path / "m.pth", tmp_path / "out", dataset="cityscapes", atrous_rates=(6, 12))
    with pytest.raises(UserError, match="has 2 atrous branches"):
        run(tmp_path / "m.pth", tmp_path / "out")
    with pytest.raises(UserError, match=r"leave it out for .*m\.pth \(mmsegmentation\)"):
        run(
            tmp_path / "m.pth",
            tmp_path / "out",
            atrous_rates=(6, 12),
            image_pooling_crop_size=(513, 513),
        )
    assert not (tmp_path / "out").exists()
    for output in ("m.pth", "m.pth/out"):
        with pytest.raises(UserError, match=r"cannot be a folder: .*m\.pth is a file"):
            run(tmp_path / "m.pth", tmp_path / output)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        run(tmp_path / "m.pth", tmp_path / "full", atrous_rates=(6, 12))


def test_a_folder_that_takes_no_weights_is_refused_before_they_are_read(tmp_path):
    with pytest.raises(UserError, match=r"--output .*out\[1\] has \[1\] in its path, which Tens"):
        run(tmp_path / "missing.pth", tmp_path / "out[1]")
    assert list(tmp_path.iterdir()) == []


def test_two_imports_do_not_write_to_one_folder(tmp_path):
    write_mmseg(tmp_path / "m.pth", 7)
    with (
        files.sole_writer(tmp_path / ".out-importing", busy=""),
        pytest.raises(UserError, match="Another import is writing to --output=.*out; wait"),
    ):
        run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    (tmp_path / ".out-importing/run/left").mkdir(parents=True)  # by an import that was killed
    run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pth", "out"]
    assert not list((tmp_path / "out").glob(".*")) and not (tmp_path / "out/left").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    """The system allows no file of more than 1 MB, as if the disk were full."""
    write_mmseg(tmp_path / "m.pth", 7)
    (tmp_path / "out").mkdir()  # empty: as good as none
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(UserError, match=r"out could not be written \(File too large\)"):
            run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pth", "out"]
    run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pth", "out"]
    assert deeplab_tf.load_model(tmp_path / "out").num_classes == 7


@pytest.mark.parametrize("asked", [False, True])
def test_corners_are_aligned_where_asked(tmp_path, asked):
    write_mmseg(tmp_path / "m.pth", 7)
    run(tmp_path / "m.pth", tmp_path / "out", atrous_rates=(6, 12), align_corners=asked)
    model = deeplab_tf.load_model(tmp_path / "out")
    images = IMAGES.astype(np.uint8)
    cells = tf.nn.softmax(model(images.astype(np.float32))["logits"])[:, -2:, -2:]
    pixels = Predictor(model).probabilities(images)[:, -2:, -2:]
    # Aligned, the last pixel is the last cell and the one before it already is mixed.
    np.testing.assert_allclose(pixels[:, -1, -1], cells[:, -1, -1], atol=1e-5)
    flat = np.allclose(pixels[:, -2, -2], cells[:, -1, -1], atol=1e-5)
    assert flat != asked

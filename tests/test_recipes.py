"""Every recipe is whole, equals its ancestor's row number by number, trains and evaluates."""

import dataclasses
import json
import math
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from datasets import (
    build_ade20k_data,
    build_cityscapes_data,
    build_pascal_context_data,
    build_voc2012_data,
)
from deeplab_tf.config import flags
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from deeplab_tf.training.trainer import Trainer
from tests import trees
from tests.weights import writers
from tests.weights.test_ssseg import IMAGES, Oracle

CONFIGS = Path(__file__).parents[1] / "configs"
DATASETS = {
    "ade20k": ("ade20k", 150),
    "camvid": ("camvid", 11),
    "cityscapes": ("cityscapes", 19),
    "context": ("pascal_context", 60),
    "context59": ("pascal_context_59", 59),
    "shapes": ("shapes", 7),
    "voc": ("pascal_voc_seg", 21),
}
# SSSegmentation's table (docs/ancestors.md, Recipes): backbone and output stride | classes |
# crop HxW | base, least learning rate | power | momentum | weight decay | batch | steps | rates
# (the first is the 1x1 branch) | training and validation images | resize base, for training and
# for evaluation | inference | mIoU.
ROWS = """
voc        R50 OS8  21  512x512 0.01 0.0001 0.9 0.9 0.0005 16 661x60=39660 1,12,24,36 10582/1449 2048,512 2048,512 whole 77.72
voc        R50 OS16 21  512x512 0.01 0.0001 0.9 0.9 0.0005 16 661x60=39660 1,6,12,18 10582/1449 2048,512 2048,512 whole 76.86
voc        R101 OS8 21  512x512 0.01 0.0001 0.9 0.9 0.0005 16 661x60=39660 1,12,24,36 10582/1449 2048,512 2048,512 whole 79.52
voc        R101 OS16 21 512x512 0.01 0.0001 0.9 0.9 0.0005 16 661x60=39660 1,6,12,18 10582/1449 2048,512 2048,512 whole 78.55
ade20k     R50 OS8  150 512x512 0.01 0.0001 0.9 0.9 0.0005 16 1263x130=164190 1,12,24,36 20210/2000 2048,512 2048,512 whole 43.19
ade20k     R50 OS16 150 512x512 0.01 0.0001 0.9 0.9 0.0005 16 1263x130=164190 1,6,12,18 20210/2000 2048,512 2048,512 whole 41.41
ade20k     R101 OS8 150 512x512 0.01 0.0001 0.9 0.9 0.0005 16 1263x130=164190 1,12,24,36 20210/2000 2048,512 2048,512 whole 45.16
ade20k     R101 OS16 150 512x512 0.01 0.0001 0.9 0.9 0.0005 16 1263x130=164190 1,6,12,18 20210/2000 2048,512 2048,512 whole 43.45
cityscapes R50 OS8  19  512x1024 0.01 0.0001 0.9 0.9 0.0005 8 372x220=81840 1,12,24,36 2975/500 2048,1024 2048,1024 whole 79.62
cityscapes R50 OS16 19  512x1024 0.01 0.0001 0.9 0.9 0.0005 8 372x220=81840 1,6,12,18 2975/500 2048,1024 2048,1024 whole 78.19
cityscapes R101 OS8 19  512x1024 0.01 0.0001 0.9 0.9 0.0005 8 372x220=81840 1,12,24,36 2975/500 2048,1024 2048,1024 whole 80.28
cityscapes R101 OS16 19 512x1024 0.01 0.0001 0.9 0.9 0.0005 8 372x220=81840 1,6,12,18 2975/500 2048,1024 2048,1024 whole 78.03
context    R50 OS8  60  480x480 0.004 4e-05 0.9 0.9 0.0001 16 312x260=81120 1,12,24,36 4998/5105 520,520 520,520 slide:480x480:320x320 46.31
context    R101 OS8 60  480x480 0.004 4e-05 0.9 0.9 0.0001 16 312x260=81120 1,12,24,36 4998/5105 520,520 520,520 slide:480x480:320x320 48.43
context59  R50 OS8  59  480x480 0.004 4e-05 0.9 0.9 0.0001 16 312x260=81120 1,12,24,36 4998/5105 520,520 520,520 slide:480x480:320x320 51.69
context59  R101 OS8 59  480x480 0.004 4e-05 0.9 0.9 0.0001 16 312x260=81120 1,12,24,36 4998/5105 520,520 520,520 slide:480x480:320x320 53.81
""".strip()  # noqa: E501
# Where SSSegmentation fetches the weights of its backbones (ssseg/modules/models/backbones).
PRETRAINED = "https://download.openmmlab.com/pretrain/third_party"
ROW_OF = {
    f"{cells[0]}_{cells[1].lower()}_{cells[2].lower()}": cells
    for cells in map(str.split, ROWS.splitlines())
}


def numbers(text, separator="x"):
    return tuple(map(int, text.split(separator)))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.flags")), ids=lambda path: path.stem)
def test_every_recipe_is_whole(path):
    text = path.read_text()
    for heading in ("# Paper:", "# Run:", "# Measured:"):
        assert heading in text
    assert f"--flagfile=configs/{path.name}" in text or "make demo" in text
    experiment = flags.parse_flagfile(path)
    if path.stem == "own_data":
        return  # anybody's: test_the_recipe_for_own_data
    dataset, backbone, stride, *_ = path.stem.split("_")
    name, num_classes = DATASETS[dataset]
    assert experiment.data.dataset == name
    assert experiment.model.model_variant.endswith(f"_{backbone[1:]}")
    assert experiment.model.output_stride == int(stride[2:])
    assert ("from ImageNet weights" in text) == bool(experiment.train.tf_initial_checkpoint)
    if name in catalog.KNOWN:
        info = catalog.load(name, "")
        assert info.num_classes == num_classes
        assert {experiment.data.train_split, experiment.eval.eval_split} <= set(info.splits)


def test_there_is_a_recipe_for_every_row():
    own = {"camvid_r18_os16", "camvid_r18_os16_thin", "shapes_r18_os8", "own_data"}
    assert {path.stem for path in CONFIGS.glob("*.flags")} == own | set(ROW_OF)
    assert len(ROW_OF) == 16


def test_the_recipe_for_own_data_fits_published_weights():
    """Its network is that of the R50 os16 rows, its learning rate theirs for half the images."""
    own = flags.parse_flagfile(CONFIGS / "own_data.flags")
    row = flags.parse_flagfile(CONFIGS / "voc_r50_os16.flags")
    assert own.data.dataset == "" and own.model == row.model
    assert own.train.train_batch_size * 2 == row.train.train_batch_size
    assert own.train.base_learning_rate * 2 == row.train.base_learning_rate
    assert own.train.end_learning_rate * 2 == row.train.end_learning_rate
    assert own.train.weight_decay == row.train.weight_decay
    assert own.train.tf_initial_checkpoint

    # PASCAL VOC's row: 10,582 images 60 times, 16 at once. Here 8 at once.
    resolved = own.train.for_images(10582)
    assert abs(resolved.training_number_of_steps - 2 * row.train.training_number_of_steps) <= 60
    assert resolved.training_number_of_steps / resolved.eval_interval_steps == pytest.approx(
        20, 0.01
    )
    assert resolved.save_interval_steps == resolved.eval_interval_steps
    assert own.train.for_images(3).training_number_of_steps == 1000


@pytest.mark.parametrize("name", ROW_OF)
def test_a_recipe_equals_its_row(name):
    (dataset, backbone, stride, classes, crop, lr, min_lr, power, momentum, decay) = ROW_OF[name][
        :10
    ]
    (batch, steps, rates, sizes, resize, eval_resize, inference, miou) = ROW_OF[name][10:]
    path = CONFIGS / f"{name}.flags"
    recipe = flags.parse_flagfile(path)
    model, data, train, evaluation = recipe.model, recipe.data, recipe.train, recipe.eval
    info = catalog.load(data.dataset, "")

    assert info.name == DATASETS[dataset][0] and info.num_classes == int(classes)
    images = info.splits[data.train_split], info.splits[evaluation.eval_split]
    assert images == numbers(sizes, "/")
    assert model.model_variant == f"resnet_v1c_{backbone[1:]}"
    start = f"resnet{backbone[1:]}_v1c-{ {'R50': '2cccc1ad', 'R101': 'e67eebb6'}[backbone] }.pth"
    assert train.tf_initial_checkpoint == f"{PRETRAINED}/{start}"
    assert model.initializer == "pytorch"
    assert model.output_stride == int(stride[2:])
    assert (1, *model.atrous_rates) == numbers(rates, ",")
    assert data.train_crop_size == numbers(crop)
    assert train.base_learning_rate == float(lr)
    assert train.end_learning_rate == float(min_lr) == pytest.approx(0.01 * float(lr))
    assert (train.learning_power, train.momentum) == (float(power), float(momentum))
    assert train.weight_decay == float(decay)
    assert train.train_batch_size == int(batch)
    product, total = steps.split("=")
    per_epoch, epochs = numbers(product)
    assert train.training_number_of_steps == int(total) == per_epoch * epochs
    assert train.save_interval_steps == per_epoch
    assert train.eval_interval_steps == 10 * per_epoch
    # One pair of flags resizes for training and for evaluation; the reference's pair is unordered.
    assert numbers(resize, ",") == numbers(eval_resize, ",")
    assert {data.min_resize_value, data.max_resize_value} == set(numbers(resize, ","))
    assert data.min_resize_value == min(numbers(resize, ","))
    mode, *windows = inference.split(":")
    assert evaluation.inference_mode == mode
    if windows:
        assert [evaluation.eval_crop_size, evaluation.eval_crop_stride] == list(
            map(numbers, windows)
        )
    assert f"mIoU {miou} % on {evaluation.eval_split}" in path.read_text()

    # Common to all rows (the reference's columns and the paragraph below its table).
    assert (model.aspp_convs_filters, model.aspp_projection_kernel_size) == (512, 3)
    assert (model.dropout_rate, model.auxiliary_filters) == (0.1, 512)
    assert train.auxiliary_loss_weight == 0.4
    assert model.multi_grid == () and not model.align_corners and model.add_image_level_feature
    assert model.batch_norm_decay == 0.9  # torch's momentum 0.1
    assert model.image_mean == (123.675, 116.28, 103.53)
    assert model.image_std == (58.395, 57.12, 57.375)
    assert (data.min_scale_factor, data.max_scale_factor) == (0.5, 2.0)
    assert data.scale_factor_step_size == 0  # from the whole range
    assert data.one_category_max_ratio == 0.75 and data.photometric_distortion
    assert train.optimizer == "sgd" and train.fine_tune_batch_norm
    assert evaluation.eval_scales == (1.0,) and not evaluation.add_flipped_images
    assert info.ignore_label == 255


def test_the_rows_are_those_of_the_reference(shared):
    """The table above, cell by cell, against the reference itself."""
    lines = (shared / "reference/ssseg_deeplabv3.md").read_text().splitlines()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    found = [cells for cells in found if cells and cells[0].startswith("deeplabv3_resnet")]
    short = {"pascalcontext": "context", "pascalcontext59": "context59"}
    rows = []
    for cells in found:
        dataset = cells[0].split("_")[-1]
        backbone, stride = cells[1].split()
        sizes = cells[16].split("(")[1].split()[0].strip(")")
        resize, eval_resize = (
            cell.split(")")[0].strip("(").replace(" ", "") for cell in (cells[17], cells[18])
        )
        mode, *rest = cells[19].split(";")[0].split()
        windows = [rest[0], rest[2]] if mode == "slide" else []
        rows.append(
            [
                *(short.get(dataset, dataset), backbone, stride, cells[2], cells[3], cells[4]),
                *(cells[5].split()[0], *cells[6:10], cells[11], cells[12], sizes),
                *(resize, eval_resize, ":".join([mode.strip(";"), *windows]), cells[21].strip("%")),
            ]
        )
    assert rows == list(ROW_OF.values())


# Google's published networks: variant | output stride | classes | training crop | steps | mIoU on
# val (official g3doc/model_zoo.md and the pages of the data sets).
OFFICIAL = {
    "voc_mobilenetv2_os16": ("mobilenet_v2", 16, 21, 513, 30000, "75.32"),
    "voc_xception65_os16": ("xception_65", 16, 21, 513, 30000, "82.20"),
    "cityscapes_mobilenetv2_os16": ("mobilenet_v2", 16, 19, 769, 90000, "70.71"),
    "cityscapes_mobilenetv3large_os32": ("mobilenet_v3_large_seg", 32, 19, 769, 90000, "72.41"),
    "cityscapes_mobilenetv3small_os32": ("mobilenet_v3_small_seg", 32, 19, 769, 90000, "68.99"),
    "cityscapes_xception65_os16": ("xception_65", 16, 19, 769, 90000, "78.79"),
    "cityscapes_xception71dpc_os16": ("xception_71", 16, 19, 769, 90000, "80.31"),
    "ade20k_mobilenetv2_os16": ("mobilenet_v2", 16, 151, 257, 150000, "32.04"),
    "ade20k_xception65_os16": ("xception_65", 16, 151, 513, 150000, "45.65"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_recipe_of_google_equals_its_row(name):
    variant, stride, num_classes, crop, steps, miou = OFFICIAL[name]
    path = CONFIGS / f"official/{name}.flags"
    text = path.read_text()
    for heading in ("# Paper:", "# Published:", "# Start:", "# Measured:"):
        assert heading in text
    assert f"--flagfile=configs/official/{path.name}" in text and f"mIoU {miou} % on val" in text

    recipe = flags.parse_flagfile(path)
    model, data, train = recipe.model, recipe.data, recipe.train
    assert (model.model_variant, model.output_stride) == (variant, stride)
    assert catalog.load(data.dataset, "").num_classes == num_classes
    assert data.train_crop_size == (crop, crop) and train.training_number_of_steps == steps
    assert not model.decoder_output_is_logits or model.decoder_filters == num_classes
    assert (train.optimizer, train.weight_decay) == ("momentum", 4e-5)  # train.py: not a ResNet
    assert model.head_batch_norm_decay == 0.9997 and model.align_corners
    # model_zoo.md: ASPP's rates and the decoder belong to Xception; MobileNetV2 has neither, but
    # for ADE20K's decoder.
    has_rates = variant == "xception_65"
    assert model.atrous_rates == ((6, 12, 18) if has_rates else ())
    steps_of_decoder = {"mobilenet_v2": (4,) if "ade20k" in name else ()}
    steps_of_decoder |= {"xception_65": (4,), "xception_71": (4,)}
    assert model.decoder_output_stride == steps_of_decoder.get(variant, (8,))


def test_the_published_results_of_google_are_those_of_the_reference(shared):
    text = (shared / "reference/official_deeplab.md").read_text()
    published = text.split("## 3. Published numbers")[1].split("## 4.")[0]
    assert all(miou in published for *_, miou in OFFICIAL.values())
    found = {f"official/{path.stem}" for path in CONFIGS.glob("official/*.flags")}
    assert found == {f"official/{name}" for name in OFFICIAL}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """Records of every row's data set, built from miniature trees."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("records")
    for make_tree in (trees.voc2012, trees.ade20k, trees.cityscapes, trees.pascal_context):
        make_tree(raw)
    context = build_pascal_context_data.PascalContextConfig(
        voc2010_root=str(raw / "VOCdevkit/VOC2010"),
        labels_dir=str(raw / "trainval"),
        output_dir=str(out / "pascal_context"),
        num_processes=1,
    )
    build_pascal_context_data.main(context)
    build_pascal_context_data.main(
        dataclasses.replace(
            context, without_background=True, output_dir=str(out / "pascal_context_59")
        )
    )
    build_voc2012_data.main(
        build_voc2012_data.VOC2012Config(
            voc_root=str(raw / "VOCdevkit/VOC2012"),
            sbd_root=str(raw / "benchmark_RELEASE"),
            output_dir=str(out / "pascal_voc_seg"),
            num_processes=1,
        )
    )
    build_ade20k_data.main(
        build_ade20k_data.ADE20KConfig(
            ade20k_root=str(raw / "ADEChallengeData2016"),
            output_dir=str(out / "ade20k"),
            num_processes=1,
        )
    )
    build_ade20k_data.main(
        build_ade20k_data.ADE20KConfig(
            ade20k_root=str(raw / "ADEChallengeData2016"),
            output_dir=str(out / "ade20k_151"),
            official_classes=True,
            num_processes=1,
        )
    )
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(raw), output_dir=str(out / "cityscapes"), num_processes=1
        )
    )
    return out


CLASSES = {name: int(row[3]) for name, row in ROW_OF.items()} | {
    f"official/{name}": row[2] for name, row in OFFICIAL.items()
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_recipe_trains_and_evaluates(name, miniatures, tmp_path):
    """Two steps and two images; the crop is narrow, all else is as it is."""
    recipe = flags.parse_flagfile(CONFIGS / f"{name}.flags")
    run = tmp_path / "run"
    data = dataclasses.replace(
        recipe.data,
        dataset_dir=str(miniatures / recipe.data.dataset),
        train_crop_size=tuple(side // 16 + 1 for side in recipe.data.train_crop_size),
    )
    train = dataclasses.replace(
        recipe.train,
        train_logdir=str(run),
        training_number_of_steps=2,
        tf_initial_checkpoint="",  # without a network
    )
    assert Trainer(dataclasses.replace(recipe, data=data, train=train)).run() == 2
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    results = [line for line in lines if "miou" in line]
    # New classifiers' scores are small: cross-entropy is near the logarithm of the classes, and
    # that of the auxiliary head weighs 0.4.
    weight = 1.4 if recipe.model.auxiliary_filters else 1.0
    expected = weight * math.log(CLASSES[name])
    assert losses and all(0.6 * expected < loss < 2 * expected for loss in losses)
    assert [(line["step"], line["images"]) for line in results] == [(2, 2)]
    assert 0 <= results[0]["miou"] < 0.5 and len(results[0]["per_class"]) == CLASSES[name]
    shutil.rmtree(run)  # checkpoints are large


@pytest.fixture
def few_steps(miniatures, tmp_path):
    """The recipe of VOC with small crops, for one step."""
    recipe = flags.parse_flagfile(CONFIGS / "voc_r50_os16.flags")
    data = dataclasses.replace(
        recipe.data,
        dataset_dir=str(miniatures / "pascal_voc_seg"),
        train_crop_size=(33, 33),
    )
    train = dataclasses.replace(
        recipe.train,
        train_logdir=str(tmp_path / "run"),
        train_batch_size=2,
        training_number_of_steps=1,
        eval_interval_steps=0,
        summary_images=0,
    )
    return dataclasses.replace(recipe, data=data, train=train)


def test_a_recipe_without_its_weights_stops_before_anything_is_written(
    few_steps, tmp_path, monkeypatch
):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(UserError, match=r"2cccc1ad\.pth cannot be .*--tf_initial_checkpoint=PATH"):
        Trainer(few_steps)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_recipe_starts_from_the_file_that_was_fetched_by_hand(few_steps, tmp_path, capsys):
    oracle = Oracle()
    oracle.backbone(IMAGES, "", 50, "v1c", 16)
    path = tmp_path / "fetched.pth"
    writers.write_pth(path, {"state_dict": oracle.arrays})
    train = dataclasses.replace(few_steps.train, tf_initial_checkpoint=str(path))
    trainer = Trainer(dataclasses.replace(few_steps, train=train))
    assert "new: aspp, auxiliary_head, classifier" in capsys.readouterr().out
    kernel = trainer.model.backbone.stem[0].conv.kernel.numpy()
    np.testing.assert_array_equal(kernel, oracle.arrays["stem.0.weight"].transpose(2, 3, 1, 0))
    assert trainer.run() == 1
    shutil.rmtree(tmp_path / "run")

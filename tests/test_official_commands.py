"""The command lines that the official pages print, with our programs in place of theirs.

They stand here as they are printed in research/deeplab (tensorflow/models), each page's in order.
Only what would take hours is changed, by SHORTER: number of steps, batch and crop sizes. Two pages
print a batch of one image, which is refused where batch normalisation is trained.
"""

import contextlib
import csv
import importlib
import io
import json
import shlex
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import build_ade20k_data, build_cityscapes_data, build_voc2012_data
from deeplab_tf.config import flags, official_flags
from deeplab_tf.runs.run_dir import RunDir
from tests import trees
from tests.conftest import SHARED
from tests.golden import rule
from tests.weights import writers

_XCEPTION = """--model_variant="xception_65" --atrous_rates=6 --atrous_rates=12 --atrous_rates=18 \
    --output_stride=16 --decoder_output_stride=4"""

# Page -> the words after `python deeplab/PROGRAM.py`, by program.
PAGES = {
    "local_test.sh": {
        "train": f"""--logtostderr --train_split="trainval" {_XCEPTION} \
            --train_crop_size="513,513" --train_batch_size=4 --training_number_of_steps="10" \
            --fine_tune_batch_norm=true --tf_initial_checkpoint="$INIT" \
            --train_logdir="$RUN" --dataset_dir="$DATA" """,
        "eval": f"""--logtostderr --eval_split="val" {_XCEPTION} --eval_crop_size="513,513" \
            --checkpoint_dir="$RUN" --eval_logdir="$OUT/eval" --dataset_dir="$DATA" \
            --max_number_of_evaluations=1""",
        "vis": f"""--logtostderr --vis_split="val" {_XCEPTION} --vis_crop_size="513,513" \
            --checkpoint_dir="$RUN" --vis_logdir="$OUT/vis" --dataset_dir="$DATA" \
            --max_number_of_iterations=1""",
        "export_model": f"""--logtostderr --checkpoint_path="$RUN/model.ckpt-10" \
            --export_path="$OUT/export/frozen_inference_graph.pb" {_XCEPTION} --num_classes=21 \
            --crop_size=513 --crop_size=513 --inference_scales=1.0""",
    },
    "local_test_mobilenetv2.sh": {
        "train": """--logtostderr --train_split="trainval" --model_variant="mobilenet_v2" \
            --output_stride=16 --train_crop_size="513,513" --train_batch_size=4 \
            --training_number_of_steps="10" --fine_tune_batch_norm=true \
            --tf_initial_checkpoint="$INIT" --train_logdir="$RUN" --dataset_dir="$DATA" """,
        "eval": """--logtostderr --eval_split="val" --model_variant="mobilenet_v2" \
            --eval_crop_size=513 --eval_crop_size=513 --checkpoint_dir="$RUN" \
            --eval_logdir="$OUT/eval" --dataset_dir="$DATA" --max_number_of_evaluations=1""",
        "vis": """--logtostderr --vis_split="val" --model_variant="mobilenet_v2" \
            --vis_crop_size="513,513" --checkpoint_dir="$RUN" --vis_logdir="$OUT/vis" \
            --dataset_dir="$DATA" --max_number_of_iterations=1""",
        "export_model": """--logtostderr --checkpoint_path="$RUN/model.ckpt-10" \
            --export_path="$OUT/export/frozen_inference_graph.pb" --model_variant="mobilenet_v2" \
            --num_classes=21 --crop_size=513 --crop_size=513 --inference_scales=1.0""",
    },
    "pascal.md": {
        "train": f"""--logtostderr --training_number_of_steps=30000 --train_split="train" \
            {_XCEPTION} --train_crop_size=513 --train_crop_size=513 --train_batch_size=1 \
            --dataset="pascal_voc_seg" --tf_initial_checkpoint=$INIT --train_logdir=$RUN \
            --dataset_dir=$DATA""",
        "eval": f"""--logtostderr --eval_split="val" {_XCEPTION} --eval_crop_size="513,513" \
            --dataset="pascal_voc_seg" --checkpoint_dir=$RUN --eval_logdir=$OUT/eval \
            --dataset_dir=$DATA""",
        "vis": f"""--logtostderr --vis_split="val" {_XCEPTION} --vis_crop_size="513,513" \
            --dataset="pascal_voc_seg" --checkpoint_dir=$RUN --vis_logdir=$OUT/vis \
            --dataset_dir=$DATA""",
    },
    "cityscapes.md": {
        "train": f"""--logtostderr --training_number_of_steps=90000 --train_split="train_fine" \
            {_XCEPTION} --train_crop_size="769,769" --train_batch_size=1 --dataset="cityscapes" \
            --tf_initial_checkpoint=$INIT --train_logdir=$RUN --dataset_dir=$DATA""",
        "eval": f"""--logtostderr --eval_split="val_fine" {_XCEPTION} \
            --eval_crop_size="1025,2049" --dataset="cityscapes" --checkpoint_dir=$RUN \
            --eval_logdir=$OUT/eval --dataset_dir=$DATA""",
        "vis": f"""--logtostderr --vis_split="val_fine" {_XCEPTION} --vis_crop_size="1025,2049" \
            --dataset="cityscapes" --colormap_type="cityscapes" --checkpoint_dir=$RUN \
            --vis_logdir=$OUT/vis --dataset_dir=$DATA""",
    },
    "ade20k.md": {
        "train": f"""--logtostderr --training_number_of_steps=150000 --train_split="train" \
            {_XCEPTION} --train_crop_size="513,513" --train_batch_size=4 --min_resize_value=513 \
            --max_resize_value=513 --resize_factor=16 --dataset="ade20k" \
            --tf_initial_checkpoint=$INIT --train_logdir=$RUN --dataset_dir=$DATA""",
    },
    "export_model.md": {
        "export_model": """--checkpoint_path=$RUN/model.ckpt-10 \
            --export_path=$OUT/export/frozen_inference_graph.pb""",
    },
    "quantize.md": {
        "train": """--logtostderr --training_number_of_steps=3000 --train_split="train" \
            --model_variant="mobilenet_v2" --output_stride=16 --train_crop_size="513,513" \
            --train_batch_size=8 --base_learning_rate=3e-5 --dataset="pascal_voc_seg" \
            --quantize_delay_step=0 --tf_initial_checkpoint=$INIT --train_logdir=$RUN \
            --dataset_dir=$DATA""",
        "export_model": """--checkpoint_path=$RUN/model.ckpt-10 --quantize_delay_step=0 \
            --export_path=$OUT/export/frozen_inference_graph.pb""",
        "convert_to_tflite": """--quantized_graph_def_path=$OUT/frozen_inference_graph.pb \
            --input_tensor_name=MobilenetV2/MobilenetV2/input:0 \
            --output_tflite_path=$OUT/frozen_inference_graph.tflite \
            --test_image_path=$OUT/image.jpg""",
    },
}
SHORTER = {"training_number_of_steps": "10", "train_batch_size": "2", "train_crop_size": "65,65"}
# Multiply-adds grow with the padded size; MobileNetV2 is predicted as printed.
SMALLER = {name: "97,129" for name in ("eval_crop_size", "vis_crop_size", "crop_size")}
XCEPTION = {
    "model_variant": "xception_65",
    "atrous_rates": (6, 12, 18),
    "output_stride": 16,
    "decoder_output_stride": (4,),
    "aspp_with_separable_conv": True,
    "align_corners": True,
    "image_mean": (127.5, 127.5, 127.5),
}
MOBILENET = {
    "model_variant": "mobilenet_v2",
    "atrous_rates": (),
    "output_stride": 16,
    "decoder_output_stride": (),
    "add_image_level_feature": True,
}
ALL = [
    pytest.param(page, program, id=f"{page}: {program}")
    for page, commands in PAGES.items()
    for program in commands
]


def words_of(page, program, places, shorter=()):
    """Returns a command's words, its variables and the values of `shorter` filled in."""
    words = []
    for word in shlex.split(PAGES[page][program]):
        for name, place in places.items():
            word = word.replace(f"${name}", str(place))
        name, equals, _ = word.removeprefix("--").partition("=")
        word = f"--{name}={shorter[name]}" if equals and name in shorter else word
        if word not in words or name not in shorter:  # a repeated list becomes one
            words.append(word)
    return words


def test_there_are_as_many_commands_as_the_pages_print():
    assert len(ALL) == 19


@pytest.mark.parametrize(("page", "program"), ALL)
def test_each_command_is_read_as_printed(page, program):
    """What a command says is what the settings are, or it is refused by one sentence."""
    from tests.config.test_flags import PROGRAMS  # imports every program

    module = official_flags.PROGRAMS[program]
    words = words_of(page, program, {"INIT": "i", "RUN": "r", "OUT": "o", "DATA": "d"})
    if page == "quantize.md":
        with pytest.raises(flags.UserError, match="quantize|There is no --quantized_graph_def_pa"):
            flags.parse(words, **PROGRAMS[module])
        return

    parsed = flags.parse(words, **PROGRAMS[module])
    for kind in PROGRAMS[module]["settings"]:
        parsed.read(kind)
    network = XCEPTION if "xception" in PAGES[page][program] else MOBILENET
    said = {name for name in network if f"--{name}=" in PAGES[page][program]}
    assert said or page == "export_model.md"
    assert {name: parsed.values[name] for name in said} == {name: network[name] for name in said}
    crop = parsed.values.get("train_crop_size") or parsed.values["eval_crop_size"]
    sizes = {"cityscapes.md": (769, 769) if program == "train" else (1025, 2049)}
    if page != "export_model.md":
        assert crop == sizes.get(page, (513, 513))


def run(program, *words):
    """Calls one of our programs in this process; returns what it printed, or its sentence."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(official_flags.PROGRAMS[program]).run()
    return end.value.code or "", printed.getvalue()


def succeed(program, *words):
    sentence, printed = run(program, *words)
    assert not sentence, sentence
    return printed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Miniature records of the three data sets, by the page that uses them."""
    raw = tmp_path_factory.mktemp("raw")
    out = {name: raw / name for name in ("pascal", "cityscapes", "ade20k")}
    trees.voc2012(raw)
    build_voc2012_data.main(
        build_voc2012_data.VOC2012Config(
            voc_root=str(raw / "VOCdevkit/VOC2012"),
            splits=("train", "trainval", "val"),
            output_dir=str(out["pascal"]),
            num_processes=1,
        )
    )
    trees.cityscapes(raw)
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(raw), output_dir=str(out["cityscapes"]), num_processes=1
        )
    )
    trees.ade20k(raw)
    build_ade20k_data.main(
        build_ade20k_data.ADE20KConfig(
            ade20k_root=str(raw / "ADEChallengeData2016"),
            output_dir=str(out["ade20k"]),
            num_processes=1,
        )
    )
    return out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of TensorFlow 1: MobileNetV2 for VOC, and the backbone of Xception-65."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    folder = tmp_path_factory.mktemp("init")
    names = {
        "mobilenet_v2": "official_mobilenetv2_os16_c21",
        "xception_65": "official_xception65_os16_dec4_c21",
    }
    found = {}
    for variant, name in names.items():
        shapes = json.loads((SHARED / f"golden/{name}_keys.json").read_text())
        arrays = {
            name: rule.array(name, shape, "tf")
            for name, shape in shapes.items()
            if variant == "mobilenet_v2" or name.startswith("xception_65/")
        }
        found[variant] = folder / variant / "model.ckpt"
        writers.write_tf1_checkpoint(found[variant], arrays)
    return found


def places_of(page, data, checkpoints, folder):
    dataset = page.removesuffix(".md") if page in ("cityscapes.md", "ade20k.md") else "pascal"
    is_mobile = "mobilenet" in PAGES[page].get("train", "mobilenet")
    return {
        "INIT": checkpoints["mobilenet_v2" if is_mobile else "xception_65"],
        "RUN": folder / "train",
        "OUT": folder,
        "DATA": data[dataset],
    }


def check_run(places, printed, network, *, split):
    experiment = RunDir(places["RUN"]).experiment()
    assert {name: getattr(experiment.model, name) for name in network} == network
    assert experiment.data.train_split == split
    assert RunDir(places["RUN"]).checkpoints.steps()[-1] == 10
    assert str(places["INIT"]) in printed  # the overview says where the weights come from


def check_scores(places, *, images, crop):
    results = json.loads((places["OUT"] / "eval/results.json").read_text())
    assert results["images"] == images and results["step"] == 10
    assert results["inference"]["eval_crop_size"] == crop


def check_pictures(places, *, images):
    folder = places["OUT"] / "vis/segmentation_results"
    kinds = ("image", "prediction", "overlay", "label")
    expected = {f"{number:06d}_{kind}.png" for number in range(images) for kind in kinds}
    assert {path.name for path in folder.iterdir()} == expected


def check_graph(places, printed):
    """The frozen graph gives the labels that vis has painted."""
    path = places["OUT"] / "export/frozen_inference_graph.pb"
    with (path.with_suffix(".labels.csv")).open() as file:
        colors = np.array([list(map(int, row[2:])) for row in list(csv.reader(file))[1:]], np.uint8)
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    painted = places["OUT"] / "vis/segmentation_results"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        for number in range(2):
            image = np.asarray(Image.open(painted / f"{number:06d}_image.png"))
            labels = session.run("SemanticPredictions:0", {"ImageTensor:0": image[np.newaxis]})
            picture = np.asarray(
                Image.open(painted / f"{number:06d}_prediction.png").convert("RGB")
            )
            assert (colors[labels[0]] == picture).all(-1).mean() > 0.999


@pytest.mark.slow
def test_mobilenet_as_printed(data, checkpoints, tmp_path):
    page = "local_test_mobilenetv2.sh"
    places = places_of(page, data, checkpoints, tmp_path)
    printed = succeed("train", *words_of(page, "train", places, SHORTER))
    check_run(places, printed, MOBILENET, split="trainval")

    printed = succeed("eval", *words_of(page, "eval", places))
    assert "Other than in research/deeplab" not in printed
    check_scores(places, images=2, crop="513,513")
    succeed("vis", *words_of(page, "vis", places))
    check_pictures(places, images=2)

    printed = succeed("export_model", *words_of(page, "export_model", places))
    assert "--output_stride=16 (8 there: " in printed
    check_graph(places, printed)

    # export_model.md and quantize.md, for the same run
    printed = succeed("export_model", *words_of("export_model.md", "export_model", places))
    assert "--crop_size= (513,513 there: " in printed
    for program in PAGES["quantize.md"]:
        words = words_of("quantize.md", program, places)
        sentence, _ = run(program, *words)
        assert "convert_model" in sentence and "tflite_int8" in sentence
    wrong = "--model_variant=mobilenet_v3_large_seg"
    words = words_of(page, "eval", places)
    words = [wrong if word.startswith("--model_variant") else word for word in words]
    sentence, _ = run("eval", *words)
    assert "mobilenet_v3_large_seg" in sentence and "--model_variant=mobilenet_v2;" in sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "split", "images"),
    [
        ("local_test.sh", "trainval", 2),
        ("pascal.md", "train", 2),
        ("cityscapes.md", "train_fine", 2),
        ("ade20k.md", "train", 0),
    ],
)
def test_xception_as_printed(data, checkpoints, tmp_path, page, split, images):
    places = places_of(page, data, checkpoints, tmp_path)
    printed = succeed("train", *words_of(page, "train", places, SHORTER))
    check_run(places, printed, XCEPTION, split=split)
    if page == "ade20k.md":
        assert RunDir(places["RUN"]).experiment().data.resize_factor == 16
        return

    printed = succeed("eval", *words_of(page, "eval", places, SMALLER))
    is_said = "--max_number_of_evaluations=1 (0 there: " in printed
    assert is_said == (page != "local_test.sh")
    check_scores(places, images=images, crop="97,129")
    succeed("vis", *words_of(page, "vis", places, SMALLER))
    check_pictures(places, images=images)
    if "export_model" in PAGES[page]:
        printed = succeed("export_model", *words_of(page, "export_model", places, SMALLER))
        check_graph(places, printed)

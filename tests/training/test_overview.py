"""What a run prints at its start agrees with its settings and records."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig
from deeplab_tf.data import catalog
from deeplab_tf.training import overview

CLASSES = tuple(catalog.LabelClass(name, (0, 0, 0)) for name in ("wall", "floor", "door"))
CELL = '[{"kernel": 1, "rate": [1, 1], "op": "conv", "input": -1}]'


def lines(*, model=None, train=None, ignored=None, continues=False, images=50, eval_images=7):
    experiment = Experiment(
        model=model or ModelConfig(model_variant="resnet_v1b_18", atrous_rates=(2, 4, 6)),
        data=DataConfig(dataset_dir="home/records", train_crop_size=(65, 97)),
        train=TrainConfig(train_logdir="runs/one", **(train or {})),
        eval=EvalConfig(eval_split="held_out"),
    )
    text = overview.describe(
        experiment,
        catalog.DatasetInfo(name="rooms", classes=CLASSES),
        images=images,
        image_size=(120, 160),
        eval_images=eval_images,
        ignored=ignored,
        devices="CPU, 2 cores",
        continues=continues,
    )
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def test_the_lines_hold_the_runs_numbers():
    printed = lines(
        train={
            "training_number_of_steps": 300,
            "train_batch_size": 4,
            "base_learning_rate": 0.02,
            "end_learning_rate": 0.0002,
            "eval_interval_steps": 30,
            "keep_checkpoints": 2,
            "tf_initial_checkpoint": "weights.pth",
        },
        ignored=0.0312,
    )
    assert printed["data"] == (
        "home/records (rooms), split train: 50 images (the first 120x160), 3 classes, "
        "ignored pixels 3.1 %"
    )
    assert printed["length"] == "300 steps of 4 crops of 65x97: 24 epochs"  # 300 * 4 / 50
    assert "momentum, learning rate 0.02 to 0.0002 (poly)" in printed["optimizer"]
    assert (
        printed["network"].startswith("resnet_v1b_18, output stride 16")
        and "2,4,6" in printed["network"]
    )
    assert printed["weights"] == "weights.pth"
    assert printed["validation"].startswith("split held_out, 7 images, every 30 steps; the best")
    assert printed["devices"] == "CPU, 2 cores, float32"
    assert printed["run"] == "runs/one, new"


def test_one_of_a_thing_is_told_so():
    once = dict.fromkeys(["training_number_of_steps", "train_batch_size", "eval_interval_steps"], 1)
    printed = lines(train=once, images=1, eval_images=1)
    assert "split train: 1 image (" in printed["data"]
    assert printed["length"] == "1 step of 1 crop of 65x97: 1 epoch"
    assert printed["validation"].startswith("split held_out, 1 image, every 1 step; the best")


@pytest.mark.parametrize(
    ("model", "train", "name"),
    [
        ({"aspp_with_concat_projection": False, "aspp_dropout_rate": 0.5}, {}, "aspp_dropout_rate"),
        (
            {
                "decoder_output_stride": (4,),
                "decoder_use_sum_merge": True,
                "decoder_reduction_filters": 32,
            },
            {},
            "decoder_reduction_filters",
        ),
        (
            {"decoder_output_stride": (4,), "decoder_output_is_logits": True, "dropout_rate": 0.3},
            {},
            "dropout_rate",
        ),
        ({"image_pyramid": (1.0,), "merge_method": "avg"}, {}, "merge_method"),
        ({"batch_norm_decay": 0.9}, {"fine_tune_batch_norm": False}, "batch_norm_decay"),
    ],
)
def test_a_setting_without_effect_beside_another_is_told(model, train, name):
    model = {"model_variant": "mobilenet_v2", **model}
    others = {key: value for key, value in model.items() if key != name}
    assert f"--{name}=" in lines(model=ModelConfig(**model), train=train)["unused"]
    assert f"--{name}=" not in lines(model=ModelConfig(**others), train=train).get("unused", "")


def test_a_missing_part_is_mentioned():
    printed = lines()
    assert printed["weights"].startswith("RANDOM: nothing is loaded")
    assert printed["validation"].startswith("none")
    assert printed["data"].endswith("ignored pixels not counted")


def test_settings_without_effect_are_named():
    printed = lines(train={"learning_policy": "step", "learning_power": 2.0})
    assert printed["unused"] == "--learning_power=2.0, which needs --learning_policy=poly"
    assert "unused" not in lines(train={"learning_power": 2.0})


def test_settings_of_aspp_beside_a_dense_prediction_cell_are_named():
    cell = {"model_variant": "xception_65", "dense_prediction_cell_json": CELL}
    model = ModelConfig(atrous_rates=(6, 12), aspp_convs_filters=128, **cell)
    assert lines(model=model)["unused"] == (
        "--atrous_rates=6,12, since the dense prediction cell replaces ASPP"
    )
    assert "unused" not in lines(model=ModelConfig(**cell))


def test_a_continued_run_has_its_own_weights():
    printed = lines(train={"tf_initial_checkpoint": "weights.pth"}, continues=True)
    assert "weights.pth" not in printed["weights"] and "newest checkpoint" in printed["weights"]
    assert printed["run"] == "runs/one, continued"


def test_the_ignored_share_is_the_builders_count():
    pixels = {"wall": 50, "floor": 25, "door": 0}
    counts = {"pixels": pixels, "images_with": pixels, "ignored_pixels": 25}
    assert overview.ignored_share({"statistics": counts, "uncounted_labels": 0}) == 0.25
    assert overview.ignored_share({"statistics": counts, "uncounted_labels": 1}) is None
    assert overview.ignored_share({}) is None  # records of the official package


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"learning_policy": "cosine"}, "learning rate 0.1 to 0 (cosine)"),
        ({"decay_steps": 70}, "learning rate 0.1 to 0 in 70 steps (poly)"),
        (
            {"learning_policy": "step", "learning_rate_decay_step": 40},
            "learning rate 0.1, times 0.1 every 40 steps (step)",
        ),
        (
            {"slow_start_step": 9, "slow_start_burnin_type": "linear"},
            "learning rate 0.1 to 0 (poly) after 9 steps from 0.0001",
        ),
        ({"slow_start_step": 9}, "learning rate 0.1 to 0 (poly) after 9 steps at 0.0001"),
    ],
)
def test_the_learning_rate_is_described(settings, text):
    assert overview.learning_rate(TrainConfig(base_learning_rate=0.1, **settings)) == text


def test_a_continued_run_tells_where_and_what_was_best():
    best = {"step": 40, "miou": 0.51239, "split": "val"}
    line = overview.continued(Path("runs/a"), 60, 100, best)
    assert line == (
        "Continuing runs/a at step 60 of 100, 40 steps left; best so far: val mIoU 0.5124 at step "
        "40."
    )
    assert overview.continued(Path("runs/a"), 99, 100, {}).endswith("of 100, 1 step left.")


def test_the_last_line_is_a_command_that_a_shell_can_run():
    best = {"step": 40, "miou": 0.5, "split": "val"}
    text = overview.ending(Path("my runs/a"), best)
    words = shlex.split(text.split("; ")[1])
    assert words[:3] == ["python", "-m", "deeplab_tf.eval"]
    assert "--checkpoint_dir=my runs/a" in words and "--checkpoint=best" in words
    assert overview.ending(Path("a"), {}) == ""


def test_what_is_trained_is_counted():
    kernel, norm = tf.Variable(tf.zeros([3, 4])), tf.Variable(tf.zeros([5]))
    backbone = SimpleNamespace(trainable_variables=[kernel])
    model = SimpleNamespace(trainable_variables=[kernel, norm], backbone=backbone)
    line = overview.trained(model, TrainConfig(fine_tune_batch_norm=False))
    assert line.startswith("trained     17 weights, 12 of them in the backbone; not batch norm")

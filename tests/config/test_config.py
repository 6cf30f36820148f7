import dataclasses
import json
import os

import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig, flags
from deeplab_tf.config.flags import differences, value_of
from deeplab_tf.config.programs import ConvertConfig, EvalJobConfig, PredictConfig, VisConfig
from deeplab_tf.config.setting import without_effect
from deeplab_tf.messages import UserError
from deeplab_tf.training import schedules


def test_settings_survive_a_flagfile(tmp_path):
    experiment = Experiment(
        model=ModelConfig(model_variant="resnet_v1b_18", atrous_rates=(3, 6), multi_grid=(1, 2)),
        data=DataConfig(dataset="a b", train_crop_size=(33, 65), photometric_distortion=True),
        train=TrainConfig(weight_decay=1e-7, train_logdir="x=y"),
        eval=EvalConfig(eval_scales=(0.5, 1.25)),
    )
    path = tmp_path / "experiment.flags"
    path.write_text(flags.flagfile_text(experiment))
    assert flags.parse_flagfile(path) == experiment


def test_an_unknown_setting_in_a_flagfile_is_refused(tmp_path):
    path = tmp_path / "experiment.flags"
    path.write_text("--output_stride=8\n--bananas=3\n")
    with pytest.raises(UserError, match="bananas"):
        flags.parse_flagfile(path)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"output_stride": 12}, "--output_stride=12 .*8, 16, 32"),
        (ModelConfig, {"model_variant": "vgg"}, "--model_variant=vgg .*resnet_v1b_18"),
        (
            ModelConfig,
            {"model_variant": "resnet_v1_34"},
            "--model_variant=resnet_v1_34 is not possible; allowed: resnet_v1b_34, torchvision's",
        ),
        (
            ModelConfig,
            {"model_variant": "xception_65", "multi_grid": (1, 2)},
            "--multi_grid=1,2 .*3 factors",
        ),
        (ModelConfig, {"multi_grid": (1, 2)}, "--multi_grid=1,2 .*empty for mobilenet_v2"),
        (
            ModelConfig,
            {"output_stride": 8, "decoder_output_stride": (8,)},
            "--decoder_output_stride=8 .*less than output_stride",
        ),
        (ModelConfig, {"decoder_output_stride": (4, 8)}, "=4,8 .*in falling order"),
        (ModelConfig, {"stem_padding": "same"}, "--stem_padding=same .*empty for mobilenet_v2"),
        (
            ModelConfig,
            {"model_variant": "resnet_v1_50", "stride_placement": "first_3x3"},
            "--stride_placement=first_3x3 .*last_3x3 for resnet_v1_50",
        ),
        (ModelConfig, {"dropout_rate": 1.0}, "--dropout_rate"),
        (DataConfig, {"train_crop_size": (513,)}, "--train_crop_size=513 .*height,width"),
        (DataConfig, {"min_scale_factor": 3.0}, "--min_scale_factor=3.0 .*max_scale_factor"),
        (DataConfig, {"max_resize_value": 9}, "--max_resize_value=9"),
        (EvalConfig, {"inference_mode": "slide"}, "--eval_crop_size= .*height,width"),
        (
            EvalConfig,
            {"inference_mode": "slide", "eval_crop_size": (9, 9), "eval_crop_stride": (9, 10)},
            "--eval_crop_stride=9,10 .*at most eval_crop_size",
        ),
        (TrainConfig, {"train_batch_size": 0}, "--train_batch_size=0 .*1 or more"),
        (TrainConfig, {"train_epochs": 2.0}, "=30000 and --train_epochs=2 both say"),
        (TrainConfig, {"training_number_of_steps": 0}, "--train_epochs, which is 0 too"),
        (TrainConfig, {"save_interval_steps": 0}, "--save_interval_steps=0 .*1 or more, or -1"),
    ],
)
def test_impossible_values_name_flag_value_and_what_is_allowed(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("name", "text"),
    [("output_stride", "eight"), ("dropout_rate", "x"), ("align_corners", "maybe")],
)
def test_values_of_the_wrong_type_are_refused(name, text):
    field = next(f for f in dataclasses.fields(ModelConfig) if f.name == name)
    with pytest.raises(UserError, match=f"--{name}={text}"):
        value_of(field, text)


def test_rates_follow_the_output_stride():
    def rates(output_stride):
        return ModelConfig(model_variant="resnet_v1c_50", output_stride=output_stride).atrous_rates

    assert (rates(16), rates(8), rates(32)) == ((6, 12, 18), (12, 24, 36), (3, 6, 9))
    assert ModelConfig(atrous_rates=(1, 2)).at_output_stride(8).atrous_rates == (2, 4)
    assert ModelConfig().at_output_stride(8).atrous_rates == ()
    factors = ModelConfig(model_variant="resnet_v1c_50", multi_grid=(1, 2, 4))
    assert factors.at_output_stride(8).multi_grid == (1, 2, 4)
    replacing = dataclasses.replace(factors, multi_grid_replaces_rates=True)
    assert replacing.at_output_stride(8).multi_grid == (2, 4, 8)
    with pytest.raises(UserError, match="--output_stride=32"):
        ModelConfig(atrous_rates=(1, 2)).at_output_stride(32)
    with pytest.raises(UserError, match=r"at which the rates \(1, 2, 4\) stay whole"):
        replacing.at_output_stride(32)


@pytest.mark.parametrize(
    ("images", "steps", "interval"),
    [
        (367, 2753, 138),  # 60 * 367 / 8 = 2752.5 steps, 137.65 a twentieth
        (160, 1200, 60),
        (10, 500, 25),  # 75 steps would be too few
    ],
)
def test_steps_follow_from_the_number_of_images(images, steps, interval):
    config = TrainConfig(
        train_batch_size=8,
        training_number_of_steps=0,
        train_epochs=60.0,
        min_training_steps=500,
        save_interval_steps=-1,
        eval_interval_steps=-1,
    )
    found = config.for_images(images)
    assert found.training_number_of_steps == steps
    assert (found.save_interval_steps, found.eval_interval_steps) == (interval, interval)
    assert found.for_images(images + 1) == found  # as a run's experiment.flags has it


def test_intervals_are_whole_calls_of_steps():
    config = TrainConfig(training_number_of_steps=90, save_interval_steps=-1, log_steps=8)
    found = dataclasses.replace(config, steps_per_execution=4).for_images(1)
    assert found.save_interval_steps == 8  # 90 / 20 = 4.5, in calls of 4
    assert found.eval_interval_steps == 0  # which means never


def test_differences_name_what_must_not_change():
    old = Experiment()
    new = dataclasses.replace(
        old,
        model=ModelConfig(atrous_rates=(6, 12)),
        train=TrainConfig(save_interval_steps=7, training_number_of_steps=9),
    )
    assert differences(old, new) == [
        "--atrous_rates:  -> 6,12",
        "--training_number_of_steps: 30000 -> 9",
    ]


@pytest.mark.slow
def test_out_of_memory_is_told_in_one_sentence():
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.zeros([10**6, 10**8])
    sentence = flags._sentence(caught.value)
    assert sentence.startswith("out of memory at a tensor of shape [1000000,100000000]")
    assert "\n" not in sentence


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_is_full_for_tensorflow_is_told_with_what_to_do():
    writer = tf.io.TFRecordWriter("/dev/full")
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        writer.write(b"x" * 10**6)
        writer.flush()
    assert flags._sentence(caught.value) == (
        "/dev/full could not be written: No space left on device; make room, or write elsewhere."
    )


RATES = {
    "decay_steps": 40,
    "end_learning_rate": 0.01,
    "learning_power": 2.0,
    "learning_rate_decay_factor": 0.5,
    "learning_rate_decay_step": 7,
    "slow_start_learning_rate": 0.02,
    "slow_start_burnin_type": "linear",
}


@pytest.mark.parametrize("policy", ["poly", "cosine", "step"])
@pytest.mark.parametrize("slow_start_step", [0, 5])
@pytest.mark.parametrize(("name", "value"), RATES.items())
def test_what_is_said_to_have_no_effect_has_none(policy, slow_start_step, name, value):
    """As the learning rates themselves show."""
    plain = TrainConfig(
        base_learning_rate=0.1,
        training_number_of_steps=3000,
        learning_policy=policy,
        slow_start_step=slow_start_step,
    )
    changed = dataclasses.replace(plain, **{name: value})
    steps = tf.range(3000, dtype=tf.int64)
    rates, others = (schedules.build_schedule(train)(steps).numpy() for train in (plain, changed))
    model = ModelConfig()
    assert (name in without_effect([model, changed])) == (rates == others).all()
    assert without_effect([model, plain]) == {}


def test_what_a_setting_needs_is_a_setting_of_the_same_program():
    programs = [
        [ModelConfig, DataConfig, TrainConfig, EvalConfig],
        [EvalJobConfig],
        [VisConfig],
        [PredictConfig],
        [ConvertConfig],
    ]
    for program in programs:
        known = {field.name: field for group in program for field in dataclasses.fields(group)}
        for field in known.values():
            needs = field.metadata["only_with"]
            # Where a run's setting is used by several programs, some have only one of its needs.
            assert not needs or set(needs) & set(known), field.name
            for name in set(needs) & set(known):
                choices = known[name].metadata["choices"]
                assert not choices or set(needs[name]) <= set(choices)


@pytest.mark.parametrize(
    "group",
    [
        {"train": TrainConfig(train_logdir="r\udce9")},
        {"train": TrainConfig(data_service=("h:1", "r\udce9:2"))},
        {"data": DataConfig(dataset_dir="r\udce9")},
    ],
)
def test_what_experiment_flags_cannot_hold_is_refused(group):
    """Such as the name b"r\\xe9" on disk, as Python gives it."""
    with pytest.raises(UserError, match=r"=.*r\\udce9.* is not possible; allowed: UTF-8 text"):
        Experiment(**group)


def test_a_network_of_google_follows_google():
    # research/deeplab: common.py and train.py (defaults of the flags), feature_extractor.py (mean,
    # decay of the backbone), model.py (decay of the head, dropout, align_corners).
    for variant, mean, decay in [
        ("resnet_v1_101", (123.15, 115.90, 103.06), 0.95),
        ("resnet_v1_50_beta", (127.5, 127.5, 127.5), 0.95),
        ("xception_65", (127.5, 127.5, 127.5), 0.9997),
        ("mobilenet_v2", (127.5, 127.5, 127.5), 0.997),
    ]:
        config = ModelConfig(model_variant=variant)
        assert config.image_mean == mean
        assert config.image_std == ((1.0,) * 3 if mean[0] == 123.15 else (127.5,) * 3)
        assert (config.batch_norm_decay, config.head_batch_norm_decay) == (decay, 0.9997)
        assert config.atrous_rates == () and config.aspp_with_separable_conv
        assert config.align_corners and (config.aspp_dropout_rate, config.dropout_rate) == (0.1, 0)


def test_one_decay_is_for_the_whole_network_unless_the_head_has_its_own():
    config = ModelConfig(batch_norm_decay=0.5)
    assert (config.batch_norm_decay, config.head_batch_norm_decay) == (0.5, 0.5)
    config = ModelConfig(batch_norm_decay=0.5, head_batch_norm_decay=0.25)
    assert (config.batch_norm_decay, config.head_batch_norm_decay) == (0.5, 0.25)


def test_means_of_other_channels_follow_from_those_of_rgb():
    rgb = ModelConfig(model_variant="resnet_v1b_50")
    assert rgb.with_channels(3) == rgb and rgb.image_channels == 3
    # (123.675 + 116.28 + 103.53) / 3 = 114.495; (58.395 + 57.12 + 57.375) / 3 = 57.63
    five = rgb.with_channels(5)
    assert five.image_mean == (123.675, 116.28, 103.53, 114.495, 114.495)
    assert five.image_std == (58.395, 57.12, 57.375, 57.63, 57.63)
    assert five.with_channels(4) == five  # then they are the user's
    assert rgb.with_channels(1).image_mean == (114.495,)
    assert rgb.with_channels(2).image_std == (57.63, 57.63)


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_no_number_is_made_up_from_those_that_the_user_gave(name):
    config = ModelConfig(model_variant="resnet_v1b_50", **{name: (1.0, 2.0, 3.0)})
    assert config.with_channels(4) == config and config.image_channels == 3
    other = "image_mean" if name == "image_std" else "image_std"
    with pytest.raises(UserError, match="--image_std=.* as many numbers as image_mean has"):
        dataclasses.replace(config, **{other: (1.0,) * 4})


def test_one_of_mean_and_deviation_is_enough_for_other_channels():
    config = ModelConfig(model_variant="mobilenet_v2", image_mean=(1.0, 2.0))
    assert config.image_std == (127.5, 127.5) and config.image_channels == 2
    config = ModelConfig(model_variant="mobilenet_v2", image_std=(1.0, 2.0, 3.0, 4.0))
    assert config.image_mean == (127.5,) * 4


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"image_mean": ()}, "--image_mean= is not possible; .* one for each channel"),
        ({"image_mean": (1.0,), "image_std": (1.0, 2.0)}, "--image_std=1.0,2.0 .* as image_mean"),
        ({"image_mean": (1.0,), "image_std": ()}, "--image_std= is not possible"),
    ],
)
def test_means_and_deviations_are_one_each(settings, reason):
    with pytest.raises(UserError, match=reason):
        ModelConfig(**settings)


EARLIER = {  # what runs of an earlier version stored, and the network that it meant then
    "--model_variant=resnet_v1_50\n--stride_placement=\n--stem_padding=\n--initializer=\n"
    "--atrous_rates=\n--output_stride=8\n--batch_norm_decay=0.8\n--dropout_rate=0.2": {
        "model_variant": "resnet_v1b_50",
        "stride_placement": "first_3x3",
        "stem_padding": "symmetric",
        "initializer": "pytorch",
        "atrous_rates": (12, 24, 36),
        "head_batch_norm_decay": 0.8,
        "aspp_dropout_rate": 0,
        "dropout_rate": 0.2,
        "align_corners": False,
        "aspp_with_separable_conv": False,
        "image_mean": (123.675, 116.28, 103.53),
    },
    "--model_variant=resnet_v1_50_beta\n--decoder_output_stride=4\n--image_std=1,1,1": {
        "model_variant": "resnet_v1_50_beta",
        "stem_padding": "same_pool",
        "initializer": "official",
        "atrous_rates": (6, 12, 18),
        "decoder_output_stride": (4,),
        "align_corners": False,
        "batch_norm_decay": 0.9,
        "image_std": (1.0, 1.0, 1.0),
        "dropout_rate": 0.1,
    },
    "--model_variant=resnet_v1_101\n--stride_placement=last_3x3\n--decoder_output_stride=0": {
        "model_variant": "resnet_v1_101",
        "stem_padding": "same_pool",
        "decoder_output_stride": (),
        "initializer": "pytorch",
    },
}


@pytest.mark.parametrize("text", EARLIER)
def test_a_run_of_an_earlier_version_keeps_its_network(text, tmp_path):
    path = tmp_path / "experiment.flags"
    heading = "# Written by deeplab_tf: the settings of this run."
    path.write_text(f"{heading}\n{text}\n--optimizer=adam\n--base_learning_rate=0.01\n")
    found = flags.parse_flagfile(path)
    for name, value in EARLIER[text].items():
        assert getattr(found.model, name) == value, name
    assert found.train.learning_rate() == 0.01

    # What this version writes is read as it is.
    path.write_text(flags.flagfile_text(found))
    assert flags.parse_flagfile(path) == found


CELL = json.dumps([{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}])


def test_a_dense_prediction_cell_is_kept_as_text(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(json.loads(CELL), indent=2))
    config = ModelConfig(dense_prediction_cell_json=str(path))
    assert json.loads(config.dense_prediction_cell_json) == json.loads(CELL)
    assert "\n" not in config.dense_prediction_cell_json
    path.unlink()
    assert dataclasses.replace(config) == config == ModelConfig(dense_prediction_cell_json=CELL)


def test_the_published_cell_goes_by_its_name(shared):
    name = "deeplab/core/dense_prediction_cell_branch5_top1_cityscapes.json"
    by_name = ModelConfig(dense_prediction_cell_json=name)
    file = shared / "golden/dpc_cityscapes.json"
    assert by_name == ModelConfig(dense_prediction_cell_json=str(file))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("no/such.json", "no/such.json does not exist"),
        ("[", "the text is not the JSON"),
        ("[]", "1 to 64 branches"),
        ('[{"op": "pool", "input": -1}]', "branch 0 must have op"),
        ('[{"op": "conv", "kernel": 3, "rate": [1, 6], "input": 0}]', "from -1 to -1"),
        ('[{"op": "conv", "kernel": 3, "rate": [0, 6], "input": -1}]', "rate: two whole numbers"),
        ('[{"op": "conv", "kernel": 5, "rate": [1, 6], "input": -1}]', "kernel: 1 or 3"),
        ('[{"op": "pyramid_pooling", "input": -1}]', "grid_size: two whole numbers"),
    ],
)
def test_what_is_no_cell_is_refused(cell, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(dense_prediction_cell_json=cell)

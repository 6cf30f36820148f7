import dataclasses

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
        model=ModelConfig(model_variant="resnet_v1_18", atrous_rates=(3, 6), multi_grid=(1, 2)),
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
        (ModelConfig, {"model_variant": "vgg"}, "--model_variant=vgg .*resnet_v1_18"),
        (ModelConfig, {"multi_grid": (1, 2)}, "--multi_grid=1,2 .*3 factors"),
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
    assert ModelConfig().aspp_rates() == (6, 12, 18)
    assert ModelConfig(output_stride=8).aspp_rates() == (12, 24, 36)
    assert ModelConfig(output_stride=32).aspp_rates() == (3, 6, 9)
    assert ModelConfig(atrous_rates=(1, 2)).at_output_stride(8).aspp_rates() == (2, 4)
    with pytest.raises(UserError, match="--output_stride=32"):
        ModelConfig(atrous_rates=(1, 2)).at_output_stride(32)


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


def test_out_of_memory_is_told_in_one_sentence():
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.zeros([10**6, 10**8])
    sentence = flags._sentence(caught.value)
    assert sentence.startswith("out of memory at a tensor of shape [1000000,100000000]")
    assert "\n" not in sentence


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
            for name, values in field.metadata["only_with"].items():
                choices = known[name].metadata["choices"]
                assert not choices or set(values) <= set(choices)


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

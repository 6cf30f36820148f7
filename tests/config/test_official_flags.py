"""Every flag of the official programs is here, and none keeps its name and loses its meaning."""

import contextlib
import dataclasses

import pytest

from deeplab_tf.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    TrainConfig,
    flags,
    official_flags,
)
from deeplab_tf.config.official_flags import ACCEPTED, ALIAS, COMMON, INSTEAD, SAID, SAME
from deeplab_tf.messages import UserError
from tests.config.test_flags import PROGRAMS
from tests.test_architecture import ROOT

# tensorflow/models, research/deeplab: the DEFINE_ lines of each file.
OFFICIAL = {
    "common": dict(
        min_resize_value=None,
        max_resize_value=None,
        resize_factor=None,
        keep_aspect_ratio=True,
        logits_kernel_size=1,
        model_variant="mobilenet_v2",
        image_pyramid=None,
        add_image_level_feature=True,
        image_pooling_crop_size=None,
        image_pooling_stride=(1, 1),
        aspp_with_batch_norm=True,
        aspp_with_separable_conv=True,
        multi_grid=None,
        depth_multiplier=1.0,
        divisible_by=None,
        decoder_output_stride=None,
        decoder_use_separable_conv=True,
        merge_method="max",
        prediction_with_upsampled_logits=True,
        dense_prediction_cell_json="",
        nas_stem_output_num_conv_filters=20,
        nas_use_classification_head=False,
        nas_remove_os32_stride=False,
        use_bounded_activation=False,
        aspp_with_concat_projection=True,
        aspp_with_squeeze_and_excitation=False,
        aspp_convs_filters=256,
        decoder_use_sum_merge=False,
        decoder_filters=256,
        decoder_output_is_logits=False,
        image_se_uses_qsigmoid=False,
        label_weights=None,
        batch_norm_decay=0.9997,
    ),
    "train": dict(
        num_clones=1,
        clone_on_cpu=False,
        num_replicas=1,
        startup_delay_steps=15,
        num_ps_tasks=0,
        master="",
        task=0,
        train_logdir=None,
        log_steps=10,
        save_interval_secs=1200,
        save_summaries_secs=600,
        save_summaries_images=False,
        profile_logdir=None,
        optimizer="momentum",
        learning_policy="poly",
        base_learning_rate=0.0001,
        decay_steps=0.0,
        end_learning_rate=0.0,
        learning_rate_decay_factor=0.1,
        learning_rate_decay_step=2000,
        learning_power=0.9,
        training_number_of_steps=30000,
        momentum=0.9,
        adam_learning_rate=0.001,
        adam_epsilon=1e-8,
        train_batch_size=8,
        weight_decay=0.00004,
        train_crop_size=(513, 513),
        last_layer_gradient_multiplier=1.0,
        upsample_logits=True,
        drop_path_keep_prob=1.0,
        tf_initial_checkpoint=None,
        initialize_last_layer=True,
        last_layers_contain_logits_only=False,
        slow_start_step=0,
        slow_start_learning_rate=1e-4,
        fine_tune_batch_norm=True,
        min_scale_factor=0.5,
        max_scale_factor=2.0,
        scale_factor_step_size=0.25,
        atrous_rates=None,
        output_stride=16,
        hard_example_mining_step=0,
        top_k_percent_pixels=1.0,
        quantize_delay_step=-1,
        dataset="pascal_voc_seg",
        train_split="train",
        dataset_dir=None,
    ),
    "eval": dict(
        master="",
        eval_logdir=None,
        checkpoint_dir=None,
        eval_batch_size=1,
        eval_crop_size=(513, 513),
        eval_interval_secs=300,
        atrous_rates=None,
        output_stride=16,
        eval_scales=(1.0,),
        add_flipped_images=False,
        quantize_delay_step=-1,
        dataset="pascal_voc_seg",
        eval_split="val",
        dataset_dir=None,
        max_number_of_evaluations=0,
    ),
    "vis": dict(
        master="",
        vis_logdir=None,
        checkpoint_dir=None,
        vis_batch_size=1,
        vis_crop_size=(513, 513),
        eval_interval_secs=300,
        atrous_rates=None,
        output_stride=16,
        eval_scales=(1.0,),
        add_flipped_images=False,
        quantize_delay_step=-1,
        dataset="pascal_voc_seg",
        vis_split="val",
        dataset_dir=None,
        colormap_type="pascal",
        also_save_raw_predictions=False,
        max_number_of_iterations=0,
    ),
    "export_model": dict(
        checkpoint_path=None,
        export_path=None,
        num_classes=21,
        crop_size=(513, 513),
        atrous_rates=None,
        output_stride=8,
        inference_scales=(1.0,),
        add_flipped_images=False,
        quantize_delay_step=-1,
        save_inference_graph=False,
    ),
    "convert_to_tflite": dict(
        quantized_graph_def_path=None,
        output_tflite_path=None,
        input_tensor_name=None,
        output_tensor_name="ArgMax:0",
        test_image_path=None,
    ),
}
TABLE = {(flag.program, flag.name): flag for flag in official_flags.FLAGS}


def ours_of(program):
    """Returns our programs that have the flags of an official one."""
    names = list(official_flags.PROGRAMS)[:4] if program == COMMON else [program]
    return [(name, official_flags.PROGRAMS[name]) for name in names]


def rows(*verdicts):
    found = [flag for flag in official_flags.FLAGS if flag.verdict in verdicts]
    return [pytest.param(flag, id=f"{flag.program}: {flag.name}") for flag in found]


def parse(module, *arguments):
    return flags.parse(arguments, **PROGRAMS[module])


def test_the_table_has_every_official_flag_with_its_default():
    counts = {program: len(defaults) for program, defaults in OFFICIAL.items()}
    assert list(counts.values()) == [33, 48, 15, 17, 10, 5]
    expected = {
        (program, name): default
        for program, defaults in OFFICIAL.items()
        for name, default in defaults.items()
    }
    assert {key: flag.default for key, flag in TABLE.items()} == expected
    assert len(official_flags.FLAGS) == len(expected)  # none twice


def finished_defaults(module):
    """Returns a program's defaults by name; a network's settings as its construction fills them."""
    values = dict(parse(module).values)
    model = ModelConfig()
    return values | {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}


@pytest.mark.parametrize("flag", rows(SAME))
def test_no_default_differs_silently(flag):
    for program, module in ours_of(flag.program):
        values = finished_defaults(module)
        assert flag.setting == flag.name and flag.name in values
        # In programs that read a run, a setting of the network that is left out is the run's, and
        # `departures` says it: see below.
        if flag.program == COMMON and program != "train":
            continue
        ours = values[flag.name]
        assert ours == flag.default or (flag.default is None and ours in ((), "", 0, 0.0))


@pytest.mark.parametrize("flag", rows(ALIAS))
def test_aliases_set_what_they_name(flag):
    for _, module in ours_of(flag.program):
        text = official_flags.text_of(flag.default) or "x.onnx"
        plain, renamed = (parse(module, f"--{name}={text}") for name in (flag.setting, flag.name))
        assert plain == renamed and plain.given == {flag.setting}


@pytest.mark.parametrize("flag", rows(ACCEPTED))
def test_only_a_value_that_changes_nothing_is_accepted(flag):
    other = {bool: "false", int: "7", float: "0.5", str: "other"}[type(flag.default)]
    if flag.default is False:
        other = "true"
    for _, module in ours_of(flag.program):
        default = official_flags.text_of(flag.default)
        for arguments in ([f"--{flag.name}={default}"], [f"--{flag.name}={default}"] * 2):
            assert parse(module, *arguments) == parse(module)
        if not flag.values:
            assert parse(module, f"--{flag.name}={other}") == parse(module)
            continue
        with pytest.raises(UserError, match=f"--{flag.name}={other} is not possible here, only"):
            parse(module, f"--{flag.name}={other}")
        if flag.is_switch:
            given, refused = flag.name, f"no{flag.name}"
            if flag.default is False:
                given, refused = refused, given
            assert parse(module, f"--{given}") == parse(module)
            with pytest.raises(UserError, match="is not possible here"):
                parse(module, f"--{refused}")


@pytest.mark.parametrize("flag", rows(INSTEAD))
def test_what_has_no_counterpart_is_answered_in_one_sentence(flag):
    for _, module in ours_of(flag.program):
        with pytest.raises(UserError, match=f"There is no --{flag.name}: ") as error:
            parse(module, f"--{flag.name}=1")
        assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


@pytest.mark.parametrize("flag", rows(INSTEAD, ACCEPTED))
def test_what_is_refused_is_no_setting_of_ours(flag):
    for _, module in ours_of(flag.program):
        assert flag.name not in parse(module).values


@pytest.mark.parametrize("flag", rows(SAID))
def test_another_default_is_said(flag):
    for program, module in ours_of(flag.program):
        values = finished_defaults(module)
        assert flag.setting in values
        values[flag.setting] = "another"
        given = frozenset({flag.setting})
        said = official_flags.departures(program, values, given if flag.when_given else frozenset())
        assert sum(phrase.startswith(f"--{flag.name}=another ") for phrase in said) == 1
        others = official_flags.departures(
            program, values, frozenset() if flag.when_given else given
        )
        is_stored = flag.name == "add_flipped_images"  # by a run, so that nobody types it
        assert any(phrase.startswith(f"--{flag.name}=") for phrase in others) is is_stored


def test_a_flag_that_is_read_only_here_is_said_even_with_the_official_default():
    given = frozenset({"batch_norm_decay"})
    said = official_flags.departures("train", {"batch_norm_decay": 0.9997}, given)
    assert len(said) == 1 and said[0].startswith("--batch_norm_decay=0.9997 (0.9997 there: never r")
    assert not official_flags.departures("train", {"batch_norm_decay": 0.95}, frozenset())


def test_settings_of_the_run_are_said_where_the_official_defaults_differ():
    values = finished_defaults("deeplab_tf.eval") | {
        "model_variant": "xception_65",
        "dataset": "pascal_voc_seg",
        "output_stride": 16,
        "decoder_output_stride": (8, 4),
        "eval_crop_size": (513, 513),
        "add_flipped_images": True,
    }
    said = official_flags.departures("eval", values, frozenset({"model_variant"}))
    assert [phrase.split(" ")[0] for phrase in said] == [
        "--decoder_output_stride=8,4",
        "--add_flipped_images=true",
        "--max_number_of_evaluations=1",
    ]


def test_a_value_may_follow_a_blank_and_a_flagfile_may_hold_official_flags(tmp_path):
    assert parse("deeplab_tf.train", "--num_clones", "1") == parse("deeplab_tf.train")
    file = tmp_path / "x.flags"
    file.write_text("--num_clones=1\n--num_ps_tasks=2\n")
    with pytest.raises(UserError, match=r"x.flags, line 2: --num_ps_tasks=2 is not possible"):
        parse("deeplab_tf.train", f"--flagfile={file}")


def test_the_page_prints_the_table():
    page = (ROOT / "docs" / "research-deeplab.md").read_text()
    assert "\n".join(official_flags.table()) in page


@contextlib.contextmanager
def asked(arguments):
    """The command line of eval, inside the context."""
    token = flags._current.set(flags.parse(arguments.split(), **PROGRAMS["deeplab_tf.eval"]))
    try:
        yield
    finally:
        flags._current.reset(token)


RUN = Experiment(
    model=ModelConfig(
        model_variant="resnet_v1_50_beta", atrous_rates=(6, 12, 18), decoder_output_stride=(4,)
    ),
    data=DataConfig(),
    train=TrainConfig(label_weights=(1.0, 2.0)),
    eval=EvalConfig(),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model_variant=resnet_v1_50_beta --decoder_output_stride=4", ""),
        ("--atrous_rates=6 --atrous_rates=12 --atrous_rates=18 --multi_grid=1,1,1", ""),
        ("--label_weights=1 --label_weights=2.0 --aspp_with_separable_conv=true", ""),
        ("--stride_placement= --output_stride=8 --atrous_rates=12,24,36", ""),
        ("--output_stride=8 --atrous_rates=6,12,18", "has --atrous_rates=12,24,36 at output str"),
        ("--atrous_rates=6", "--atrous_rates=6 is not how .*has --atrous_rates=6,12,18"),
        ("--model_variant=xception_65", "xception_65 is not .*has --model_variant=resnet_v1_50_b"),
        ("--multi_grid=1,2,4", "--multi_grid=1,2,4 is not how RUN was trained: it has --multi_gri"),
        ("--decoder_output_stride=", "--decoder_output_stride= is not how .*stride=4"),
        ("--label_weights=1,1", "--label_weights=1.0,1.0 is not how .*=1.0,2.0"),
    ],
)
def test_settings_of_the_network_may_be_repeated_but_not_changed(arguments, message):
    with asked(arguments):
        model = RUN.model.at_output_stride(flags.given("output_stride") or 16)
        if not message:
            flags.require_equal(RUN, model, where="RUN")
            return
        with pytest.raises(UserError, match=message):
            flags.require_equal(RUN, model, where="RUN")


def test_the_width_divisor_may_be_written_out():
    """0 stands for 8 at the full width, and for 1 at any other."""
    for multiplier, equal in ((1.0, 8), (0.5, 1)):
        model = ModelConfig(depth_multiplier=multiplier)
        for divisor in (0, 1, 8):
            with asked(f"--divisible_by={divisor}"):
                if divisor in (0, equal):
                    flags.require_equal(Experiment(model=model), model, where="RUN")
                    continue
                with pytest.raises(UserError, match=f"--divisible_by={divisor} is not how"):
                    flags.require_equal(Experiment(model=model), model, where="RUN")


def test_runs_of_earlier_versions_are_not_padded(tmp_path):
    """There, eval_crop_size had an effect on windows only."""
    file = tmp_path / "experiment.flags"
    earlier = "--model_variant=resnet_v1_50\n--eval_crop_size=480,480\n"
    for mode, now, expected in (
        ("whole", "", ()),
        ("slide", "", (480, 480)),
        ("whole", "--head_batch_norm_decay=0.9\n", (480, 480)),
    ):
        stride = "--eval_crop_stride=320,320\n" if mode == "slide" else ""
        heading = "# Written by deeplab_tf: the settings of this run.\n"
        file.write_text(f"{heading}{earlier}--inference_mode={mode}\n{stride}{now}")
        assert flags.parse_flagfile(file).eval.eval_crop_size == expected

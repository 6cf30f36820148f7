"""Every flag of Google's programs in research/deeplab, and what it is in this package.

One table: `command_line` answers these flags by it, the programs say by it where a default differs,
and docs/research-deeplab.md prints it. Names and defaults come from common.py, train.py,
eval.py, vis.py, export_model.py and convert_to_tflite.py.

Verdicts:
  same: our flag of that name means the same and has the same default.
  alias: our flag of another name means the same.
  accepted: these values are taken and change nothing; any other one is refused, with the reason.
  instead: the flag is refused, with what to do instead.
  said: our flag of that name has another default or effect, and the program says so when it runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SAME, ALIAS, ACCEPTED, INSTEAD, SAID = VERDICTS = ("same", "alias", "accepted", "instead", "said")

# The official programs, each with ours. The first four also have the flags of common.py.
PROGRAMS = {
    "train": "deeplab_tf.train",
    "eval": "deeplab_tf.eval",
    "vis": "deeplab_tf.vis",
    "export_model": "deeplab_tf.export_model",
    "convert_to_tflite": "deeplab_tf.convert_model",
}
COMMON = "common"
SWITCH_TEXTS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@dataclass(frozen=True)
class OfficialFlag:
    """A flag of an official program.

    Attributes:
      program: a key of PROGRAMS, or COMMON.
      default: the official default; a tuple for a list, None where there is none.
      verdict: as the module describes them.
      setting: our setting; empty if there is none.
      values: for `accepted`, the values that change nothing; empty if none of them does.
      reason: why other values are refused, what to do instead, or what is said.
      when_given: for `said`, whether it is said when the flag is given, and not when it is left
        out.
      is_never_read: whether the flag has no effect there, so that its default is not what is used.
    """

    program: str
    name: str
    default: Any
    verdict: str
    setting: str = ""
    values: tuple = ()
    reason: str = ""
    when_given: bool = False
    is_never_read: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the flag may be given as --name and --noname."""
        return isinstance(self.default, bool)

    def accepts(self, text: str) -> bool:
        """Whether a value of an `accepted` flag changes nothing."""
        return not self.values or any(_is_value(value, text) for value in self.values)

    def is_default(self, text: str | None) -> bool:
        """Whether a text is the official default, with which a flag may as well be left out."""
        return self.default is not None and text is not None and _is_value(self.default, text)

    def shown_default(self) -> str:
        """Returns the official default as the documentation shows it."""
        return text_of(self.default) or "none"


def _is_value(value: Any, text: str) -> bool:
    """Whether a flag's text stands for a value."""
    if isinstance(value, bool):
        return SWITCH_TEXTS.get(text.strip().lower()) is value
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == value


def text_of(value: Any) -> str:
    """Returns a value as one types it; an empty text for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _same(program: str, **defaults: Any) -> Iterator[OfficialFlag]:
    for name, default in defaults.items():
        yield OfficialFlag(program, name, default, SAME, name)


def _alias(program: str, name: str, default: Any, setting: str) -> OfficialFlag:
    return OfficialFlag(program, name, default, ALIAS, setting)


def _accepted(
    program: str, name: str, default: Any, reason: str, *, values: tuple | None = None
) -> OfficialFlag:
    values = (default,) if values is None else values
    return OfficialFlag(program, name, default, ACCEPTED, values=values, reason=reason)


def _instead(program: str, name: str, default: Any, reason: str) -> OfficialFlag:
    return OfficialFlag(program, name, default, INSTEAD, reason=reason)


def _said(
    program: str,
    name: str,
    default: Any,
    reason: str,
    *,
    setting: str = "",
    when_given: bool = False,
    is_never_read: bool = False,
) -> OfficialFlag:
    return OfficialFlag(
        program,
        name,
        default,
        SAID,
        setting or name,
        reason=reason,
        when_given=when_given,
        is_never_read=is_never_read,
    )


_ONE_PROGRAM = "tf.distribute makes all replicas of a run; give distribution_strategy and TF_CONFIG"
_NO_QUANTISATION = (
    "training aware of quantisation needs tf.contrib.quantize, which went with TensorFlow 1, or "
    "tensorflow_model_optimization, which takes only sequential and functional Keras models, and "
    "not subclassed ones such as ours; train without it, and let convert_model "
    "--format=tflite_int8 quantise the trained model"
)
_NAS = "there are no NAS backbones; choose another --model_variant"
_OF_THE_RUN = "the run's; another value must be the run's own"
_STRIDE = "the run's; the atrous rates are scaled with it"


def _quantize(program: str) -> OfficialFlag:
    values = tuple(range(-1, -100, -1))
    return _accepted(program, "quantize_delay_step", -1, _NO_QUANTISATION, values=values)


def _master(program: str) -> OfficialFlag:
    return _accepted(program, "master", "", f"there are no TensorFlow 1 servers: {_ONE_PROGRAM}")


def _flipped(program: str) -> OfficialFlag:
    reason = "it has its effect at a single scale too, where it is ignored there"
    return _said(program, "add_flipped_images", False, reason, when_given=True)


FLAGS: tuple[OfficialFlag, ...] = (
    *_same(COMMON, min_resize_value=None, max_resize_value=None, resize_factor=None),
    _accepted(
        COMMON,
        "keep_aspect_ratio",
        True,
        "images always keep their aspect ratio, also in research/deeplab, which never reads it",
    ),
    _accepted(COMMON, "logits_kernel_size", 1, "the classifier is a 1x1 convolution"),
    *_same(
        COMMON,
        model_variant="mobilenet_v2",
        image_pyramid=None,
        add_image_level_feature=True,
        image_pooling_crop_size=None,
        image_pooling_stride=(1, 1),
    ),
    _accepted(
        COMMON,
        "aspp_with_batch_norm",
        True,
        "DeepLabv2's ASPP without batch normalisation is not built",
    ),
    *_same(
        COMMON,
        aspp_with_separable_conv=True,
        multi_grid=None,
        depth_multiplier=1.0,
        divisible_by=None,
        decoder_output_stride=None,
        decoder_use_separable_conv=True,
        merge_method="max",
    ),
    _accepted(
        COMMON,
        "prediction_with_upsampled_logits",
        True,
        "logits are always enlarged before a label is chosen",
    ),
    *_same(COMMON, dense_prediction_cell_json=""),
    _accepted(COMMON, "nas_stem_output_num_conv_filters", 20, _NAS),
    _accepted(COMMON, "nas_use_classification_head", False, _NAS),
    _accepted(COMMON, "nas_remove_os32_stride", False, _NAS),
    *_same(
        COMMON,
        use_bounded_activation=False,
        aspp_with_concat_projection=True,
        aspp_with_squeeze_and_excitation=False,
        aspp_convs_filters=256,
        decoder_use_sum_merge=False,
        decoder_filters=256,
        decoder_output_is_logits=False,
        image_se_uses_qsigmoid=False,
        label_weights=None,
    ),
    _said(
        COMMON,
        "batch_norm_decay",
        0.9997,
        "never read there: the backbone decides, as it does here if the flag is left out; if it is "
        "given, it has its effect here",
        when_given=True,
        is_never_read=True,
    ),
    # train.py
    _accepted(
        "train",
        "num_clones",
        1,
        "num_gpus says how many GPUs share each step, all of them if it is left out",
    ),
    _accepted("train", "clone_on_cpu", False, "num_gpus=0 trains on the CPU"),
    _accepted("train", "num_replicas", 1, _ONE_PROGRAM),
    _accepted("train", "startup_delay_steps", 15, "all workers start together", values=()),
    _accepted("train", "num_ps_tasks", 0, f"there are no parameter servers: {_ONE_PROGRAM}"),
    _master("train"),
    _accepted("train", "task", 0, _ONE_PROGRAM),
    *_same("train", train_logdir=None, log_steps=10),
    _instead(
        "train",
        "save_interval_secs",
        1200,
        "checkpoints are written by steps, so that a run can be repeated; give save_interval_steps",
    ),
    _accepted("train", "save_summaries_secs", 600, "log_steps says when summaries are written"),
    _instead(
        "train",
        "save_summaries_images",
        False,
        "summary_images says how many example images each checkpoint writes, 2 if it is left out",
    ),
    _instead(
        "train",
        "profile_logdir",
        None,
        "there is no tfprof in TensorFlow 2; python -m deeplab_tf.benchmark times a step's parts",
    ),
    *_same(
        "train",
        optimizer="momentum",
        learning_policy="poly",
        base_learning_rate=1e-4,
        decay_steps=0.0,
        end_learning_rate=0.0,
        learning_rate_decay_factor=0.1,
        learning_rate_decay_step=2000,
        learning_power=0.9,
        training_number_of_steps=30000,
        momentum=0.9,
        adam_epsilon=1e-8,
        train_batch_size=8,
        weight_decay=4e-5,
        train_crop_size=(513, 513),
    ),
    _said(
        "train",
        "adam_learning_rate",
        0.001,
        "learning_policy changes it, as the optimizer's line of the overview says; constant there",
    ),
    _said(
        "train",
        "last_layer_gradient_multiplier",
        1.0,
        "it does not multiply weight decay, as it does there",
        when_given=True,
    ),
    _accepted("train", "upsample_logits", True, "labels are never reduced to the logits' size"),
    _accepted("train", "drop_path_keep_prob", 1.0, _NAS),
    *_same(
        "train",
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
    ),
    _quantize("train"),
    _said("train", "dataset", "pascal_voc_seg", "the data set that dataset.json names"),
    *_same("train", train_split="train", dataset_dir=None),
    # eval.py
    _master("eval"),
    *_same("eval", eval_logdir=None, checkpoint_dir=None, eval_batch_size=1),
    _said("eval", "eval_crop_size", (513, 513), "nothing is padded unless it is given"),
    *_same("eval", eval_interval_secs=300),
    _said("eval", "atrous_rates", None, _OF_THE_RUN),
    _said("eval", "output_stride", 16, _STRIDE),
    *_same("eval", eval_scales=(1.0,)),
    _flipped("eval"),
    _quantize("eval"),
    _said("eval", "dataset", "pascal_voc_seg", _OF_THE_RUN),
    *_same("eval", eval_split="val", dataset_dir=None),
    _said("eval", "max_number_of_evaluations", 0, "one checkpoint is scored; 0 follows the run"),
    # vis.py
    _master("vis"),
    *_same("vis", vis_logdir=None, checkpoint_dir=None),
    _accepted(
        "vis", "vis_batch_size", 1, "images are predicted one by one, with equal results", values=()
    ),
    _said(
        "vis",
        "vis_crop_size",
        (513, 513),
        "another name of --eval_crop_size; nothing is padded unless it is given",
        setting="eval_crop_size",
    ),
    *_same("vis", eval_interval_secs=300),
    _said("vis", "atrous_rates", None, _OF_THE_RUN),
    _said("vis", "output_stride", 16, _STRIDE),
    *_same("vis", eval_scales=(1.0,)),
    _flipped("vis"),
    _quantize("vis"),
    _said("vis", "dataset", "pascal_voc_seg", _OF_THE_RUN),
    *_same("vis", vis_split="val", dataset_dir=None),
    _said("vis", "colormap_type", "pascal", "the colours of the data set; no other ones are taken"),
    *_same("vis", also_save_raw_predictions=False),
    _said("vis", "max_number_of_iterations", 0, "one checkpoint is painted; 0 follows the run"),
    # export_model.py
    *_same("export_model", checkpoint_path=None, export_path=None),
    _said("export_model", "num_classes", 21, _OF_THE_RUN),
    _said(
        "export_model",
        "crop_size",
        (513, 513),
        "another name of --eval_crop_size; nothing is padded unless it is given",
        setting="eval_crop_size",
    ),
    _said("export_model", "atrous_rates", None, _OF_THE_RUN),
    _said("export_model", "output_stride", 8, _STRIDE),
    _alias("export_model", "inference_scales", (1.0,), "eval_scales"),
    _flipped("export_model"),
    _quantize("export_model"),
    _accepted(
        "export_model",
        "save_inference_graph",
        False,
        "the file of --export_path holds the whole graph; no .pbtxt is written",
    ),
    # convert_to_tflite.py
    _instead(
        "convert_to_tflite",
        "quantized_graph_def_path",
        None,
        "convert_model reads the SavedModel that export_model --export_dir=DIR writes: give "
        "--export_dir=DIR --format=tflite_int8 --image_size=513,513 --calibration_images=IMAGES",
    ),
    _alias("convert_to_tflite", "output_tflite_path", None, "output"),
    _instead(
        "convert_to_tflite",
        "input_tensor_name",
        None,
        "the file takes whole images, uint8, and normalises them itself",
    ),
    _accepted(
        "convert_to_tflite",
        "output_tensor_name",
        "ArgMax:0",
        "the file returns the label of each pixel",
    ),
    _instead(
        "convert_to_tflite",
        "test_image_path",
        None,
        "predict writes the labels of the exported model; compare them with the file's labels",
    ),
)


def of_program(program: str) -> dict[str, OfficialFlag]:
    """Returns the flags of an official program by name, with the flags of common.py.

    Args:
      program: a key of PROGRAMS; empty for a program of ours that has no official counterpart.
    """
    parts = (COMMON, program) if program in tuple(PROGRAMS)[:4] else (program,)
    return {flag.name: flag for flag in FLAGS if flag.program in parts}


def departures(program: str, values: Mapping[str, Any], given: frozenset[str]) -> list[str]:
    """Returns where a program's settings are not the official defaults, a phrase for each.

    Args:
      values: our settings by name, as the program uses them.
      given: names of the settings that the user gave.
    """
    phrases = []
    for flag in of_program(program).values():
        # A program that reads a run takes its settings in place of the defaults.
        reads_run = program != "train"
        if flag.verdict != SAID and not (reads_run and flag.verdict in (SAME, ALIAS)):
            continue
        is_given = flag.setting in given
        if reads_run and flag.when_given and flag.program == program:
            is_given = True  # how a run predicts may be stored in it, and is then not typed here
        if is_given is not flag.when_given or flag.setting not in values:
            continue

        ours, theirs = values[flag.setting], flag.default
        is_same = ours == theirs or (theirs is None and not ours)
        if flag.is_never_read or not is_same:
            because = f": {flag.reason}" if flag.verdict == SAID else ""
            phrases.append(f"--{flag.name}={text_of(ours)} ({flag.shown_default()} there{because})")
    return phrases


def table() -> list[str]:
    """Returns the table in Markdown, a line for each row, with one row for each flag."""
    lines = ["| Program | Flag | Default there | Here | What that means |", "|---|---|---|---|---|"]
    for flag in FLAGS:
        default = f"`{flag.shown_default()}`"
        lines.append(
            f"| {flag.program} | `{flag.name}` | {default} | {flag.verdict} | {_meaning(flag)} |"
        )
    return lines


def _meaning(flag: OfficialFlag) -> str:
    """Returns the last column of the table."""
    if flag.verdict == ALIAS:
        return f"`{flag.setting}`"
    if flag.verdict == ACCEPTED:
        values = "any value" if not flag.values else f"only `{flag.shown_default()}`"
        if flag.default == "":
            values = "only empty"
        return f"{values}: {flag.reason}"
    return flag.reason

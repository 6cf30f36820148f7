"""What a run prints before it starts and at its end.

The start says what it trains on, from which weights, on which devices. That shows mistakes which
would otherwise be noticed only after hours of training: the wrong split, no validation, random
weights, settings without effect.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from deeplab_tf.config import Experiment, ModelConfig, TrainConfig, groups
from deeplab_tf.config.flags import settings_of, text_of
from deeplab_tf.config.setting import without_effect
from deeplab_tf.data import catalog
from deeplab_tf.data.statistics import LabelCounts
from deeplab_tf.messages import counted
from deeplab_tf.models.deeplab import DeepLab

_WIDTH = len("validation")  # of the titles


def describe(
    experiment: Experiment,
    info: catalog.DatasetInfo,
    *,
    images: int,
    image_size: tuple[int, int] | None,
    eval_images: int,
    ignored: float | None,
    devices: str,
    continues: bool,
) -> str:
    """Returns the lines to print, each with a title and what this run uses.

    Args:
      experiment: the settings, with their epochs turned into steps (`TrainConfig.for_images`).
      images, eval_images: number of images in the training split and in the validation split.
      image_size: height and width of the first training image; None if unknown.
      ignored: share of the training pixels with the ignored label, 0 to 1; None if not counted.
      devices: the devices that compute, as text.
      continues: whether the run continues from a checkpoint in its folder.
    """
    data, train = experiment.data, experiment.train
    share = "not counted" if ignored is None else f"{100 * ignored:.1f} %"
    epochs = f"{train.training_number_of_steps * train.train_batch_size / images:.3g}"
    crop = "x".join(map(str, data.train_crop_size))
    size = f" (the first {image_size[0]}x{image_size[1]})" if image_size else ""
    name = "" if info.name == Path(data.dataset_dir).name else f" ({info.name})"

    parts = {
        "data": f"{data.dataset_dir}{name}, split {data.train_split}: "
        f"{counted(images, 'image')}{size}, {info.num_classes} classes, ignored pixels {share}",
        **_images(experiment.model, info),
        "length": f"{counted(train.training_number_of_steps, 'step')} of "
        f"{counted(train.train_batch_size, 'crop')} of {crop}: "
        f"{epochs} {'epoch' if epochs == '1' else 'epochs'}",
        "optimizer": f"{train.optimizer}, {learning_rate(train)}, weight decay "
        f"{train.weight_decay:g}",
        "network": _network(experiment.model),
        "weights": _weights(train, continues),
        "validation": _validation(experiment, eval_images),
        "devices": f"{devices}, {train.dtype_policy}",
        "run": f"{train.train_logdir}, {'continued' if continues else 'new'}",
    }

    unused = _unused(experiment)
    if unused:
        parts["unused"] = "; ".join(unused)

    return "\n".join(f"{title:{_WIDTH}}  {text}" for title, text in parts.items())


def _images(model: ModelConfig, info: catalog.DatasetInfo) -> dict[str, str]:
    """Returns the line about images that are not 8-bit RGB."""
    kind = info.image_kind
    if kind.is_rgb:
        return {}
    mean, std = text_of(model.image_mean), text_of(model.image_std)
    text = f"{kind.described()}, scaled to 0..255; then mean {mean}, standard deviation {std}"
    return {"images": text}


def trained(model: DeepLab, train: TrainConfig) -> str:
    """Returns the line about what the steps change: how many weights, and what stays as it is."""
    total = _count(model.trainable_variables)
    of_backbone = _count(model.backbone.trainable_variables)
    text = f"{total:,} weights, {of_backbone:,} of them in the backbone"
    if not train.fine_tune_batch_norm:
        text += "; not batch normalisation's moving averages (--fine_tune_batch_norm=false)"
    return f"{'trained':{_WIDTH}}  {text}"


def _count(variables: Sequence[tf.Variable]) -> int:
    return sum(variable.shape.num_elements() for variable in variables)


def continued(path: Path, step: int, last_step: int, best: dict) -> str:
    """Returns the line about a run that is resumed.

    Args:
      path: its folder.
      best: its best validation, as `MetricsLog.best` returns it.
    """
    left = counted(max(last_step - step, 0), "step")
    text = f"Continuing {path} at step {step} of {last_step}, {left} left"
    if best:
        text += f"; best so far: {_score(best)} at step {best['step']}"
    return f"{text}."


def stopped_early(path: Path, step: int, train: TrainConfig) -> str:
    """Returns the sentence about a run that --early_stopping_patience has ended."""
    delta = train.early_stopping_min_delta
    by = f" by more than {delta:g}" if delta else ""
    return (
        f"{path} stopped early, at step {step} of {train.training_number_of_steps}: "
        f"{counted(train.early_stopping_patience, 'validation')} in sequence brought no better "
        f"mIoU{by} (--early_stopping_patience); the same command with a larger patience, or 0, "
        "trains on."
    )


def ending(path: Path, best: dict) -> str:
    """Returns the line about the best checkpoint and the command that scores it; "" if none is."""
    if not best:
        return ""
    folder = shlex.quote(str(path))
    logdir = shlex.quote(str(path / "eval"))
    return (
        f"Best: {_score(best)} at step {best['step']}; python -m deeplab_tf.eval "
        f"--checkpoint_dir={folder} --checkpoint=best --eval_logdir={logdir}"
    )


def _score(best: dict) -> str:
    split = f"{best['split']} " if best["split"] else ""
    return f"{split}mIoU {best['miou']:.4f}"


def ignored_share(split: dict) -> float | None:
    """Returns the share of a split's pixels with the ignored label, as its builder counted it.

    Args:
      split: the split's entry in dataset.json; empty if it has none.
    Returns:
      0 to 1; None if not all pixels were counted.
    """
    if "statistics" not in split or split.get("uncounted_labels"):
        return None
    return LabelCounts.from_json(split["statistics"]).ignored_share


def learning_rate(train: TrainConfig) -> str:
    """Returns in words how the learning rate changes over the run."""
    base, end = train.learning_rate(), train.end_learning_rate
    if train.learning_policy == "step":
        factor, every = train.learning_rate_decay_factor, train.learning_rate_decay_step
        text = f"learning rate {base:g}, times {factor:g} every {counted(every, 'step')} (step)"
    else:
        within = f" in {counted(train.decay_steps, 'step')}" if train.decay_steps else ""
        text = f"learning rate {base:g} to {end:g}{within} ({train.learning_policy})"
    if not train.slow_start_step:
        return text

    how = "from" if train.slow_start_burnin_type == "linear" else "at"
    slow = counted(train.slow_start_step, "step")
    return f"{text} after {slow} {how} {train.slow_start_learning_rate:g}"


def _network(model: ModelConfig) -> str:
    text = f"{model.model_variant}, output stride {model.output_stride}, "
    if model.dense_prediction_cell_json:
        text += f"dense prediction cell of {counted(model.aspp_convs_filters, 'channel')}"
    else:
        rates = f"at rates {text_of(model.atrous_rates)}" if model.atrous_rates else "without rates"
        text += f"ASPP of {counted(model.aspp_convs_filters, 'channel')} {rates}"
    if model.decoder_output_stride:
        text += f", decoder at stride {text_of(model.decoder_output_stride)}"
    return text


# What describes only ASPP, which a dense prediction cell replaces.
_ASPP = (
    "atrous_rates",
    "aspp_with_concat_projection",
    "aspp_projection_kernel_size",
    "aspp_with_separable_conv",
    "aspp_with_squeeze_and_excitation",
    "image_se_uses_qsigmoid",
    "add_image_level_feature",
    "image_pooling_stride",
)


def _unused(experiment: Experiment) -> list[str]:
    """Returns the settings that are not the defaults but have no effect, each with the reason."""
    values, model = settings_of(experiment), experiment.model
    unused = [
        f"--{name}={values[name]}, which needs {lacking}"
        for name, lacking in without_effect(groups(experiment)).items()
    ]
    default = ModelConfig(model_variant=model.model_variant, output_stride=model.output_stride)
    return unused + [
        f"--{name}={text_of(getattr(model, name))}, since {reason}"
        for name, reason in _replaced(model, experiment.train)
        if getattr(model, name) != getattr(default, name)
    ]


def _replaced(model: ModelConfig, train: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yields settings that other settings deprive of their effect, each with the reason."""
    if model.dense_prediction_cell_json:
        for name in _ASPP:
            yield name, "the dense prediction cell replaces ASPP"
    elif not model.aspp_with_concat_projection:
        yield "aspp_dropout_rate", "there is no projection after ASPP"
    if model.decoder_use_sum_merge:
        yield "decoder_reduction_filters", "features that are added have as many as the decoder"
    if model.decoder_output_is_logits:
        yield "decoder_use_separable_conv", "the decoder's output is the logits"
        if not model.auxiliary_filters:
            yield "dropout_rate", "no layer comes between the decoder and the logits"
    if len(model.image_pyramid) == 1:
        yield "merge_method", "one scale of the pyramid is not merged with others"
    if not train.fine_tune_batch_norm:
        yield "batch_norm_decay", "batch normalisation is not trained"


def _weights(train: TrainConfig, continues: bool) -> str:
    if continues:
        return "from the run's newest checkpoint"
    if not train.tf_initial_checkpoint:
        return (
            "RANDOM: nothing is loaded, training starts from scratch; give weights to start from "
            "by --tf_initial_checkpoint"
        )
    return train.tf_initial_checkpoint


def _validation(experiment: Experiment, eval_images: int) -> str:
    train, split = experiment.train, experiment.eval.eval_split
    if not train.eval_interval_steps:
        return "none, so the best checkpoint is not known; --eval_interval_steps turns it on"
    return (
        f"split {split}, {counted(eval_images, 'image')}, every "
        f"{counted(train.eval_interval_steps, 'step')}; the best checkpoint is kept, and the "
        f"newest {train.keep_checkpoints}"
    )

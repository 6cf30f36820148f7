"""The first weights of a new run, from another run or another program.

Every weight is loaded, or the user is told which ones stay new. A weight that is left out without
a word would only show as a worse result, after the training.
"""

import dataclasses
from pathlib import Path

import numpy as np

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.config.flags import text_of
from deeplab_tf.messages import UserError, counted
from deeplab_tf.models import assembly, heads
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.runs import loaded_run, run_dir
from deeplab_tf.weights import mapping, sources
from deeplab_tf.weights.mapping import Source
from deeplab_tf.weights.untold import Untold

# Settings that the network of the weights may have had otherwise; the weights keep their meaning.
_MAY_DIFFER = (
    "output_stride",
    "atrous_rates",
    "multi_grid",
    "dropout_rate",
    "aspp_dropout_rate",
    "batch_norm_decay",
    "head_batch_norm_decay",
    "image_pooling_crop_size",
    "image_pooling_stride",
    "image_pyramid",
    "merge_method",
    "initializer",
)
_OF_ASPP = (
    "add_image_level_feature",
    "aspp_with_concat_projection",
    "aspp_with_separable_conv",
    "aspp_with_squeeze_and_excitation",
    "image_se_uses_qsigmoid",
)
_OF_BACKBONE = (
    "model_variant",
    "depth_multiplier",
    "divisible_by",
    "stride_placement",
    "stem_padding",
    "use_bounded_activation",
    "image_mean",
    "image_std",
)


_OF_CHANNELS = ("image_mean", "image_std")


def initialize(
    model: DeepLab, checkpoint: str, *, last_layers: bool = True, logits_only: bool = False
) -> str:
    """Loads the weights of a run or of another program into a model.

    The classifiers stay new if the number of classes differs. All heads stay new if the file holds
    only a backbone.

    Args:
      checkpoint: as the setting tf_initial_checkpoint.
      last_layers: false keeps ASPP, decoder and classifiers new.
      logits_only: true keeps only the classifiers new if `last_layers` is false.
    Returns:
      A sentence that says what was loaded and what stayed new.
    Raises:
      UserError: if the weights belong to another network, or a variable would be left out.
    """
    backbone_only = not (last_layers or logits_only)
    source, standing = _read_run(checkpoint) or (
        sources.read(checkpoint, Untold.of(model.config), backbone_only=backbone_only),
        "",
    )
    backbone_only = backbone_only or not source.num_classes
    _require_same_network(source, model.config, checkpoint, backbone_only)

    is_logits = assembly.has_logits_decoder(model.config)
    kept: tuple[str, ...] = ()  # prefixes of the variables that stay new
    reasons = []
    if not last_layers:
        kept = heads.last_layers(logits_only=not backbone_only, decoder_output_is_logits=is_logits)
        reasons.append("initialize_last_layer is false")
    elif not source.num_classes:
        kept = heads.HEADS
        reasons.append("the file holds only a backbone")
    elif source.num_classes != model.num_classes:
        kept = heads.classifiers(decoder_output_is_logits=is_logits)
        reasons.append(f"{counted(source.num_classes, 'class')} there, {model.num_classes} here")
    arrays, stem = source.arrays, ""
    if source.config.image_channels == 3:
        arrays, stem = mapping.with_fitted_stem(model, arrays)
    mapping.assign(model, arrays, kept=kept)

    names = mapping.variables_of(model)
    new_names = [name for name in names if name.startswith(kept)]
    new = sorted({name.split("/")[0] for name in new_names})
    loaded = len(names) - len(new_names)
    if source.unused and (last_layers or logits_only):
        reasons.append(f"unused in the file: {', '.join(source.unused)}")

    text = f"Initialised from {checkpoint} ({source.kind}): {counted(loaded, 'variable')}"
    text += f"; new: {', '.join(new)}" if new else ", all"
    text += f" ({'; '.join(reasons)})." if reasons else "."
    if stem:
        text += f" {_fitted_stem(stem, model.config.image_channels)}"
    return f"{text} The checkpoint is {standing}." if standing else text


def _fitted_stem(name: str, channels: int) -> str:
    """Returns the sentence about a kernel that `mapping.with_fitted_stem` fitted."""
    if channels < 3:
        each = "the sum" if channels == 1 else "half the sum"
        return f"For {counted(channels, 'channel')}, {name} is {each} of its kernels for RGB."
    further = "channel 4 is" if channels == 4 else f"each of channels 4 to {channels} is"
    return f"In {name}, the kernel for {further} the mean of its kernels for RGB."


def fetch(checkpoint: str) -> None:
    """Downloads the checkpoint, if it is an address, to the cache, where `initialize` finds it.

    Raises:
      UserError: if it cannot be downloaded or is not the published file.
    """
    if "://" in checkpoint:
        sources.fetch(checkpoint)


def _read_run(checkpoint: str) -> tuple[Source, str] | None:
    """Reads a run of this package, or one checkpoint of it.

    Returns:
      The weights, and which of the run's checkpoints it is; None if `checkpoint` is not a run.
    """
    path = Path(checkpoint)
    if sources.is_named(checkpoint) or "://" in checkpoint:
        return None
    if not (run_dir.RunDir.of(path).path / run_dir.EXPERIMENT).is_file():
        return None

    loaded = loaded_run.load(path)
    arrays = {name: v.numpy() for name, v in mapping.variables_of(loaded.model).items()}
    source = Source("a run", loaded.model.config, loaded.info.num_classes, arrays, {})
    return source, loaded.standing


def _require_same_network(
    source: Source, config: ModelConfig, checkpoint: str, backbone_only: bool
) -> None:
    """Raises UserError, naming the settings to change, if the weights need another network."""
    names = [
        field.name for field in dataclasses.fields(ModelConfig) if field.name not in _MAY_DIFFER
    ]
    if not source.config.multi_grid:
        names.remove("multi_grid_replaces_rates")  # it has no effect without multi_grid
    if assembly.has_logits_decoder(source.config) and assembly.has_logits_decoder(config):
        names.remove("decoder_filters")  # it is the number of classes, which may differ
    if config.dense_prediction_cell_json:
        names = [name for name in names if name not in _OF_ASPP]  # a cell takes its place
    if backbone_only:
        names = list(_OF_BACKBONE)
    if BACKBONES[config.model_variant].family != "xception" and backbone_only:
        names.remove("use_bounded_activation")  # other backbones do not heed it

    channels = (source.config.image_channels, config.image_channels)
    if channels[0] not in (3, channels[1]):
        raise UserError(
            f"--tf_initial_checkpoint={checkpoint} ({source.kind}) belongs to a network for images "
            f"of {counted(channels[0], 'channel')}, but the records' images have {channels[1]}; "
            f"give weights for RGB or for {channels[1]}, or --tf_initial_checkpoint= to start "
            "without any."
        )

    different = []
    for name in names:
        theirs, ours = getattr(source.config, name), getattr(config, name)
        is_same = theirs == ours
        if name in _OF_CHANNELS and len(theirs) == 3 != len(ours):
            # Weights for RGB, which the stem is fitted from: further channels are new and keep
            # ours, and with fewer nothing corresponds.
            theirs, ours = ((*theirs, *ours[3:]), ours) if len(ours) > 3 else ((), ())
        if isinstance(theirs, tuple):
            is_same = len(theirs) == len(ours) and np.allclose(theirs, ours)
        if not is_same:
            different.append(f"--{name}={text_of(theirs)}")

    if different:
        raise UserError(
            f"--tf_initial_checkpoint={checkpoint} ({source.kind}) belongs to another network; its "
            f"weights need: {' '.join(different)}; --tf_initial_checkpoint= starts without any."
        )

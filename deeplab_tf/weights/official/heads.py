"""Which heads of official DeepLab a file holds, and how their variables are called.

(model.py, core/dense_prediction_cell.py.) Kernels have the same layout in both. Only ASPP joins its
branches in another order: image pooling comes first there and last here. So the layer that takes
them gets its input channels in another order.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_tf.config import ModelConfig, cells
from deeplab_tf.config.flags import text_of
from deeplab_tf.messages import UserError
from deeplab_tf.weights.mapping import Collector
from deeplab_tf.weights.official import layers
from deeplab_tf.weights.official.backbones import decoder_ends
from deeplab_tf.weights.official.layers import Pairs
from deeplab_tf.weights.untold import Untold

# Pattern for how the names of all weights of the heads begin.
KNOWN_NAMES = r"aspp\d|image_pooling|concat_projection|meta_architecture/|decoder/|logits/"
_LOGITS = "logits/semantic"
_FEATURE = "decoder/feature_projection0"
_CELL = "meta_architecture"


def are_in(file: Mapping[str, np.ndarray], path: str) -> bool:
    """Returns whether there is a segmentation head that ends in logits.

    Raises:
      UserError: if there is only a part of one.
    """
    has_logits = any(name.startswith("logits/") for name in file)
    if not has_logits and f"{_FEATURE}/biases" not in file:
        return False

    is_cell = any(name.startswith(f"{_CELL}/") for name in file)
    context = f"{_CELL}/concat_projection/weights" if is_cell else "aspp0/weights"
    needed = [context, *([f"{_LOGITS}/weights"] if has_logits else [])]
    missing = [name for name in needed if name not in file]
    if missing:
        raise UserError(f"{path} has a head, but lacks {missing[0]!r}; it cannot be imported.")
    return True


def settings_in(
    file: Mapping[str, np.ndarray],
    collector: Collector,
    backbone: tuple[str, str],
    untold: Untold,
    path: str,
) -> dict[str, Any]:
    """Returns the settings of the heads: those that the file tells, and the answers to the rest.

    Args:
      backbone: the model variant and its scope in the file.
    Raises:
      UserError: if such a head cannot be built, or if an answer is missing or does not fit.
    """
    if f"{_CELL}/concat_projection/weights" in file:
        settings = _cell_settings(file, collector, untold, path)
    else:
        settings = _aspp_settings(file, collector, untold, path)
    return settings | _decoder_settings(file, collector, backbone, path)


def num_classes(collector: Collector, config: ModelConfig) -> int:
    """Returns the number of classes."""
    if config.decoder_output_is_logits:
        return config.decoder_filters
    return collector.classes(f"{_LOGITS}/weights", -1)


def _cell_settings(file, collector: Collector, untold: Untold, path: str) -> dict[str, Any]:
    """Returns the settings of a dense prediction cell; raises UserError if its JSON is missing."""
    matches = [re.match(rf"{_CELL}/branch(\d+)(_depthwise)?/", name) for name in file]
    theirs = sorted({(int(match[1]), 3 if match[2] else 1) for match in matches if match})
    kernels = ",".join(str(kernel) for _, kernel in theirs)
    held = f"{path} has a dense prediction cell of {len(theirs)} branches (kernels {kernels})"
    if not untold.dense_prediction_cell_json:
        raise UserError(
            f"{held}, and the weights do not tell how these are connected and dilated; give its "
            "JSON, a path or the text, with --dense_prediction_cell_json (the published "
            f"Xception-71: --dense_prediction_cell_json={cells.PUBLISHED})."
        )

    cell = cells.canonical(untold.dense_prediction_cell_json)
    ours = [(index, branch.kernel or 1) for index, branch in enumerate(cells.branches(cell))]
    if ours != theirs:
        kernels = ",".join(str(kernel) for _, kernel in ours)
        raise UserError(
            f"{held}, but --dense_prediction_cell_json has {len(ours)} (kernels {kernels}; pooling "
            "counts as 1); give the JSON that it was trained with."
        )
    if untold.atrous_rates:
        raise UserError(f"{held} and no ASPP; leave out --atrous_rates.")
    filters = collector.channels(f"{_CELL}/concat_projection/weights", -1)
    return {"aspp_convs_filters": filters, "dense_prediction_cell_json": cell}


def _aspp_settings(file, collector: Collector, untold: Untold, path: str) -> dict[str, Any]:
    """Returns the settings of ASPP; raises UserError if answers are missing or do not fit it."""
    if untold.dense_prediction_cell_json:
        raise UserError(
            f"{path} has ASPP and no dense prediction cell; leave out --dense_prediction_cell_json."
        )
    branches = {m[1] for m in (re.match(r"aspp([1-9]\d*)[_/]", name) for name in file) if m}
    is_gated = "image_pooling/biases" in file
    _require_answers(len(branches), is_gated, untold, path)

    settings: dict[str, Any] = {
        "aspp_convs_filters": collector.channels("aspp0/weights", -1),
        "aspp_with_concat_projection": "concat_projection/weights" in file,
        "add_image_level_feature": "image_pooling/weights" in file,
        "aspp_with_squeeze_and_excitation": is_gated,
    }
    if branches:
        settings["aspp_with_separable_conv"] = "aspp1_depthwise/depthwise_weights" in file
    return settings


def _require_answers(num_branches: int, is_gated: bool, untold: Untold, path: str) -> None:
    """Raises UserError, with all that has to be given, if the file cannot be imported without."""
    rates = untold.atrous_rates or ()
    if rates and not num_branches:
        raise UserError(
            f"{path} has no atrous branches; leave out --atrous_rates={text_of(rates)}."
        )

    wanted = []
    if len(rates) != num_branches:
        usual = " (usual are 6,12,18 at output stride 16, and 12,24,36 at 8)"
        given = f", not {text_of(rates)}" if rates else ""
        branches = f"{num_branches} atrous {'branch' if num_branches == 1 else 'branches'}"
        wanted.append(
            f"has {branches}; give as many --atrous_rates{given}"
            f"{usual if num_branches == 3 else ', those it was trained with'}"
        )

    missing = [
        f"--{name}"
        for name in ("image_se_uses_qsigmoid", "image_pooling_crop_size", "image_pooling_stride")
        if getattr(untold, name) is None
    ]
    if not untold.image_pooling_crop_size and untold.image_pooling_crop_size is not None:
        missing = [name for name in missing if name != "--image_pooling_stride"]  # no effect
    if is_gated and missing:
        wanted.append(
            "has a squeeze-and-excite gate, which the weights describe only in part; give "
            f"{', '.join(missing)} (the published MobileNetV3: "
            "--image_se_uses_qsigmoid --image_pooling_crop_size=769,769 --image_pooling_stride=4,5)"
        )
    if wanted:
        raise UserError(f"{path} {'; it also '.join(wanted)}.")
    if untold.image_se_uses_qsigmoid and not is_gated:
        raise UserError(
            f"{path} has no squeeze-and-excite gate; leave out --image_se_uses_qsigmoid."
        )


def _decoder_settings(
    file, collector: Collector, backbone: tuple[str, str], path: str
) -> dict[str, Any]:
    """Returns the settings of the decoder, none if there is none."""
    if f"{_FEATURE}/weights" not in file:
        return {}

    reductions = {m[0] for m in (re.match(rf"{_FEATURE}(_\d+)?/", name) for name in file) if m}
    strides = [
        _decoder_stride(collector, f"{_FEATURE}{_suffix(step)}/weights", backbone, path)
        for step in range(len(reductions))
    ]
    is_logits = f"{_FEATURE}/biases" in file
    sums = ("decoder_split_sep_conv0_depthwise/depthwise_weights", "decoder_conv0/weights")
    is_sum = any(f"decoder/{name}" in file for name in sums)
    settings: dict[str, Any] = {
        "decoder_output_stride": tuple(strides),
        "decoder_output_is_logits": is_logits,
        "decoder_use_sum_merge": is_sum,
    }

    first = "decoder_split_sep_conv0" if is_sum else "decoder_conv0"
    is_separable = f"decoder/{first}_depthwise/depthwise_weights" in file
    if not is_logits:  # otherwise it has no effect
        settings["decoder_use_separable_conv"] = is_separable

    last = "decoder_conv0_pointwise" if is_separable else "decoder_conv0/decoder_conv0_1"
    result = _FEATURE if is_sum else f"decoder/{last}"
    number = collector.classes if is_logits else collector.channels
    settings["decoder_filters"] = number(f"{result}/weights", -1)
    if not is_sum:
        settings["decoder_reduction_filters"] = collector.channels(f"{_FEATURE}/weights", -1)
    return settings


def _decoder_stride(
    collector: Collector, feature: str, backbone: tuple[str, str], path: str
) -> int:
    """Returns the stride of the map with as many channels as a step of the decoder takes.

    Args:
      feature: name of the kernel that takes it.
    """
    width = collector.shape(feature, 4)[2]
    ends = decoder_ends(*backbone)
    widths = {stride: collector.shape(name, 4)[axis] for stride, (name, axis) in ends.items()}
    strides = [stride for stride, channels in widths.items() if channels == width]
    if len(strides) != 1:
        offered = ", ".join(f"{channels} at {stride}" for stride, channels in widths.items())
        raise UserError(
            f"{path} has a decoder on a feature of {width} channels, from which its stride does "
            f"not follow; {backbone[0]} offers {offered}."
        )
    return strides[0]


def _suffix(step: int) -> str:
    """Returns the end of the names in a step of the decoder; the first one has no number."""
    return f"_{step}" if step else ""


def pairs(config: ModelConfig) -> Pairs:
    """Yields our names of the heads' variables, each with its name in the file."""
    yield from _cell_pairs(config) if config.dense_prediction_cell_json else _aspp_pairs(config)

    for step in range(len(config.decoder_output_stride)):
        yield from _decoder_pairs(config, f"decoder{_suffix(step)}", _suffix(step))
    if not config.decoder_output_is_logits:
        yield from layers.conv_bias("classifier/conv", _LOGITS)


def _cell_pairs(config: ModelConfig) -> Pairs:
    for index, branch in enumerate(cells.branches(config.dense_prediction_cell_json)):
        layer = layers.separable if branch.kernel == 3 else layers.conv_norm
        yield from layer(f"cell/branch{index}", f"{_CELL}/branch{index}")
    yield from layers.conv_norm("cell/projection", f"{_CELL}/concat_projection")


def _aspp_pairs(config: ModelConfig) -> Pairs:
    yield from layers.conv_norm("aspp/branch1", "aspp0")
    atrous = layers.separable if config.aspp_with_separable_conv else layers.conv_norm
    for index in range(1, len(config.atrous_rates) + 1):
        yield from atrous(f"aspp/branch{index + 1}", f"aspp{index}")

    if config.aspp_with_squeeze_and_excitation:
        yield from layers.conv_bias("aspp/gate", "image_pooling")
    elif config.add_image_level_feature:
        yield from layers.conv_norm("aspp/pooling", "image_pooling")
    if config.aspp_with_concat_projection:
        yield from layers.conv_norm("aspp/projection", "concat_projection")


def _decoder_pairs(config: ModelConfig, ours: str, suffix: str) -> Pairs:
    feature = f"decoder/feature_projection0{suffix}"
    conv = f"decoder/decoder_conv0{suffix}"
    plain = layers.conv_bias if config.decoder_output_is_logits else layers.conv_norm
    is_separable = config.decoder_use_separable_conv and not config.decoder_output_is_logits

    yield from plain(f"{ours}/reduction", feature)
    if config.decoder_use_sum_merge and is_separable:
        theirs = f"decoder/decoder_split_sep_conv0{suffix}"
        yield from layers.separable(f"{ours}/refinement1", theirs)
    elif config.decoder_use_sum_merge:
        yield from plain(f"{ours}/refinement1", conv)
    elif is_separable:
        yield from layers.separable(f"{ours}/refinement1", conv)
        yield from layers.separable(f"{ours}/refinement2", f"decoder/decoder_conv1{suffix}")
    else:
        for index in (1, 2):
            theirs = f"{conv}/decoder_conv0{suffix}_{index}"
            yield from plain(f"{ours}/refinement{index}", theirs)


def reordered(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays whose channels must follow our order of ASPP's branches, in that order.

    Args:
      arrays: the values of our variables as the file has them.
    """
    has_pooling = config.add_image_level_feature and not config.aspp_with_squeeze_and_excitation
    if config.dense_prediction_cell_json or not has_pooling:
        return {}

    # The layer that takes the joined branches.
    if config.aspp_with_concat_projection:
        layer = "aspp/projection/"
    elif config.decoder_output_stride:
        layer = "decoder/refinement1/"
    else:
        layer = "classifier/"

    filters = config.aspp_convs_filters
    joined = filters * (2 + len(config.atrous_rates))
    order = [*range(filters, joined), *range(filters)]
    changed = {}
    for name, array in arrays.items():
        axis = _input_axis(name) if name.startswith(layer) else None
        if axis is not None and array.ndim > axis and array.shape[axis] >= joined:
            rest = range(joined, array.shape[axis])  # a decoder appends the earlier feature
            changed[name] = np.take(array, [*order, *rest], axis=axis)
    return changed


def _input_axis(name: str) -> int | None:
    """Returns the axis of a variable that has its layer's input channels, None if none has."""
    if "/depthwise_norm/" in name:
        return 0
    if name.endswith("/depthwise_kernel"):
        return 2
    # The pointwise convolution takes as many channels, in the order of the depthwise one.
    return 2 if name.endswith("/kernel") else None

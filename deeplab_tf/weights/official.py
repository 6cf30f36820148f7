"""Reads checkpoints of Google's official DeepLab (TensorFlow 1) with a ResNet.

Names and layouts are as in research/deeplab, model.py and core/resnet_v1_beta.py; see also
docs/ancestors.md, official DeepLab. Kernels already have our layout. Only the projection differs:
its input begins with image pooling in the official network, and ends with it in ours.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.models.backbones import layer_settings
from deeplab_tf.models.backbones.resnet import DEPTHS, STEMS
from deeplab_tf.weights import checkpoint_index
from deeplab_tf.weights.mapping import Collector, Source

# core/feature_extractor.py; beta variants map 0..255 to -1..1 instead.
MEAN = (123.15, 115.90, 103.06)
# The stride of the feature that a decoder takes, by its number of channels.
_DECODER_STRIDES = {256: 4, 512: 8, 1024: 16}
_DEPTHS = (50, 101)
# Variables that only training needs.
_OF_TRAINING = r"(.*/)?(Momentum|Adam(_1)?|RMSProp(_1)?|ExponentialMovingAverage|global_step)"
# Scopes of the network's weights: the backbone without its ImageNet classifier, and the heads.
_BACKBONE = r"resnet_v1_\d+/(?!logits/|mean_rgb$)"
_HEADS = r"aspp\d|image_pooling|concat_projection|decoder/|logits/"


class Checkpoint(Mapping[str, np.ndarray]):
    """The arrays of a TensorFlow 1 checkpoint by their names; each is read when it is used."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        if Path(f"{prefix}.index").is_file():  # not in TensorFlow's first format
            checkpoint_index.require_proper(prefix)
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{prefix} cannot be read as a checkpoint: {reason}.") from None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._shapes:
            raise KeyError(name)
        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._prefix} is damaged at {name!r}: {reason}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def recognises(names: Mapping) -> bool:
    """Returns whether an official checkpoint with a ResNet has such names."""
    return any(re.match(r"resnet_v1_\d+/block1/unit_1/", name) for name in names)


def read(
    prefix: str,
    *,
    output_stride: int = 16,
    atrous_rates: tuple[int, ...] = (),
    multi_grid: tuple[int, ...] = (),
    backbone_only: bool = False,
) -> Source:
    """Reads a checkpoint.

    Args:
      prefix: path of the checkpoint without its endings.
      output_stride, atrous_rates, multi_grid: how the network is dilated, which the file does not
        say; empty rates mean 6, 12, 18, scaled to the output stride.
      backbone_only: whether to leave out the head.
    Raises:
      UserError: if the checkpoint belongs to another network, or lacks a variable.
    """
    file = Checkpoint(prefix)
    scopes = {name.split("/")[0] for name in file if recognises({name: 0})}
    depths = [depth for depth in _DEPTHS if f"resnet_v1_{depth}" in scopes]
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in file:
        raise UserError(
            f"{prefix} is a checkpoint of TensorFlow 2, such as this package's own, and not "
            "official DeepLab's; a run's folder needs no import: eval, predict, export_model and "
            "train (--tf_initial_checkpoint) take it as it is."
        )

    if not depths:
        first = [files.shown(name, most=80) for name in sorted(n.split("/")[0] for n in file)[:1]]
        raise UserError(
            f"{prefix} is not of resnet_v1_50, resnet_v1_101 or their beta variants (it holds "
            f"{', '.join(first) or 'nothing'}); other backbones cannot be imported."
        )

    config = _backbone_config(file, depths[0], output_stride, atrous_rates, multi_grid)
    needed = ("aspp0/weights", "concat_projection/weights", "logits/semantic/weights")
    missing = [name for name in needed if name not in file]
    has_head = not backbone_only and len(missing) < len(needed)
    if has_head and missing:
        raise UserError(f"{prefix} has a head, but lacks {missing[0]!r}; it cannot be imported.")

    collector = Collector(file, prefix)
    num_classes = 0
    _take_backbone(collector, config)
    if has_head:
        settings = _head_settings(file, collector, config, prefix)
        config = dataclasses.replace(config, **settings)
        _take_head(collector, config)
        num_classes = collector.classes("logits/semantic/weights", -1)

    known = _BACKBONE if backbone_only else f"{_BACKBONE}|{_HEADS}"
    return collector.source(
        "official DeepLab", config, num_classes, known=known, ignored=_OF_TRAINING
    )


def _backbone_config(file, depth, output_stride, atrous_rates, multi_grid) -> ModelConfig:
    """Returns the settings of the network, with defaults for its head."""
    is_beta = f"resnet_v1_{depth}/conv1_1/weights" in file
    return ModelConfig(
        model_variant=f"resnet_v1_{depth}_beta" if is_beta else f"resnet_v1_{depth}",
        stride_placement="last_3x3",
        output_stride=output_stride,
        atrous_rates=atrous_rates,
        multi_grid=multi_grid,
        align_corners=True,
        batch_norm_decay=0.95,
        image_mean=(127.5,) * 3 if is_beta else MEAN,
        image_std=(127.5,) * 3 if is_beta else (1.0,) * 3,
    )


def _head_settings(
    file: Checkpoint, collector: Collector, config: ModelConfig, prefix: str
) -> dict[str, Any]:
    """Returns the settings of the head that follow from its variables.

    Raises:
      UserError: if such a head cannot be built, or --atrous_rates does not fit it.
    """
    branches = {m[1] for m in (re.match(r"aspp([1-9]\d*)[_/]", name) for name in file) if m}
    if not branches:
        raise UserError(
            f"{prefix} was trained without atrous_rates: its ASPP has no atrous branch; such a "
            "network cannot be imported."
        )
    if len(config.aspp_rates()) != len(branches):
        raise UserError(
            f"{prefix} has {len(branches)} atrous branches; give as many --atrous_rates, not "
            f"{','.join(map(str, config.aspp_rates()))}."
        )

    settings = {
        "aspp_convs_filters": collector.channels("aspp0/weights", -1),
        "aspp_with_separable_conv": "aspp1_depthwise/depthwise_weights" in file,
        "add_image_level_feature": "image_pooling/weights" in file,
    }
    if "decoder/feature_projection0/weights" in file:
        settings |= _decoder_settings(file, collector, prefix)
    return settings


def _decoder_settings(file: Checkpoint, collector: Collector, prefix: str) -> dict[str, Any]:
    """Returns the settings of the decoder; raises UserError if such a decoder cannot be built."""
    features = {m[0] for m in (re.match(r"decoder/feature_projection\w+", n) for n in file) if m}
    feature = "decoder/feature_projection0/weights"
    width = collector.shape(feature, 4)[2]
    if len(features) > 1 or width not in _DECODER_STRIDES:
        inputs = "several features" if len(features) > 1 else f"a feature of {width} channels"
        raise UserError(
            f"{prefix} has a decoder on {inputs}; only a decoder on a single ResNet stage "
            f"({', '.join(map(str, _DECODER_STRIDES))} channels) can be imported."
        )
    if any(re.match(r"decoder/decoder_(split_sep_conv0|conv0/weights)", name) for name in file):
        raise UserError(
            f"{prefix} has a decoder that adds its features (--decoder_use_sum_merge); only a "
            "decoder that concatenates them can be imported."
        )

    separable = "decoder/decoder_conv0_depthwise/depthwise_weights" in file
    last = "decoder_conv0_pointwise" if separable else "decoder_conv0/decoder_conv0_1"
    return {
        "decoder_output_stride": _DECODER_STRIDES[width],
        "decoder_reduction_filters": collector.channels(feature, -1),
        "decoder_use_separable_conv": separable,
        "decoder_filters": collector.channels(f"decoder/{last}/weights", -1),
    }


def _take_conv_norm(collector: Collector, ours: str, theirs: str) -> None:
    collector.take(f"{ours}/conv/kernel", f"{theirs}/weights")
    _take_norm(collector, f"{ours}/norm", theirs)


def _take_norm(collector: Collector, ours: str, theirs: str) -> None:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        collector.take(f"{ours}/{name}", f"{theirs}/BatchNorm/{name}")


def _take_separable(collector: Collector, ours: str, theirs: str) -> None:
    depthwise = f"{theirs}_depthwise"
    collector.take(f"{ours}/depthwise/depthwise_kernel", f"{depthwise}/depthwise_weights")
    _take_norm(collector, f"{ours}/depthwise_norm", depthwise)
    _take_conv_norm(collector, f"{ours}/pointwise", f"{theirs}_pointwise")


def _take_backbone(collector: Collector, config: ModelConfig) -> None:
    backbone = layer_settings(config)
    scope = f"resnet_v1_{backbone['depth']}"
    stem = STEMS[backbone["stem"]]
    for index in range(1, len(stem) + 1):
        theirs = f"{scope}/conv1_{index}" if len(stem) > 1 else f"{scope}/conv1"
        _take_conv_norm(collector, f"backbone/stem{index}", theirs)

    for stage, num_blocks in enumerate(DEPTHS[backbone["depth"]][0], start=1):
        for block in range(1, num_blocks + 1):
            ours = f"backbone/stage{stage}_block{block}"
            theirs = f"{scope}/block{stage}/unit_{block}/bottleneck_v1"
            for part in ("conv1", "conv2", "conv3", *(["shortcut"] if block == 1 else [])):
                _take_conv_norm(collector, f"{ours}/{part}", f"{theirs}/{part}")


def _take_head(collector: Collector, config: ModelConfig) -> None:
    _take_conv_norm(collector, "aspp/branch1", "aspp0")
    atrous = _take_separable if config.aspp_with_separable_conv else _take_conv_norm
    for index in range(1, len(config.aspp_rates()) + 1):
        atrous(collector, f"aspp/branch{index + 1}", f"aspp{index}")
    _take_conv_norm(collector, "aspp/projection", "concat_projection")

    if config.add_image_level_feature:
        _take_conv_norm(collector, "aspp/pooling", "image_pooling")
        # The input channels of image pooling come first there and last in ours.
        pooling_last = -config.aspp_convs_filters
        collector.take(
            "aspp/projection/conv/kernel",
            "concat_projection/weights",
            lambda kernel: np.roll(kernel, pooling_last, axis=2),
        )

    if config.decoder_output_stride:
        _take_conv_norm(collector, "decoder/reduction", "decoder/feature_projection0")
        for index in (1, 2):
            ours = f"decoder/refinement{index}"
            if config.decoder_use_separable_conv:
                _take_separable(collector, ours, f"decoder/decoder_conv{index - 1}")
            else:
                theirs = f"decoder/decoder_conv0/decoder_conv0_{index}"
                _take_conv_norm(collector, ours, theirs)

    collector.take("classifier/conv/kernel", "logits/semantic/weights")
    collector.take("classifier/conv/bias", "logits/semantic/biases")

"""Reads the ImageNet ResNets of keras.applications and keras-cv as backbones.

In both, the first 1x1 convolution of a stage has the stride. In keras.applications, convolutions
have biases, and batch normalisation adds 1.001e-5 to variances. Ours have no biases, and we add
1e-5. So the differences move into the moving statistics, and inference stays the same. Its images
are BGR minus a mean, and ours RGB, so the input channels of its first kernel are reversed.
"""

import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.messages import UserError
from deeplab_tf.models.backbones.resnet import DEPTHS
from deeplab_tf.startup.process_state import import_keras_cv, keras_settings
from deeplab_tf.weights.mapping import Source
from deeplab_tf.weights.untold import Untold

APPLICATIONS = "keras.applications:"
KERAS_CV = "keras_cv:"
_EPSILON = 1e-5  # ours; models/layers.py
# keras.applications.imagenet_utils, mode "caffe", in RGB order.
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@keras_settings()
def read(source: str, untold: Untold | None = None) -> Source:
    """Loads a published model and maps its weights.

    Args:
      source: keras.applications:ResNet50, ResNet101 or ResNet152, or keras_cv:PRESET such as
        keras_cv:resnet50_imagenet; downloaded and kept by Keras.
      untold: how the network is dilated.
    Raises:
      UserError: if there is no such model, or it cannot be downloaded.
    """
    name = source.split(":", 1)[1]
    untold = untold or Untold()
    output_stride = untold.output_stride or 16
    try:
        if source.startswith(KERAS_CV):
            backbone = import_keras_cv().models.ResNetBackbone
            trained = sorted(backbone.presets_with_weights)
            if name not in trained:
                raise UserError(f"{source} has no weights; allowed: {', '.join(trained)}.")
            mapped = from_keras_cv(backbone.from_preset(name), output_stride=output_stride)
            return _dilated(mapped, untold)

        if name not in ("ResNet50", "ResNet101", "ResNet152"):
            raise UserError(f"{source} is unknown; allowed: ResNet50, ResNet101 and ResNet152.")
        model = getattr(tf.keras.applications, name)(include_top=False, weights="imagenet")
    except UserError:
        raise
    except Exception as error:  # code that downloads may raise anything
        raise UserError(f"{source} could not be loaded: {str(error).splitlines()[0]}.") from None

    mapped = from_application(model, output_stride=output_stride)
    return _dilated(mapped, untold)


def _dilated(source: Source, untold: Untold) -> Source:
    """Returns the source with rates, which the published models do not have."""
    rates: Any = untold.atrous_rates  # None leaves them open
    config = dataclasses.replace(source.config, atrous_rates=rates, multi_grid=untold.multi_grid)
    return dataclasses.replace(source, config=config)


def from_application(model: tf.keras.Model, *, output_stride: int = 16) -> Source:
    """Maps a keras.applications ResNet50, 101 or 152, with or without its classifier."""
    config = ModelConfig(
        model_variant=f"resnet_v1b_{_depth_of(model, 'conv4_block')}",
        stride_placement="first_1x1",
        output_stride=output_stride,
        image_mean=_CAFFE_MEAN,
        image_std=(1.0, 1.0, 1.0),
    )
    source = _collect("keras.applications", model, "conv{}", 1, config)
    kernel = source.arrays["backbone/stem1/conv/kernel"]
    source.arrays["backbone/stem1/conv/kernel"] = kernel[:, :, ::-1]
    source.converted.add("backbone/stem1/conv/kernel")
    return source


def from_keras_cv(model: tf.keras.Model, *, output_stride: int = 16) -> Source:
    """Maps a keras-cv ResNetBackbone (version 1) with bottlenecks; its images are RGB in 0..1."""
    config = ModelConfig(
        model_variant=f"resnet_v1b_{_depth_of(model, 'v2_stack_2_block')}",
        stride_placement="first_1x1",
        stem_padding="same",
        output_stride=output_stride,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(255.0, 255.0, 255.0),
    )
    return _collect("keras-cv", model, "v2_stack_{}", -1, config)


def _depth_of(model: tf.keras.Model, block: str) -> int:
    """Returns the depth that follows from the number of blocks in the third stage.

    If no depth has that number, it returns 50, and `_collect` reports what does not fit.

    Args:
      block: prefix of the names of the third stage's blocks.
    """
    matches = [re.fullmatch(rf"{block}\d+_1_conv", layer.name) for layer in model.layers]
    depths = {blocks[2]: depth for depth, (blocks, bottleneck) in DEPTHS.items() if bottleneck}
    return depths.get(len(list(filter(None, matches))), 50)


def _collect(
    kind: str,
    model: tf.keras.Model,
    stack: str,
    first_stack: int,
    config: ModelConfig,
) -> Source:
    """Maps a Keras ResNet.

    Args:
      kind: what the model is, for messages.
      stack: what it calls a stage, with {} for the number.
      first_stack: what to add to our number of a stage for its number.
      config: the network that it becomes.
    Raises:
      UserError: if a layer is missing or left over.
    """

    def names(ours: str) -> tuple[str, str]:
        if ours == "stem1":
            return "conv1_conv", "conv1_bn"
        block, part = ours.split("/")
        stage, number = block.removeprefix("stage").split("_block")
        index = 0 if part == "shortcut" else int(part[-1])
        theirs = f"{stack.format(int(stage) + first_stack)}_block{number}_{index}"
        return f"{theirs}_conv", f"{theirs}_bn"

    arrays, origins, depth = {}, {}, BACKBONES[config.model_variant].layer["depth"]
    converted = set()
    parts = ["stem1"]
    for stage, num_blocks in enumerate(DEPTHS[depth][0], start=1):
        for block in range(1, num_blocks + 1):
            inner = ["conv1", "conv2", "conv3", *(["shortcut"] if block == 1 else [])]
            parts += [f"stage{stage}_block{block}/{part}" for part in inner]

    for part in parts:
        conv_name, norm_name = names(part)
        try:
            conv, norm = model.get_layer(conv_name), model.get_layer(norm_name)
        except ValueError as error:
            raise UserError(f"The {kind} model is not a ResNet-{depth}: {error}.") from None

        # Normalisation subtracts the mean from the biased output and divides it by
        # sqrt(variance + epsilon). So the bias goes into the mean, and the difference between the
        # epsilons into the variance.
        kernel, *bias = conv.get_weights()
        gamma, beta, mean, variance = norm.get_weights()
        values = {
            "conv/kernel": kernel,
            "norm/gamma": gamma,
            "norm/beta": beta,
            "norm/moving_mean": mean - bias[0] if bias else mean,
            "norm/moving_variance": variance + np.float32(norm.epsilon - _EPSILON),
        }
        adjusted = {"norm/moving_variance"} | ({"norm/moving_mean"} if bias else set())
        converted |= {f"backbone/{part}/{name}" for name in adjusted}

        for name, value in values.items():
            arrays[f"backbone/{part}/{name}"] = value
            origins[f"backbone/{part}/{name}"] = f"{conv_name if 'conv' in name else norm_name}"

    taken = {name for part in parts for name in names(part)}
    unused = [layer.name for layer in model.layers if layer.weights and layer.name not in taken]
    if any("block" in name for name in unused):
        raise UserError(f"The {kind} model is not a ResNet-{depth}: {unused[0]} is left over.")
    return Source(f"{kind} ResNet-{depth}", config, 0, arrays, origins, unused, converted)

"""Backbones: networks that turn images into feature maps. One module for each family.

A family consists of a Keras layer and a function that returns the layer's keyword arguments for
given settings. The layer is called with normalised images [B, H, W, 3], `training` and
`recompute_stages`, and returns feature maps by name. Its attributes name the map that each head
takes: `context_end_point` for ASPP, `auxiliary_end_point` for the auxiliary head, and
`decoder_end_point(stride)` for a decoder.

To add a family, write its module, and enter it below and in `config/backbones.py`.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.backbones import resnet

FAMILIES: dict[str, tuple[type, Callable[[ModelConfig], dict[str, Any]]]] = {
    "resnet": (resnet.ResNet, resnet.layer_settings),
}


def build_backbone(config: ModelConfig, *, name: str = "backbone") -> tf.keras.layers.Layer:
    """Builds the backbone that the settings name."""
    layer, _ = FAMILIES[BACKBONES[config.model_variant].family]
    return layer(
        **layer_settings(config),
        batch_norm_decay=config.batch_norm_decay,
        initializer=config.initializer_style(),
        name=name,
    )


def layer_settings(config: ModelConfig) -> dict[str, Any]:
    """Returns the arguments of the backbone's layer; what the settings leave open is filled in."""
    _, settings_of = FAMILIES[BACKBONES[config.model_variant].family]
    return settings_of(config)

"""Backbones: networks that turn images into feature maps. One module for each family.

The module of a family has a function `build(config, name=...)`, which returns a Keras layer. The
layer is called with normalised images [B, H, W, 3], `training` and `recompute_stages` (the number
of parts, of at most 5, that the backward pass computes again), and returns feature maps by name.
Its attributes name the map that each head takes: `context_end_point` for ASPP,
`auxiliary_end_point` for the auxiliary head, and `decoder_end_point(stride)` for a decoder.

To add a family, write its module, and enter its variants in `config/backbones.py`.
"""

import importlib

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.backbones import BACKBONES


def build_backbone(config: ModelConfig, *, name: str = "backbone") -> tf.keras.layers.Layer:
    """Builds the backbone that the settings name."""
    family = importlib.import_module(f"{__name__}.{BACKBONES[config.model_variant].family}")
    return family.build(config, name=name)

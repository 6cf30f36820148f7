"""A small exported model for tests of what reads it."""

import dataclasses

import numpy as np
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.serving import export

COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (9, 9, 9)]
CLASSES = tuple(LabelClass(f"class {index}", color) for index, color in enumerate(COLORS))


def tiny_export(folder, *, config=None, serving=None, warmup_size=(65, 81), **inference):
    """Exports an untrained network whose scores are decided, as version 1; returns its folder.

    The warm-up's images are smaller than usual: each signature predicts one.
    """
    tf.keras.utils.set_random_seed(0)
    config = config or ModelConfig(model_variant="resnet_v1b_18")
    config = dataclasses.replace(
        config,
        aspp_convs_filters=8,
        atrous_rates=(1, 2, 3),
        initializer="he_normal",  # whose scores differ from pixel to pixel
    )
    model = build_model(config, num_classes=len(CLASSES))
    model.classifier.conv.kernel.assign(model.classifier.conv.kernel * 100)
    info = DatasetInfo(name="tiny", classes=CLASSES)
    export.export(
        Predictor(model, **inference), info, folder, config=serving, warmup_size=warmup_size
    )
    return folder


def pictures(count, height, width, seed=0):
    """Smooth images with much contrast, uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 5, 6, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, [height, width]), tf.uint8).numpy()

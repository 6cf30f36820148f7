"""A model for predict: light is what is above 127 in red, whose share is the probability."""

import os

import numpy as np

from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation.predictor import RefusedImage
from deeplab_tf.jobs import asked_model

CLASSES = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (250, 240, 230)))


def results_of(images):
    for image in images:
        if image.shape[1] > 30:
            raise RefusedImage("more than 30 pixels wide")
    light = [image[..., 0] / np.float32(255) for image in images]
    return [((each > 0.5).astype(np.uint8), np.stack([1 - each, each], axis=-1)) for each in light]


def open_model(job, *, with_probabilities=False, together=1):
    def predict(images):
        results = results_of(images)
        return results if with_probabilities else [(labels, None) for labels, _ in results]

    return asked_model.Model(predict, CLASSES, {"model": "threshold"}, together=together)


def job(**values):
    return PredictConfig(
        **{"input": ("photos",), "output_dir": "out", "checkpoint_dir": "run"} | values
    )


def written(folder="out"):
    return sorted(os.listdir(f"{folder}/index"))

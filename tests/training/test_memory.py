"""Memory stays flat, however long a run or an evaluation is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.data import catalog, records
from deeplab_tf.evaluation import evaluator
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.training.trainer import Trainer

pytestmark = pytest.mark.slow
MIB = 1 << 20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Memory(tf.keras.callbacks.Callback):
    """Notes the memory of the process every hundred steps."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def on_train_batch_end(self, batch, logs=None):
        if batch % 100 == 99:
            self.noted.append(resident_bytes())


def test_two_thousand_steps_do_not_grow(tiny_experiment):
    train = dataclasses.replace(
        tiny_experiment.train, training_number_of_steps=2000, log_steps=10, save_interval_steps=2000
    )
    trainer = Trainer(dataclasses.replace(tiny_experiment, train=train))
    memory, make = Memory(), trainer._callbacks
    trainer._callbacks = lambda *args: [*make(*args), memory]
    trainer.run()
    assert len(memory.noted) == 20
    # The first hundreds fill TensorFlow's pools; a leak of 16 KiB a step would make 16 MiB.
    assert np.median(memory.noted[-5:]) - np.median(memory.noted[5:10]) < 16 * MIB


def test_an_evaluations_memory_does_not_depend_on_the_number_of_images(records_dir):
    info = catalog.load("", records_dir)
    few = records.open_split(records_dir, "val", info)
    model = build_model(
        ModelConfig(model_variant="resnet_v1_18", aspp_convs_filters=8),
        num_classes=info.num_classes,
    )
    predictor = Predictor(model)
    noted = []

    def progress(_):
        noted.append(resident_bytes())

    for _ in range(80):  # 400 images; names count once in each evaluation
        evaluator.evaluate(predictor, few, info, split="val", progress=progress)
    assert len(noted) == 400
    assert np.median(noted[-50:]) - np.median(noted[100:150]) < 16 * MIB

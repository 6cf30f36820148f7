"""What a training step tells about itself, against what it did to the weights."""

import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model

RATE = 0.125
DETAILS = {"main_loss", "auxiliary_loss", "gradient_norm", "input_ready"}


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    images = draw.uniform(0, 255, [2, 33, 33, 3]).astype(np.float32)
    return images, draw.integers(0, 3, [2, 33, 33, 1]).astype(np.int32)


def step(batch, **settings):
    """Runs a step of plain gradient descent; returns its logs and the norm of what moved."""
    tf.keras.utils.set_random_seed(0)
    config = ModelConfig(
        model_variant="resnet_v1b_18",
        aspp_convs_filters=8,
        auxiliary_filters=8,
        initializer="he_normal",
    )
    model = build_model(config, num_classes=3)
    model.compile(tf.keras.optimizers.SGD(RATE), **settings)
    before = [variable.numpy() for variable in model.trainable_variables]
    logs = model.train_on_batch(*batch, return_dict=True)
    moved = [
        variable.numpy() - old
        for variable, old in zip(model.trainable_variables, before, strict=True)
    ]
    return logs, np.sqrt(sum(np.sum(np.square(part, dtype=np.float64)) for part in moved))


@pytest.mark.slow
def test_the_norm_is_that_of_the_movement_and_the_losses_add_up(batch):
    began = time.time()
    logs, moved = step(batch, detailed_logs=True, auxiliary_loss_weight=0.5)
    assert logs.keys() >= DETAILS
    # Gradient descent moves the weights by rate times the gradients.
    assert logs["gradient_norm"] == pytest.approx(moved / RATE, rel=1e-3)
    assert logs["main_loss"] + logs["auxiliary_loss"] == pytest.approx(logs["loss"], rel=1e-6)
    assert began < logs["input_ready"] < time.time()


@pytest.mark.slow
def test_the_norm_is_that_before_clipping_also_in_parts(batch):
    whole, _ = step(batch, detailed_logs=True, fine_tune_batch_norm=False)
    clipped, moved = step(
        batch,
        detailed_logs=True,
        fine_tune_batch_norm=False,
        gradient_accumulation_steps=2,
        clip_gradient_norm=0.01,
    )
    assert moved == pytest.approx(0.01 * RATE, rel=1e-3)
    for name in ("gradient_norm", "main_loss", "auxiliary_loss"):
        assert clipped[name] == pytest.approx(whole[name], rel=1e-3), name


@pytest.mark.slow
def test_details_come_only_if_they_are_asked_for_and_change_nothing(batch):
    logs, moved = step(batch, auxiliary_loss_weight=0.5)
    assert not logs.keys() & DETAILS
    detailed, moved_too = step(batch, detailed_logs=True, auxiliary_loss_weight=0.5)
    assert moved_too == moved

    # Twice the weight is twice the auxiliary head's part.
    doubled, _ = step(batch, detailed_logs=True, auxiliary_loss_weight=1.0)
    assert doubled["auxiliary_loss"] == pytest.approx(2 * detailed["auxiliary_loss"], rel=1e-5)
    assert doubled["main_loss"] == pytest.approx(detailed["main_loss"], rel=1e-5)

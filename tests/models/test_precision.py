"""Training in half precision and by XLA equals plain float32, within their rounding."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.startup.process_state import keras_settings
from deeplab_tf.training.optimizers import MomentumSGD

NETWORKS = ("resnet_v1c_18", "mobilenet_v2", "mobilenet_v3_small_seg", "xception_41")
SETTINGS = {  # every kind of layer that a recipe can have, but no dropout, which is random
    "atrous_rates": (1, 2),
    "aspp_convs_filters": 16,
    "aspp_with_separable_conv": True,
    "decoder_output_stride": (4,),
    "decoder_filters": 16,
    "auxiliary_filters": 8,
    "aspp_dropout_rate": 0.0,
    "dropout_rate": 0.0,
    "initializer": "he_normal",
}


def trained(weights, variant=NETWORKS[0], *, steps=1, precision="float32", **settings):
    """Returns the initial weights, the mean loss, how far training moved weights, and the model."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8, 49, 65, 3)).astype(np.float32)
    labels = rng.integers(0, 5, (8, 49, 65, 1)).astype(np.int32)
    with keras_settings(precision):
        model = build_model(ModelConfig(model_variant=variant, **SETTINGS), num_classes=5)
        if weights:
            model.set_weights(weights)
        before = [variable.numpy() for variable in model.trainable_variables]
        weights = model.get_weights()

        # Batch statistics of these tiny maps would enlarge every rounding a hundredfold.
        model.compile(MomentumSGD(0.001, momentum=0.9), fine_tune_batch_norm=False, **settings)
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2, True)
        model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)

    moved = [new.numpy() - old for new, old in zip(model.trainable_variables, before, strict=True)]
    loss = float(model.loss_tracker.result())  # the mean over the steps
    return weights, loss, np.concatenate([part.ravel() for part in moved]), model


@functools.cache
def plain(variant):
    return trained(None, variant)


BOUNDS = {"float32": 0.01, "mixed_bfloat16": 0.5, "mixed_float16": 0.1}
HALF = [(variant, policy, False) for variant in NETWORKS for policy in tuple(BOUNDS)[1:]]
# XLA takes long; tests/training/test_combinations.py has it for the other networks.
COMPILED = [(NETWORKS[0], policy, True) for policy in ("float32", "mixed_bfloat16")]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "precision", "jit_compile"), HALF + COMPILED)
def test_training_is_the_same_within_rounding(variant, precision, jit_compile):
    bound = BOUNDS[precision]
    weights, loss, moved, _ = plain(variant)
    _, other_loss, other_moved, model = trained(
        weights, variant, precision=precision, jit_compile=jit_compile
    )
    assert other_loss == pytest.approx(loss, rel=bound / 50)
    error = np.linalg.norm(other_moved - moved) / np.linalg.norm(moved)
    assert error < bound

    outputs = model(np.zeros([1, 33, 33, 3], np.float32))
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    scales_loss = isinstance(model.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
    assert scales_loss == (precision == "mixed_float16")


@pytest.mark.slow
def test_several_steps_in_one_call_train_the_same():
    weights, loss, moved, _ = trained(None, steps=4)
    _, other_loss, other_moved, _ = trained(weights, steps=4, steps_per_execution=3)  # 3 and 1
    assert other_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(other_moved, moved, atol=1e-4 * np.abs(moved).max())

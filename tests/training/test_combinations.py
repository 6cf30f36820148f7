"""Several settings in one run, against the run without one of them, or a plain calculation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training.trainer import Trainer
from tests.conftest import two_replicas
from tests.ops.test_gradients import RATE, distance, step
from tests.test_distribution import assert_alike, weights
from tests.training.test_trainer import change

pytestmark = pytest.mark.slow

MANY = {
    "gradient_accumulation_steps": 2,
    "clip_gradient_norm": 0.5,
    "top_k_percent_pixels": 0.5,
    "hard_example_mining_step": 3,
    "ema_decay": 0.5,
    "last_layer_gradient_multiplier": 2.0,
    "label_weights": (1.0, 2.0, 3.0, 1.0, 0.5, 1.0, 1.0),
}
ALL_PIXELS = MANY | {"top_k_percent_pixels": 1.0}  # each replica would select among its own pixels
OFTEN = {"log_steps": 2, "save_interval_steps": 2}


@pytest.fixture
def train(tiny_experiment, tmp_path):
    def run(name, *, strategy=None, **settings):
        settings = {"train_batch_size": 8, "train_logdir": str(tmp_path / name)} | settings
        # No dropout, since XLA would draw other numbers.
        experiment = change(tiny_experiment, "model", dropout_rate=0.0)
        assert Trainer(change(experiment, "train", **settings), strategy).run() == 4
        return tmp_path / name

    return run


@pytest.mark.parametrize("added", [{"jit_compile": True}, {"steps_per_execution": 2}], ids=str)
def test_how_the_steps_are_run_changes_no_result(train, added):
    plain = train("plain", **MANY, **OFTEN)
    assert_alike(train("other", **MANY, **OFTEN, **added), plain, 4)


@pytest.mark.parametrize("variant", ["mobilenet_v2", "mobilenet_v3_small_seg", "xception_41"])
def test_googles_networks_train_alike_in_other_ways(tiny_experiment, tmp_path, variant):
    """By XLA, and on two replicas.

    Batch statistics of maps so small would enlarge rounding: after one step of MobileNetV2, XLA's
    moves the weights 1 % differently, as images do that are 0.0001 grey levels brighter.
    """
    tiny = change(tiny_experiment, "train", train_batch_size=8, fine_tune_batch_norm=False)
    network = {"aspp_convs_filters": 8, "atrous_rates": (1, 2), "initializer": "he_normal"}
    network |= {"dropout_rate": 0.0, "aspp_dropout_rate": 0.0}  # XLA would draw other numbers
    model = ModelConfig(model_variant=variant, **network)

    def train(name, *, strategy=None, **settings):
        experiment = dataclasses.replace(tiny, model=model)
        experiment = change(experiment, "train", train_logdir=str(tmp_path / name), **settings)
        assert Trainer(experiment, strategy).run() == 4
        return tmp_path / name

    plain = train("plain")
    assert_alike(train("compiled", jit_compile=True), plain, 4)
    assert_alike(train("two", strategy=two_replicas()), plain, 4)


def test_two_replicas_clip_and_average_like_one(train):
    frozen = {"fine_tune_batch_norm": False}  # each replica's parts would have other statistics
    one = train("frozen", strategy=tf.distribute.OneDeviceStrategy("CPU:0"), **ALL_PIXELS, **frozen)
    assert_alike(train("two", strategy=two_replicas(), **ALL_PIXELS, **frozen), one, 4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_averages_in_half_precision_are_those_of_the_saved_weights(train, policy, compiled):
    settings = {"save_interval_steps": 1, "keep_checkpoints": 9, "jit_compile": compiled}
    folder = train("run", dtype_policy=policy, **settings, **MANY)
    assert RunDir(folder).checkpoints.steps() == [0, 1, 2, 3, 4]
    saved = [weights(folder, number) for number in range(5)]
    kernel = next(name for name in saved[0] if name.startswith("model/classifier"))
    (average,) = (
        name
        for name, value in saved[0].items()
        if name.startswith("optimizer") and np.array_equal(value, saved[0][kernel])
    )
    expected = saved[0][kernel]
    for values in saved[1:]:
        assert values[kernel].dtype == np.float32
        expected = 0.5 * expected + 0.5 * values[kernel]
    np.testing.assert_allclose(saved[4][average], expected, rtol=1e-5, atol=1e-7)
    assert not np.array_equal(saved[4][kernel], expected)


def test_xla_does_not_change_a_step():
    settings = ALL_PIXELS | {"label_weights": (1.0, 2.0, 3.0), "dropout": 0.0}
    del settings["ema_decay"]
    for share in (1.0, 1 / 64):
        settings["top_k_percent_pixels"] = share
        initial, loss, expected = step(None, **settings)
        _, compiled_loss, moved = step(initial, jit_compile=True, **settings)
        assert compiled_loss == pytest.approx(loss, rel=1e-5)
        assert distance(moved, expected) < 1e-4


@pytest.mark.parametrize("replicas", [1, 2])
def test_parts_weights_clipping_and_multiplier_follow_the_plain_rule(replicas):
    given = {"label_weights": (1.0, 2.0, 3.0)}
    initial, loss, plain = step(None, **given)
    norm = np.sqrt(sum(np.sum(np.square(value / RATE)) for value in plain.values()))
    _, loss_in_parts, moved = step(
        initial,
        replicas=replicas,
        gradient_accumulation_steps=2,
        clip_gradient_norm=float(norm) / 4,
        last_layer_gradient_multiplier=3.0,
        recompute_stages=2,
        **given,
    )
    wanted = {
        name: value / 4 * (1 if name.startswith("backbone/") else 3)
        for name, value in plain.items()
    }
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)
    assert distance(moved, wanted) < 1e-4

"""Steps in parts, over replicas, clipped and multiplied: the gradients of the whole batch."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.ops import gradients
from deeplab_tf.startup.process_state import keras_settings
from deeplab_tf.training.optimizers import MomentumSGD
from tests.conftest import STRATEGIES

RATE = 0.125


def batch():
    """Four images; the pixels that count are 35, 63, 0 and 49 of 1024."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    labels = np.full([4, 32, 32, 1], 255, np.int32)
    for index, rows in enumerate((5, 9, 0, 7)):
        labels[index, :rows, :7, 0] = rng.integers(0, 3, [rows, 7])
    return images, labels


@functools.cache
def untrained(replicas, dropout, precision):
    """Returns a model, built once for all steps that share it, and its weights."""
    config = ModelConfig(
        model_variant="resnet_v1b_18",
        atrous_rates=(1,),
        aspp_convs_filters=8,
        auxiliary_filters=8,
        dropout_rate=dropout,
        aspp_dropout_rate=dropout,
        initializer="he_normal",
    )
    tf.keras.utils.set_random_seed(0)
    with STRATEGIES[replicas]().scope(), keras_settings(precision):
        model = build_model(config, num_classes=3)
    return model, model.get_weights()


def step(
    weights,
    *,
    replicas=1,
    dropout=0.5,
    order=(0, 1, 2, 3),
    precision="float32",
    done=0,
    **settings,
):
    """Returns initial weights, loss, and by name how far the step after `done` moved each."""
    images, labels = (values[list(order)] for values in batch())
    strategy = STRATEGIES[replicas]()
    model, initial = untrained(replicas, dropout, precision)
    weights = weights or initial
    tf.keras.utils.set_random_seed(0)
    with strategy.scope(), keras_settings(precision):
        model.set_weights(weights)
        settings = {"fine_tune_batch_norm": False, "run_eagerly": False} | settings
        optimizer = MomentumSGD(RATE, momentum=0.0)
        model.compile(optimizer, **settings)
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(done)
    before = [variable.numpy() for variable in model.trainable_variables]
    size = 4 // replicas

    train_step = model.train_step
    if settings.get("jit_compile"):  # as Keras does
        train_step = tf.function(train_step, jit_compile=True)

    @tf.function
    def run(images, labels):
        def own(values):
            first = tf.distribute.get_replica_context().replica_id_in_sync_group * size
            return tf.ensure_shape(values[first : first + size], [size, *values.shape[1:]])

        strategy.run(lambda a, b: train_step((own(a), own(b))), args=(images, labels))

    run(tf.constant(images), tf.constant(labels))
    moved = {
        variable.name.split(":")[0]: variable.numpy() - old
        for variable, old in zip(model.trainable_variables, before, strict=True)
    }
    return weights, float(model.loss_tracker.result()), moved


@pytest.fixture(scope="module")
def whole():
    return step(None)


def distance(moved, expected):
    assert moved.keys() == expected.keys()
    parts = [(moved[name] - expected[name]).ravel() for name in moved]
    size = np.linalg.norm(np.concatenate([value.ravel() for value in expected.values()]))
    return np.linalg.norm(np.concatenate(parts)) / size


@pytest.mark.parametrize(
    ("parts", "replicas", "recomputed"),
    [
        (2, 1, 2),
        pytest.param(4, 1, 0, marks=pytest.mark.slow),
        pytest.param(1, 2, 0, marks=pytest.mark.slow),
        pytest.param(2, 2, 0, marks=pytest.mark.slow),
    ],
)
def test_parts_of_a_batch_add_up_to_the_whole(whole, parts, replicas, recomputed):
    """Though they hold unequal numbers of pixels that count, and dropout draws for each image."""
    weights, loss, expected = whole
    _, found, moved = step(
        weights,
        replicas=replicas,
        gradient_accumulation_steps=parts,
        recompute_stages=recomputed,
    )
    assert found == pytest.approx(loss, rel=1e-5)
    assert distance(moved, expected) < 1e-4


@pytest.mark.slow
def test_batch_statistics_of_a_part_are_those_of_all_replicas():
    weights, loss, expected = step(
        None,
        dropout=0.0,
        order=(0, 2, 1, 3),  # parts of images 0, 2 and 1, 3
        gradient_accumulation_steps=2,
        fine_tune_batch_norm=True,
    )
    _, found, moved = step(
        weights,
        dropout=0.0,
        replicas=2,  # of images 0, 1 and 2, 3; the first part has 0 and 2
        gradient_accumulation_steps=2,
        fine_tune_batch_norm=True,
    )
    assert found == pytest.approx(loss, rel=1e-4)
    assert distance(moved, expected) < 2e-2


@pytest.mark.slow
def test_label_weights_are_factors_on_the_losses_of_their_classes(whole):
    weights, loss, _ = whole
    factors = (1.0, 2.0, 3.0)
    alone = [step(weights, label_weights=tuple(one)) for one in np.eye(3).tolist()]
    assert sum(found for _, found, _ in alone) == pytest.approx(loss, rel=1e-5)
    _, found, moved = step(weights, label_weights=factors)
    expected = sum(factor * one[1] for factor, one in zip(factors, alone, strict=True))
    assert found == pytest.approx(expected, rel=1e-5) and found != pytest.approx(loss, rel=0.1)
    wanted = {
        name: sum(factor * one[2][name] for factor, one in zip(factors, alone, strict=True))
        for name in moved
    }
    assert distance(moved, wanted) < 1e-4


@pytest.mark.slow
def test_each_part_mines_among_its_own_pixels():
    """Mining is of a batch; one that holds the images of a part twice has the part's hardest."""
    settings = {"dropout": 0.0, "top_k_percent_pixels": 1 / 64}  # of 3.6 % that count
    weights, first, moved_first = step(None, order=(0, 1, 0, 1), **settings)
    _, second, moved_second = step(weights, order=(2, 3, 2, 3), **settings)
    _, found, moved = step(weights, gradient_accumulation_steps=2, **settings)
    assert first != pytest.approx(second, rel=1e-3)
    assert found == pytest.approx((first + second) / 2, rel=1e-4)
    wanted = {name: (value + moved_second[name]) / 2 for name, value in moved_first.items()}
    assert distance(moved, wanted) < 1e-3


@pytest.mark.slow
def test_the_share_that_is_mined_falls_with_the_steps_done():
    settings = {"top_k_percent_pixels": 1 / 64, "hard_example_mining_step": 63}
    weights, found, _ = step(None, dropout=0.0, done=62, **settings)
    half, whole = (
        step(weights, dropout=0.0, top_k_percent_pixels=share)[1] for share in (1 / 32, 1 / 64)
    )
    assert found == pytest.approx(half, rel=5e-3)  # 1 - 62 / 63 * (1 - 1 / 64) = 1 / 32
    assert found < 0.98 * whole


def norm_of(moved):
    """The norm of the gradients that moved the weights so."""
    return float(np.sqrt(sum(np.sum(np.square(value / RATE)) for value in moved.values())))


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_clipping_is_by_the_norm_of_the_global_gradients(whole, replicas):
    weights, _, expected = whole
    limit = norm_of(expected) / 4
    settings = {"clip_gradient_norm": limit, "last_layer_gradient_multiplier": 3.0}
    settings |= {"last_layers_contain_logits_only": True}
    _, _, moved = step(weights, replicas=replicas, **settings)
    heads = ("classifier/", "auxiliary_head/classifier/")
    wanted = {n: v / 4 * (3 if n.startswith(heads) else 1) for n, v in expected.items()}
    assert distance(moved, wanted) < 1e-4


def test_the_multiplier_is_for_all_but_the_backbone(whole):
    """And counts for nothing in the norm, which is below the limit here."""
    weights, _, expected = whole
    limit = 2 * norm_of(expected)
    _, _, moved = step(weights, last_layer_gradient_multiplier=10.0, clip_gradient_norm=limit)
    wanted = {n: v * (1 if n.startswith("backbone/") else 10) for n, v in expected.items()}
    assert distance(moved, wanted) < 1e-5
    assert {n.split("/")[0] for n in moved} == {"backbone", "aspp", "classifier", "auxiliary_head"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "replicas"),
    [("mixed_bfloat16", 1), ("mixed_float16", 2)],
)
def test_half_precision_clips_and_adds_up_the_same(whole, precision, replicas):
    weights, loss, expected = whole
    settings = {"gradient_accumulation_steps": 2, "clip_gradient_norm": 0.5}
    # What float32 makes of it, as the tests above show.
    assert norm_of(expected) > 0.5
    wanted = {name: value * (0.5 / norm_of(expected)) for name, value in expected.items()}
    _, found, moved = step(weights, precision=precision, replicas=replicas, **settings)
    assert found == pytest.approx(loss, rel=0.02)
    assert distance(moved, wanted) < (0.5 if precision == "mixed_bfloat16" else 0.1)
    assert norm_of(moved) == pytest.approx(0.5, rel=1e-3)  # of gradients that are not scaled


def test_slices_are_equal_parts():
    values = tf.range(6)
    found = [gradients.slice_of(values, part, 3).numpy().tolist() for part in range(3)]
    assert found == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="equal parts"):
        gradients.slice_of(values, 0, 4)


@pytest.mark.slow
def test_dice_of_a_batch_is_the_same_on_any_number_of_replicas():
    settings = {"loss": ("cross_entropy", "dice"), "loss_weights": (1.0, 2.0), "dropout": 0.0}
    weights, loss, expected = step(None, **settings)
    _, found, moved = step(weights, replicas=2, **settings)
    assert found == pytest.approx(loss, rel=1e-5)
    assert distance(moved, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_region_losses_of_parts_are_averaged(replicas):
    settings = {"loss": ("dice", "lovasz_softmax"), "lovasz_per_image": True, "dropout": 0.0}
    weights, first, moved_first = step(None, order=(0, 1, 0, 1), **settings)
    _, second, moved_second = step(weights, order=(2, 3, 2, 3), **settings)

    # Of two replicas, each computes one image of a part at a time.
    order = (0, 1, 2, 3) if replicas == 1 else (0, 2, 1, 3)
    settings |= {"gradient_accumulation_steps": 2, "order": order}
    _, found, moved = step(weights, replicas=replicas, **settings)
    assert found == pytest.approx((first + second) / 2, rel=1e-5)
    wanted = {name: (value + moved_second[name]) / 2 for name, value in moved_first.items()}
    assert distance(moved, wanted) < 1e-4

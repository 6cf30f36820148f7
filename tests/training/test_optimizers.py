import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.messages import UserError
from deeplab_tf.runs import averaging
from deeplab_tf.training.optimizers import MomentumSGD, build_optimizer, build_slots
from deeplab_tf.training.schedules import PolynomialDecay, build_schedule
from tests.conftest import STRATEGIES


def test_polynomial_decay_at_known_steps():
    # 0.007 * 0.5^0.9 = 0.0037512 half way (official recipe); end 0.01 * 0.01 (SSSegmentation)
    schedule = PolynomialDecay(0.007, total_steps=30000)
    assert float(schedule(0)) == pytest.approx(0.007)
    assert float(schedule(15000)) == pytest.approx(0.0037512, rel=1e-4)
    floor = PolynomialDecay(0.01, total_steps=100, end=0.0001)
    assert float(floor(100)) == pytest.approx(0.0001)
    assert float(floor(50)) == pytest.approx(0.0099 * 0.5**0.9 + 0.0001, rel=1e-5)
    assert float(floor(150)) == pytest.approx(0.0001)


def test_sgd_decays_a_weight_as_pytorch_does():
    # docs/ancestors.md, SSSegmentation, Optimizer: 0.604 after 200 steps with zero gradient
    optimizer = MomentumSGD(PolynomialDecay(0.01, total_steps=200, end=0.0001), weight_decay=5e-2)
    weight = tf.Variable([1.0])
    for _ in range(200):
        optimizer.apply_gradients([(tf.zeros([1]), weight)])
    assert float(weight[0]) == pytest.approx(0.604, abs=5e-4)


@pytest.mark.parametrize("replicas", STRATEGIES)
def test_sgd_follows_the_torch_rule(replicas):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal([5, 3])
    weight, momentum = np.array([1.0, -2.0, 3.0]), np.zeros(3)
    schedule = PolynomialDecay(0.1, total_steps=5, end=0.001)
    strategy = STRATEGIES[replicas]()
    with strategy.scope():
        variable = tf.Variable([1.0, -2.0, 3.0])
        optimizer = MomentumSGD(schedule, momentum=0.9, weight_decay=0.01)
        optimizer.build([variable])

    @tf.function
    def step(gradient):
        strategy.run(
            lambda g: optimizer.apply_gradients([(g / replicas, variable)]), args=(gradient,)
        )

    for index, gradient in enumerate(gradients):
        step(tf.constant(gradient, tf.float32))
        rate = (0.1 - 0.001) * (1 - index / 5) ** 0.9 + 0.001
        momentum = 0.9 * momentum + (gradient + 0.01 * weight)
        weight = weight - rate * momentum
    np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-5)
    assert int(optimizer.iterations.numpy()) == 5


@pytest.mark.parametrize("replicas", STRATEGIES)
def test_the_official_style_spares_norms_and_doubles_biases(replicas):
    strategy = STRATEGIES[replicas]()
    with strategy.scope():
        layers = tf.keras.Sequential(
            [tf.keras.layers.Dense(1), tf.keras.layers.BatchNormalization()]
        )
        layers.build([None, 1])
        variables = layers.trainable_variables
        for variable in variables:
            variable.assign(tf.ones_like(variable))
        optimizer = MomentumSGD(0.1, momentum=0.9, weight_decay=0.5, style="momentum")
        optimizer.build(variables)

    def apply():
        optimizer.apply_gradients([(tf.ones_like(v) / replicas, v) for v in variables])

    @tf.function
    def step():
        strategy.run(apply)

    step()
    # kernel: 1 - 0.1 (1 + 0.5); bias: 1 - 0.1 * 2; gamma and beta: 1 - 0.1
    expected = {"kernel": 0.85, "bias": 0.8, "gamma": 0.9, "beta": 0.9}
    for variable in variables:
        kind = variable.name.split("/")[-1].split(":")[0]
        copies = [float(tf.reduce_sum(value)) for value in getattr(variable, "values", [variable])]
        assert copies == pytest.approx([expected[kind]] * replicas)


def test_momentum_is_restored_from_a_checkpoint(tmp_path):
    def fresh():
        variable = tf.Variable([1.0, 2.0])
        optimizer = MomentumSGD(0.1)
        optimizer.build([variable])
        return variable, optimizer, tf.train.Checkpoint(v=variable, optimizer=optimizer)

    variable, optimizer, checkpoint = fresh()
    gradient = tf.constant([1.0, -1.0])
    optimizer.apply_gradients([(gradient, variable)])
    path = checkpoint.write(str(tmp_path / "c"))
    optimizer.apply_gradients([(gradient, variable)])
    other, restored, second = fresh()
    second.read(path).assert_consumed()
    restored.apply_gradients([(gradient, other)])
    np.testing.assert_array_equal(other.numpy(), variable.numpy())
    assert int(restored.iterations.numpy()) == 2


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_a_step_writes_each_weight_once(name):
    weight = tf.Variable([1.0], name="kernel")
    optimizer = build_optimizer(settings(optimizer=name), 0.1)
    build_slots(optimizer, [weight])

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.ones([1]), weight)])

    graph = step.get_concrete_function().graph
    handle = next(inner for outer, inner in graph.captures if outer is weight.handle)
    writes = [op.type for op in handle.consumers() if op.type != "ReadVariableOp"]
    assert len(writes) == 1, writes


def settings(**values):
    return TrainConfig(
        base_learning_rate=0.5, adam_learning_rate=0.5, training_number_of_steps=10, **values
    )


def rates(*steps, **values):
    schedule = build_schedule(settings(**values))
    again = type(schedule).from_config(schedule.get_config())
    values = [float(schedule(step)) for step in steps]
    assert values == [float(again(step)) for step in steps]
    return pytest.approx(values, rel=1e-6)


def test_policies_at_known_steps():
    step = {"learning_policy": "step", "learning_rate_decay_step": 3}
    assert rates(0, 2, 3, 9, **step) == [0.5, 0.5, 0.05, 0.0005]
    assert rates(0, 6, **step, learning_rate_decay_factor=0.5) == [0.5, 0.125]
    cosine = {"learning_policy": "cosine", "end_learning_rate": 0.1}
    # (1 + cos(pi / 4)) / 2 = 0.8535534 of the way from the end
    assert rates(0, 2.5, 5, 10, **cosine) == [0.5, 0.1 + 0.4 * 0.8535534, 0.3, 0.1]
    assert rates(0, 2, 4, 7, decay_steps=4) == [0.5, 0.5 * 0.5**0.9, 0.0, 0.0]


def test_a_slow_start_comes_before_the_policy():
    slow = {"slow_start_step": 4, "slow_start_learning_rate": 0.1, "learning_power": 1.0}
    # The polynomial then has the remaining 6 steps.
    assert rates(0, 3, 4, 7, **slow) == [0.1, 0.1, 0.5, 0.25]
    # From 0.1 to 0.5 in 4 steps
    linear = slow | {"slow_start_burnin_type": "linear"}
    assert rates(0, 1, 3, 4, 7, **linear) == [0.1, 0.2, 0.4, 0.5, 0.25]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"slow_start_step": 10}, "--slow_start_step=10 .* less than .*10"),
        ({"ema_decay": 1.0}, "--ema_decay=1.0"),
        ({"ema_decay": 0.9, "optimizer": "lamb"}, "--ema_decay=0.9 .* 0 with optimizer=lamb"),
        ({"top_k_percent_pixels": 0.0}, "--top_k_percent_pixels=0.0 .* above 0"),
    ],
)
def test_impossible_settings_are_refused(values, match):
    with pytest.raises(UserError, match=match):
        settings(**values)


def reference(name, gradients, weight, rate, *, decay=0.1, epsilon=0.01):
    """Returns a kernel's weight after these gradients, by the rules of the papers, in numpy."""
    first, second = np.zeros(3), np.zeros(3)
    for index, gradient in enumerate(gradients):
        now, shrink = rate(index), decay * rate(index)
        if name == "sgdw":
            first = 0.9 * first + now * gradient
            weight = weight - shrink * weight - first
            continue
        if name == "adam":
            gradient = gradient + decay * weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = 1 - 0.999 ** (index + 1)
        mean = first / (1 - 0.9 ** (index + 1))
        if name == "lamb":
            update = mean / (np.sqrt(second / unbiased) + epsilon) + decay * weight
            weight = weight - now * np.linalg.norm(weight) / np.linalg.norm(update) * update
            continue
        kept = weight - shrink * weight if name == "adamw" else weight
        # Keras and TensorFlow add epsilon before the correction, as in the end of section 2.
        root = (np.sqrt(second) + epsilon) / np.sqrt(unbiased)
        weight = kept - now * mean / root
    return weight


@pytest.mark.parametrize("replicas", STRATEGIES)
@pytest.mark.parametrize("name", ["adam", "adamw", "sgdw", "lamb"])
def test_optimizers_follow_their_papers(name, replicas):
    gradients = np.random.default_rng(0).standard_normal([4, 3])
    config = settings(optimizer=name, weight_decay=0.1, adam_epsilon=0.01)
    strategy = STRATEGIES[replicas]()
    with strategy.scope():
        variable = tf.Variable([1.0, -2.0, 3.0], name="conv/kernel")
        optimizer = build_optimizer(config, build_schedule(config))
        build_slots(optimizer, [variable])

    @tf.function
    def step(gradient):
        strategy.run(
            lambda g: optimizer.apply_gradients([(g / replicas, variable)]), args=(gradient,)
        )

    for gradient in gradients:
        step(tf.constant(gradient, tf.float32))
    expected = reference(
        name, gradients, np.array([1.0, -2.0, 3.0]), lambda t: 0.5 * (1 - t / 10) ** 0.9
    )
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4)
    assert int(optimizer.iterations.numpy()) == 4


@pytest.mark.parametrize("name", ["adamw", "sgdw", "lamb"])
def test_without_addons_weights_and_checkpoints_are_the_same(name, monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_addons")
    config = settings(optimizer=name, weight_decay=0.1)

    def trained(checkpoint_dir):
        rng = np.random.default_rng(0)
        weights = [
            tf.Variable(rng.standard_normal(shape), dtype=tf.float32)
            for shape in ([3, 3, 5, 7], [7])
        ]
        weights.append(tf.Variable(tf.zeros([7])))  # LAMB divides by norms
        optimizer = build_optimizer(config, build_schedule(config))
        build_slots(optimizer, weights)
        for _ in range(5):
            gradients = [tf.constant(rng.standard_normal(v.shape), tf.float32) for v in weights]
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        checkpoint = tf.train.Checkpoint(optimizer=optimizer, weights=weights)
        return optimizer, checkpoint, checkpoint.write(str(checkpoint_dir))

    addons, theirs, path = trained(tmp_path / "addons")
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    optimizer, ours, own_path = trained(tmp_path / "own")

    assert type(optimizer) is not type(addons)
    their_file, our_file = (tf.train.load_checkpoint(str(p)) for p in (path, own_path))
    names = [name for name in their_file.get_variable_to_shape_map() if "GRAPH" not in name]
    assert len(names) > 6
    for name in names:
        np.testing.assert_array_equal(
            our_file.get_tensor(name), their_file.get_tensor(name), err_msg=name
        )
    ours.read(path).assert_consumed()
    theirs.read(own_path).assert_consumed()
    assert type(optimizer).from_config(addons.get_config()).get_config() == optimizer.get_config()


def averaging_model(name="sgd", *, half=False):
    """A model of a weight and batch normalisation, whose averages decay by 0.2."""
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [layers.Dense(1, use_bias=False), layers.BatchNormalization(momentum=0.5)]
    )
    model.build([None, 2])
    config = settings(optimizer=name, ema_decay=0.2)
    optimizer = build_optimizer(config, build_schedule(config))
    build_slots(optimizer, model.trainable_variables)
    optimizer.average_statistics(model.non_trainable_variables)
    if half:
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    return model


@pytest.mark.parametrize("replicas", STRATEGIES)
@pytest.mark.parametrize(("name", "half"), [("sgd", False), ("sgd", True), ("adam", False)])
def test_averages_follow_weights_and_statistics(name, half, replicas):
    strategy = STRATEGIES[replicas]()
    with strategy.scope():
        model = averaging_model(name, half=half)
    optimizer = model.optimizer
    model.trainable_variables[0].assign([[2.0], [3.0]])
    averaging.start(model)  # the averages were created from the weights before that

    @tf.function
    def step():
        def of_replica():
            # Each replica sees other images, and so has other statistics.
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            model(tf.cast(number, tf.float32) + [[1.0, 2.0], [3.0, 5.0]], training=True)
            gradients = map(tf.ones_like, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        strategy.run(of_replica)

    expected = on_replicas(model)
    for decay in (0.1, 2 / 11, 0.2):  # 1 / 10, 2 / 11, then what --ema_decay says
        step()
        present = on_replicas(model)
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, present, strict=True)]
    optimizer.finalize_variable_values(model.trainable_variables)  # as `fit` does at its end
    assert len(expected) == 5 * replicas

    with averaging.averaged(model):
        for found, wanted in zip(on_replicas(model), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for found, wanted, average in zip(on_replicas(model), present, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert not np.allclose(wanted, average)


def on_replicas(model):
    """The values of all variables on all replicas."""
    return [
        part.numpy()
        for variable in model.variables
        for part in getattr(variable, "values", [variable])
    ]


def trained_model():
    model = averaging_model()
    averaging.start(model)
    for _ in range(2):
        model(tf.constant([[1.0, 2.0], [3.0, 5.0]]), training=True)
        gradients = map(tf.ones_like, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return model


def averages_of(model):
    with averaging.averaged(model):
        return on_replicas(model)


def test_a_run_continues_with_its_averages(tmp_path):
    model, other, plain = trained_model(), averaging_model(), averaging_model()
    averaging.RunState(model).write(str(tmp_path / "state"))

    averaging.RunState(other).read(str(tmp_path / "state")).assert_existing_objects_matched()
    np.testing.assert_equal(on_replicas(other), on_replicas(model))
    np.testing.assert_equal(averages_of(other), averages_of(model))

    # What evaluates and exports has no optimizer.
    averaging.Averages(plain).read(str(tmp_path / "state")).expect_partial()
    np.testing.assert_equal(on_replicas(plain), averages_of(model))


def test_a_run_of_an_earlier_version_continues_and_is_warned_of(tmp_path, capsys):
    """Its checkpoints have no averages of statistics."""
    model, other, plain = trained_model(), averaging_model(), averaging_model()
    old = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = old.write(str(tmp_path / "state"))

    averaging.RunState(other).read(path).assert_existing_objects_matched()
    np.testing.assert_equal(on_replicas(other), on_replicas(model))
    np.testing.assert_equal(averages_of(other), on_replicas(model))
    assert "earlier version" in capsys.readouterr().err

    tf.train.Checkpoint(model=plain).read(path).expect_partial()
    averaging.Averages(plain).read(path).assert_existing_objects_matched()
    weights = len(model.trainable_variables)
    np.testing.assert_equal(on_replicas(plain)[:weights], averages_of(model)[:weights])
    np.testing.assert_equal(on_replicas(plain)[weights:], on_replicas(model)[weights:])
    assert "earlier version" in capsys.readouterr().err

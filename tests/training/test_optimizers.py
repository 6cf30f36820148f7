import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.training.optimizers import MomentumSGD
from deeplab_tf.training.schedules import PolynomialDecay
from tests.conftest import two_replicas


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
    # reference/ssseg_deeplabv3.md sec. 0.5: 0.604 after 200 steps with zero gradient, its poly rule
    optimizer = MomentumSGD(PolynomialDecay(0.01, total_steps=200, end=0.0001), weight_decay=5e-2)
    weight = tf.Variable([1.0])
    for _ in range(200):
        optimizer.apply_gradients([(tf.zeros([1]), weight)])
    assert float(weight[0]) == pytest.approx(0.604, abs=5e-4)


STRATEGIES = {
    1: lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    2: two_replicas,
}


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

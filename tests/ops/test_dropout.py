import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.ops.dropout import drop_numbers
from tests.conftest import two_replicas

SEED = tf.constant([1, 2], tf.int64)
INPUTS = np.random.default_rng(0).uniform(1, 2, (4, 5, 6, 30)).astype(np.float32)


def dropped(inputs=INPUTS, seed=SEED, **part):
    return drop_numbers(tf.constant(inputs), 0.3, seed=seed, **part).numpy()


def test_single_numbers_are_dropped_and_the_others_scaled():
    result = dropped()
    assert (result == 0).mean() == pytest.approx(0.3, abs=0.03)  # of 3600
    kept = result != 0
    np.testing.assert_allclose(result[kept], INPUTS[kept] / 0.7, rtol=1e-6)

    # Neither channels nor cells are dropped as a whole.
    for axes in ((1, 2), 3):
        shares = (result == 0).mean(axis=axes)
        assert shares.min() > 0 and shares.max() < 1


def test_images_and_steps_draw_other_numbers_and_a_repeated_step_the_same():
    zeros = dropped() == 0
    for other in (zeros[[1, 2, 3, 0]], dropped(seed=tf.constant([1, 3], tf.int64)) == 0):
        assert (zeros == other).mean() == pytest.approx(0.7**2 + 0.3**2, abs=0.05)
    np.testing.assert_array_equal(dropped(), dropped())
    assert not np.array_equal(dropped(seed=None), dropped(seed=None))


def test_the_parts_of_a_batch_drop_what_the_whole_drops():
    parts = [dropped(half, part=(index, 2)) for index, half in enumerate(np.split(INPUTS, 2))]
    np.testing.assert_array_equal(np.concatenate(parts), dropped())


def test_the_replicas_of_a_batch_drop_what_one_drops():
    strategy = two_replicas()
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(INPUTS, 2)[context.replica_id_in_sync_group])
    )

    def in_two_parts(half):
        parts = [
            drop_numbers(quarter, 0.3, seed=SEED, part=(index, 2))
            for index, quarter in enumerate(tf.split(half, 2))
        ]
        return tf.concat(parts, 0)

    result = strategy.run(tf.function(in_two_parts), args=(halves,))
    np.testing.assert_array_equal(tf.concat(result.values, 0), dropped())


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_drops_the_same_numbers(dtype):
    result = drop_numbers(tf.cast(INPUTS, dtype), 0.3, seed=SEED)
    assert result.dtype == dtype
    np.testing.assert_array_equal(tf.cast(result, tf.float32).numpy() == 0, dropped() == 0)


def test_a_gradient_flows_where_numbers_are_kept():
    inputs = tf.constant(INPUTS)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(drop_numbers(inputs, 0.3, seed=SEED))
    expected = np.where(dropped() == 0, 0, 1 / 0.7)
    np.testing.assert_allclose(tape.gradient(total, inputs), expected, rtol=1e-6)

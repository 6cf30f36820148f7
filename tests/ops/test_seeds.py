"""No two consumers of a run's seed see the same random numbers."""

import dataclasses

import numpy as np
import tensorflow as tf

from deeplab_tf.data import transforms
from deeplab_tf.ops import seeds
from deeplab_tf.training.trainer import Trainer


def test_a_stream_follows_from_its_name_and_its_seed():
    first = tf.constant([0, 7], tf.int64)
    assert (seeds.stream(first, "a") == seeds.stream(first, "a")).numpy().all()
    found = {
        tuple(seeds.stream(tf.constant([run, index], tf.int64), name).numpy())
        for run in range(5)
        for index in range(5)
        for name in ("a", "b", "order", "crop")
    }
    assert len(found) == 5 * 5 * 4


def test_streams_are_independent():
    """Correlations of 2,000 draws; 4 standard deviations of chance are 0.09."""

    @tf.function(autograph=False)
    def draw(position):
        seed = tf.stack([tf.constant(3, tf.int64), position])
        return [
            tf.random.stateless_uniform([], seeds.stream(seed, name))
            for name in ("order", "crop", "dropout")
        ]

    draws = [tf.stack(draw(tf.constant(i, tf.int64))) for i in range(2000)]
    correlations = np.corrcoef(np.stack(draws, axis=1))
    assert (np.abs(correlations - np.eye(3)) < 0.09).all()


def test_scale_place_and_mirroring_are_independent():
    label = tf.zeros([64, 96, 1], tf.uint8)

    @tf.function(autograph=False)
    def draw(position):
        window, _ = transforms.random_crop(
            label,
            seed=seeds.stream(tf.stack([tf.constant(1, tf.int64), position]), "crop"),
            crop_size=(16, 16),
            min_resize_value=0,
            max_resize_value=0,
            min_scale_factor=0.5,
            max_scale_factor=2.0,
            scale_factor_step_size=0,
            one_category_max_ratio=1.0,
            ignore_label=255,
        )
        room = tf.cast(window.size - window.shape + 1, tf.float64)
        places = (tf.cast(window.offset, tf.float64) + 0.5) / room
        others = [window.size[0], window.flip]
        return tf.concat([[tf.cast(value, tf.float64) for value in others], places], axis=0)

    drawn = np.stack([draw(tf.constant(i, tf.int64)).numpy() for i in range(2000)], axis=1)
    correlations = np.corrcoef(drawn)
    assert (np.abs(correlations - np.eye(4)) < 0.09).all()
    assert abs(drawn[1].mean() - 0.5) < 0.045


def test_a_run_draws_from_no_seed_twice(tiny_experiment, monkeypatch):
    """Every stateless draw of three steps is recorded: order, crops, colours, both dropouts."""
    recorded = []

    def record(function):
        def recording(*args, seed=None, **kwargs):
            *args, seed = (*args, seed) if seed is not None else args
            note = tf.py_function(lambda seed: recorded.append(tuple(seed.numpy())), [seed], [])
            with tf.control_dependencies([note] if note is not None else []):
                return function(*args, seed=tf.identity(seed), **kwargs)

        return recording

    uniform, shuffle = tf.random.stateless_uniform, tf.random.experimental.stateless_shuffle
    monkeypatch.setattr(tf.random, "stateless_uniform", record(uniform))
    monkeypatch.setattr(tf.random.experimental, "stateless_shuffle", record(shuffle))
    train = dataclasses.replace(tiny_experiment.train, training_number_of_steps=3, summary_images=0)
    Trainer(dataclasses.replace(tiny_experiment, train=train)).run()
    # Three steps of four images: 2 epochs of nine, a crop and a distortion each, two dropouts.
    assert len(recorded) == 2 + 12 * 2 + 3 * 2
    assert len(set(recorded)) == len(recorded)

"""Which Keras TensorFlow uses, on either stack."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest

from deeplab_tf.messages import UserError
from deeplab_tf.startup import legacy_keras

NEEDS_TF_KERAS = legacy_keras.tensorflow_version() >= (2, 16)


@pytest.fixture
def installed(monkeypatch):
    """Makes TensorFlow seem to have another version."""

    def pretend(version: str) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
        legacy_keras.tensorflow_version.cache_clear()

    monkeypatch.setattr(os, "environ", dict(os.environ))
    yield pretend
    legacy_keras.tensorflow_version.cache_clear()


@pytest.mark.parametrize("inherited", [None, "0", "1"])
@pytest.mark.parametrize(
    ("version", "switch"), [("2.15.1", None), ("2.16.2", "1"), ("2.21.0", "1"), ("2.22.0rc0", "1")]
)
def test_the_switch_is_set_where_keras_3_would_be_used(installed, version, switch, inherited):
    installed(version)
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if inherited:
        os.environ["TF_USE_LEGACY_KERAS"] = inherited
    legacy_keras.select()
    assert os.environ.get("TF_USE_LEGACY_KERAS") == switch


def test_a_missing_tf_keras_is_named_with_its_version(installed, monkeypatch):
    installed("2.19.1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tf-keras==2\.19\.\*'"):
        legacy_keras.require()


@pytest.mark.parametrize("use_first", [True, False])
def test_a_program_that_has_used_keras_3_is_told_what_to_put_first(use_first):
    if not NEEDS_TF_KERAS:
        pytest.skip("TensorFlow 2.15 has no Keras 3")
    use = "tf.keras.layers.Dense(1)" if use_first else "pass"
    code = f"import tensorflow as tf; {use}; import deeplab_tf; tf.keras.optimizers.legacy.SGD()"
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode == 1) == use_first, done.stderr
    assert ("already used Keras 3" in done.stderr) == use_first


@pytest.mark.parametrize("first", ["tensorflow", "deeplab_tf"])
def test_imports_from_keras_find_the_same_one_in_any_order(first):
    """And keras-cv, which has them, leaves tf.keras as it is."""
    if not NEEDS_TF_KERAS:
        pytest.skip("TensorFlow 2.15 has no Keras 3")
    code = f"""
import {first}
import deeplab_tf, tensorflow as tf
before = tf.keras.layers.Layer
from tensorflow.keras.layers import Layer
assert before is Layer is tf.keras.layers.Layer
import keras_cv
assert before is tf.keras.layers.Layer
assert isinstance(keras_cv.layers.Solarization((0, 255)), before)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)

"""Jobs give the same results whatever state of the process others have set, and leave none."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.startup import process_state

ROOT = Path(__file__).parents[2]

# Doubling the classifier's weights doubles the logits, unless the first weights are kept. (The
# bias is 0 at first.)
FROZEN_WEIGHTS = """
import tensorflow as tf
from deeplab_tf.config import ModelConfig, UserError
from deeplab_tf.models.deeplab import build_model

if {computed_before}:
    tf.nn.conv2d(tf.ones([1, 8, 8, 8]), tf.ones([3, 3, 8, 8]), 1, "SAME")
try:
    config = ModelConfig(
        model_variant="resnet_v1b_18", aspp_convs_filters=8, initializer="he_normal"
    )
    model = build_model(config, num_classes=3)
except UserError as error:
    print(error)
else:
    images = tf.random.stateless_uniform([1, 33, 33, 3], [1, 2], maxval=255.0)
    score = tf.function(lambda: model(images)["logits"], autograph=False)
    before = score()
    kernel = model.classifier.conv.kernel
    kernel.assign(2 * kernel)
    print("ratio", float(tf.reduce_sum(tf.abs(score())) / tf.reduce_sum(tf.abs(before))))
"""


@pytest.mark.parametrize(
    ("computed_before", "printed"), [(False, "ratio 2.0"), (True, "Start a new process")]
)
def test_frozen_weights_are_turned_off_or_refused(computed_before, printed):
    script = FROZEN_WEIGHTS.format(computed_before=computed_before)
    # oneDNN, which keeps the weights, is off by default on CPUs without AVX-512.
    variables = {"TF_ENABLE_ONEDNN_OPTS": "1", process_state.FROZEN_WEIGHTS: "1"}
    found = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed in found.stdout


def test_frozen_weights_are_not_left_behind(monkeypatch):
    monkeypatch.setenv(process_state.FROZEN_WEIGHTS, "1")
    process_state.require_changing_weights.__wrapped__()
    assert os.environ[process_state.FROZEN_WEIGHTS] == "1"
    monkeypatch.delenv(process_state.FROZEN_WEIGHTS)
    process_state.require_changing_weights.__wrapped__()
    assert process_state.FROZEN_WEIGHTS not in os.environ


def test_seeds_of_others_go_on():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()

    random.seed(1)
    np.random.seed(1)
    with process_state.seeded(7):
        drawn = random.random(), np.random.rand()

    assert (random.random(), np.random.rand()) == expected
    with process_state.seeded(7):
        assert (random.random(), np.random.rand()) == drawn

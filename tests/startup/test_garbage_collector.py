"""The collector rests only while a program starts."""

import dataclasses
import gc

import pytest

from deeplab_tf import train
from deeplab_tf.messages import UserError


@pytest.mark.parametrize("enabled", [True, False])
def test_a_training_leaves_the_collector_as_it_was(enabled, tiny_experiment):
    nowhere = dataclasses.replace(tiny_experiment.data, dataset_dir="nowhere")
    gc.enable() if enabled else gc.disable()
    try:
        with pytest.raises(UserError):
            train.main(tiny_experiment.model, nowhere, tiny_experiment.train, tiny_experiment.eval)
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()

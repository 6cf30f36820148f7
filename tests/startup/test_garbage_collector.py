"""The collector rests only while a program starts."""

import dataclasses
import gc
import weakref

import pytest

from deeplab_tf import train
from deeplab_tf.messages import UserError
from deeplab_tf.startup.garbage_collector import resting_collector


@pytest.fixture(params=[True, False])
def enabled(request):
    gc.enable() if request.param else gc.disable()
    yield request.param
    gc.enable()


def test_what_the_start_made_is_collected_afterwards(enabled):
    """Python 3.12 counts its immortal objects as frozen, so gc.get_freeze_count tells nothing."""
    with resting_collector() as start_is_over:
        assert not gc.isenabled()
        cycle = type("Cycle", (), {})()
        cycle.itself, watched = cycle, weakref.ref(cycle)
        del cycle
        start_is_over()
        assert gc.isenabled() is enabled
        gc.collect()
        assert watched() is not None

    gc.collect()
    assert watched() is None
    assert gc.isenabled() is enabled


def test_a_training_that_fails_leaves_the_collector_as_it_was(enabled, tiny_experiment):
    nowhere = dataclasses.replace(tiny_experiment.data, dataset_dir="nowhere")
    with pytest.raises(UserError):
        train.main(tiny_experiment.model, nowhere, tiny_experiment.train, tiny_experiment.eval)
    assert gc.isenabled() is enabled

"""Memory stays flat, however long a run or an evaluation is, and grows as images and pixels do."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.data import catalog, records
from deeplab_tf.evaluation import evaluator, memory
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.training.optimizers import MomentumSGD
from deeplab_tf.training.trainer import Trainer
from tests.conftest import write_shapes

MIB = 1 << 20


def anonymous_bytes():
    """What the process allocated and the kernel cannot take back, unlike mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1)) * 1024


class MemoryNotes(tf.keras.callbacks.Callback):
    """Notes the memory of the process every hundred steps."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def on_train_batch_end(self, batch, logs=None):
        if batch % 100 == 99:
            self.noted.append(anonymous_bytes())


def cells(model, batch, size):
    """Returns the number of operations of a training step, and of all values that they make."""
    images = tf.TensorSpec([batch, size, size, 3])
    labels = tf.TensorSpec([batch, size, size, 1], tf.int32)
    step = tf.function(lambda *pair: model.train_step(pair), autograph=False)
    operations = step.get_concrete_function(images, labels).graph.get_operations()
    shapes = [output.shape for operation in operations for output in operation.outputs]
    return len(operations), sum(s.num_elements() for s in shapes if s.is_fully_defined())


@pytest.mark.slow
def test_a_step_grows_linearly_in_images_and_pixels():
    config = ModelConfig(
        model_variant="resnet_v1c_18", aspp_convs_filters=8, atrous_rates=(2,), auxiliary_filters=8
    )
    model = build_model(config, num_classes=5)
    model.compile(MomentumSGD(0.01), recompute_stages=3)
    one, two, four = (cells(model, batch, 64) for batch in (1, 2, 4))
    assert one[0] == two[0] == four[0]
    assert four[1] - two[1] == pytest.approx(2 * (two[1] - one[1]), rel=1e-3)
    _, larger = cells(model, 2, 128)
    _, largest = cells(model, 2, 256)
    assert largest - larger == pytest.approx(4 * (larger - two[1]), rel=0.03)


def test_freed_blocks_between_kept_ones_go_back_to_the_system(monkeypatch):
    # Blocks of 120 KiB come from the heap, and the small ones after them keep it from shrinking.
    before = anonymous_bytes()
    pairs = [(np.ones(120 << 10, np.uint8), np.ones(2000, np.uint8)) for _ in range(1000)]
    kept = [small for _, small in pairs]
    del pairs
    monkeypatch.setattr(memory, "_SECONDS", 0.0)
    assert all(a is b for a, b in zip(memory.trimmed(kept), kept, strict=True))
    assert anonymous_bytes() - before < 40 * MIB  # of 120


@pytest.mark.slow
def test_two_thousand_steps_do_not_grow(tiny_experiment, monkeypatch):
    train = dataclasses.replace(
        tiny_experiment.train, training_number_of_steps=2000, log_steps=10, save_interval_steps=2000
    )
    trainer = Trainer(dataclasses.replace(tiny_experiment, train=train))
    notes, fit = MemoryNotes(), trainer.model.fit

    def fit_with_notes(*args, callbacks, **kwargs):
        callbacks.append(notes)
        return fit(*args, callbacks=callbacks, **kwargs)

    monkeypatch.setattr(trainer.model, "fit", fit_with_notes)
    trainer.run()
    assert len(notes.noted) == 20
    # The first hundreds fill TensorFlow's pools; a leak of 16 KiB a step would make 16 MiB.
    assert np.median(notes.noted[-5:]) - np.median(notes.noted[5:10]) < 16 * MIB


@pytest.mark.slow
def test_an_evaluations_memory_does_not_depend_on_the_number_of_images(shapes_dir, tmp_path):
    # Few sizes, many names: what oneDNN keeps of each new size is no leak (docs/evaluation.md).
    write_shapes(shapes_dir, tmp_path, "val", times=80)
    info = catalog.load("", tmp_path)
    model = build_model(
        ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8),
        num_classes=info.num_classes,
    )
    noted = []
    evaluator.evaluate(
        Predictor(model),
        records.open_split(tmp_path, "val", info),
        info,
        split="val",
        progress=lambda _: noted.append(anonymous_bytes()),
    )
    assert len(noted) == 400
    # 8 MiB are 32 KiB an image: less than one decoded image and its label.
    assert np.median(noted[-50:]) - np.median(noted[100:150]) < 8 * MIB

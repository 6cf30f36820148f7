"""Writes models in each format and optimizers' slots, or reads what the other stack wrote.

    python -m tests.stack_files write|read FOLDER RECORDS

Both leave in FOLDER the logits of each format's model on the same images, and the weights that the
optimizers come to: `write` takes their last steps too, `read` takes them from the slots it found.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import deeplab_tf
from deeplab_tf.config import Experiment, TrainConfig
from deeplab_tf.training import optimizers, schedules
from deeplab_tf.training.trainer import Trainer
from tests.conftest import tiny_run

IMAGES = np.random.default_rng(0).integers(0, 256, [2, 65, 49, 3]).astype(np.float32)
OPTIMIZERS = ("sgd", "adam", "adamw", "sgdw", "lamb")


def experiment(folder: Path, records: str, *, steps: int) -> Experiment:
    run = tiny_run(Path(records), folder / "run")
    train = dataclasses.replace(
        run.train,
        training_number_of_steps=steps,
        learning_policy="step",  # whose rates are the same in a longer run
        save_interval_steps=1,
        summary_images=0,
    )
    return dataclasses.replace(run, train=train)


def write(folder: Path, records: str) -> None:
    Trainer(experiment(folder, records, steps=1)).run()
    model = deeplab_tf.load_model(folder / "run")
    model.save(folder / "model.keras")
    model.save(folder / "savedmodel", save_format="tf")
    model.save_weights(folder / "weights.h5")
    np.savez(folder / "written.npz", **logits(folder), **optimized(folder, begin=True))


def read(folder: Path, records: str) -> None:
    np.savez(folder / "read.npz", **logits(folder), **optimized(folder, begin=False))
    Trainer(experiment(folder, records, steps=2)).run()


def logits(folder: Path) -> dict[str, np.ndarray]:
    models = {
        name: tf.keras.models.load_model(folder / name) for name in ("model.keras", "savedmodel")
    }
    models["run"] = deeplab_tf.load_model(folder / "run")
    models["weights.h5"] = emptied = deeplab_tf.load_model(folder / "run")
    emptied.set_weights([np.zeros_like(value) for value in emptied.get_weights()])
    emptied.load_weights(folder / "weights.h5")
    return {name: model(IMAGES)["logits"].numpy() for name, model in models.items()}


def optimized(folder: Path, *, begin: bool) -> dict[str, np.ndarray]:
    """Takes steps 1 and 2 and writes the slots, or reads these; then takes steps 3 and 4."""
    gradients = np.random.default_rng(1).standard_normal([4, 3, 2]).astype(np.float32)
    found = {}
    for name in OPTIMIZERS:
        config = TrainConfig(optimizer=name, training_number_of_steps=4)
        optimizer = optimizers.build_optimizer(config, schedules.build_schedule(config))
        weight = tf.Variable(np.ones([3, 2], np.float32), name="kernel")
        optimizers.build_slots(optimizer, [weight])
        checkpoint = tf.train.Checkpoint(optimizer=optimizer, weight=weight)
        prefix = str(folder / f"slots_{name}")
        if begin:
            for gradient in gradients[:2]:
                optimizer.apply_gradients([(tf.constant(gradient), weight)])
            checkpoint.write(prefix)
        else:
            checkpoint.read(prefix).assert_consumed()

        for gradient in gradients[2:]:
            optimizer.apply_gradients([(tf.constant(gradient), weight)])
        found[name] = weight.numpy()
    return found


if __name__ == "__main__":
    task, place, records_dir = sys.argv[1:]
    {"write": write, "read": read}[task](Path(place), records_dir)

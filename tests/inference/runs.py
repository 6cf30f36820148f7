"""A small run on disk, whose scores differ from pixel to pixel."""

import tensorflow as tf

from deeplab_tf.config import Experiment, TrainConfig
from deeplab_tf.runs.run_dir import RunDir
from tests.serving import cases


def write(folder, *, steps=(100,)):
    """Writes a run of `cases.model()`; each later step has other weights in its last layer."""
    model = cases.model()
    run = RunDir(folder)
    config = TrainConfig(train_logdir="run")
    run.open_for_training(Experiment(model=model.config, train=config), cases.INFO)
    kernel = model.classifier.conv.kernel
    first = kernel.numpy()
    for number, step in enumerate(steps):
        kernel.assign(first * (-1) ** number)
        run.checkpoints.write(tf.train.Checkpoint(model=model), step)
    kernel.assign(first)
    return folder

"""Trains a run on some logical CPU devices, or scores it, in a process of its own:

python -m tests.training.replicas train|score FLAGFILE REPLICAS

`score` runs `deeplab_tf.eval` and prints the confusion matrix as JSON in its last line.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf.config import flags
from deeplab_tf.config.programs import EvalJobConfig
from deeplab_tf.jobs import evaluation
from deeplab_tf.training.trainer import Trainer


def main(task: str, flagfile: str, replicas: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    experiment = flags.parse_flagfile(Path(flagfile))
    if task == "train":
        Trainer(experiment, strategy).run()
        return
    matrix = score(experiment.train.train_logdir, replicas, strategy)
    print(json.dumps(matrix.tolist()))


def score(run: str, replicas: int, strategy: tf.distribute.Strategy) -> np.ndarray:
    """Scores the run, writes to its folder eval_REPLICAS, and returns the confusion matrix."""
    job = EvalJobConfig(checkpoint_dir=run, eval_logdir=f"{run}/eval_{replicas}")
    return evaluation.score(job, run, strategy).matrix


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

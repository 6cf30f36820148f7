"""Trains a run on some logical CPU devices, or scores it, in a process of its own:

python -m tests.training.replicas train|score FLAGFILE REPLICAS

`score` prints the confusion matrix of the training split as JSON in its last line.
"""

import json
import sys
from pathlib import Path

import tensorflow as tf

from deeplab_tf import config_flags
from deeplab_tf.data import records
from deeplab_tf.distribution import Workers
from deeplab_tf.evaluation import evaluator
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.training import run_dir
from deeplab_tf.training.trainer import Trainer


def main(task: str, flagfile: str, replicas: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    experiment = config_flags.parse_flagfile(Path(flagfile))
    if task == "train":
        Trainer(experiment, strategy).run()
        return
    with strategy.scope():
        run = run_dir.load(experiment.train.train_logdir)
    table = records.open_split(experiment.data.dataset_dir, "train", run.info)
    scored = evaluator.evaluate(
        Predictor(run.model), table, run.info, split="train", workers=Workers.of(strategy)
    )
    print(json.dumps(scored.matrix.tolist()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""Trains a run on some logical CPU devices, or scores it, in a process of its own:

python -m tests.training.replicas train|score FLAGFILE REPLICAS

`score` runs `deeplab_tf.eval` and prints the confusion matrix as JSON in its last line.
"""

import json
import sys
from pathlib import Path

import tensorflow as tf

from deeplab_tf import config_flags, eval
from deeplab_tf.training.trainer import Trainer


def main(task: str, flagfile: str, replicas: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    experiment = config_flags.parse_flagfile(Path(flagfile))
    if task == "train":
        Trainer(experiment, strategy).run()
        return
    run = experiment.train.train_logdir
    job = eval.EvalJobConfig(checkpoint_dir=run, eval_logdir=f"{run}/eval_{replicas}")
    scored = eval.score(job, run, strategy)
    print(json.dumps(scored.matrix.tolist()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

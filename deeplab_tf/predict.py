"""Predicts your own images.

python -m deeplab_tf.predict --checkpoint_dir=RUN --input=photos --output_dir=DIR
"""

import os
import sys

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.jobs import paths
from deeplab_tf.messages import UserError
from deeplab_tf.weights import published


def main(job: PredictConfig, pictures: PictureConfig = USUAL) -> None:
    if job.server and pictures.save_probabilities:
        raise UserError(
            "--save_probabilities is not possible with a --server; predict with --export_dir or "
            "--checkpoint_dir."
        )
    if job.weights:
        published.find(job.weights)
    images = paths.images_to_predict(job, pictures)
    if not images:
        print(f"--shard={job.shard}: no image is in it, since there are fewer images than shards.")
        return
    jobs.start("prediction", job, images, pictures)


def run() -> None:
    description = "Predicts your own images with a checkpoint, an exported model or a server."
    if "tensorflow" not in sys.modules:
        # This process only predicts, and the weights of an exported model never change, so oneDNN
        # may pack them once. For the network of a checkpoint, `process_state` turns this off again.
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    flags.run(main, [PredictConfig, PictureConfig], description, overrides=flags.INFERENCE)


if __name__ == "__main__":
    run()

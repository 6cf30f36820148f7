"""Exports a checkpoint as a SavedModel, or as a frozen graph of TensorFlow 1.

python -m deeplab_tf.export_model --train_logdir=RUN --export_dir=DIR
"""

from deeplab_tf import jobs
from deeplab_tf.config import ServingConfig, flags
from deeplab_tf.config.programs import ExportConfig


def main(job: ExportConfig, serving: ServingConfig) -> None:
    jobs.start("export", job, serving)


def run() -> None:
    flags.run(
        main,
        [ExportConfig, ServingConfig],
        "Exports a checkpoint as a SavedModel for TensorFlow Serving, or as a frozen graph.",
        overrides=flags.INFERENCE,
        repeated=flags.REPEATED,
        official="export_model",
        instead={"checkpoint_dir": "the run's folder, or one checkpoint in it, is --train_logdir."},
    )


if __name__ == "__main__":
    run()

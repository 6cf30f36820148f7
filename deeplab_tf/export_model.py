"""Exports a SavedModel: python -m deeplab_tf.export_model --train_logdir=RUN --export_dir=DIR."""

from deeplab_tf import jobs
from deeplab_tf.config import ServingConfig, flags
from deeplab_tf.config.programs import ExportConfig


def main(job: ExportConfig, serving: ServingConfig) -> None:
    jobs.start("export", job, serving)


def run() -> None:
    description = "Exports a checkpoint as a SavedModel for TensorFlow Serving."
    settings = [ExportConfig, ServingConfig]
    flags.run(main, settings, description, overrides=flags.INFERENCE)


if __name__ == "__main__":
    run()

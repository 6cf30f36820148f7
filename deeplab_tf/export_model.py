"""Exports a SavedModel: python -m deeplab_tf.export_model --train_logdir=RUN --export_dir=DIR."""

from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import ExportConfig


def main(job: ExportConfig) -> None:
    from deeplab_tf.evaluation import export
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.training import run_dir

    loaded = run_dir.load(job.train_logdir, output_stride=config_flags.given("output_stride"))
    experiment = config_flags.with_overrides(loaded.experiment)
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    path = export.export(predictor, loaded.info, Path(job.export_dir), version=job.export_version)
    print(f"{path}: step {loaded.step}, {loaded.info.num_classes} classes.")


def run() -> None:
    description = "Exports a checkpoint as a SavedModel for TensorFlow Serving."
    config_flags.run(main, [ExportConfig], description, of_a_run=True)


if __name__ == "__main__":
    run()

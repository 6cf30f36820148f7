"""Exports a SavedModel: python -m deeplab_tf.export_model --train_logdir=RUN --export_dir=DIR."""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import Config, require, setting


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Which checkpoint is exported, and where to."""

    train_logdir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    export_dir: str = setting("", "Folder of the model; its versions are folders 1, 2, ... in it.")
    export_version: int = setting(0, "Version to write; 0 takes the next free one.", least=0)

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.train_logdir), "train_logdir", "(empty)", "the folder of a run")
        require(bool(self.export_dir), "export_dir", "(empty)", "a path")


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
    config_flags.run(main, [ExportConfig], description, overrides=config_flags.INFERENCE)


if __name__ == "__main__":
    run()

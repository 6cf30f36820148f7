"""Exports a SavedModel: python -m deeplab_tf.export_model --train_logdir=RUN --export_dir=DIR."""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import (
    Config,
    ServingConfig,
    flags,
    require_exactly_one,
    require_given,
    setting,
)
from deeplab_tf.config.checkpoint_choice import checkpoint_setting, require_one_choice


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Which checkpoint is exported, and where to."""

    train_logdir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint_path: str = setting(
        "", "One checkpoint (.../model.ckpt-1000); give it in place of train_logdir."
    )
    checkpoint: str = checkpoint_setting()
    export_dir: str = setting(
        "", "Folder of the model; its versions go into the folders 1, 2, ... in it."
    )
    export_version: int = setting(0, "Version to write; 0 takes the next free one.", least=0)
    model_name: str = setting(
        "", "Name of the model on a server; if empty, the name of the folder export_dir."
    )
    model_base_path: str = setting(
        "",
        "Path at which the server sees export_dir, for model.config; if empty, "
        "/models/<model_name>.",
    )

    def __post_init__(self):
        super().__post_init__()
        require_exactly_one(train_logdir=self.train_logdir, checkpoint_path=self.checkpoint_path)
        require_given("export_dir", self.export_dir, "a path")
        flag = "train_logdir" if self.train_logdir else "checkpoint_path"
        require_one_choice(self.checkpoint, getattr(self, flag), flag)


def main(job: ExportConfig, serving: ServingConfig) -> None:
    """Writes a version of the model, and the server's configuration next to it."""
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.runs import loaded_run, run_dir
    from deeplab_tf.serving import export, model_card

    path = job.train_logdir or job.checkpoint_path
    # Has an effect in every inference mode: it is the size of the images that warm a server up.
    used = ("eval_crop_size",)
    loaded, experiment = loaded_run.load_asked(path, job.checkpoint, used=used)

    export_dir = Path(job.export_dir)
    name = job.model_name or export_dir.resolve().name
    version = export.export(
        build_predictor(loaded.model, experiment.data, experiment.eval),
        loaded.info,
        export_dir,
        version=job.export_version,
        config=serving,
        model_name=name,
        warmup_size=experiment.eval.eval_crop_size or experiment.data.train_crop_size,
        card=model_card.of_run(run_dir.RunDir.of(path), loaded, experiment),
        base_path=job.model_base_path or f"/models/{name}",
    )
    print(f"{version}: step {loaded.step}, {loaded.info.num_classes} classes.")


def run() -> None:
    description = "Exports a checkpoint as a SavedModel for TensorFlow Serving."
    settings = [ExportConfig, ServingConfig]
    flags.run(main, settings, description, overrides=flags.INFERENCE)


if __name__ == "__main__":
    run()

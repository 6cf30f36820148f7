"""Exports a checkpoint as a version of a served model."""

from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import ServingConfig
from deeplab_tf.config.programs import ExportConfig
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.runs import loaded_run, run_dir
from deeplab_tf.serving import export, model_card


def main(job: ExportConfig, serving: ServingConfig) -> None:
    """Writes a version of the model, and the server's configuration next to it."""
    export_dir = Path(job.export_dir)
    files.require_plain(export_dir, "--export_dir")
    path = job.train_logdir or job.checkpoint_path
    # Has an effect in every inference mode: it is the size of the images that warm a server up.
    used = ("eval_crop_size",)
    loaded, experiment = loaded_run.load_asked(path, job.checkpoint, used=used)

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

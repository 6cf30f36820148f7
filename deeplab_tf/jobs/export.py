"""Exports a checkpoint as a version of a served model, or as a frozen graph."""

from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import Experiment, ServingConfig
from deeplab_tf.config.programs import ExportConfig
from deeplab_tf.evaluation.predictor import Predictor, build_predictor
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run, run_dir
from deeplab_tf.runs.loaded_run import LoadedRun
from deeplab_tf.serving import export, frozen_graph, model_card


def main(job: ExportConfig, serving: ServingConfig) -> None:
    """Writes a version of the model and the server's configuration next to it, or the graph."""
    _require_place(job, serving)
    path = job.train_logdir or job.checkpoint_path
    loaded, experiment = loaded_run.load_asked(path, job.checkpoint)
    classes = loaded.info.num_classes
    if job.num_classes not in (0, classes):
        raise UserError(
            f"--num_classes={job.num_classes} is not what {path} was trained for: it has {classes} "
            f"classes; give --num_classes={classes}, or leave it out."
        )

    loaded_run.tell_departures("export_model", loaded, experiment, job)
    predictor = build_predictor(
        loaded.model, experiment.data, experiment.eval, loaded.info.image_kind
    )
    if job.export_path:
        written = frozen_graph.write(predictor, loaded.info, Path(job.export_path))
    else:
        written = _write_version(job, serving, loaded, experiment, predictor)
    kind = loaded.info.image_kind
    takes = "" if kind.is_rgb else f" It takes arrays of {kind.described()}, and no encoded images."
    print(f"{written}: step {loaded.step}, {classes} classes.{takes}")


def _require_place(job: ExportConfig, serving: ServingConfig) -> None:
    """Raises UserError if nothing can be written there, or a setting has no effect there."""
    if job.export_dir:
        files.require_plain(Path(job.export_dir), "--export_dir")
        return

    path = Path(job.export_path)
    if path.is_dir():
        raise UserError(
            f"--export_path={path} is a folder; give a file for the frozen graph, such as "
            f"{path / 'frozen_inference_graph.pb'}, or --export_dir={path} for a SavedModel."
        )
    files.require_writable(path.parent, flag="export_path")
    for name, value in vars(serving).items():
        if value != getattr(ServingConfig(), name):
            raise UserError(
                f"--{name} has no effect on the frozen graph of --export_path; give --export_dir "
                f"in place of --export_path, or leave --{name} out."
            )


def _write_version(
    job: ExportConfig,
    serving: ServingConfig,
    loaded: LoadedRun,
    experiment: Experiment,
    predictor: Predictor,
) -> Path:
    """Writes a version of a served model; returns its folder."""
    path = job.train_logdir or job.checkpoint_path
    export_dir = Path(job.export_dir)
    name = job.model_name or export_dir.resolve().name
    return export.export(
        predictor,
        loaded.info,
        export_dir,
        version=job.export_version,
        config=serving,
        model_name=name,
        warmup_size=experiment.eval.eval_crop_size or experiment.data.train_crop_size,
        card=model_card.of_run(run_dir.RunDir.of(path), loaded, experiment),
        base_path=job.model_base_path or f"/models/{name}",
    )

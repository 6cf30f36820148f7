"""Opens the model that predict's command line asks for."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab_tf.config import flags
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.distribution import on_this_host
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.inference import large_images, replicas
from deeplab_tf.inference.finished import digest_of
from deeplab_tf.inference.replicas import Predict
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run, published
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.serving.client import ServerPredictor
from deeplab_tf.serving.export import ExportedPredictor, version_folder


@dataclass(frozen=True)
class Model:
    """A model that predicts the images of a job.

    predict: takes images, [H, W, C] as `image_kind` says, at most `together` of them, and returns
      the labels and probabilities of each.
    decides: what decides the labels, as `Finished.claim` takes it.
    may_skip: whether nothing else decides them, so that finished images need no new prediction.
    """

    predict: Predict
    classes: Sequence[LabelClass]
    decides: dict[str, Any]
    image_kind: ImageKind = RGB
    together: int = 1
    may_skip: bool = True


def open_model(job: PredictConfig, *, with_probabilities: bool = False) -> Model:
    """Opens the model that the command line asks for.

    Args:
      with_probabilities: whether to return probabilities too; a server cannot.
    """
    given = [name for name in flags.INFERENCE if flags.given(name) is not None]
    if given and not (job.checkpoint_dir or job.weights):
        place = f"--export_dir={job.export_dir}" if job.export_dir else f"--server={job.server}"
        raise UserError(
            f"--{given[0]} is fixed in {place}; give it to export_model, or predict with "
            "--checkpoint_dir."
        )

    if job.server:
        model = _of_server(job)
    elif job.export_dir:
        model = _of_export(job, with_probabilities=with_probabilities)
    else:
        model = _of_checkpoint(job, with_probabilities=with_probabilities)
    classes = [[each.name, list(each.color)] for each in model.classes]
    return dataclasses.replace(model, decides={**model.decides, "classes": classes})


def _of_server(job: PredictConfig) -> Model:
    server = ServerPredictor(
        job.server,
        model_name=job.model_name,
        class_list=Path(job.class_list),
        timeout_secs=job.server_timeout_secs,
    )
    decides = {"model": f"{job.model_name} of --server={job.server}"}
    # A server may load another version at any time, so nothing that it predicted may be skipped.
    return Model(replicas.one_by_one(server), server.classes, decides, may_skip=False)


def _of_export(job: PredictConfig, *, with_probabilities: bool) -> Model:
    folder = version_folder(Path(job.export_dir))
    exported = ExportedPredictor(folder)
    if with_probabilities:
        exported.require_probabilities()
    parts = [folder / "saved_model.pb", folder / "variables/variables.index"]
    decides = {"model": _named(folder, digest_of(*parts))}
    predict = replicas.one_by_one(exported, with_probabilities=with_probabilities)
    return Model(predict, exported.classes, decides, exported.image_kind)


def _of_checkpoint(job: PredictConfig, *, with_probabilities: bool) -> Model:
    path = job.checkpoint_dir or str(published.folder_of(job.weights))
    strategy = on_this_host(job.num_gpus)
    with strategy.scope():
        loaded, experiment = loaded_run.load_asked(path, job.checkpoint, job)
    predictor = build_predictor(
        loaded.model, experiment.data, experiment.eval, loaded.info.image_kind
    )

    prefix = RunDir.of(path).checkpoints.prefix(loaded.step)
    # The index holds a checksum of each variable.
    decides = {
        "model": _named(Path(prefix), digest_of(Path(f"{prefix}.index"))),
        **flags.inference_settings(experiment, loaded.model.config),
    }
    predict = replicas.predict_on(strategy, predictor, with_probabilities=with_probabilities)
    if job.max_image_pixels:
        decides["max_image_pixels"] = str(job.max_image_pixels)
        predict = large_images.with_windows(
            predict,
            predictor,
            loaded.model,
            experiment.data,
            experiment.eval,
            max_pixels=job.max_image_pixels,
            with_probabilities=with_probabilities,
        )
    kind = loaded.info.image_kind
    return Model(predict, loaded.info.classes, decides, kind, strategy.num_replicas_in_sync)


def _named(path: Path, digest: str) -> str:
    """Returns a readable name and a digest that identify a model, whichever folder it lies in."""
    return f"{path.name}, SHA-256 {digest[:24]}"

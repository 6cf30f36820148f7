"""Predicts users' images with a checkpoint, an exported model or a server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config import flags
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data import image_files
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation import memory, outputs, report
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.jobs import paths
from deeplab_tf.messages import UserError, counted
from deeplab_tf.runs import loaded_run, published
from deeplab_tf.serving import signatures
from deeplab_tf.serving.client import ServerPredictor
from deeplab_tf.serving.export import ExportedPredictor


def main(job: PredictConfig, images: Mapping[str, Path], pictures: PictureConfig = USUAL) -> None:
    """Writes PNGs to index/, color/ and overlay/, and what else is wanted to folders of its kind.

    An image that cannot be read, or that the model refuses, is listed at the end and does not stop
    the others.

    Args:
      images: what `paths.images_to_predict` returned.
    Raises:
      UserError: if there was such an image, unless `skip_bad`; or if no image could be predicted.
    """
    predict, classes = _open_model(job, with_probabilities=bool(pictures.save_probabilities))
    summaries = outputs.Summaries(pictures, classes)

    bad: list[str] = []
    with_other_channel: list[Path] = []
    for name, path in memory.trimmed(tqdm(images.items(), unit=" images", disable=None)):
        try:
            image, lost_channel = image_files.read_image_and_loss(path)
        except UserError as error:  # it names the file
            bad.append(str(error))
            continue
        if lost_channel:
            with_other_channel.append(path)

        try:
            labels, probabilities = predict(image[np.newaxis])
        except signatures.RefusedImage as error:
            bad.append(f"{path}: {error}")
            continue

        predicted = outputs.Predicted(
            image,
            np.asarray(labels)[0],
            probabilities=None if probabilities is None else np.asarray(probabilities)[0],
        )
        _write(job, pictures, classes, predicted, name, path)
        summaries.add(name + path.suffix, predicted.labels)

    if bad and len(images) == 1:
        raise UserError(bad[0])
    image_files.warn_of_dropped_channels(with_other_channel)

    summaries.write(Path(job.output_dir))
    done = counted(len(images) - len(bad), "image")
    print(f"{files.shown(job.output_dir)}: {done}.")
    for reason in bad:
        print(f"  skipped: {files.shown(reason)}")

    if len(bad) == len(images):
        raise UserError(f"None of the {len(images)} images could be predicted.")
    if bad and not job.skip_bad:
        raise UserError(
            f"{len(bad)} of {len(images)} images were not predicted, for the reasons above; mend "
            "or remove them, or give --skip_bad to go without them."
        )


def _write(
    job: PredictConfig,
    config: PictureConfig,
    classes: Sequence[LabelClass],
    predicted: outputs.Predicted,
    name: str,
    path: Path,
) -> None:
    """Writes the files of one image.

    Args:
      name: a key of `paths.images_to_predict`; path: of the image.
    """
    image, labels, *_ = predicted
    colors = [label_class.color for label_class in classes]
    overlay = report.overlay(image, labels, colors, alpha=config.overlay_alpha)
    pictures = {
        "index": Image.fromarray(labels),
        "color": Image.fromarray(report.colorize(labels, colors)),
        "overlay": Image.fromarray(overlay),
    }
    for kind, picture in pictures.items():
        report.write_picture(paths.prediction_file(job, kind, name), picture)

    labelme = paths.prediction_file(job, "labelme", name)
    image_path = Path(os.path.relpath(path, labelme.parent)).as_posix()
    for kind, ending, content in outputs.of_image(
        predicted, config, classes, image_path=image_path
    ):
        target = paths.prediction_file(job, kind, name, ending)
        files.write(target, content, is_lasting=False)


def _open_model(job: PredictConfig, *, with_probabilities: bool):
    """Returns the function that predicts, and the classes.

    The function takes images [B, H, W, 3] and returns labels [B, H, W] and probabilities [B, H, W,
    classes], which are None if they are not wanted.
    """
    model, classes = _model_of(job)
    if with_probabilities:
        return model.labels_and_probabilities, classes
    return lambda images: (model.labels(images), None), classes


def _model_of(job: PredictConfig):
    """Returns the checkpoint's, export's or server's predictor, and the classes."""
    given = [name for name in flags.INFERENCE if flags.given(name) is not None]
    if given and not (job.checkpoint_dir or job.weights):
        place = f"--export_dir={job.export_dir}" if job.export_dir else f"--server={job.server}"
        raise UserError(
            f"--{given[0]} is fixed in {place}; give it to export_model, or predict with "
            "--checkpoint_dir."
        )

    if job.server:
        server = ServerPredictor(
            job.server,
            model_name=job.model_name,
            class_list=Path(job.class_list),
            timeout_secs=job.server_timeout_secs,
        )
        return server, server.classes

    if job.export_dir:
        exported = ExportedPredictor(Path(job.export_dir))
        return exported, exported.classes

    path = job.checkpoint_dir or str(published.folder_of(job.weights))
    loaded, experiment = loaded_run.load_asked(path, job.checkpoint)
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    return predictor, loaded.info.classes

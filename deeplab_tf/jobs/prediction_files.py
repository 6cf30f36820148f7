"""Writes predict's outputs: the files of each image, and the files about all images."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config.pictures import PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data import decoding
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation import outputs, report
from deeplab_tf.inference.finished import Finished, digest_of_content, digest_of_output
from deeplab_tf.jobs import paths
from deeplab_tf.jobs.inputs import ImageSource
from deeplab_tf.messages import counted, warn


def write(
    job: PredictConfig,
    config: PictureConfig,
    classes: Sequence[LabelClass],
    finished: Finished,
    predicted: outputs.Predicted,
    name: str,
    source: ImageSource,
    *,
    state: Any,
) -> dict[Path, str]:
    """Writes the files that `paths.outputs` lists for one image; returns the digest of each.

    Args:
      name: a key of `paths.images_to_predict`; source: its value.
      state: of the image, as `Finished.outdated` takes it.
    """
    contents = _contents(job, config, classes, predicted, name, source)
    digests = {path: digest_of_content(content) for path, content in contents.items()}
    _remove_outdated(job, config, finished, name, state, digests)
    for path, content in contents.items():
        if paths.is_for_tools(path):
            finished.announce(path, content)
        # There may be thousands, and they can be made again after a power failure.
        files.write(path, content, is_lasting=False)
    return digests


def _remove_outdated(
    job: PredictConfig,
    config: PictureConfig,
    finished: Finished,
    name: str,
    state: Any,
    digests: Mapping[Path, str],
) -> None:
    """Removes what earlier calls wrote of an image and this call does not write again.

    Otherwise a call with fewer flags would leave tables and pictures that contradict its own.
    Before the new files are written, so that a killed call leaves no contradiction either.
    """
    for path in finished.outdated(name, state, digests):
        path.unlink(missing_ok=True)

    index = paths.prediction_file(job, "index", name)
    if not index.exists() or digest_of_output(index) == digests[index]:
        return
    for path in finished.summaries():
        if not paths.is_written_or_of_others(job, config, path):
            path.unlink(missing_ok=True)
            warn(
                f"{files.shown(path)} told of the earlier prediction of {files.shown(name)} and is "
                "removed; give the flag that wrote it to have it written again."
            )


def _contents(
    job: PredictConfig,
    config: PictureConfig,
    classes: Sequence[LabelClass],
    predicted: outputs.Predicted,
    name: str,
    source: ImageSource,
) -> dict[Path, bytes | str]:
    """Returns the contents of the files of one image."""
    image, labels, *_ = predicted
    colors = [label_class.color for label_class in classes]
    overlay = report.overlay(image, labels, colors, alpha=config.overlay_alpha)
    pictures = {
        "index": Image.fromarray(labels),
        "color": Image.fromarray(report.colorize(labels, colors)),
        "overlay": Image.fromarray(overlay),
    }
    contents: dict[Path, bytes | str] = {
        paths.prediction_file(job, kind, name): decoding.encode_png(picture)
        for kind, picture in pictures.items()
    }

    folder = paths.prediction_file(job, "labelme", name).parent
    image_path = Path(os.path.relpath(str(source), folder)).as_posix()
    for kind, ending, content in outputs.of_image(
        predicted, config, classes, image_path=image_path
    ):
        contents[paths.prediction_file(job, kind, name, ending)] = content
    return contents


def write_summaries(
    job: PredictConfig,
    config: PictureConfig,
    classes: Sequence[LabelClass],
    finished: Finished,
    *,
    only: Collection[str] | None,
) -> None:
    """Writes the files about all finished images of the folder, or of some, if wanted.

    They are made from the index pictures, so they hold what earlier calls and other shards
    finished too. Each shard writes files of its own: in a common file, two shards that end at the
    same time would lose images.

    Args:
      only: names of the images that the files tell of; None for all.
    """
    if not config.summaries():
        return
    summaries = outputs.Summaries(config, classes)
    is_empty = True
    left_out = 0
    for name, image in finished.images():
        if only is not None and name not in only:
            left_out += 1
            continue
        with Image.open(paths.prediction_file(job, "index", name)) as index:
            summaries.add(image, np.asarray(index))
        is_empty = False
    if is_empty:
        return

    texts = summaries.texts()
    if left_out and not job.shard:
        warn(
            f"Not in {' and '.join(sorted(texts))} of {files.shown(job.output_dir)}: "
            f"{counted(left_out, 'image')} of earlier calls, since the server may have had another "
            "model then; predict all images in one call to have them there."
        )
    for name, text in texts.items():
        path = paths.summary_file(job, name)
        finished.announce(path, text)
        files.write(path, text)

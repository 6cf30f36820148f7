"""Predicts users' images with a checkpoint, published weights, an exported model or a server."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data import image_files
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.evaluation import memory, outputs
from deeplab_tf.evaluation.predictor import RefusedImage
from deeplab_tf.inference.finished import Finished, digest_of_output
from deeplab_tf.inference.replicas import Result
from deeplab_tf.jobs import asked_model, paths, prediction_files, video_prediction
from deeplab_tf.jobs.inputs import ImageSource, VideoFile
from deeplab_tf.messages import UserError, counted


def main(
    job: PredictConfig, images: Mapping[str, ImageSource], pictures: PictureConfig = USUAL
) -> None:
    """Writes PNGs to index/, color/ and overlay/, and what else is wanted to folders of its kind.

    Images that an earlier call finished are skipped. An image that cannot be read, or that the
    model refuses, is listed at the end and does not stop the others.

    Args:
      images: what `paths.images_to_predict` returned.
    Raises:
      UserError: if there was such an image, unless `skip_bad`; if no image could be predicted; or
        if the folder holds predictions of another model.
    """
    model = asked_model.open_model(job, with_probabilities=bool(pictures.save_probabilities))
    finished = Finished(Path(job.output_dir), shard=job.shard)
    decides = {**model.decides, **pictures.decides()}
    finished.claim(decides)
    left = _unfinished(job, pictures, finished, images) if model.may_skip else dict(images)

    bad: list[str] = []
    predicted: set[str] = set()
    with_losses: list[Path] = []
    videos = [name for name, source in left.items() if isinstance(source, VideoFile)]
    stills = {name: source for name, source in left.items() if name not in videos}
    bar = tqdm(stills.items(), unit=" images", disable=None if stills else True)
    kind = model.image_kind
    readable = _read(memory.trimmed(bar), kind, bad, with_losses)
    for group in iter(lambda: list(itertools.islice(readable, model.together)), []):
        for each, (labels, probabilities) in _predicted(model, group, bad):
            finished.require_claim(decides)
            digests = prediction_files.write(
                job,
                pictures,
                model.classes,
                finished,
                outputs.Predicted(kind.picture(each.pixels), labels, probabilities),
                each.name,
                each.source,
                state=each.state if model.may_skip else None,
            )
            finished.note(each.name, each.state, digests, image=_shown(each.name, each.source))
            predicted.add(each.name)

    for name in videos:
        finished.require_claim(decides)
        _predict_video(job, pictures, model, finished, name, left[name], bad)

    only: Collection[str] | None = images if job.shard else None
    if not model.may_skip:  # another model may have predicted what earlier calls finished
        only = predicted
    prediction_files.write_summaries(job, pictures, model.classes, finished, only=only)
    noun = "file" if any(isinstance(source, VideoFile) for source in images.values()) else "image"
    skipped = len(images) - len(left)
    image_files.warn_of_losses([] if bad and len(images) == 1 else with_losses, kind)
    _conclude(job, len(images), skipped, bad, noun=noun)


def _unfinished(
    job: PredictConfig,
    pictures: PictureConfig,
    finished: Finished,
    images: Mapping[str, ImageSource],
) -> dict[str, ImageSource]:
    """Returns the images that no earlier call has predicted with all wanted outputs."""
    # Every output is read, which may take a while for thousands of images.
    bar = tqdm(images.items(), desc="comparing", unit=" images", disable=None, delay=2, leave=False)
    return {
        name: source
        for name, source in bar
        if not finished.has(name, source.state(), paths.outputs(job, name, source, pictures))
    }


def _predicted(
    model: asked_model.Model, group: Sequence["_Read"], bad: list[str]
) -> Iterator[tuple["_Read", Result]]:
    """Yields the images of a group with their predictions; adds refused ones to `bad`."""
    try:
        results = model.predict([each.pixels for each in group])
    except RefusedImage as error:
        if len(group) == 1:
            bad.append(f"{group[0].source}: {error}")
            return
        for each in group:  # one of them was refused, and the error does not say which
            yield from _predicted(model, [each], bad)
        return
    yield from zip(group, results, strict=True)


def _predict_video(
    job: PredictConfig,
    pictures: PictureConfig,
    model: asked_model.Model,
    finished: Finished,
    name: str,
    source: ImageSource,
    bad: list[str],
) -> None:
    """Predicts a video; adds it to `bad` if that fails."""
    state = source.state()
    path = Path(str(source))
    try:
        model.image_kind.require_rgb(
            f"The video {source}", "give its frames as images of that kind, or leave it out"
        )
        video_prediction.predict(job, model, name, path, overlay_alpha=pictures.overlay_alpha)
    except RefusedImage as error:
        bad.append(f"{source}: {error}")
    except UserError as error:  # it names the file
        bad.append(str(error))
    else:
        targets = paths.outputs(job, name, source, pictures)
        digests = {target: digest_of_output(target) for target in targets}
        finished.note(name, state, digests, image=_shown(name, source))


def _shown(name: str, source: ImageSource) -> str:
    """Returns the name of an image in summaries."""
    return name + source.ending


@dataclass(frozen=True)
class _Read:
    """An image that was read. state: its `ImageSource.state`, taken before reading."""

    name: str
    source: ImageSource
    state: Any
    pixels: np.ndarray


def _read(
    images: Iterator[tuple[str, ImageSource]],
    kind: ImageKind,
    bad: list[str],
    with_losses: list[Path],
) -> Iterator[_Read]:
    """Yields the readable images; adds the others to `bad`, and lossy ones to `with_losses`."""
    for name, source in images:
        state = source.state()  # before reading: a later change is then seen by the next call
        try:
            pixels, is_loss = source.read(kind)
        except UserError as error:  # it names the file
            bad.append(str(error))
            continue
        if is_loss:
            with_losses.append(Path(str(source)))
        yield _Read(name, source, state, pixels)


def _conclude(
    job: PredictConfig,
    count: int,
    skipped: int,
    bad: Sequence[str],
    *,
    noun: str,
) -> None:
    """Prints what was done; raises UserError if too little was.

    Args:
      count: number of all images.
      skipped: number of images that an earlier call predicted.
      noun: what messages call an image.
    """
    if bad and count == 1:
        raise UserError(bad[0])

    share = f" of shard {job.shard}" if job.shard else ""
    earlier = f", {skipped} of them by an earlier call" if skipped else ""
    done = counted(count - len(bad), noun)
    print(f"{files.shown(job.output_dir)}: {done}{share}{earlier}.")
    for reason in bad:
        print(f"  skipped: {files.shown(reason)}")

    if bad and len(bad) == count:
        raise UserError(f"None of the {count} {noun}s could be predicted.")
    if bad and not job.skip_bad:
        raise UserError(
            f"{len(bad)} of {count} {noun}s were not predicted, for the reasons above; mend "
            "or remove them, or give --skip_bad to go without them."
        )

"""Predicts the frames of a video and writes them as an overlay video."""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.evaluation import report
from deeplab_tf.inference import video
from deeplab_tf.jobs import paths
from deeplab_tf.jobs.asked_model import Model
from deeplab_tf.messages import UserError, counted, warn


def predict(
    job: PredictConfig, model: Model, name: str, path: Path, *, overlay_alpha: float
) -> None:
    """Writes overlay/NAME.mp4, of the video's length, size and rate, whole or not at all.

    Prints what was written and how fast, and warns if the video is damaged.

    Raises:
      UserError: if it is not a video, or the model refuses its frames.
    """
    begin = time.monotonic()
    clip = video.look_at(path)
    damages: list[str] = []
    frames = video.frames_of(clip, damages)
    first = next(frames, None)
    if first is None:
        reason = f" ({damages[0]})" if damages else ""
        raise UserError(f"{files.shown(path)} has no whole frame{reason}; get it again.")

    target = paths.prediction_file(job, "overlay", name, ".mp4")
    size = (first.shape[0], first.shape[1])
    count = 0
    with (
        video.writing(target, clip, size) as write,
        tqdm(total=clip.frames, desc=path.name, unit=" frames", disable=None) as bar,
    ):
        for overlay, times in _overlays(model, itertools.chain([first], frames), overlay_alpha):
            for _ in range(times):
                write(overlay)
            count += times
            bar.update(times)

    for damage in damages:
        warn(damage)
    speed = count / (time.monotonic() - begin)
    print(
        f"{files.shown(target)}: {counted(count, 'frame')} of {size[1]}x{size[0]} pixels, "
        f"{clip.described()}; {speed:.3g} frames/s predicted.",
        flush=True,
    )


def _overlays(
    model: Model, frames: Iterable[np.ndarray], alpha: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the overlay of each frame, and how many frames in a row it is for."""
    colors = [label_class.color for label_class in model.classes]
    distinct = _without_repetitions(frames)
    for group in iter(lambda: list(itertools.islice(distinct, model.together)), []):
        results = model.predict([frame for frame, _ in group])
        for (frame, times), (labels, _) in zip(group, results, strict=True):
            yield report.overlay(frame, labels, colors, alpha=alpha), times


def _without_repetitions(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields each frame that differs from the one before, and how often it is shown in a row.

    Videos of a variable rate hold a frame for a while, and so do recordings of a screen.
    """
    held, times = None, 0
    for frame in frames:
        if held is not None and np.array_equal(frame, held):
            times += 1
            continue
        if held is not None:
            yield held, times
        held, times = frame, 1
    if held is not None:
        yield held, times

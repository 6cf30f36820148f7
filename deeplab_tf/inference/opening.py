"""Opens trained models for images: a run's checkpoint or an exported model."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deeplab_tf.config import as_argument, checkpoint_choice, flags
from deeplab_tf.config.setting import without_effect
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run, published
from deeplab_tf.runs.run_dir import EXPERIMENT
from deeplab_tf.serving import export
from deeplab_tf.serving.export import ExportedPredictor
from deeplab_tf.weights.published import PUBLISHED, find


class ImagePredictor(Protocol):
    """Predicts images, [B, H, W, C]; its methods raise UserError for an image they refuse."""

    def labels(self, images: np.ndarray) -> Any:
        """Returns the class of each pixel, [B, H, W]."""

    def probabilities(self, images: np.ndarray) -> Any:
        """Returns the probability of each class, float32 [B, H, W, classes]."""


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to predict, its classes, and the kind of images that it takes."""

    predictor: ImagePredictor
    classes: Sequence[LabelClass]
    image_kind: ImageKind = RGB


def open_model(path: str | Path, *, checkpoint: str, settings: Mapping[str, Any]) -> OpenedModel:
    """Opens a model for callers in Python.

    Args:
      path: a run's folder, one checkpoint in it, the folder of an exported model, or the name of
        published weights, if there is nothing at that path.
      checkpoint: newest, best or a step; empty takes the one that the path names, or the newest.
      settings: values in place of the run's, by the names of `flags.INFERENCE`.
    Raises:
      UserError: if there is no such model or checkpoint, or a setting is not possible.
    """
    _require_known(settings)
    checkpoint_choice.require_one_choice(checkpoint, str(path), "model", written=as_argument)
    folder = Path(path)
    if not folder.exists() and str(path) in PUBLISHED:
        path = folder = published.folder_of(str(path))
    elif not folder.exists() and difflib.get_close_matches(str(path), PUBLISHED):
        find(str(path))  # its error names the nearest name
    if not (folder / EXPERIMENT).is_file() and export.is_export(folder):
        fixed = {"checkpoint": checkpoint} if checkpoint else dict(settings)
        if fixed:
            name, value = next(iter(fixed.items()))
            raise UserError(
                f"{as_argument(name, value)} is fixed in the exported model {path}; leave it out, "
                "or load the run that it was exported from."
            )
        exported = ExportedPredictor(folder)
        return OpenedModel(exported, exported.classes, exported.image_kind)

    stride = settings.get("output_stride")
    loaded = loaded_run_of(path, checkpoint=checkpoint, output_stride=stride)
    experiment = flags.changed_by(loaded.experiment, settings)
    lacking = without_effect([experiment.data, experiment.eval])
    for name in settings.keys() & lacking.keys():
        raise UserError(
            f"{as_argument(name, settings[name])} has no effect without "
            f"{lacking[name].replace('--', '')}; give that too, or leave {name} out."
        )
    predictor = build_predictor(
        loaded.model, experiment.data, experiment.eval, loaded.info.image_kind
    )
    return OpenedModel(predictor, loaded.info.classes, loaded.info.image_kind)


def loaded_run_of(
    path: str | Path, *, checkpoint: str, output_stride: int | None
) -> loaded_run.LoadedRun:
    """Loads a run as `loaded_run.load` does, and logs which checkpoint it is.

    The logger `deeplab_tf` says it at level INFO, or warns if the caller did not choose one and the
    folder has a better or newer one.
    """
    loaded = loaded_run.load(
        path, checkpoint=checkpoint, output_stride=output_stride, written=as_argument
    )
    was_chosen = checkpoint or checkpoint_choice.split(path)[1] is not None
    level = logging.WARNING if loaded.others and not was_chosen else logging.INFO
    logging.getLogger("deeplab_tf").log(level, "%s: %s", path, loaded.standing)
    return loaded


def _require_known(settings: Mapping[str, Any]) -> None:
    """Raises UserError if predictions have no setting of a given name."""
    for name in settings:
        if name not in flags.INFERENCE:
            near = difflib.get_close_matches(name, flags.INFERENCE, n=1)
            known = f"did you mean {near[0]}?" if near else f"it has: {', '.join(flags.INFERENCE)}."
            raise UserError(f"deeplab_tf.load has no setting {name!r}; {known}")

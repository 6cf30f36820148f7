"""A Predictor as a SavedModel that any program can load, and back."""

import csv
import os
import shutil
from pathlib import Path

import tensorflow as tf

from deeplab_tf.config import UserError
from deeplab_tf.data.catalog import DatasetInfo, LabelClass, read_class_table
from deeplab_tf.evaluation.predictor import Predictor

LABELS = "labels.csv"


class ServingModule(tf.Module):
    """What a server runs: one function, the variables it reads, and the class table."""

    def __init__(self, predictor: Predictor, class_table: Path, variables: list[tf.Variable]):
        super().__init__()
        self.used_variables = variables

        def serve(images):
            # First of all: a tensor of another rank would abort the server's process
            # (`reference/tensorflow_traps.md` sec. 4d).
            images = tf.ensure_shape(images, [None, None, None, 3])
            labels, probabilities = predictor.predict(images)
            return {"labels": labels, "scores": probabilities}

        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]
        self.serve = tf.function(serve, input_signature=signature)
        self.class_table = tf.saved_model.Asset(str(class_table))


def export(predictor: Predictor, info: DatasetInfo, export_dir: Path, *, version: int = 0) -> Path:
    """Writes <export_dir>/<version>/, whole or not at all; returns its path.

    The signature `serving_default` takes `images`, uint8 [B, H, W, 3], RGB, of any B, H and W, and
    returns `labels` [B, H, W] and `scores`, float32 [B, H, W, classes], adding up to 1.

    Args:
      version: 0 takes the next free one.
    Raises:
      UserError: if the version exists.
    """
    version = version or max(versions(export_dir), default=0) + 1
    target = export_dir / str(version)
    if target.exists():
        raise UserError(
            f"{target} exists; give another --export_version, or 0 for the next free one."
        )
    building = export_dir / f"building-{version}"  # servers look at numbers only
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    class_table = building / LABELS
    with class_table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "name", "r", "g", "b"])
        for index, label_class in enumerate(info.classes):
            writer.writerow([index, label_class.name, *label_class.color])
    model = building / "model"
    with predictor.model.folded() as variables:  # saving traces the function
        module = ServingModule(predictor, class_table, variables)
        tf.saved_model.save(module, str(model), signatures={"serving_default": module.serve})
    os.rename(model, target)
    shutil.rmtree(building)
    return target


def versions(export_dir: Path) -> list[int]:
    """Returns the versions found in a model's folder, ascending."""
    if not export_dir.is_dir():
        return []
    return sorted(int(path.name) for path in export_dir.iterdir() if path.name.isdecimal())


class ExportedPredictor:
    """Predicts with a SavedModel written by `export`, without any code of the model."""

    def __init__(self, export_dir: Path):
        """Loads the version in `export_dir`, or the highest of the versions in it."""
        path = export_dir
        if not (path / "saved_model.pb").is_file():
            found = versions(export_dir)
            if not found:
                raise UserError(f"--export_dir={export_dir} holds no SavedModel; run export_model.")
            path = export_dir / str(found[-1])
        self._loaded = tf.saved_model.load(str(path))
        self._serve = self._loaded.signatures["serving_default"]
        self.classes: tuple[LabelClass, ...] = read_class_table(path / "assets" / LABELS)

    def labels(self, images) -> tf.Tensor:
        """uint8 [B, H, W, 3] -> labels [B, H, W]."""
        return self._serve(images=tf.constant(images))["labels"]

"""Scores of each image of a split, in the order of the data set, and the worst images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeplab_tf import files
from deeplab_tf.evaluation.evaluator import CountedBatch
from deeplab_tf.evaluation.tables import as_csv


class WorstImage(NamedTuple):
    """An image with a low score; number: its place among those scored, from 0."""

    number: int
    name: str
    miou: float


class ImageScores:
    """Collects the counts of each image, in whatever order they are predicted.

    An image's mIoU is the mean over the classes that occur in its label or its prediction, by the
    same rule as for a whole split (`metrics`). Pixels with the ignored label do not count.

    Args:
      images: number of images in the split. class_names: of its classes.
    """

    def __init__(self, images: int, class_names: Sequence[str]):
        self._class_names = class_names
        self._names = [""] * images
        self._sizes = np.zeros([images, 2], np.int32)
        # Hits, labelled and predicted pixels of each class. A matrix for each image would fill the
        # memory: it has classes^2 numbers.
        self._counts = np.zeros([images, 3, len(class_names)], np.int32)

    def add(self, counted: CountedBatch) -> None:
        """Takes a batch of images."""
        batch, matrices, _ = counted
        for number, name in zip(batch.numbers, batch.names, strict=True):
            self._names[number] = files.shown(name)
        self._sizes[batch.numbers] = batch.images.shape[1:3]
        hits = np.diagonal(matrices, axis1=1, axis2=2)
        counts = [hits, matrices.sum(axis=2), matrices.sum(axis=1)]
        self._counts[batch.numbers] = np.stack(counts, axis=1)

    @property
    def iou(self) -> np.ndarray:
        """IoU, float64 [images, classes]; NaN if a class is in neither label nor prediction."""
        hits, labelled, predicted = np.moveaxis(self._counts, 1, 0).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return hits / (labelled + predicted - hits)

    @property
    def miou(self) -> np.ndarray:
        """Mean IoU of each image, float64 [images]; NaN if all its pixels are ignored."""
        return _means(self.iou)

    def worst(self, count: int) -> list[WorstImage]:
        """Returns up to `count` images with the lowest mIoU; images of equal mIoU by name.

        Images without a score are left out.
        """
        scored = [
            WorstImage(number, self._names[number], float(miou))
            for number, miou in enumerate(self.miou)
            if not np.isnan(miou)
        ]
        return sorted(scored, key=lambda image: (image.miou, image.name, image.number))[:count]

    def table(self, *, boundary: np.ndarray | None = None) -> str:
        """Returns the text of a CSV file with one line for each image; scores are in 0..1.

        A score without a value is empty.

        Args:
          boundary: boundary F-scores, [images, classes], if there are any.
        """
        valid = self._counts[:, 1].sum(axis=1)
        with np.errstate(invalid="ignore"):
            accuracy = self._counts[:, 0].sum(axis=1) / valid
        means = {"pixel_accuracy": accuracy, "miou": self.miou}
        if boundary is not None:
            means["boundary_f_score"] = _means(boundary)

        # Class names may be anything, so their columns begin differently from all others.
        of_classes = [f"iou_{files.shown(name)}" for name in self._class_names]
        heading = ["number", "name", "height", "width", "valid_pixels", *means, *of_classes]
        scores = np.column_stack([*means.values(), self.iou])
        rows = (
            (f"{number:06d}", name, *size, pixels, *map(_cell, values))
            for number, (name, size, pixels, values) in enumerate(
                zip(self._names, self._sizes, valid, scores, strict=True)
            )
        )
        return as_csv(heading, rows)


def _means(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each row's numbers, [rows]; NaN for a row without numbers."""
    counts = np.count_nonzero(~np.isnan(values), axis=1)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=1) / counts


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"

"""Areas of the classes in predictions: one line for each image and class that occurs in it."""

from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.evaluation.tables import as_csv


class AreaTable:
    """Collects the areas of each image.

    Args:
      class_names: of all classes, by their numbers.
    """

    def __init__(self, class_names: Sequence[str]):
        self._class_names = class_names
        self._rows: list[tuple[str, str, int, str]] = []

    def add(self, image: str, labels: np.ndarray) -> None:
        """Counts the pixels of each class in an image's prediction, class numbers [H, W]."""
        counts = np.bincount(labels.ravel(), minlength=len(self._class_names))
        for name, pixels in zip(self._class_names, counts.tolist(), strict=True):
            if pixels:
                share = f"{pixels / labels.size:.6f}"
                self._rows.append((files.shown(image), files.shown(name), pixels, share))

    def text(self) -> str:
        """Returns the content of areas.csv; shares are of all pixels of the image, 0..1."""
        return as_csv(("image", "class", "pixels", "share"), self._rows)

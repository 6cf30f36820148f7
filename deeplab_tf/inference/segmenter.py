"""Predicts images in Python: what `deeplab_tf.load` returns."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf.data import image_files
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.evaluation import report
from deeplab_tf.inference import given_images, opening


class Prediction:
    """The prediction of one image of height H and width W.

    Attributes:
      labels: the class of each pixel, [H, W]: uint8, or int16 if there are more than 256 classes.
      names: the names of all classes; a pixel's is names[label].
      classes: their names and colours.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes: Sequence[LabelClass],
        probabilities: Callable[[], np.ndarray],
    ):
        """Takes the labels, and a function that computes the scores once they are asked for."""
        self.labels = labels
        self.classes = tuple(classes)
        self.names = tuple(label_class.name for label_class in classes)
        self._probabilities = probabilities

    @functools.cached_property
    def colors(self) -> np.ndarray:
        """The colour of each pixel's class, uint8 [H, W, 3], RGB."""
        return report.colorize(self.labels, [each.color for each in self.classes])

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The probability of each class, float32 [H, W, classes]; they add up to 1 at each pixel.

        Computed when first read, which predicts the image once more.

        Raises:
          deeplab_tf.config.UserError: if an exported model returns none.
        """
        return self._probabilities()


class Segmenter:
    """Predicts images of any size with one model."""

    def __init__(self, opened: opening.OpenedModel):
        self._predictor = opened.predictor
        self._image_kind = opened.image_kind
        self.classes = tuple(opened.classes)
        self.names = tuple(label_class.name for label_class in self.classes)

    def predict(self, image: Any) -> Any:
        """Predicts an image, or each of a list.

        Args:
          image: a path of an image file, which is turned as its EXIF data say; an image of Pillow,
            whose pixels are taken as they stand; an array, uint8 [H, W, 3], RGB; or a list or tuple
            of these, whose sizes may differ. If the model was trained on images of other channels
            or more bits, a path of such a file, or an array, uint8 or uint16 [H, W, C].
        Returns:
          A `Prediction` at the image's own size, or a list of them.
        Raises:
          deeplab_tf.config.UserError: if an image cannot be read, is of another kind than the
            model takes, such as not 8-bit RGB, or is refused by the model.
        """
        if isinstance(image, list | tuple):
            return [self._predict(each) for each in image]
        return self._predict(image)

    def _predict(self, image: Any) -> Prediction:
        pixels = _pixels_of(image, self._image_kind)[np.newaxis]
        labels = np.asarray(self._predictor.labels(pixels))[0]
        return Prediction(
            labels, self.classes, lambda: np.asarray(self._predictor.probabilities(pixels))[0]
        )


def load(model: str | Path, *, checkpoint: str = "", **settings: Any) -> Segmenter:
    """Opens a model, as `deeplab_tf.load` says."""
    return Segmenter(opening.open_model(model, checkpoint=checkpoint, settings=settings))


def _pixels_of(image: Any, kind: ImageKind) -> np.ndarray:
    """Returns any image that a caller may give as uint8 [H, W, 3], RGB, or of another kind."""
    if isinstance(image, str | os.PathLike):
        pixels, is_loss = image_files.read_image_and_loss(Path(image), kind)
        image_files.warn_of_losses([Path(image)] if is_loss else [], kind)
        return pixels
    if not kind.is_rgb:
        return given_images.values_of_array(image, kind)
    if isinstance(image, Image.Image):
        return given_images.pixels_of_pillow(image)
    return given_images.pixels_of_array(image)

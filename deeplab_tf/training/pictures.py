"""Pictures for TensorBoard: an image, its label, what the network predicts, and its errors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf.data import records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.evaluation import pictures as shared

# Pixels of a panel's longer side. TensorBoard keeps every picture of every step, and shows it about
# 350 pixels wide: with two panels in a row, the names stay legible.
_MOST_SIDE = 320


class Example(NamedTuple):
    """image: [H, W, C], as the data set's images are. label: uint8 [H, W]."""

    image: np.ndarray
    label: np.ndarray


def read_examples(
    table: records.RecordTable, number: int, image_kind: ImageKind = RGB
) -> list[Example]:
    """Reads some records of a split, always the same ones, spread evenly over it."""
    number = min(number, len(table))
    chosen = [len(table) * place // number for place in range(number)]
    parsed = [records.parse(table.read(index), image_kind) for index in chosen]
    return [Example(item["image"].numpy(), item["label"].numpy()[..., 0]) for item in parsed]


def draw(
    examples: Sequence[Example], predict: Callable[[np.ndarray], np.ndarray], info: DatasetInfo
) -> np.ndarray:
    """Draws image, label, prediction and errors of each example, with a legend below.

    Args:
      predict: images, [1, H, W, C] -> labels [1, H, W].
    Returns:
      uint8 [examples, height, width, 3]; smaller pictures have white margins.
    """
    pages = [
        _page(example, np.asarray(predict(example.image[np.newaxis]))[0], info)
        for example in examples
    ]
    height, width = (max(page.shape[axis] for page in pages) for axis in (0, 1))
    return np.stack(
        [
            np.pad(
                page,
                [(0, height - page.shape[0]), (0, width - page.shape[1]), (0, 0)],
                constant_values=255,
            )
            for page in pages
        ]
    )


def write(name: str, pages: np.ndarray) -> None:
    """Writes what `draw` returned to the default summary writer."""
    tf.summary.image(name, pages, max_outputs=len(pages))


def _page(example: Example, predicted: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Returns a page about an example, uint8 [H, W, 3]."""
    image = _reduced(info.image_kind.picture(example.image), Image.Resampling.BOX)
    # Classes must not be mixed, so only the image itself is smoothed.
    label, labels = (
        _reduced(classes.astype(np.uint8), Image.Resampling.NEAREST)
        for classes in (example.label, predicted)
    )
    panels, entries = shared.compared(
        image,
        labels,
        info.classes,
        truth=label,
        ignore_label=info.ignore_label,
        error_map="red",
    )
    del panels["overlay"]  # so that two rows of two are left
    return np.asarray(shared.page(panels, entries, columns=2))


def _reduced(pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """Returns a picture, [H, W] or [H, W, 3], reduced to `_MOST_SIDE`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_MOST_SIDE, _MOST_SIDE), resampling)
    return np.asarray(picture)

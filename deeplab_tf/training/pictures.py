"""Pictures for TensorBoard: an image, its label and what the network predicts, side by side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from deeplab_tf.data import records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.evaluation import pictures as shared
from deeplab_tf.evaluation import report

_MOST_SIDE = 480  # pixels of a panel's longer side; TensorBoard keeps every picture of every step
_TITLE_HEIGHT = 14


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
    """Draws image, label and prediction of each example, with the names of the classes below.

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
    image = _panel("image", info.image_kind.picture(example.image))
    label = _panel("label", report.colorize(example.label, info.colors))
    prediction = _panel("prediction", report.colorize(predicted, info.colors))
    panels = report.strip(image, [label, prediction])

    entries = shared.occurring([example.label, predicted], info.class_names, info.colors)
    legend = shared.legend(entries, width=panels.shape[1])
    return np.asarray(shared.above(Image.fromarray(panels), legend))


def _panel(title: str, pixels: np.ndarray) -> np.ndarray:
    """Returns a picture under its title, reduced to `_MOST_SIDE`."""
    picture = Image.fromarray(pixels)
    # Colours of classes must not be mixed, so only the image itself is smoothed.
    smoothly = Image.Resampling.BOX if title == "image" else Image.Resampling.NEAREST
    picture.thumbnail((_MOST_SIDE, _MOST_SIDE), smoothly)

    panel = Image.new("RGB", (picture.width, picture.height + _TITLE_HEIGHT), "white")
    ImageDraw.Draw(panel).text((2, 1), title, fill="black")
    panel.paste(picture, (0, _TITLE_HEIGHT))
    return np.asarray(panel)

"""What `vis` and `predict` write next to the usual pictures of an image, and about all images."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config.pictures import AREAS, COCO, PictureConfig
from deeplab_tf.data import decoding
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation import labelme, pictures, report
from deeplab_tf.evaluation.areas import AreaTable
from deeplab_tf.evaluation.coco import CocoFile


class Predicted(NamedTuple):
    """A predicted image.

    image: uint8 [H, W, 3]. labels: class numbers, [H, W]. probabilities: float32 [H, W, classes],
    if they are wanted. truth: class numbers and ignored labels, uint8 [H, W], if they are known.
    """

    image: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None = None
    truth: np.ndarray | None = None


class File(NamedTuple):
    """The content of a file of an image, what kind of file it is, and the ending of its name."""

    kind: str
    ending: str
    content: bytes | str


def of_image(
    predicted: Predicted,
    config: PictureConfig,
    classes: Sequence[LabelClass],
    *,
    image_path: str,
    ignore_label: int | None = None,
    error_map: str = "",
) -> Iterator[File]:
    """Yields the files of one image that are wanted, of its `kinds`.

    Args:
      image_path: of the image itself, as labelme's file names it.
      ignore_label: of the truth; not needed without one.
      error_map: how errors are painted: "red", or "class" for the colour of the true class; ""
        paints none, and there must be a truth otherwise.
    """
    names = [label_class.name for label_class in classes]
    colors = [label_class.color for label_class in classes]
    image, labels, probabilities, truth = predicted

    def overlay() -> np.ndarray:
        return report.overlay(image, labels, colors, alpha=config.overlay_alpha)

    def paint_errors(true: np.ndarray) -> np.ndarray:
        return pictures.errors(
            image,
            true,
            labels,
            ignore_label=ignore_label,
            colors=colors if error_map == "class" else (),
            ignored_color=pictures.color_of_ignored(colors),
        )

    def with_legend() -> bytes:
        entries = pictures.occurring([labels], names, colors)
        below = pictures.legend(entries, width=image.shape[1])
        return _png(pictures.above(Image.fromarray(overlay()), below))

    def side_by_side() -> bytes:
        panels, entries = pictures.compared(
            image,
            labels,
            classes,
            truth=truth,
            ignore_label=ignore_label,
            error_map=error_map,
            alpha=config.overlay_alpha,
        )
        return _png(pictures.page(panels, entries))

    makers: dict[str, Callable[[], bytes | str]] = {
        "legend": with_legend,
        "side_by_side": side_by_side,
        "labelme": lambda: labelme.content(labels, names, image_path),
    }
    if error_map and truth is not None:
        makers["errors"] = lambda: _png_of(paint_errors(truth))
    if probabilities is not None:
        makers["confidence"] = lambda: _png_of(pictures.confidence(probabilities))
        makers["probabilities"] = lambda: _npz(probabilities, names)
    for kind, ending in config.kinds(with_errors=bool(error_map)).items():
        yield File(kind, ending, makers[kind]())


def _png_of(pixels: np.ndarray) -> bytes:
    return _png(Image.fromarray(pixels))


def _png(picture: Image.Image) -> bytes:
    return decoding.encode_png(picture)


def _npz(probabilities: np.ndarray, names: Sequence[str]) -> bytes:
    """Returns the content of an npz file: `probabilities`, float16 [H, W, classes], and `classes`.

    It is readable without pickle.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, probabilities=probabilities.astype(np.float16), classes=np.array(names)
    )
    return buffer.getvalue()


class Summaries:
    """Collects what one file holds about all images: areas.csv and coco.json, if wanted."""

    def __init__(self, config: PictureConfig, classes: Sequence[LabelClass]):
        names = [label_class.name for label_class in classes]
        self._areas = AreaTable(names) if config.save_areas else None
        self._coco = CocoFile(names) if "coco" in config.save_polygons else None

    def add(self, image: str, labels: np.ndarray) -> None:
        """Adds a prediction, class numbers [H, W]; `image` is the file of its image."""
        if self._areas:
            self._areas.add(image, labels)
        if self._coco:
            self._coco.add(image, labels)

    def write(self, folder: Path) -> list[Path]:
        """Writes the files, whole; returns them."""
        texts = {folder / name: text for name, text in self.texts().items()}
        for path, text in texts.items():
            files.write(path, text)
        return list(texts)

    def texts(self) -> dict[str, str]:
        """Returns the contents of the files by their names."""
        wanted = {AREAS: self._areas, COCO: self._coco}
        return {name: table.text() for name, table in wanted.items() if table}

"""Reads "CVAT for images 1.1" XML files, and draws their shapes as CVAT's own export does.

CVAT's "Segmentation mask 1.1" draws polygons, boxes, ellipses and masks by pycocotools' rules, in
the order of z_order, and leaves points, polylines, cuboids, skeletons and tags out. Differs: shapes
of one group keep their own labels, where CVAT gives all of them the label of the largest; polygons
are drawn by the numbers of the file, where datumaro 1.13 holds them in single precision, so that
a few pixels of the outline differ.

Source: the behaviour of CVAT's dataset_manager/formats (mask.py, transformations.py) and of
datumaro's plugins (transforms.py, voc/exporter.py).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from deeplab_tf import files
from deeplab_tf.conversion.annotations import columns, ellipses
from deeplab_tf.conversion.annotations.drawing import (
    MOST_COORDINATE,
    NOT_DRAWN,
    AnnotationFile,
    Drawing,
    DrawnCoding,
    coordinates,
)
from deeplab_tf.data import decoding
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.messages import UserError

_NOT_DRAWN_KINDS = ("polyline", "points", "cuboid", "skeleton", "tag")
_TRACK = "track, as in files for video"
_AGAIN = "export the task again"


@dataclass(frozen=True)
class CvatShape:
    """One shape.

    kind: "polygon", "ellipse" or "mask".
    points: of a polygon, float64 [n, 2]; of an ellipse, its centre and its two radii, [2, 2].
    rotation: of an ellipse, in degrees, clockwise.
    counts: of a mask, lengths of runs along the rows of its box.
    box: of a mask: left, top, width, height.
    """

    label: str
    z_order: int
    kind: str
    points: np.ndarray
    rotation: float = 0.0
    counts: np.ndarray | None = None
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class CvatDrawing(Drawing):
    """The shapes in one image of a CVAT file, in the order in which they are drawn."""

    shapes: tuple[CvatShape, ...]

    def labels(self) -> Counter[str]:
        """Returns how many shapes have each label."""
        return Counter(shape.label for shape in self.shapes)

    def content(self) -> object:
        """Returns the shapes."""
        return self.shapes

    def polygons(self) -> list[np.ndarray]:
        """Returns the corners of its polygons."""
        return [shape.points for shape in self.shapes if shape.kind == "polygon"]

    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns the centres and radii of its ellipses, and None for its masks."""
        return [
            None if shape.kind == "mask" else shape.points
            for shape in self.shapes
            if shape.kind != "polygon"
        ]

    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Returns train ids, uint8 [H, W], as CVAT's "Segmentation mask 1.1" has them."""
        labels = np.full(size[::-1], coding.unlabeled, np.uint8, order="F")
        for shape in self.shapes:
            value = coding.value_of(shape.label)
            if value == NOT_DRAWN:
                continue
            if shape.kind == "mask":
                _fill_mask(labels, shape, value)
            elif shape.kind == "ellipse":
                center, radii = shape.points
                ellipses.fill_ellipse(labels, center, radii, shape.rotation, value)
            else:
                columns.fill_polygon(labels, shape.points, value, self.where)
        return np.ascontiguousarray(labels)


def _fill_mask(labels: np.ndarray, shape: CvatShape, value: int) -> None:
    """Draws a mask; what lies outside the image is cut off."""
    left, top, width, height = shape.box
    counts = shape.counts
    assert counts is not None
    first_row, last_row = max(top, 0), min(top + height, labels.shape[0])
    first_col, last_col = max(left, 0), min(left + width, labels.shape[1])
    if first_row >= last_row or first_col >= last_col:
        return

    # A box may be much larger than the image, so only the rows in the image are made.
    begin, end = (first_row - top) * width, (last_row - top) * width
    lengths = np.diff(np.clip(np.cumsum(counts), begin, end), prepend=begin)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, lengths).reshape(-1, width)
    region = labels[first_row:last_row, first_col:last_col]
    region[inside[:, first_col - left : last_col - left]] = value


def read(path: Path, text: str) -> AnnotationFile:
    """Returns the drawings that a CVAT file describes.

    Args:
      text: the content of the file.
    Raises:
      UserError: if it is not well-formed, has a DOCTYPE (which could make it grow without bounds),
        or is of another kind.
    """
    reader = _Reader(path)
    parser = ElementTree.XMLParser(target=reader)
    try:
        parser.feed(text)
        parser.close()
    except ElementTree.ParseError as error:
        raise UserError(f"{files.shown(path)} is not XML: {error}; {_AGAIN}.") from None
    return reader.result()


class _Reader:
    """Takes the parts of the XML one after the other, so that no tree of it is kept."""

    def __init__(self, path: Path):
        self._path = path
        self._elements: list[str] = []  # the open ones
        self._text = ""
        self._label: dict[str, str] | None = None
        self._labels: list[dict[str, str]] = []
        self._image: Mapping[str, str] | None = None
        self._shapes: list[CvatShape] = []
        self._file = AnnotationFile("CVAT", path, [], [])

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        raise UserError(
            f"{files.shown(self._path)} has a DOCTYPE, which no file of CVAT has; {_AGAIN}."
        )

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._elements and tag != "annotations":
            raise UserError(
                f"{files.shown(self._path)} is not CVAT's: it starts with <{files.shown(tag)}>, "
                'not <annotations>; export the task as "CVAT for images 1.1".'
            )
        parent = self._elements[-1] if self._elements else ""
        self._elements.append(tag)
        self._text = ""

        if tag == "label" and parent == "labels":
            self._label = {}
        elif tag == "track":
            self._file.left_out[_TRACK] += 1
        elif tag == "image":
            self._image, self._shapes = dict(attributes), []
        elif parent == "image":
            self._add_shape(tag, attributes)

    def data(self, text: str) -> None:
        if self._label is not None:
            self._text += text

    def end(self, tag: str) -> None:
        self._elements.pop()
        if self._label is not None and tag in ("name", "color", "parent"):
            # A label's attributes, which come after its own name, have names too.
            if self._elements[-1] == "label":
                self._label[tag] = self._text.strip()
        elif self._label is not None and tag == "label":
            self._labels.append(self._label)
            self._label = None
        elif tag == "image" and self._image is not None:
            self._add_drawing(self._image)
            self._image = None

    def close(self) -> None:
        pass

    def result(self) -> AnnotationFile:
        """Returns what the file says, after it has been read to its end."""
        if self._file.left_out[_TRACK] and not self._file.drawings:
            raise UserError(
                f'{files.shown(self._path)} is in the format "CVAT for video", which keeps objects '
                'in tracks and not by image; export the task as "CVAT for images 1.1".'
            )
        of_skeletons = [label for label in self._labels if label.get("parent")]
        wanted = [label for label in self._labels if label not in of_skeletons]
        self._file.classes = _classes(wanted)
        return self._file

    def _add_drawing(self, image: Mapping[str, str]) -> None:
        name = image.get("name", "")
        where = f"The image {files.shown(name, most=80)!r} in {files.shown(self._path)}"
        fail = _failure(where)
        size = (
            _whole(image, "width", fail, 1, decoding.MAX_SIDE),
            _whole(image, "height", fail, 1, decoding.MAX_SIDE),
        )
        # Stable, so that shapes of one z_order stay in the file's order.
        shapes = tuple(sorted(self._shapes, key=lambda shape: shape.z_order))
        self._file.drawings.append(
            CvatDrawing(self._path, name, size, shapes, subset=image.get("subset", ""))
        )

    def _add_shape(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in _NOT_DRAWN_KINDS:
            self._file.left_out[tag] += 1
            return

        label = attributes.get("label", "")
        image = (self._image or {}).get("name", "")
        fail = _failure(
            f"A {files.shown(tag, most=20)} of {files.shown(label, most=40)!r} in the image "
            f"{files.shown(image, most=80)!r} in {files.shown(self._path)}"
        )
        if tag not in _SHAPES:
            raise fail(f"is not one of the shapes that are read ({', '.join(_SHAPES)})")
        z_order = _whole(attributes, "z_order", fail, -(2**31), 2**31, default="0")
        shape = _SHAPES[tag](label.strip(), z_order, attributes, fail)
        if shape.kind == "polygon" and len(shape.points) < 3:
            self._file.left_out["polygon of fewer than 3 points"] += 1
        else:
            self._shapes.append(shape)


def _classes(labels: list[dict[str, str]]) -> list[LabelClass]:
    """Returns a class for each label, in the file's order and in its colours."""
    classes: dict[str, LabelClass] = {}
    for label in labels:
        if name := label.get("name", ""):
            color = re.fullmatch(r"#([0-9a-fA-F]{6})", label.get("color", ""))
            rgb = bytes.fromhex(color[1]) if color else bytes(3)
            classes.setdefault(name, LabelClass(name, (rgb[0], rgb[1], rgb[2])))
    return list(classes.values())


Fail = Callable[[str], Exception]


def _failure(where: str) -> Fail:
    return lambda problem: UserError(f"{where} {problem}; {_AGAIN}.")


def _number(attributes: Mapping[str, str], name: str, fail: Fail, default: str = "") -> float:
    text = attributes.get(name, default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= MOST_COORDINATE:
        raise fail(f"has {name}={files.shown(text, most=40)!r}, which is no place in an image")
    return number


def _whole(
    attributes: Mapping[str, str], name: str, fail: Fail, least: int, most: int, default: str = ""
) -> int:
    text = attributes.get(name, default).strip()
    is_whole = re.fullmatch(r"-?\d{1,10}", text) is not None
    if not is_whole or not least <= int(text) <= most:
        shown = files.shown(text, most=40)
        raise fail(f"has {name}={shown!r}, which is no whole number from {least} to {most}")
    return int(text)


def _polygon(label: str, z_order: int, attributes: Mapping[str, str], fail: Fail) -> CvatShape:
    pairs = [pair.split(",") for pair in attributes.get("points", "").split(";") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise fail("has points that are no pairs of numbers")
    points = coordinates(pairs, fail)
    return CvatShape(label, z_order, "polygon", points)


def _box(label: str, z_order: int, attributes: Mapping[str, str], fail: Fail) -> CvatShape:
    """Returns a box as a polygon, turned by its rotation."""
    left, top, right, bottom = (
        _number(attributes, name, fail) for name in ("xtl", "ytl", "xbr", "ybr")
    )
    # As datumaro computes the corners, since a rounding error may move a pixel.
    right, bottom = left + (right - left), top + (bottom - top)
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])

    angle = math.radians(_number(attributes, "rotation", fail, default="0"))
    if angle:
        center = np.array([left + (right - left) / 2, top + (bottom - top) / 2])
        x, y = (corners - center).T
        turned = [
            center[0] + math.cos(angle) * x - math.sin(angle) * y,
            center[1] + math.sin(angle) * x + math.cos(angle) * y,
        ]
        corners = np.round(np.stack(turned, axis=1), 2)  # datumaro keeps two decimals
    return CvatShape(label, z_order, "polygon", corners)


def _ellipse(label: str, z_order: int, attributes: Mapping[str, str], fail: Fail) -> CvatShape:
    values = [_number(attributes, name, fail) for name in ("cx", "cy", "rx", "ry")]
    rotation = _number(attributes, "rotation", fail, default="0")
    return CvatShape(label, z_order, "ellipse", np.array(values).reshape(2, 2), rotation)


def _mask(label: str, z_order: int, attributes: Mapping[str, str], fail: Fail) -> CvatShape:
    most = MOST_COORDINATE
    left, top = (_whole(attributes, name, fail, -most, most) for name in ("left", "top"))
    width, height = (
        _whole(attributes, name, fail, 1, decoding.MAX_SIDE) for name in ("width", "height")
    )
    parts = attributes.get("rle", "").split(",")
    if not all(re.fullmatch(r"\s*\d{1,10}\s*", part) for part in parts):
        raise fail("has an rle that holds something else than numbers of pixels")
    counts = np.array(parts, np.float64).astype(np.int64)
    if counts.sum() != width * height or width * height > decoding.MAX_PIXELS:
        raise fail(f"has an rle that is not of {width}x{height} pixels")
    points = np.zeros((0, 2))
    return CvatShape(label, z_order, "mask", points, 0.0, counts, (left, top, width, height))


_SHAPES: dict[str, Callable[[str, int, Mapping[str, str], Fail], CvatShape]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}

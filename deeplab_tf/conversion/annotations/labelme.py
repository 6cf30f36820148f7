"""Reads labelme's JSON files, one for each image, and draws their shapes as labelme does.

Source: the behaviour of labelme 5.8 and 6.3, utils/shape.py (shapes_to_label) and label_file.py.
"""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf import files
from deeplab_tf.conversion.annotations.drawing import (
    NOT_DRAWN,
    Drawing,
    DrawnCoding,
    coordinates,
)
from deeplab_tf.data import decoding
from deeplab_tf.json_files import Check, keyed, listed, or_null, string, whole
from deeplab_tf.messages import UserError, counted

TOOL = "labelme"
IGNORED = "__ignore__"  # labelme's own name for what does not count
_LINE_WIDTH, _POINT_RADIUS = 10, 5  # pixels; defaults of labelme's shape_to_mask
# How many points a shape has. Programs that write labelme's format may give a rectangle 4 corners.
_NUM_POINTS = {
    "circle": (2,),
    "rectangle": (2, 4),
    "line": (2,),
    "point": (1,),
    "mask": (2,),
    "oriented_rectangle": (4,),
}
_POLYGONS = ("polygon", "rectangle", "oriented_rectangle")
_SIDE = whole(1, decoding.MAX_SIDE, or_float=True)
_SHAPE = keyed(
    {"label": string(), "points": listed(lambda *_: None)},
    {"shape_type": or_null(string()), "mask": or_null(string())},
)
CHECK: Check = keyed(
    {"shapes": listed(_SHAPE)},
    {
        "imagePath": or_null(string()),
        "imageHeight": or_null(_SIDE),
        "imageWidth": or_null(_SIDE),
    },
)


@dataclass(frozen=True)
class LabelmeShape:
    """One shape.

    points: float64 [n, 2].
    mask: a PNG in base 64, of the pixels between the two points; only of a mask.
    """

    label: str
    kind: str
    points: np.ndarray
    mask: str = ""


@dataclass(frozen=True)
class LabelmeDrawing(Drawing):
    """The shapes of one labelme file."""

    shapes: tuple[LabelmeShape, ...]

    def labels(self) -> Counter[str]:
        """Returns how many shapes have each label."""
        return Counter(shape.label for shape in self.shapes)

    def content(self) -> object:
        """Returns the shapes."""
        return self.shapes

    def polygons(self) -> list[np.ndarray]:
        """Returns the corners of its polygons."""
        return [shape.points for shape in self.shapes if shape.kind in _POLYGONS]

    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns the points of its circles, lines and points, and None for its masks."""
        return [
            None if shape.kind == "mask" else shape.points
            for shape in self.shapes
            if shape.kind not in _POLYGONS
        ]

    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Returns train ids, uint8 [H, W], as labelme's shapes_to_label draws them."""
        canvas = Image.new("L", size, coding.unlabeled)
        for number, shape in enumerate(self.shapes):
            value = coding.value_of(shape.label)
            if value == NOT_DRAWN:
                continue
            if shape.kind == "mask":
                _paste(canvas, shape, value, _name(self.path, number, shape.label))
            else:
                _draw(ImageDraw.Draw(canvas), shape, value)
        return np.array(canvas)


def _name(path: Path, number: int, label: str) -> str:
    return f"The shape {number + 1} ({files.shown(label, most=40)!r}) in {files.shown(path)}"


def read(path: Path, content: dict[str, Any], left_out: Counter[str]) -> LabelmeDrawing:
    """Returns the drawing that a labelme file describes.

    Args:
      content: the file's, checked by CHECK.
      left_out: counts the shapes that are left out.
    Raises:
      UserError: naming the file and the shape that is damaged.
    """
    shapes = [
        _read_shape(shape, _name(path, number, shape["label"]))
        for number, shape in enumerate(content["shapes"])
    ]
    enclosing = [shape for shape in shapes if shape.kind != "polygon" or len(shape.points) > 2]
    if spare := len(shapes) - len(enclosing):
        left_out["polygon of fewer than 3 points"] += spare

    width, height = content.get("imageWidth"), content.get("imageHeight")
    return LabelmeDrawing(
        path,
        content.get("imagePath") or "",
        (int(width), int(height)) if width and height else None,
        tuple(enclosing),
    )


def _read_shape(shape: dict[str, Any], where: str) -> LabelmeShape:
    kind = shape.get("shape_type") or "polygon"
    kinds = ("polygon", "linestrip", *_NUM_POINTS)
    if kind not in kinds:
        raise UserError(
            f"{where} is of the kind {files.shown(kind, most=40)!r}; the kinds that are read are "
            f"{', '.join(kinds)}: draw it again as one of them, or remove it."
        )

    points = coordinates(shape["points"], _failure(where))
    wanted = _NUM_POINTS.get(kind, (len(points),))
    if len(points) not in wanted or not len(points):
        raise UserError(
            f"{where} is a {kind} of {counted(len(points), 'point')}, and needs "
            f"{' or '.join(map(str, wanted)) if len(points) else 'some'}; draw it again in labelme."
        )
    if kind == "rectangle" and len(points) == 4 and not _is_upright(points):
        raise UserError(
            f"{where} is a rectangle of 4 points that is turned; draw it again as a polygon."
        )
    if kind == "mask" and not shape.get("mask"):
        raise UserError(f"{where} is a mask without a picture; draw it again in labelme.")
    return LabelmeShape(shape["label"], kind, points, (shape.get("mask") or "") * (kind == "mask"))


def _is_upright(corners: np.ndarray) -> bool:
    """Whether four corners, [4, 2], form an upright box, to a pixel."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    nearest = np.where(corners - low < high - corners, low, high)
    is_close = bool((np.abs(corners - nearest) <= 1).all())
    is_thin = bool((high - low <= 1).any())  # then two corners may be nearest to the same one
    return is_close and (is_thin or len(np.unique(nearest, axis=0)) == 4)


def _failure(where: str) -> Callable[[str], Exception]:
    return lambda problem: UserError(f"{where} {problem}; draw it again in labelme.")


def _draw(draw: ImageDraw.ImageDraw, shape: LabelmeShape, value: int) -> None:
    """Draws a shape other than a mask."""
    corners: list[Any] = [tuple(point) for point in shape.points.tolist()]
    if shape.kind in ("circle", "point"):
        (x, y), *edge = corners
        radius = math.sqrt((x - edge[0][0]) ** 2 + (y - edge[0][1]) ** 2) if edge else _POINT_RADIUS
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)
    elif shape.kind == "rectangle":
        low, high = shape.points.min(axis=0), shape.points.max(axis=0)
        draw.rectangle([*low.tolist(), *high.tolist()], fill=value, outline=value)
    elif shape.kind in ("line", "linestrip"):
        draw.line(corners, fill=value, width=_LINE_WIDTH)
    else:
        draw.polygon(corners, fill=value, outline=value)


def _paste(canvas: Image.Image, shape: LabelmeShape, value: int, where: str) -> None:
    """Draws a mask, whose picture lies between its two points, both inside it."""
    (left, top), (right, bottom) = shape.points.astype(np.int64).tolist()
    size = (right - left + 1, bottom - top + 1)
    try:
        content = base64.b64decode(shape.mask)
    except (binascii.Error, ValueError):
        raise UserError(f"{where} has a mask that is not in base 64; draw it again.") from None

    picture = decoding.open_image(content, f"{where} has a mask that", decode=False)
    if picture.size != size or picture.mode not in ("1", "L", "P"):
        raise UserError(
            f"{where} has a mask of {picture.width}x{picture.height} pixels (mode {picture.mode}), "
            f"but its points are {size[0]}x{size[1]} apart; draw it again in labelme."
        )
    with decoding.naming(f"{where} has a mask that"):
        inside = np.asarray(picture).astype(bool)
    canvas.paste(value, (left, top), Image.fromarray(inside))

"""Reads Supervisely's JSON files, one for each image, and draws their objects as its SDK does.

Source: docs.supervisely.com, "Supervisely annotation format"; the behaviour of the SDK 6.73,
annotation/label.py and geometry/{bitmap,polygon,rectangle}.py.
"""

import base64
import binascii
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf import files, json_files
from deeplab_tf.conversion.annotations.drawing import (
    MOST_COORDINATE,
    NOT_DRAWN,
    Drawing,
    DrawnCoding,
    coordinates,
)
from deeplab_tf.conversion.annotations.filling import filled
from deeplab_tf.data import decoding
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.json_files import Check, keyed, listed, or_null, string, tupled, whole
from deeplab_tf.messages import UserError

TOOL = "Supervisely"
META = "meta.json"  # of a project: its classes
IMAGES, ANNOTATIONS = "img", "ann"  # the folders of a data set in a project

_AGAIN = "export the project again"
_MOST_BYTES = 2**30  # of a bitmap's picture
_REGIONS = ("bitmap", "polygon", "rectangle")
_NO_REGIONS = ("point", "line", "polyline", "graph", "cuboid", "cuboid_2d")
_SIDE, _PLACE = whole(1, decoding.MAX_SIDE), whole(-MOST_COORDINATE, MOST_COORDINATE)
# Pairs; `coordinates` says what is wrong with their numbers.
_POINTS = listed(tupled(lambda *_: None, lambda *_: None))
_NAMES = keyed({"classTitle": string()}, {"geometryType": string(), "shape": string()})
_GEOMETRY = keyed(
    {},
    {
        "points": or_null(keyed({"exterior": _POINTS}, {"interior": or_null(listed(_POINTS))})),
        "bitmap": or_null(keyed({"data": string(), "origin": tupled(_PLACE, _PLACE)})),
    },
)


def _kind(each: dict[str, Any]) -> str:
    """Returns an object's kind; "" if it names none."""
    kind = each.get("geometryType") or each.get("shape")
    return kind or ("bitmap" if each.get("bitmap") else "")


def _check_object(value: Any, key: str) -> None:
    _NAMES(value, key)
    # Other kinds keep their numbers in other forms: a cuboid's points are a plain list.
    if _kind(value) in _REGIONS:
        _GEOMETRY(value, key)


CHECK: Check = keyed(
    {"size": keyed({"height": _SIDE, "width": _SIDE}), "objects": listed(_check_object)}
)
_META_CHECK = keyed({"classes": listed(keyed({"title": string()}, {"color": or_null(string())}))})


@dataclass(frozen=True)
class SuperviselyObject:
    """One object.

    contours: of a polygon, its outline and its holes; of a rectangle, two corners; int64 [n, 2].
    bitmap: the picture of a bitmap, as the file has it; origin: x and y of its first pixel.
    """

    label: str
    kind: str
    contours: tuple[np.ndarray, ...] = ()
    bitmap: str = ""
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class SuperviselyDrawing(Drawing):
    """The objects of one file."""

    objects: tuple[SuperviselyObject, ...]

    def labels(self) -> Counter[str]:
        """Returns how many objects have each class."""
        return Counter(each.label for each in self.objects)

    def content(self) -> object:
        """Returns the objects."""
        return self.objects

    def polygons(self) -> list[np.ndarray]:
        """Returns the corners of its polygons and rectangles, without holes."""
        return [each.contours[0] for each in self.objects if each.kind != "bitmap"]

    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns None for each bitmap."""
        return [None for each in self.objects if each.kind == "bitmap"]

    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Returns train ids, uint8 [H, W], as the SDK's Annotation draws its labels."""
        canvas = np.full(size[::-1], coding.unlabeled, np.uint8)
        for number, each in enumerate(self.objects):
            value = coding.value_of(each.label)
            if value == NOT_DRAWN:
                continue
            if each.kind == "bitmap":
                _paste(canvas, each, value, _name(self.path, number, each.label))
            elif each.kind == "rectangle":
                low, high = np.sort(each.contours[0], axis=0)
                (left, top), (right, bottom) = np.maximum(low, 0), np.maximum(high + 1, 0)
                canvas[top:bottom, left:right] = value
            else:
                outline, *holes = each.contours
                inside = filled(size, [outline])
                if holes:  # their lines belong to them
                    inside &= ~filled(size, holes)
                canvas[inside] = value
        return canvas


def _name(path: Path, number: int, label: str) -> str:
    return f"The object {number + 1} ({files.shown(label, most=40)!r}) in {files.shown(path)}"


def read(path: Path, content: dict[str, Any], left_out: Counter[str]) -> SuperviselyDrawing:
    """Returns the drawing that a file describes; its name is the image's, and .json.

    Args:
      content: the file's, checked by CHECK.
      left_out: counts the objects that are left out.
    Raises:
      UserError: naming the file and the object that is damaged.
    """
    objects = []
    for number, each in enumerate(content["objects"]):
        made = _read_object(each, _name(path, number, each["classTitle"]))
        if made.kind in _NO_REGIONS:
            left_out[made.kind] += 1
        elif made.kind == "polygon" and len(made.contours[0]) < 3:
            left_out["polygon of fewer than 3 points"] += 1
        else:
            objects.append(made)
    size = content["size"]["width"], content["size"]["height"]
    return SuperviselyDrawing(path, path.stem, size, tuple(objects))


def _read_object(each: dict[str, Any], where: str) -> SuperviselyObject:
    label = each["classTitle"]
    kind = _kind(each)
    if not kind:
        raise UserError(f"{where} has no geometryType; {_AGAIN}.")
    if kind in _NO_REGIONS:
        return SuperviselyObject(label, kind)
    if kind not in _REGIONS:
        raise UserError(
            f"{where} is of the kind {files.shown(kind, most=40)!r}; the kinds that are read are "
            f"{', '.join(_REGIONS)}: convert it to one of them in Supervisely, or remove it."
        )

    if kind == "bitmap":
        bitmap = each.get("bitmap")
        if not bitmap:
            raise UserError(f"{where} is a bitmap without a picture; {_AGAIN}.")
        return SuperviselyObject(label, kind, (), bitmap["data"], tuple(bitmap["origin"]))

    points = each.get("points")
    if not points:
        raise UserError(f"{where} is a {kind} without points; {_AGAIN}.")
    fail = _failure(where)
    outline = coordinates(points["exterior"], fail)
    if kind == "rectangle":
        if len(outline) != 2:
            raise UserError(f"{where} is a rectangle of {len(outline)} corners, not 2; {_AGAIN}.")
        return SuperviselyObject(label, kind, (np.rint(outline).astype(np.int64),))

    holes = [coordinates(hole, fail) for hole in points.get("interior") or ()]
    # The SDK cuts fractions of a polygon's coordinates off.
    contours = [part.astype(np.int64) for part in (outline, *holes)]
    return SuperviselyObject(
        label, kind, (contours[0], *(hole for hole in contours[1:] if len(hole)))
    )


def _failure(where: str) -> Callable[[str], Exception]:
    return lambda problem: UserError(f"{where} {problem}; {_AGAIN}.")


def _paste(canvas: np.ndarray, each: SuperviselyObject, value: int, where: str) -> None:
    """Draws a bitmap; what lies outside the image is cut off."""
    inside = _decoded(each.bitmap, where)
    left, top = each.origin
    height, width = canvas.shape
    rows = slice(max(top, 0), max(min(top + inside.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + inside.shape[1], width), 0))
    part = inside[max(-top, 0) :, max(-left, 0) :]
    region = canvas[rows, columns]
    region[part[: region.shape[0], : region.shape[1]]] = value


def _decoded(data: str, where: str) -> np.ndarray:
    """Returns which pixels of a bitmap's picture are in it, bool [H, W]."""
    try:
        content = base64.b64decode(data)
        if not content.startswith(b"\x89PNG"):
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, _MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        raise UserError(
            f"{where} has a bitmap that is not in base 64, or cannot be unpacked; {_AGAIN}."
        ) from None

    name = f"{where} has a bitmap that"
    picture = decoding.open_image(content, name, decode=False)
    with decoding.naming(name):
        if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
            return np.asarray(picture.convert("RGBA"))[..., 3] > 0
        if picture.mode in ("1", "L"):
            return np.asarray(picture) > 0
    raise UserError(
        f"{where} has a bitmap without transparency (mode {picture.mode}), so it is not clear "
        f"which pixels are in it; {_AGAIN}."
    )


def classes_of(path: Path) -> tuple[Path, list[LabelClass]] | None:
    """Returns a project's meta.json and the classes that it lists, in its order and colours.

    Args:
      path: the project's folder, a data set's, its folder of annotations, or a file in that.
    Returns:
      None if there is no such file.
    Raises:
      UserError: if it is damaged.
    """
    start = path.resolve() if path.is_dir() else path.resolve().parent
    for folder in (start, *start.parents[:2]):
        meta = folder / META
        if meta.is_file():
            content = json_files.read(meta, "The list of classes", _META_CHECK, advice=_AGAIN)
            return meta, list(map(_class, content["classes"]))
    return None


def _class(entry: dict[str, Any]) -> LabelClass:
    color = re.fullmatch(r"#([0-9a-fA-F]{6})", entry.get("color") or "")
    red, green, blue = bytes.fromhex(color[1]) if color else bytes(3)
    return LabelClass(entry["title"], (red, green, blue))

"""Reads COCO's JSON files of instances and stuff, and draws their objects as pycocotools does.

Objects are drawn in the file's order, later ones over earlier ones. A crowd, which is a region of
many objects, is drawn as its class, as in torchvision's training script and in the COCO-Stuff maps
that mmsegmentation reads; the coding may ignore it.

Source: https://cocodataset.org/#format-data; the behaviour of pycocotools' annToMask.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf import files
from deeplab_tf.conversion.annotations import columns
from deeplab_tf.conversion.annotations.drawing import (
    NOT_DRAWN,
    AnnotationFile,
    Drawing,
    DrawnCoding,
    coordinates,
)
from deeplab_tf.data import class_lists, decoding
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.json_files import Check, keyed, listed, or_null, text, whole
from deeplab_tf.messages import UserError

_MOST_ID = 2**63
_SIDE = whole(1, decoding.MAX_SIDE, or_float=True)
_NUMBER_AS_ID = whole(-_MOST_ID, _MOST_ID, or_float=True)
_TEXT_AS_ID = text()
_IS_CROWD = whole(0, 1, or_float=True)


def _an_id(value: Any, key: str) -> None:
    """Checks for an id, which is a number, or in some programs' files a text."""
    (_TEXT_AS_ID if isinstance(value, str) else _NUMBER_AS_ID)(value, key)


def _whether(value: Any, key: str) -> None:
    """Checks for 0, 1, true or false."""
    if not isinstance(value, bool):
        _IS_CROWD(value, key)


def _id(value: int | float | str) -> int | str:
    """Returns a checked id, the same for 20 and 20.0."""
    return int(value) if isinstance(value, float) else value


CHECK: Check = keyed(
    {
        "images": listed(
            keyed(
                {"id": _an_id, "file_name": text()},
                {"width": or_null(_SIDE), "height": or_null(_SIDE)},
            )
        ),
        "annotations": listed(
            keyed({"image_id": _an_id}, {"category_id": _an_id, "iscrowd": or_null(_whether)})
        ),
    },
    {"categories": listed(keyed({"id": _an_id, "name": text()}))},
)


@dataclass(frozen=True)
class CocoObject:
    """One object.

    polygons: each float64 [corners, 2]; the object is their union.
    counts: instead of polygons, the lengths of runs, in COCO's compressed form or as numbers.
    size: height and width of the image, as given with the counts.
    number: its place in the file, from 0.
    """

    label: str
    is_crowd: bool
    number: int
    polygons: tuple[np.ndarray, ...] = ()
    counts: str | np.ndarray = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class CocoDrawing(Drawing):
    """The objects in one image of a COCO file."""

    objects: tuple[CocoObject, ...]

    def labels(self) -> Counter[str]:
        """Returns how many objects have each label."""
        return Counter(one.label for one in self.objects)

    def content(self) -> object:
        """Returns the objects."""
        return self.objects

    def polygons(self) -> list[np.ndarray]:
        """Returns the corners of its polygons."""
        return [polygon for one in self.objects for polygon in one.polygons]

    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns None for each object that is given by counts."""
        return [None for one in self.objects if one.size]

    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Returns train ids, uint8 [H, W], drawn as pycocotools draws."""
        labels = np.full(size[::-1], coding.unlabeled, np.uint8, order="F")
        for one in self.objects:
            value = coding.value_of(one.label, is_crowd=one.is_crowd)
            if value == NOT_DRAWN:
                continue
            where = _name(self.path, one.number)
            for polygon in one.polygons:
                columns.fill_polygon(labels, polygon, value, where)
            if one.size:
                columns.fill_runs(labels, *_runs(one, labels.shape, where), value)
        return np.ascontiguousarray(labels)


def _name(path: Path, number: int) -> str:
    return f"annotations[{number}] in {files.shown(path)}"


def _runs(one: CocoObject, shape: tuple[int, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the runs of an object that is given by counts, after checking them."""
    counts = one.counts
    try:
        counts = columns.counts_of_text(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise UserError(f"{where} is damaged: {error}; export the file again.") from None

    if one.size != shape or (counts < 0).any() or counts.sum() != shape[0] * shape[1]:
        raise UserError(
            f"{where} has counts that do not fit an image of {shape[1]}x{shape[0]} pixels; "
            "export the file again."
        )
    return columns.runs_of_counts(counts)


def read(path: Path, content: dict[str, Any]) -> AnnotationFile:
    """Returns the drawings that a COCO file describes.

    Args:
      content: the file's, checked by CHECK.
    Raises:
      UserError: if it is another kind of COCO file, or an object is damaged.
    """
    _require_regions(path, content)
    name_of = _names(path, content["categories"])
    file = AnnotationFile("COCO", path, [], _classes(content["categories"]))

    objects: dict[int | str, list[CocoObject]] = {}
    for image in content["images"]:
        image_id = _id(image["id"])
        if image_id in objects:
            raise UserError(
                f"{files.shown(path)} has two images with the id {image_id!r}, so it is not "
                "clear which image the annotations mean; export it again."
            )
        objects[image_id] = []

    for number, annotation in enumerate(content["annotations"]):
        of_image = objects.get(_id(annotation["image_id"]))
        if of_image is None:
            file.left_out["of an image that the file does not list"] += 1
        elif one := _read_object(annotation, number, name_of, file):
            of_image.append(one)

    file.drawings = [
        CocoDrawing(path, image["file_name"], _size(image), tuple(objects[_id(image["id"])]))
        for image in content["images"]
    ]
    _require_polygons(file, content["annotations"])
    return file


def _require_regions(path: Path, content: dict[str, Any]) -> None:
    """Refuses files without regions: panoptic ones, captions, boxes only."""
    annotations = content["annotations"]
    if any("segments_info" in annotation for annotation in annotations[:1]):
        raise UserError(
            f"{files.shown(path)} is of COCO's panoptic kind, whose regions are in PNG files; "
            "convert it with panopticapi's converters/panoptic2semantic_segmentation.py "
            "--semantic_seg_folder, and give that folder as --masks_dir."
        )
    if "categories" not in content:
        raise UserError(
            f"{files.shown(path)} lists no categories, so its objects have no classes; give COCO's "
            "file of instances or stuff."
        )
    if annotations and not any(annotation.get("segmentation") for annotation in annotations):
        raise UserError(
            f"{files.shown(path)} has boxes or captions but no segmentation; export polygons or "
            "masks from your annotation tool."
        )


def _require_polygons(file: AnnotationFile, annotations: list[dict[str, Any]]) -> None:
    """Refuses a file whose polygons are all written as lists of single points [[x, y], ...].

    A few such objects are contours of noise, as OpenCV finds them in masks: they are left out.
    """
    if any(drawing.polygons() for drawing in file.drawings):
        return
    for number, annotation in enumerate(annotations):
        region = annotation.get("segmentation")
        if isinstance(region, list) and len(region) > 2 and all(map(_is_point, region)):
            raise UserError(
                f"{_name(file.path, number)} has a segmentation of single points, where COCO has "
                "polygons [x1, y1, x2, y2, ...], and no other object has one; export the file "
                "again."
            )


def _is_point(part: Any) -> bool:
    """Whether a part of a segmentation is [x, y], or that in lists of its own."""
    while isinstance(part, list) and len(part) == 1:
        part = part[0]
    return isinstance(part, list) and len(part) == 2 and not any(isinstance(n, list) for n in part)


def _names(path: Path, categories: list[dict[str, Any]]) -> dict[int | str, str]:
    """Returns the name of each category, by its id."""
    name_of: dict[int | str, str] = {}
    for category in categories:
        name, category_id = category["name"].strip(), _id(category["id"])
        if name_of.setdefault(category_id, name) != name:
            raise UserError(
                f"{files.shown(path)} gives the id {category_id!r} to two categories, "
                f"{name_of[category_id]!r} and {name!r}; export it again."
            )
    return name_of


def _classes(categories: list[dict[str, Any]]) -> list[LabelClass]:
    """Returns a class for each name, in the order of the ids."""
    ordered = sorted(categories, key=lambda one: (isinstance(one["id"], str), one["id"]))
    names = dict.fromkeys(category["name"].strip() for category in ordered)
    return [LabelClass(name, class_lists.default_color(0)) for name in names]


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (int(width), int(height)) if width and height else None


def _read_object(
    annotation: dict[str, Any],
    number: int,
    name_of: dict[int | str, str],
    file: AnnotationFile,
) -> CocoObject | None:
    """Returns an object; None, after counting it, if it covers nothing."""
    where = _name(file.path, number)

    def failure(problem: str) -> Exception:
        return UserError(f"{where} {problem}; export the file again.")

    if "category_id" not in annotation:
        raise failure("has no category_id")
    category = _id(annotation["category_id"])
    if category not in name_of:
        raise failure(f"has the category_id {category!r}, which no category has")
    label, is_crowd = name_of[category], bool(annotation.get("iscrowd"))

    region = annotation.get("segmentation")
    if not region:
        file.left_out["without a segmentation"] += 1
        return None
    if isinstance(region, dict):
        counts, size = _counts(region, failure)
        return CocoObject(label, is_crowd, number, (), counts, size)
    return _with_polygons(region, label, is_crowd, number, file, failure)


def _with_polygons(
    region: Any,
    label: str,
    is_crowd: bool,
    number: int,
    file: AnnotationFile,
    failure: Callable[[str], Exception],
) -> CocoObject | None:
    if not isinstance(region, list):
        raise failure("has a segmentation that is neither polygons nor counts")
    if isinstance(region[0], int | float):  # one polygon that is not in a list of its own
        region = [region]

    polygons = [coordinates(part, failure) for part in region]
    enclosing = tuple(polygon for polygon in polygons if len(polygon) > 2)
    if spare := len(polygons) - len(enclosing):
        file.left_out["polygon of fewer than 3 points"] += spare
    return CocoObject(label, is_crowd, number, enclosing) if enclosing else None


def _counts(
    region: dict[str, Any], failure: Callable[[str], Exception]
) -> tuple[str | np.ndarray, tuple[int, int]]:
    """Returns counts and size of a region; whether they fit together is checked when drawing."""
    counts, size = region.get("counts"), region.get("size")
    is_size = isinstance(size, list) and len(size) == 2 and all(map(_is_whole, size))
    if not isinstance(size, list) or not is_size or not isinstance(counts, str | list):
        raise failure("has a segmentation without size or counts")
    if isinstance(counts, list):
        if not all(_is_whole(count) and 0 <= count < 2**31 for count in counts):
            raise failure("has counts that are no numbers of pixels")
        counts = np.array(counts, np.int64)
    return counts, (int(size[0]), int(size[1]))


def _is_whole(number: Any) -> bool:
    return type(number) is int or type(number) is float and number.is_integer()

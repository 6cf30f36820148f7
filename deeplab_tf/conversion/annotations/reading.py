"""Reads the files of annotation tools, and tells by their content which tool wrote them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf import files, json_files
from deeplab_tf.conversion.annotations import coco, cvat, labelme, supervisely
from deeplab_tf.conversion.annotations.drawing import AnnotationFile, Drawing, UnreadableDrawing
from deeplab_tf.conversion.annotations.supervisely import SuperviselyDrawing
from deeplab_tf.messages import UserError, counted, warn

TOOLS = "labelme, Supervisely or COCO (.json), or of CVAT for images (.xml)"
ENDINGS = (".json", ".xml")
# COCO's own instances_train2017.json has 448 MB. Reading takes about eight times a file's size.
_MOST_BYTES = 2**30
_WHAT = "The annotation file"


class _UnknownFormat(UserError):
    """A file of a format that is not read."""

    def __init__(self, path: Path, sentence: str):
        super().__init__(f"{files.shown(path)} {sentence}")
        self.path = path


def read(path: Path) -> list[AnnotationFile]:
    """Reads a file, or all files in a folder and its sub-folders.

    A folder of files with an image each, of labelme or Supervisely, becomes one AnnotationFile.

    Raises:
      UserError: if nothing can be read, a file is damaged, a folder holds files of two tools, or
        the coordinates are not in pixels.
    """
    if not path.exists():
        raise UserError(f"--annotations={files.shown(path)} does not exist; give a file or folder.")
    if path.is_dir():
        found = _read_folder(path)
    else:
        left_out: Counter[str] = Counter()
        one = _read_file(path, left_out)
        found = [one if isinstance(one, AnnotationFile) else _joined(path, [one], left_out)]
    for file in found:
        _check_places(file)
    return found


def _check_places(file: AnnotationFile) -> None:
    """Counts polygons outside their images, which cover no pixel.

    Raises:
      UserError: if all coordinates are shares of the images, so that no shape covers a pixel.
    """
    # Each labelme file was written on its own, so one alone may be in other units.
    is_each_alone = file.tool == labelme.TOOL
    for drawings in [[one] for one in file.drawings] if is_each_alone else [file.drawings]:
        if _are_shares(drawings):
            path = drawings[0].path if is_each_alone else file.path
            raise UserError(
                f"{files.shown(path)} has only coordinates from 0 to 1, which seem to be shares "
                "of the images' sizes; export them in pixels."
            )
    for drawing in file.drawings:
        if size := drawing.size:
            for corners in drawing.polygons():
                if _is_outside(corners, size):
                    file.left_out["outside its image"] += 1


def _are_shares(drawings: list[Drawing]) -> bool:
    """Whether there are shapes, and the numbers of all of them lie in 0..1."""
    is_any = False
    for drawing in drawings:
        for numbers in (*drawing.polygons(), *drawing.other_shapes()):
            if numbers is None or not ((numbers >= 0) & (numbers <= 1)).all():
                return False  # mostly at the first shape of a file
            is_any = True
    return is_any


def _is_outside(corners: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a polygon, [n, 2], lies on one side of its image of width and height `size`."""
    width, height = size
    # Almost always, and faster by far than all corners: COCO has a million polygons.
    if 0 <= corners.item(0) <= width and 0 <= corners.item(1) <= height:
        return False
    return bool((corners.max(axis=0) < 0).any() or (corners.min(axis=0) > size).any())


def _read_folder(folder: Path) -> list[AnnotationFile]:
    listing = files.list_folder(folder, endings=ENDINGS)
    found: list[AnnotationFile] = []
    drawings: list[Drawing] = []
    left_out: Counter[str] = Counter()
    others: list[_UnknownFormat] = []
    for _, path in listing.images:
        try:
            one = _read_file(path, left_out)
        except _UnknownFormat as error:
            others.append(error)
            continue
        except UserError as error:  # damaged, which stops the build once its image is converted
            one = UnreadableDrawing(path, "", None, str(error))
        if isinstance(one, AnnotationFile):
            found.append(one)
        else:
            drawings.append(one)

    tools = {file.tool: file.path for file in found[:1]}
    tools |= {_tool_of(one): one.path for one in reversed(drawings) if _tool_of(one)}
    if len(tools) > 1:
        (second, second_path), (first, first_path), *_ = tools.items()
        raise UserError(
            f"--annotations={files.shown(folder)} holds a file of {first}, {first_path}, and one "
            f"of {second}, {second_path}; give only one of them."
        )
    if found and drawings:  # a damaged file has no image of its own here
        _raise(drawings[0])
    if not found and not drawings:
        raise (
            others[0]
            if others
            else UserError(f"--annotations={files.shown(folder)} holds no file of {TOOLS}.")
        )
    if supervisely.TOOL in tools:  # the project's own files
        others = [error for error in others if error.path.name != supervisely.META]
    if others:
        warn(
            f"{files.shown(folder)}: left out {counted(len(others), 'file')} without annotations "
            f"(the first: {others[0]})"
        )
    return found or [_joined(folder, drawings, left_out)]


def _raise(drawing: Drawing) -> None:
    assert isinstance(drawing, UnreadableDrawing)
    raise UserError(drawing.reason)


def _tool_of(drawing: Drawing) -> str:
    """Returns the tool that wrote a file with one image; "" if it could not be read."""
    if isinstance(drawing, UnreadableDrawing):
        return ""
    return supervisely.TOOL if isinstance(drawing, SuperviselyDrawing) else labelme.TOOL


def _joined(path: Path, drawings: list[Drawing], left_out: Counter[str]) -> AnnotationFile:
    """Returns files with an image each as one, with the classes that their project lists."""
    if supervisely.TOOL not in map(_tool_of, drawings):
        return AnnotationFile(labelme.TOOL, path, drawings, None, left_out)

    listed_in, listed = supervisely.classes_of(path) or (None, None)
    return AnnotationFile(supervisely.TOOL, path, drawings, listed, left_out, listed_in)


def _read_file(path: Path, left_out: Counter[str]) -> AnnotationFile | Drawing:
    """Reads one file: a Drawing of one image, or an AnnotationFile of many."""
    text = files.read_text(path, _WHAT, most=_MOST_BYTES)
    if text.lstrip("\ufeff \t\n").startswith("<"):
        return cvat.read(path, text)

    try:
        content = json_files.parse(text, _check)
    except _UnknownFormatOfJson as error:
        raise _UnknownFormat(path, str(error)) from None
    except ValueError as error:
        raise UserError(
            f"{_WHAT} {files.shown(path)} is damaged ({error}); export it again."
        ) from None
    if "shapes" in content:
        return labelme.read(path, content, left_out)
    if "objects" in content and "size" in content:
        return supervisely.read(path, content, left_out)
    return coco.read(path, content)


class _UnknownFormatOfJson(ValueError):
    pass


def _check(content: Any, key: str) -> None:
    """Checks the content of a JSON file by the rules of the tool that wrote it."""
    checks: dict[tuple[str, ...], Callable] = {
        ("shapes",): labelme.CHECK,
        ("objects", "size"): supervisely.CHECK,
        ("images", "annotations"): coco.CHECK,
    }
    for keys, check in checks.items():
        if isinstance(content, dict) and all(name in content for name in keys):
            return check(content, key)
    raise _UnknownFormatOfJson(
        f"is not a file of {TOOLS}; export the annotations as one of these, or as masks for "
        "--masks_dir."
    )

"""Reads the files of annotation tools, and tells by their content which tool wrote them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplab_tf import files, json_files
from deeplab_tf.conversion.annotations import coco, cvat, labelme
from deeplab_tf.conversion.annotations.drawing import AnnotationFile, Drawing, UnreadableDrawing
from deeplab_tf.messages import UserError, counted, warn

TOOLS = "labelme (.json), COCO (.json) and CVAT for images (.xml)"
ENDINGS = (".json", ".xml")
# COCO's own instances_train2017.json has 448 MB. Reading takes about eight times a file's size.
_MOST_BYTES = 2**30
_WHAT = "The annotation file"


class _UnknownFormat(UserError):
    """A file that is none of those that are read."""


def read(path: Path) -> list[AnnotationFile]:
    """Reads a file, or all files in a folder and its sub-folders.

    A folder of labelme files becomes one AnnotationFile.

    Raises:
      UserError: if nothing can be read, a file is damaged, or a folder holds files of two tools.
    """
    if not path.exists():
        raise UserError(f"--annotations={files.shown(path)} does not exist; give a file or folder.")
    if path.is_dir():
        return _read_folder(path)
    left_out: Counter[str] = Counter()
    found = _read_file(path, left_out)
    return [found if isinstance(found, AnnotationFile) else _joined(path, [found], left_out)]


def _read_folder(folder: Path) -> list[AnnotationFile]:
    listing = files.list_folder(folder, endings=ENDINGS)
    found: list[AnnotationFile] = []
    drawings: list[Drawing] = []
    left_out: Counter[str] = Counter()
    others: list[UserError] = []
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

    if found and any(not isinstance(one, UnreadableDrawing) for one in drawings):
        raise UserError(
            f"--annotations={files.shown(folder)} holds a file of labelme, {drawings[0].path}, and "
            f"one of {found[0].tool}, {found[0].path}; give only one of them."
        )
    if found and drawings:  # a damaged file has no image of its own here
        _raise(drawings[0])
    if not found and not drawings:
        raise (
            others[0]
            if others
            else UserError(f"--annotations={files.shown(folder)} holds no file of {TOOLS}.")
        )
    if others:
        warn(
            f"{files.shown(folder)}: left out {counted(len(others), 'file')} without annotations "
            f"(the first: {others[0]})"
        )
    return found or [_joined(folder, drawings, left_out)]


def _raise(drawing: Drawing) -> None:
    assert isinstance(drawing, UnreadableDrawing)
    raise UserError(drawing.reason)


def _joined(path: Path, drawings: list[Drawing], left_out: Counter[str]) -> AnnotationFile:
    return AnnotationFile("labelme", path, drawings, None, left_out)


def _read_file(path: Path, left_out: Counter[str]) -> AnnotationFile | Drawing:
    """Reads one file: a Drawing of one image, or an AnnotationFile of many."""
    text = files.read_text(path, _WHAT, most=_MOST_BYTES)
    if text.lstrip("\ufeff \t\n").startswith("<"):
        return cvat.read(path, text)

    try:
        content = json_files.parse(text, _check)
    except _UnknownFormatOfJson as error:
        raise _UnknownFormat(f"{files.shown(path)} {error}") from None
    except ValueError as error:
        raise UserError(
            f"{_WHAT} {files.shown(path)} is damaged ({error}); export it again."
        ) from None
    if "shapes" in content:
        return labelme.read(path, content, left_out)
    return coco.read(path, content)


class _UnknownFormatOfJson(ValueError):
    pass


def _check(content: Any, key: str) -> None:
    """Checks the content of a JSON file by the rules of the tool that wrote it."""
    checks: dict[tuple[str, ...], Callable] = {
        ("shapes",): labelme.CHECK,
        ("images", "annotations"): coco.CHECK,
    }
    for keys, check in checks.items():
        if isinstance(content, dict) and all(name in content for name in keys):
            return check(content, key)
    raise _UnknownFormatOfJson(
        f"is none of the files that are read, which are those of {TOOLS}; export the annotations "
        "as one of them, or as masks for --masks_dir."
    )

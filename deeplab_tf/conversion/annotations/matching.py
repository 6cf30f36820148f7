"""Finds the image file of each drawing, by the name that the annotation file gives it.

Such names are paths on other people's machines: `places` says what their folders count for. Case,
Unicode form and ending may differ. No file outside the folder of images is ever read.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion.annotations import labelme, supervisely
from deeplab_tf.conversion.annotations.drawing import (
    AnnotationFile,
    Drawing,
    UnreadableDrawing,
)
from deeplab_tf.conversion.annotations.places import Folder, Hints, Places, folder, is_of_split
from deeplab_tf.messages import UserError, counted, warn

_KINDS_OF_COCO = re.compile(r"^(instances|stuff|annotations)_")


class ImageFinder:
    """The images of a folder, by all that an annotation file may call them."""

    def __init__(self, images: Mapping[Path, str], images_dir: Path):
        self._places = Places(images, images_dir)
        self._by_last_part: dict[str, list[Path]] = {}
        for path in images:
            for last in {files.folded(path.name), files.folded(path.stem)}:
                self._by_last_part.setdefault(last, []).append(path)

    def anywhere(self, name: str) -> list[Path]:
        """Returns the images in all folders whose own name is the last part of a name."""
        _, parts = _climb_and_parts(name)
        return self._by_last_part.get(files.folded(parts[-1]), []) if parts else []

    def image_of(self, drawing: Drawing, file: AnnotationFile, split: str) -> Path | None:
        """Returns the image of a drawing; None if there is none.

        Args:
          file: the one with the drawing.
          split: the split whose annotations these are; "" if the file or nothing says it.
        Raises:
          UserError: if it is not clear which image is meant.
        """
        named = folder(_climb_and_parts(drawing.image_name)[1][:-1])
        hints = Hints(named, self._beside(drawing), split or drawing.subset)
        if file.tool == supervisely.TOOL:
            return self._in_project(drawing, file.path)
        if file.tool == labelme.TOOL:
            return self._of_file(drawing, file.path, hints)
        if split:
            hints = dataclasses.replace(hints, file_name=own_name(drawing.path))
        return self._best(self._hits(drawing.image_name, hints), drawing, hints)

    def _of_file(self, drawing: Drawing, root: Path, hints: Hints) -> Path | None:
        """Returns the image of a file that describes one image.

        Args:
          root: the folder of annotations.
        """
        own = self._own_image(drawing, root, hints.split)
        named = self._hits(drawing.image_name, hints)
        if own is None:
            return self._best(named, drawing, hints)
        if named and own not in named:
            raise UserError(
                f"{files.shown(drawing.path)} has the name of the image {own}, but says that it "
                f"describes {drawing.image_name!r}, which is there too: {named[0]}; correct its "
                "imagePath, or rename it."
            )
        return own

    def _in_project(self, drawing: Drawing, root: Path) -> Path | None:
        """Returns the image of a file of Supervisely's: img/a.jpg of ann/a.jpg.json.

        It is in the folder img next to the file's own, or, if images and annotations were parted,
        in the same sub-folder of the folder of images. Names in a project are unique in each data
        set only, so an image elsewhere is another one.

        Args:
          root: the folder of annotations.
        """
        own, name = drawing.path.parent, drawing.path.stem
        hits = self.anywhere(name)
        sibling = (own.parent / supervisely.IMAGES).resolve()
        found = [path for path in hits if path.parent.resolve() == sibling]
        if not found and root.is_dir():
            same = folder(own.relative_to(root).parts)
            parts = [
                supervisely.IMAGES if part == supervisely.ANNOTATIONS else part for part in same
            ]
            found = [path for path in hits if self._places.folder_of[path] in (same, tuple(parts))]
        return _only(_most_alike(found, name), drawing) if found else None

    def _own_image(self, drawing: Drawing, root: Path, split: str) -> Path | None:
        """Returns the image with the name of a file: next to it, or in the same sub-folder."""
        name = drawing.path.stem  # some programs write a.jpg.json
        beside = self._places.beside(drawing.path)
        hits = self._hits(name, Hints((), beside, split))

        tests: list[Callable[[Folder], bool]] = [lambda one: one == beside]
        if root.is_dir():
            same = folder(drawing.path.relative_to(root).parts[:-1])
            tests += [
                lambda one: one[1:] == same and is_of_split(one[:1], split),
                lambda one: one == same,
            ]
        for test in tests:
            if found := [path for path in hits if test(self._places.folder_of[path])]:
                return _only(_most_alike(found, name), drawing)
        return None

    def _hits(self, name: str, hints: Hints) -> list[Path]:
        """Returns the images of a name in the folders where its image may lie."""
        places = self._places.allowed(hints)
        return [path for path in self.anywhere(name) if self._places.folder_of[path] in places]

    def _beside(self, drawing: Drawing) -> Folder | None:
        """Returns the folder from which a drawing's name leads on, such as "../a.jpg"."""
        beside = self._places.beside(drawing.path)
        climb, _ = _climb_and_parts(drawing.image_name)
        return None if beside is None or climb > len(beside) else beside[: len(beside) - climb]

    def _best(self, found: list[Path], drawing: Drawing, hints: Hints) -> Path | None:
        """Returns the image that a drawing means, out of `found` in the right folders.

        If there are several, these are preferred, in this order: the same case and ending of the
        name; a folder with which the name's folders end; the folder of the annotation file; a
        folder with the name of the split.
        """
        if not found:
            return None
        found = _most_alike(found, _climb_and_parts(drawing.image_name)[1][-1])
        named = hints.named
        tests: list[Callable[[Folder], bool]] = [
            lambda one: named[max(len(named) - len(one), 0) :] == one,
            lambda one: one == hints.beside,
            lambda one: is_of_split(one[-1:], hints.split),
        ]
        for test in tests:
            fitting = [path for path in found if test(self._places.folder_of[path])]
            found = fitting if len(found) > 1 and fitting else found
        return _only(found, drawing)


def own_name(path: Path) -> str:
    """Returns the name of an annotation file, without COCO's "instances_" and "stuff_"."""
    return _KINDS_OF_COCO.sub("", path.stem)


def _climb_and_parts(name: str) -> tuple[int, list[str]]:
    """Returns how many folders a path leads up first, and its parts from there on."""
    climb, parts = 0, list[str]()
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            climb += 1
        elif part not in ("", "."):
            parts.append(part)
    return climb, parts


def _most_alike(images: Sequence[Path], name: str) -> list[Path]:
    """Returns the images whose own names are most like a name, which may lack the ending."""

    def unlikeness(image: Path) -> int:
        likenesses = (
            image.name == name,
            image.stem == name,
            files.folded(image.name) == files.folded(name),
            True,
        )
        return likenesses.index(True)

    least = min(map(unlikeness, images))
    return [image for image in images if unlikeness(image) == least]


def _only(images: Sequence[Path], drawing: Drawing) -> Path:
    if len(images) > 1:
        raise UserError(
            f"{_sentence(drawing.where)} may be {images[0]} or {images[1]}; give --images_dir the "
            "folder of this file's images, or rename one of them."
        )
    return images[0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def drawings_of_images(
    annotations: Sequence[AnnotationFile],
    finder: ImageFinder,
    split: str = "",
    *,
    skip_bad: bool = False,
) -> dict[Path, Drawing]:
    """Returns the drawing of each image, and warns of drawings whose image is missing.

    Args:
      split: the split whose annotations these are; "" if they belong to several.
      skip_bad: whether damaged files are left out whose image is not known.
    Raises:
      UserError: if no image is found, two drawings have the same image, or a file is damaged.
    """
    drawing_of: dict[Path, Drawing] = {}
    missing: list[Drawing] = []
    for file in annotations:
        for drawing in file.drawings:
            image = finder.image_of(drawing, file, split)
            if image is None:
                if isinstance(drawing, UnreadableDrawing) and not skip_bad:
                    raise UserError(drawing.reason)
                missing.append(drawing)
                continue
            if other := drawing_of.get(image):
                raise UserError(
                    f"The image {image} is described twice, as {other.where} and as "
                    f"{drawing.where}; remove one of them."
                )
            drawing_of[image] = drawing

    total = len(drawing_of) + len(missing)
    paths = " and ".join(files.shown(file.path) for file in annotations[:2])
    if not total:
        raise UserError(f"{paths} describes no image; export the annotations again.")
    if not drawing_of:
        raise UserError(
            f"--images_dir holds none of the {counted(total, 'image')} that {paths} describes (the "
            f"first: {_shown_name(missing[0], finder)}); give the folder with these images."
        )
    if missing:
        warn(
            f"{paths}: left out the annotations of {counted(len(missing), 'image')} of {total}, "
            f"which are not in --images_dir (the first: {_shown_name(missing[0], finder)})."
        )
    return drawing_of


def _shown_name(drawing: Drawing, finder: ImageFinder) -> str:
    """Returns the name of a missing image, and the image that has it elsewhere."""
    name = repr(files.shown(drawing.image_name or drawing.path.name, most=80))
    others = finder.anywhere(drawing.image_name)
    return f"{name}, not {files.shown(others[0])}, which is in another folder" if others else name


def warn_of_left_out(annotations: Sequence[AnnotationFile]) -> None:
    """Warns of shapes that were left out."""
    for file in annotations:
        if file.left_out:
            parts = ", ".join(f"{count} {reason}" for reason, count in file.left_out.most_common(8))
            warn(
                f"{files.shown(file.path)}: left out shapes that are no region of a listed "
                f"image: {parts}."
            )

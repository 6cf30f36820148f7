"""Finds the image file of each drawing, by the name that the annotation file gives it.

Such names are paths on other people's machines: only their last parts count, and no file outside
the folder of images is ever read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion.annotations.drawing import AnnotationFile, Drawing
from deeplab_tf.messages import UserError, counted, warn


class ImageFinder:
    """The images of a folder, by all that an annotation file may call them."""

    def __init__(self, images: Mapping[Path, str], images_dir: Path):
        self._images_dir = images_dir
        self._by_name = {name: path for path, name in images.items()}
        self._by_path = {path.relative_to(images_dir).as_posix(): path for path in images}
        self._by_last_part: dict[str, list[Path]] = {}
        for path, name in images.items():
            for last in {path.name, name.split("/")[-1]}:
                self._by_last_part.setdefault(last, []).append(path)

    def candidates(self, name: str) -> list[Path]:
        """Returns the images that a name may mean; several if their folders differ.

        The longest part of the name that is a path in the folder decides, from its end; else the
        last part, in any sub-folder. The ending may be missing.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if found := self._by_path.get(end) or self._by_name.get(end):
                return [found]
        return self._by_last_part.get(parts[-1], []) if parts else []

    def of_name(self, drawing: Drawing, split: str) -> Path | None:
        """Returns the image of a drawing that is one of many in its file; None if there is none.

        If several images have the name, the one beside the file counts, or in the split's folder.

        Raises:
          UserError: if it is not clear which image is meant.
        """
        found = self.candidates(drawing.image_name)
        if len(found) > 1:
            folder = drawing.path.resolve().parent
            near = [path for path in found if path.resolve().parent == folder]
            in_split = [
                path for path in found if split in path.relative_to(self._images_dir).parts[:-1]
            ]
            found = next((some for some in (near, in_split) if len(some) == 1), found)
        return self._only(found, drawing)

    def of_file(self, drawing: Drawing, root: Path) -> Path | None:
        """Returns the image of a file that describes one image; None if there is none.

        Args:
          root: the folder of annotations.
        Raises:
          UserError: if the file's own name and the name in it mean different images.
        """
        own = self._own_image(drawing.path, root)
        named = self.candidates(drawing.image_name)
        if own is None:
            return self._only(named, drawing)
        if named and own not in named:
            raise UserError(
                f"{files.shown(drawing.path)} has the name of the image {own}, but says that it "
                f"describes {drawing.image_name!r}, which is there too: {named[0]}; correct its "
                "imagePath, or rename it."
            )
        return own

    def _own_image(self, path: Path, root: Path) -> Path | None:
        """Returns the image with the name of a file, beside it or in the same sub-folder."""
        places = [(root, path)] if root.is_dir() else []
        places.append((self._images_dir.resolve(), path.resolve()))
        for folder, file in places:
            if file.is_relative_to(folder):
                name = file.relative_to(folder).with_suffix("").as_posix()
                # Some programs write a.jpg.json.
                if found := self._by_name.get(name) or self._by_path.get(name):
                    return found
        return None

    def _only(self, found: Sequence[Path], drawing: Drawing) -> Path | None:
        if len(found) > 1:
            raise UserError(
                f"{_sentence(drawing.where)} may be {found[0]} or {found[1]}; give --images_dir "
                "the folder of this file's images, or rename one of them."
            )
        return found[0] if found else None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def drawings_of_images(
    annotations: Sequence[AnnotationFile], finder: ImageFinder, split: str = ""
) -> dict[Path, Drawing]:
    """Returns the drawing of each image, and warns of drawings whose image is missing.

    Args:
      split: the split whose annotations these are; "" if they are those of several.
    Raises:
      UserError: if no image is found, or two drawings have the same image.
    """
    drawing_of: dict[Path, Drawing] = {}
    missing: list[Drawing] = []
    for file in annotations:
        for drawing in file.drawings:
            if file.tool == "labelme":
                image = finder.of_file(drawing, file.path)
            else:
                image = finder.of_name(drawing, split)
            if image is None:
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
            f"first: {_shown_name(missing[0])!r}); give the folder with these images."
        )
    if missing:
        warn(
            f"{paths}: left out the annotations of {counted(len(missing), 'image')} of {total}, "
            f"which are not in --images_dir (the first: {_shown_name(missing[0])!r})."
        )
    return drawing_of


def _shown_name(drawing: Drawing) -> str:
    return files.shown(drawing.image_name or drawing.path.name, most=80)


def warn_of_left_out(annotations: Sequence[AnnotationFile]) -> None:
    """Warns of shapes that were left out."""
    for file in annotations:
        if file.left_out:
            parts = ", ".join(f"{count} {reason}" for reason, count in file.left_out.most_common(8))
            warn(f"{files.shown(file.path)}: left out shapes that cover no region: {parts}.")

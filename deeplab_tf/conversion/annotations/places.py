"""Decides in which folders the image of a drawing may lie.

Images in several folders may share a name. Three hints say which folder is meant, the strongest
first: the folders in the name itself, the folder of the annotation file, and the split. An image
elsewhere is another one, even if it is the only one of that name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import data_trees

# The names of a folder and of those above it, from the folder of images on, folded.
Folder = tuple[str, ...]


@dataclass(frozen=True)
class Hints:
    """What is known about the folder of an image.

    named: the folders in the image's name, which may be folders of another machine.
    beside: the folder from which the name leads to the image; None if it is outside the folder of
      images.
    split: the name of the split; "" if unknown.
    file_name: the name of the file of a split, such as val2017; "" if unknown.
    """

    named: Folder
    beside: Folder | None
    split: str = ""
    file_name: str = ""


class Places:
    """The folders below a folder of images."""

    def __init__(self, images: Iterable[Path], images_dir: Path):
        self._root = images_dir.resolve()
        self.folder_of = {path: folder(path.relative_to(images_dir).parts[:-1]) for path in images}
        # Links may lead from other places to these folders.
        own_folders = {path.parent: own for path, own in self.folder_of.items()}
        self._by_place = {place.resolve(): own for place, own in own_folders.items()}

        self._with_images = {own[:n] for own in own_folders.values() for n in range(len(own) + 1)}
        # The folder of a split may be empty.
        children = [path.name for path in images_dir.iterdir() if path.is_dir()]
        self._folders = self._with_images | {folder([name]) for name in children}

        self._beside_file: dict[Path, Folder | None] = {}
        self._allowed: dict[Hints, set[Folder]] = {}

    def beside(self, file: Path) -> Folder | None:
        """Returns the folder of a file; None if it is outside the folder of images."""
        if file.parent not in self._beside_file:
            place = file.parent.resolve()
            is_inside = place.is_relative_to(self._root)
            own = folder(place.relative_to(self._root).parts) if is_inside else None
            self._beside_file[file.parent] = self._by_place.get(place, own)
        return self._beside_file[file.parent]

    def allowed(self, hints: Hints) -> set[Folder]:
        """Returns the folders in which the image may lie.

        A hint does not count if no folder fits both it and the stronger ones.
        """
        if hints not in self._allowed:
            places, beside = self._named(hints.named), hints.beside
            if beside is not None and beside in self._with_images:
                places = {one for one in places if one[: len(beside)] == beside} or places
            if hints.split:
                places = {one for one in places if is_of_split(one, hints.split)} or places
            if hints.file_name:  # a folder without images may hold the annotation files
                own = places & self._with_images
                places = {one for one in own if is_of_split(one, hints.file_name)} or places
            self._allowed[hints] = places
        return self._allowed[hints]

    def _named(self, named: Folder) -> set[Folder]:
        """Returns the folders that hold the last part of a name that any folder holds."""
        for end in range(len(named), 0, -1):
            for start in range(end):
                part = named[start:end]
                if places := {one for one in self._folders if _holds(one, part)}:
                    return places
        return self._folders


def folder(parts: Iterable[str]) -> Folder:
    """Returns a folder from its names."""
    return tuple(map(files.folded, parts))


def is_of_split(one: Folder, split: str) -> bool:
    """Whether a folder is a split's, or lies in a split's folder."""
    wanted = files.folded(split)
    return any(wanted in (part, data_trees.split_name(part)) for part in one)


def _holds(one: Folder, part: Folder) -> bool:
    return any(one[start : start + len(part)] == part for start in range(len(one)))

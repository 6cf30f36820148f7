"""Folders of images and masks -> which mask is an image's, by their names.

Nothing is dropped without a word: what is neither image nor mask is counted and told.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import mask_files
from deeplab_tf.files import warn_of_left_out
from deeplab_tf.messages import UserError, counted, warn

_JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")
_POLYGON_ENDINGS = (".json", ".xml", ".txt")
_POLYGONS = (
    "polygons are not read: draw them as PNG masks first, as docs/data.md shows for labelme, "
    "CVAT, Supervisely and COCO."
)


@dataclass(frozen=True)
class Layout:
    """Where images and masks lie, and what only one of an image's and its mask's names ends with.

    Both may lie in one folder, or one of the folders in the other.
    """

    images_dir: Path
    masks_dir: Path
    image_suffix: str = ""
    mask_suffix: str = ""


class ImagesAndMasks:
    """The image and mask files of a layout.

    images: each image's name: its path from the folder, with slashes and without ending.
    """

    def __init__(self, layout: Layout):
        """Lists the folders, and warns of what is left out of them.

        Raises:
          UserError: if a folder is missing, or there is no image, or one whose name cannot be kept.
        """
        _require_folders(layout)
        if layout.images_dir.samefile(layout.masks_dir):
            of_images, of_masks = _list_one_folder(layout)
        else:
            of_images = files.list_folder(layout.images_dir, without=layout.masks_dir)
            of_masks = files.list_folder(
                layout.masks_dir, endings=mask_files.ENDINGS, without=layout.images_dir
            )
        self._layout = layout
        self._mask_files = list(of_masks.images)
        self.images = _files_with(layout.image_suffix, of_images)
        _require_images(self.images, layout, of_images)
        _refuse_unnameable(self.images)

        self._masks = _files_with(layout.mask_suffix, of_masks)
        self._masks_of: dict[str, list[Path]] = {}
        for path, name in self._masks.items():
            self._masks_of.setdefault(_key(name, layout.mask_suffix), []).append(path)
        self._image_of: dict[Path, Path] = {}
        self._warn_of_left_out(of_images, of_masks)

    def mask_of(self, image: Path) -> Path:
        """Returns the mask of the image's name, or else of its name in letters of another case.

        A PNG is preferred to other files of its name.

        Raises:
          UserError: if it has no mask, or several, or one that is another image's too.
        """
        name = self.images[image]
        stem = name[: len(name) - len(self._layout.image_suffix)]

        def rank(mask: Path) -> tuple[bool, ...]:
            return *_rank(mask), self._masks[mask] != stem + self._layout.mask_suffix

        ranked = sorted(self._masks_of.get(_key(name, self._layout.image_suffix), ()), key=rank)
        if not ranked:
            raise UserError(self._why_no_mask(image, stem))
        mask = ranked[0]
        if len(ranked) > 1 and rank(ranked[1]) == rank(mask):
            raise UserError(
                f"The image {image} has two masks, {mask} and {ranked[1]}; remove one of them."
            )
        if self._image_of.setdefault(mask, image) != image:
            raise UserError(
                f"The mask {mask} is that of two images, {self._image_of[mask]} and {image}, whose "
                "names are equal but for upper case; rename one of them and give it its own mask."
            )
        return mask

    def _warn_of_left_out(self, of_images: files.Listing, of_masks: files.Listing) -> None:
        keys = {_key(name, self._layout.image_suffix) for name in self.images.values()}
        unused: list[Path] = []
        for key, some in self._masks_of.items():
            if key not in keys:
                unused += some
            elif spare := sum(_rank(mask) > min(map(_rank, some)) for mask in some):
                of_masks.left_out["with the same name as another mask"] += spare

        warn_of_left_out(self._layout.images_dir, counted(len(self.images), "image"), of_images)
        warn_of_left_out(self._layout.masks_dir, counted(len(self._masks), "mask"), of_masks)
        if unused:
            warn(
                f"{self._layout.masks_dir}: left out {counted(len(unused), 'mask')} of "
                f"{len(self._masks)}, for which there is no image (the first: {unused[0]})."
            )

    def _why_no_mask(self, image: Path, stem: str) -> str:
        """Returns what an image's missing mask would be called, and why it may be missing."""
        masks_dir = self._layout.masks_dir
        wanted = masks_dir / f"{stem}{self._layout.mask_suffix}.png"
        for ending in _POLYGON_ENDINGS:
            polygons = wanted.with_name(f"{Path(stem).name}{ending}")
            some = [polygons] if polygons.is_file() else []
            if not self._mask_files:  # one file may describe all images
                some += sorted(masks_dir.rglob(f"*{ending}"))
            if some:
                return (
                    f"The image {image} has no mask {wanted}, but there is {some[0]}; {_POLYGONS}"
                )

        if elsewhere := self._same_name_elsewhere(image, wanted):
            return (
                f"The image {image} has no mask: {wanted} does not exist, though {elsewhere} does; "
                "images and masks must lie in folders of the same names below --images_dir and "
                "--masks_dir, and docs/data.md shows the links that arrange them so."
            )
        similar = [
            path for name, path in self._mask_files if _folded(name).startswith(_folded(stem))
        ]
        hint = f" ({similar[0]} does)" if similar else ""
        return (
            f"The image {image} has no mask: {wanted} does not exist{hint}; --mask_suffix and "
            "--image_suffix say what only one of the two names ends with, and --split_lists leaves "
            "images out."
        )

    def _same_name_elsewhere(self, image: Path, wanted: Path) -> Path | None:
        """Returns what may be an image's mask in another folder, if there is one.

        Where images and masks share a folder, it was taken for an image; those of other splits may
        have its name too.
        """
        split = self._layout.images_dir / self.images[image].split("/")[0]
        near = [path for path in self.images if path.is_relative_to(split) and path != image]
        for path in (*(path for _, path in self._mask_files), *near):
            is_jpeg = path.suffix.lower() in _JPEG_ENDINGS
            if not is_jpeg and _folded(path.stem) == _folded(wanted.stem):
                return path
        return None


def _require_folders(layout: Layout) -> None:
    masks_dir = layout.masks_dir
    if masks_dir.is_file() and masks_dir.suffix.lower() in _POLYGON_ENDINGS:
        raise UserError(f"--masks_dir={masks_dir} is no folder of masks; {_POLYGONS}")
    for flag, folder in (("images_dir", layout.images_dir), ("masks_dir", masks_dir)):
        if not folder.is_dir():
            raise UserError(f"--{flag}={folder} does not exist or is not a folder.")


def _list_one_folder(layout: Layout) -> tuple[files.Listing, files.Listing]:
    """Lists the images and the masks that lie in one folder; no file is both."""
    listing = files.list_folder(layout.images_dir, endings=mask_files.ENDINGS)
    is_image = _image_test(layout, listing)
    images = [(name, path) for name, path in listing.images if is_image(name, path)]
    others = [(name, path) for name, path in listing.images if not is_image(name, path)]
    return files.Listing(images, listing.left_out), files.Listing(others)


def _image_test(layout: Layout, listing: files.Listing) -> Callable[[str, Path], bool]:
    """Returns what tells the images from the masks of one folder."""
    if layout.image_suffix:
        return lambda name, path: _ends(name, layout.image_suffix)
    if layout.mask_suffix:
        return lambda name, path: not _ends(name, layout.mask_suffix)
    # A file with the name of a JPEG is its mask, since no mask can be a JPEG; a GIF is no image.
    jpegs = {_folded(n): p for n, p in listing.images if p.suffix.lower() in _JPEG_ENDINGS}

    def is_image(name: str, path: Path) -> bool:
        is_of_jpeg = jpegs.get(_folded(name), path) != path
        return not is_of_jpeg and path.suffix.lower() in files.IMAGE_ENDINGS

    return is_image


def _files_with(suffix: str, listing: files.Listing) -> dict[Path, str]:
    """Returns the files whose names end with a suffix, with their names; counts the others."""
    named = {path: name for name, path in listing.images if _ends(name, suffix)}
    if others := len(listing.images) - len(named):
        listing.left_out[f"without {suffix}"] += others
    return named


def _require_images(images: dict[Path, str], layout: Layout, listing: files.Listing) -> None:
    if images:
        return
    suffix = f" whose name ends with {layout.image_suffix!r}" if layout.image_suffix else ""
    left_out = f"; {listing.note()}" if listing.left_out else ""
    raise UserError(
        f"--images_dir={layout.images_dir} holds no image{suffix} "
        f"({', '.join(files.IMAGE_ENDINGS)}){left_out}."
    )


def _refuse_unnameable(images: dict[Path, str]) -> None:
    """Refuses two images of one name, and names that a record cannot hold."""
    first: dict[str, Path] = {}
    for path, name in images.items():
        if not _is_utf8(name) or re.search("[\0-\x1f]", name):
            raise UserError(
                f"The name of the image {files.shown(path)} is not UTF-8, or has a line end or "
                "another control character in it; rename the file."
            )
        if name in first:
            raise UserError(
                f"{first[name]} and {path} share the name {name!r}; remove one of them."
            )
        first[name] = path


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rank(mask: Path) -> tuple[bool, bool]:
    """Returns what orders masks of one name: PNGs first, JPEGs, which are previews, last."""
    ending = mask.suffix.lower()
    return ending in _JPEG_ENDINGS, ending != ".png"


def _ends(name: str, suffix: str) -> bool:
    return _folded(name).endswith(_folded(suffix))


def _key(name: str, suffix: str) -> str:
    """Returns what an image's and its mask's names have in common."""
    return _folded(name).removesuffix(_folded(suffix))


def _folded(name: str) -> str:
    """Returns a name in which letters of either case, and of either Unicode form, are equal."""
    return unicodedata.normalize("NFC", name).casefold()

"""Finds the mask of each image in folders of images and masks, by their names.

Nothing is dropped silently: files that are neither image nor mask are counted and reported.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import mask_files
from deeplab_tf.files import warn_of_left_out
from deeplab_tf.messages import UserError, counted, warn

_JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")
ANNOTATION_ENDINGS = (".json", ".xml")
_POLYGON_ENDINGS = (*ANNOTATION_ENDINGS, ".txt")
_POLYGONS = (
    "polygons are not masks: give files of labelme, Supervisely, COCO or CVAT as --annotations in "
    "place of --masks_dir; docs/data.md says how to get masks from others."
)


@dataclass(frozen=True)
class Layout:
    """Where images and masks lie, and how their names differ.

    images_dir, masks_dir: may be the same folder, or one may lie in the other.
    image_suffix: what the names of images end with and the names of their masks do not.
    mask_suffix: what the names of masks end with and the names of their images do not.
    """

    images_dir: Path
    masks_dir: Path
    image_suffix: str = ""
    mask_suffix: str = ""
    image_endings: tuple[str, ...] = files.IMAGE_ENDINGS


def list_images(
    images_dir: Path, *, endings: tuple[str, ...] = files.IMAGE_ENDINGS
) -> dict[Path, str]:
    """Lists a folder's images with their names, and warns of files that are left out.

    Files that may hold annotations are not counted: they often lie next to the images.

    Raises:
      UserError: as `ImagesAndMasks` does.
    """
    layout = Layout(images_dir, images_dir, image_endings=endings)
    _require_folder("images_dir", images_dir)
    listing = files.list_folder(images_dir, endings=endings)
    for ending in ANNOTATION_ENDINGS:
        listing.left_out.pop(ending, None)

    images = _files_with("", listing)
    _require_images(images, layout, listing)
    _refuse_unnameable(images)
    warn_of_left_out(images_dir, counted(len(images), "image"), listing)
    return images


class ImagesAndMasks:
    """The image and mask files of a layout.

    images: the name of each image, which is its path from the folder, with slashes and without
      ending.
    """

    def __init__(self, layout: Layout):
        """Lists the folders, and warns of the files that are left out.

        Raises:
          UserError: if a folder is missing, there is no image, or an image's name cannot be kept.
        """
        _require_folders(layout)
        if layout.images_dir.samefile(layout.masks_dir):
            of_images, of_masks = _list_one_folder(layout)
        else:
            of_images = files.list_folder(
                layout.images_dir, endings=layout.image_endings, without=layout.masks_dir
            )
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
        self._image_of: dict[Path, Path] = {}  # by mask, filled by `mask_of`

        self._warn_of_left_out(of_images, of_masks)

    def mask_of(self, image: Path) -> Path:
        """Returns the mask with the image's name, or else one whose name differs only in case.

        A PNG is preferred to other files with the same name.

        Raises:
          UserError: if the image has no mask, or several, or shares its mask with another image.
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
                f"The mask {mask} belongs to two images, {self._image_of[mask]} and {image}, whose "
                "names differ only in upper case; rename one of them and give it its own mask."
            )
        return mask

    def _warn_of_left_out(self, of_images: files.Listing, of_masks: files.Listing) -> None:
        """Warns of all that is not used: other files, spare masks, masks without an image."""
        # Images whose names differ only in case have masks whose names do so too.
        suffix = self._layout.image_suffix
        num_images = Counter(_key(name, suffix) for name in self.images.values())
        unused: list[Path] = []
        for key, masks in self._masks_of.items():
            if key not in num_images:
                unused += masks
            elif (spare := len(masks) - num_images[key]) > 0:
                of_masks.left_out["with the same name as another mask"] += spare

        warn_of_left_out(self._layout.images_dir, counted(len(self.images), "image"), of_images)
        warn_of_left_out(self._layout.masks_dir, counted(len(self._masks), "mask"), of_masks)
        if unused:
            warn(
                f"{self._layout.masks_dir}: left out {counted(len(unused), 'mask')} of "
                f"{len(self._masks)}, for which there is no image (the first: {unused[0]})."
            )

    def _why_no_mask(self, image: Path, stem: str) -> str:
        """Returns what the missing mask would be called, and why it may be missing."""
        masks_dir = self._layout.masks_dir
        wanted = masks_dir / f"{stem}{self._layout.mask_suffix}.png"

        # The annotations may be polygons.
        for ending in _POLYGON_ENDINGS:
            own_file = wanted.with_name(f"{Path(stem).name}{ending}")
            polygons = [own_file] if own_file.is_file() else []
            if not self._mask_files:  # one file may describe all images
                polygons += sorted(masks_dir.rglob(f"*{ending}"))
            if polygons:
                return (
                    f"The image {image} has no mask {wanted}, but there is {polygons[0]}; "
                    f"{_POLYGONS}"
                )

        # The mask may lie in another folder, or have a longer name.
        if elsewhere := self._same_name_elsewhere(image, wanted):
            return (
                f"The image {image} has no mask: {wanted} does not exist, though {elsewhere} does; "
                "images and masks must lie in folders of the same names below --images_dir and "
                "--masks_dir, and docs/data.md shows the links that arrange them so."
            )
        similar = [
            path
            for name, path in self._mask_files
            if files.folded(name).startswith(files.folded(stem))
        ]
        hint = f" ({similar[0]} does)" if similar else ""
        return (
            f"The image {image} has no mask: {wanted} does not exist{hint}; give --mask_suffix or "
            "--image_suffix if only one of the two names ends with it, or leave the image out with "
            "--split_lists."
        )

    def _same_name_elsewhere(self, image: Path, wanted: Path) -> Path | None:
        """Returns a file in another folder that may be the image's mask; None if there is none.

        If images and masks share a folder, the mask may have been taken for an image. Then only the
        image's own split is searched, since other splits may have images of the same name.
        """
        split = self._layout.images_dir / self.images[image].split("/")[0]
        near = [path for path in self.images if path.is_relative_to(split) and path != image]
        for path in (*(path for _, path in self._mask_files), *near):
            is_jpeg = path.suffix.lower() in _JPEG_ENDINGS
            if not is_jpeg and files.folded(path.stem) == files.folded(wanted.stem):
                return path
        return None


def _require_folders(layout: Layout) -> None:
    masks_dir = layout.masks_dir
    if masks_dir.is_file() and masks_dir.suffix.lower() in _POLYGON_ENDINGS:
        raise UserError(f"--masks_dir={masks_dir} is not a folder of masks; {_POLYGONS}")
    _require_folder("images_dir", layout.images_dir)
    _require_folder("masks_dir", masks_dir)


def _require_folder(flag: str, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--{flag}={folder} does not exist or is not a folder.")


def _list_one_folder(layout: Layout) -> tuple[files.Listing, files.Listing]:
    """Lists the images and the masks that lie in one folder; no file is both."""
    endings = tuple(dict.fromkeys((*mask_files.ENDINGS, *layout.image_endings)))
    listing = files.list_folder(layout.images_dir, endings=endings)
    is_image = _image_test(layout, listing)
    images = [(name, path) for name, path in listing.images if is_image(name, path)]
    others = [(name, path) for name, path in listing.images if not is_image(name, path)]
    return files.Listing(images, listing.left_out), files.Listing(others)


def _image_test(layout: Layout, listing: files.Listing) -> Callable[[str, Path], bool]:
    """Returns a function that tells whether a file of a shared folder is an image."""
    if layout.image_suffix:
        return lambda name, path: _ends(name, layout.image_suffix)
    if layout.mask_suffix:
        return lambda name, path: not _ends(name, layout.mask_suffix)

    # If a JPEG and another file share a name, the other one is the mask, since masks are never
    # JPEGs. A GIF is never an image.
    jpegs = {files.folded(n): p for n, p in listing.images if p.suffix.lower() in _JPEG_ENDINGS}

    def is_image(name: str, path: Path) -> bool:
        is_mask_of_jpeg = jpegs.get(files.folded(name), path) != path
        return not is_mask_of_jpeg and path.suffix.lower() in layout.image_endings

    return is_image


def _files_with(suffix: str, listing: files.Listing) -> dict[Path, str]:
    """Returns the files whose names end with `suffix`, with their names; counts the others."""
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
        f"({', '.join(layout.image_endings)}){left_out}."
    )


def _refuse_unnameable(images: dict[Path, str]) -> None:
    """Refuses two images with the same name, and names that a record cannot hold."""
    image_of: dict[str, Path] = {}
    for path, name in images.items():
        if not _is_utf8(name) or re.search("[\0-\x1f]", name):
            raise UserError(
                f"The name of the image {files.shown(path)} is not UTF-8, or contains a line end "
                "or another control character; rename the file."
            )
        if name in image_of:
            raise UserError(
                f"{image_of[name]} and {path} share the name {name!r}; remove one of them."
            )
        image_of[name] = path


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rank(mask: Path) -> tuple[bool, bool]:
    """Returns the sort key of masks with one name: PNGs first, JPEGs, which are previews, last."""
    ending = mask.suffix.lower()
    return ending in _JPEG_ENDINGS, ending != ".png"


def _ends(name: str, suffix: str) -> bool:
    return files.folded(name).endswith(files.folded(suffix))


def _key(name: str, suffix: str) -> str:
    """Returns what the names of an image and of its mask have in common."""
    return files.folded(name).removesuffix(files.folded(suffix))

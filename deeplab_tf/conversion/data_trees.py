"""Recognises the usual trees of images and masks, by the names of their folders.

Kinds outside, as in ADE20K and mmsegmentation: images/training and annotations/training, or
img_dir/train and ann_dir/train. Splits outside: train/images and train/masks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import mask_files
from deeplab_tf.messages import UserError, warn

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages")
_MASK_FOLDERS = (
    "masks", "mask", "annotations", "annotation", "ann_dir", "labels", "label",
    "segmentationclass", "gt",
)  # fmt: skip
# Names of folders whose splits have shorter names everywhere else.
_SPLIT_OF_FOLDER = {"training": "train", "validation": "val", "testing": "test"}
_TREES = "images/train and masks/train, or train/images and train/masks"


@dataclass(frozen=True)
class Part:
    """A pair of folders.

    split: what the images are; "" if sub-folders or other settings say that.
    """

    split: str
    images_dir: Path
    masks_dir: Path


def split_name(folder: str) -> str:
    """Returns the name of the split that a folder holds: train for "training", and so on."""
    return _SPLIT_OF_FOLDER.get(folder.lower(), folder)


def recognise(
    root: Path,
    *,
    image_endings: Sequence[str] = files.IMAGE_ENDINGS,
    image_suffix: str = "",
    mask_suffix: str = "",
) -> list[Part]:
    """Returns the pairs of folders in a tree, and prints what was taken for what.

    Args:
      image_endings: of the files that are images.
      image_suffix, mask_suffix: how the names of images and masks differ, as in `Layout`.
    Raises:
      UserError: if there is no tree, or there are several readings of it.
    """
    if not root.is_dir():
        raise UserError(f"--data_dir={files.shown(root)} does not exist or is not a folder.")

    def pairs_in(folder: Path) -> list[tuple[Path, Path]]:
        pairs = list(_pairs(folder, image_endings))
        return _that_fit(pairs, image_endings, image_suffix, mask_suffix)

    readings = [[Part("", *pair)] for pair in pairs_in(root)]
    by_split: list[Part] = []
    for folder in _folders(root):
        pairs = pairs_in(folder)
        if len(pairs) > 1:
            raise UserError(_ambiguous([[Part("", *pair)] for pair in pairs]))
        by_split += [Part(split_name(folder.name), *pair) for pair in pairs]
    if by_split:
        readings.append(by_split)

    if not readings:
        found = ", ".join(folder.name for folder in _folders(root)[:8]) or "no folder"
        raise UserError(
            f"--data_dir={files.shown(root)} holds no known tree ({_TREES}; there is "
            f"{found}); give --images_dir and --masks_dir."
        )
    if len(readings) > 1:
        raise UserError(_ambiguous(readings))
    _require_distinct_splits(by_split)

    (parts,) = readings
    said = ", ".join(
        f"{part.split + ': ' if part.split else ''}images in {part.images_dir}, masks in "
        f"{part.masks_dir}"
        for part in parts
    )
    print(f"{root}: {said}.")
    _warn_of_left_out(root, parts, image_endings)
    return parts


def without_unlabelled(members: Mapping[str, list[Path]], part: Part) -> dict[str, list[Path]]:
    """Leaves out the splits without any folder of masks, as public test sets come; warns of them.

    If a folder of masks belongs to no split, it may be theirs under another name. Then nothing is
    left out, so that the missing masks are refused.

    Args:
      members: the images of each folder in `part.images_dir`.
    """
    masks = {files.folded(folder.name): folder for folder in _folders(part.masks_dir)}
    spare = masks.keys() - {files.folded(split) for split in members}
    unlabelled = [split for split in members if files.folded(split) not in masks]
    is_clear = not any(_holds_images(masks[name], mask_files.ENDINGS) for name in spare)
    if not is_clear or not unlabelled or len(unlabelled) == len(members):
        return dict(members)

    warn(
        f"{part.images_dir}: left out {', '.join(map(files.shown, unlabelled))}, for which "
        f"{part.masks_dir} has no folder of masks."
    )
    return {split: images for split, images in members.items() if split not in unlabelled}


def with_split_names(members: Mapping[str, list[Path]], images_dir: Path) -> dict[str, list[Path]]:
    """Returns the images of each folder under the name of its split.

    Raises:
      UserError: if two folders hold one split.
    """
    named: dict[str, list[Path]] = {}
    for folder, images in members.items():
        split = split_name(folder)
        if split in named:
            raise UserError(
                f"Several folders in {images_dir} hold the split {split!r}; rename or remove one "
                "of them."
            )
        named[split] = images
    return named


def _require_distinct_splits(parts: Sequence[Part]) -> None:
    names = [part.split for part in parts]
    for part in parts:
        if names.count(part.split) > 1:
            raise UserError(
                f"Several folders next to {part.images_dir.parent} hold the split {part.split!r}; "
                "rename or remove one of them."
            )


def _warn_of_left_out(root: Path, parts: Sequence[Part], image_endings: Sequence[str]) -> None:
    """Warns of folders with images that belong to no part, such as a split without masks."""
    used = [folder for part in parts for folder in (part.images_dir, part.masks_dir)]
    left_out = [
        folder
        for folder in _folders(root)
        if not any(one.is_relative_to(folder) for one in used)
        and _holds_images(folder, image_endings)
    ]
    if left_out:
        warn(
            f"{root}: left out {', '.join(files.shown(folder.name) for folder in left_out)}, whose "
            f"images are in no known pair of folders ({_TREES}); if they belong to the data, "
            "name the folders like these."
        )


def _holds_images(folder: Path, endings: Sequence[str]) -> bool:
    try:
        return bool(files.list_folder(folder, endings=endings).images)
    except UserError:  # not readable, such as the lost+found of a disk
        return False


def _ambiguous(readings: Sequence[Sequence[Part]]) -> str:
    shown = " or ".join(
        f"images in {parts[0].images_dir} and masks in {parts[0].masks_dir}" for parts in readings
    )
    first = readings[0][0]
    return (
        f"--data_dir can be read in several ways: {shown}; say which is meant, such as "
        f"--images_dir={first.images_dir} --masks_dir={first.masks_dir}, in place of --data_dir."
    )


def _pairs(folder: Path, image_endings: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yields each pair of a folder of images and a folder of masks."""
    inside = _folders(folder)
    images = [one for one in inside if one.name.lower() in _IMAGE_FOLDERS]
    masks = [one for one in inside if one.name.lower() in _MASK_FOLDERS]
    for one in images if masks else ():
        if not files.list_folder(one, endings=image_endings).images:
            continue
        for other in masks:
            if files.list_folder(other, endings=mask_files.ENDINGS).images:
                yield one, other


def _that_fit(
    pairs: list[tuple[Path, Path]],
    image_endings: Sequence[str],
    image_suffix: str,
    mask_suffix: str,
) -> list[tuple[Path, Path]]:
    """Returns the pairs in which images have masks, those that lack fewest first.

    All of them if there is none, so that the error about the first missing mask explains it.
    """

    def names(folder: Path, endings: Sequence[str], suffix: str) -> set[str]:
        listed = (
            files.folded(name) for name, _ in files.list_folder(folder, endings=endings).images
        )
        end = files.folded(suffix)
        return {name.removesuffix(end) for name in listed if name.endswith(end)}

    num_missing = {}
    for images_dir, masks_dir in pairs if len(pairs) > 1 else ():
        images = names(images_dir, image_endings, image_suffix)
        missing = images - names(masks_dir, mask_files.ENDINGS, mask_suffix)
        if len(missing) < len(images):
            num_missing[images_dir, masks_dir] = len(missing)
    return sorted(num_missing, key=num_missing.__getitem__) or pairs


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )

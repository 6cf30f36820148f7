"""Converts anybody's images and masks to TFRecords.

    python -m datasets.build_folder_data --images_dir=photos --masks_dir=masks \
        --class_list=classes.csv --output_dir=records

Images are JPEG, PNG, BMP, WebP or TIFF; masks are PNGs of the same name: index, palette or
RGB-colour masks.
Splits come from sub-folders that both folders share (photos/train, masks/train, ...), from list
files (--split_lists=train=train.txt,val=val.txt), or from a seeded share (--val_fraction=0.2).
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags, files
from deeplab_tf.config import UserError, require, setting
from deeplab_tf.data import building, catalog, conversion, masks


@dataclass(frozen=True, kw_only=True)
class FolderConfig(building.BuilderConfig):
    """Where images, masks and classes are, and how they are split."""

    images_dir: str = setting("", "Folder with the images, or with one folder a split.")
    masks_dir: str = setting("", "Folder with the masks (PNG), arranged like the images.")
    class_list: str = setting("", "CSV file name,r,g,b with one line for each class, in order.")
    dataset: str = setting("", "Data set's name; the name of output_dir by default.")
    ignore_label: int = setting(255, "Label of pixels that do not count.", least=0)
    ignore_colors: tuple[int, ...] = setting(
        (), "Colours r,g,b[,r,g,b...] of RGB masks that become the ignored label.", least=0
    )
    mask_encoding: str = setting(
        "auto",
        "index and color say how palette masks are read; auto reads indices.",
        choices=("auto", "index", "color"),
    )
    mask_suffix: str = setting("", "What a mask's name has after the image's, before .png.")
    split_lists: str = setting(
        "",
        "Splits as NAME=FILE[,NAME=FILE...]; a line of a file is an image's name or path, or its "
        "path and its mask's.",
    )
    val_fraction: float = setting(
        0.0, "Share of images put in split val, the rest in train.", least=0
    )
    split_seed: int = setting(0, "Seed of val_fraction's choice.", least=0)

    def __post_init__(self):
        super().__post_init__()
        for name in ("images_dir", "masks_dir", "class_list"):
            require(bool(getattr(self, name)), name, "(empty)", "a path")
        require(
            self.val_fraction < 1, "val_fraction", self.val_fraction, "0 up to, not including, 1"
        )
        require(self.ignore_label <= 255, "ignore_label", self.ignore_label, "0 to 255")
        require(
            len(self.ignore_colors) % 3 == 0, "ignore_colors", self.ignore_colors, "r,g,b triples"
        )


def main(config: FolderConfig) -> None:
    """Converts all splits; those already converted from the same files are left alone."""
    classes = catalog.read_class_table(Path(config.class_list))
    output_dir = Path(config.output_dir)
    info = catalog.DatasetInfo(
        name=config.dataset or output_dir.resolve().name,
        classes=classes,
        ignore_label=config.ignore_label,
    )
    splits = find_splits(config)
    flat = config.ignore_colors
    coding = masks.MaskCoding(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        colors=tuple(info.colors),
        ignore_colors=tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)),
        by_color=config.mask_encoding == "color",
    )
    building.build(config, info, splits, coding)


def find_splits(config: FolderConfig) -> dict[str, list[conversion.FilePair]]:
    """Returns each split's image and mask files, in the order of their names.

    Raises:
      UserError: if a folder, image or mask is missing, or the splits can not be told.
    """
    images_dir, masks_dir = Path(config.images_dir), Path(config.masks_dir)
    for flag, folder in (("images_dir", images_dir), ("masks_dir", masks_dir)):
        if not folder.is_dir():
            raise UserError(f"--{flag}={folder} does not exist or is not a folder.")
    listing = files.list_folder(images_dir)
    if listing.left_out:
        print(f"{images_dir}: {len(listing.images)} images; {listing.note()}.")
    if not listing.images:
        raise UserError(
            f"--images_dir={images_dir} holds no image ({', '.join(files.IMAGE_ENDINGS)})."
        )
    names = {path: name for name, path in listing.images}
    _refuse_unnameable(names)

    def pair(path: Path) -> conversion.FilePair:
        return _pair(path, names[path], masks_dir, config.mask_suffix)

    paths = list(names)
    if config.split_lists:
        members = _listed_members(config.split_lists, names, images_dir, masks_dir, pair)
    elif config.val_fraction:
        shuffled = random.Random(config.split_seed).sample(paths, len(paths))
        num_val = max(1, round(config.val_fraction * len(paths)))
        members = {"train": sorted(shuffled[num_val:]), "val": sorted(shuffled[:num_val])}
    else:
        members = _members_by_folder(paths, images_dir)
    return {split: [pair(path) for path in some] for split, some in members.items()}


def _refuse_unnameable(names: dict[Path, str]) -> None:
    """Refuses two images of one name, and names that a record cannot hold."""
    first: dict[str, Path] = {}
    for path, name in names.items():
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


def _listed_members(
    split_lists: str,
    names: dict[Path, str],
    images_dir: Path,
    masks_dir: Path,
    pair: Callable[[Path], conversion.FilePair],
) -> dict[str, list[Path]]:
    by_name = {name: path for path, name in names.items()}

    def image_of(text: str) -> Path | None:
        """Returns the image that a text names, by name or path, with or without ending."""
        for name in (text, *_inside(text, images_dir)):
            if image := by_name.get(name) or by_name.get(_without_ending(name)):
                return image
        return None

    def image_of_line(line: str) -> Path | None:
        if image := image_of(line):
            return image
        for gap in re.finditer(r"[\s,;]+", line):  # an image and its mask
            image, mask = image_of(line[: gap.start()]), line[gap.end() :]
            named = [masks_dir / name for name in (mask, *_inside(mask, masks_dir))]
            if image and pair(image).mask_path in named:
                return image
        return None

    members: dict[str, list[Path]] = {}
    for part in re.split(r",(?=[^,=/]+=)", split_lists):  # a file's name may hold commas
        split, _, list_path = part.partition("=")
        if not split or not list_path or split in members:
            raise UserError(
                f"--split_lists has {part!r}; allowed is NAME=FILE, once for each split."
            )
        what = f"The list of split {split!r},"
        lines = files.read_lines(
            Path(list_path), what, is_content=lambda line: image_of_line(line) is not None
        )
        some: dict[Path, None] = {}  # in the list's order
        for number, line in lines:
            image = image_of_line(line)
            where = f"Line {number} of {list_path}, {line!r},"
            if image is None:
                raise UserError(
                    f"{where} names no image in {images_dir}; a line must be an image's name, its "
                    "path from that folder or to it, or that path and its mask's."
                )
            if image in some:
                raise UserError(f"{where} names {image}, which an earlier line names too.")
            some[image] = None
        members[split] = list(some)
    return members


def _without_ending(name: str) -> str:
    ending = Path(name).suffix
    return name.removesuffix(ending) if ending.lower() in files.IMAGE_ENDINGS else name


def _inside(text: str, folder: Path) -> list[str]:
    """Returns what a path in a list may be called from `folder`: of its folders, the last lead it.

    Lists say images/a.jpg, ./images/a.jpg, ../images/a.jpg or the whole path.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    found = ["/".join(parts)]
    for own in {folder.absolute().parts, folder.resolve().parts}:
        for count in range(1, len(parts)):
            if own[-count:] == tuple(parts[:count]):
                found.append("/".join(parts[count:]))
    return found


def _members_by_folder(files: list[Path], images_dir: Path) -> dict[str, list[Path]]:
    members: dict[str, list[Path]] = {}
    for path in files:
        relative = path.relative_to(images_dir)
        if len(relative.parts) == 1:
            raise UserError(
                f"{path} lies in no split's folder; put images in {images_dir}/train and "
                f"{images_dir}/val, or give --split_lists or --val_fraction."
            )
        members.setdefault(relative.parts[0], []).append(path)
    return members


def _pair(path: Path, name: str, masks_dir: Path, mask_suffix: str) -> conversion.FilePair:
    mask = masks_dir / f"{name}{mask_suffix}.png"
    if not mask.is_file():
        raise UserError(f"The image {path} has no mask: {mask} does not exist.")
    return conversion.FilePair(name, path, mask)


def run() -> None:
    config_flags.run(main, [FolderConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

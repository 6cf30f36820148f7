"""Converts anybody's images and masks to TFRecords.

    python -m datasets.build_folder_data --images_dir=photos --masks_dir=masks \
        --class_list=classes.csv --output_dir=records

Images are JPEG or PNG, masks are PNGs of the same name: index, palette or RGB-colour masks.
Splits come from sub-folders that both folders share (photos/train, masks/train, ...), from list
files (--split_lists=train=train.txt,val=val.txt), or from a seeded share (--val_fraction=0.2).
"""

import random
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import UserError, require, setting
from deeplab_tf.data import building, catalog, conversion

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class FolderConfig(building.BuilderConfig):
    """Where images, masks and classes are, and how they are split."""

    images_dir: str = setting(
        "", "Folder with the images (JPEG or PNG), or with one folder a split."
    )
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
    split_lists: str = setting("", "Splits as NAME=FILE[,NAME=FILE...]; a file lists image names.")
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
    coding = conversion.MaskCoding(
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
    files = sorted(path for path in images_dir.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"--images_dir={images_dir} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    names = {path: path.relative_to(images_dir).with_suffix("").as_posix() for path in files}
    _refuse_duplicates(names)
    if config.split_lists:
        members = _listed_members(config.split_lists, {name: path for path, name in names.items()})
    elif config.val_fraction:
        shuffled = random.Random(config.split_seed).sample(files, len(files))
        num_val = max(1, round(config.val_fraction * len(files)))
        members = {"train": sorted(shuffled[num_val:]), "val": sorted(shuffled[:num_val])}
    else:
        members = _members_by_folder(files, images_dir)
    return {
        split: [_pair(path, names[path], masks_dir, config.mask_suffix) for path in paths]
        for split, paths in members.items()
    }


def _refuse_duplicates(names: dict[Path, str]) -> None:
    first: dict[str, Path] = {}
    for path, name in names.items():
        if name in first:
            raise UserError(
                f"{first[name]} and {path} share the name {name!r}; remove one of them."
            )
        first[name] = path


def _listed_members(split_lists: str, files: dict[str, Path]) -> dict[str, list[Path]]:
    members: dict[str, list[Path]] = {}
    for part in split_lists.split(","):
        split, _, list_path = part.partition("=")
        if not split or not Path(list_path).is_file():
            raise UserError(
                f"--split_lists has {part!r}; allowed is NAME=FILE with an existing file."
            )
        wanted = [line.strip() for line in Path(list_path).read_text().splitlines() if line.strip()]
        wanted = [
            name.removesuffix(Path(name).suffix) if name not in files else name for name in wanted
        ]
        missing = [name for name in wanted if name not in files]
        if missing or len(set(wanted)) != len(wanted) or not wanted:
            problem = f"the unknown image {missing[0]!r}" if missing else "no image or one twice"
            raise UserError(f"The list {list_path} of split {split!r} has {problem}.")
        members[split] = [files[name] for name in wanted]
    return members


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

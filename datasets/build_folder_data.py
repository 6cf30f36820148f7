r"""Converts your own images and masks to TFRecords.

    python -m datasets.build_folder_data --images_dir=photos --masks_dir=masks \
        --class_list=classes.csv --output_dir=records

Images are JPEG, PNG, BMP, WebP or TIFF; masks are PNGs (or lossless BMP, TIFF or WebP files) of the
same name: grey, palette or RGB. The class list says what a mask's values or colours mean.
Splits come from sub-folders that both folders share (photos/train, masks/train, ...), from list
files (--split_lists=train=train.txt,val=val.txt), or from a seeded share (--val_fraction=0.2).
"""

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import flags, require, require_given, setting
from deeplab_tf.conversion import building, encoding, folder_pairs, masks
from deeplab_tf.data import catalog, class_lists
from deeplab_tf.messages import UserError, counted, warn


@dataclass(frozen=True, kw_only=True)
class FolderConfig(building.BuilderConfig):
    """Where images, masks and classes are, and how they are split."""

    images_dir: str = setting("", "Folder with the images, or with one folder for each split.")
    masks_dir: str = setting(
        "", "Folder with the masks, arranged like the images; it may be the same folder."
    )
    class_list: str = setting(
        "",
        "Classes in the order of their train ids: names, one per line; a CSV file with the column "
        "name and optionally r, g, b and label_id (values in masks, such as 7;8); or CVAT's "
        "labelmap.txt.",
    )
    dataset: str = setting("", "Name of the data set; by default the name of output_dir.")
    ignore_label: tuple[int, ...] = setting(
        (),
        "Mask values of pixels that do not count; 255 by default, unless it is a class's label_id. "
        "Records keep a single value as it is; several values, or any with label_ids, become 255.",
        least=0,
        most=255,
    )
    ignore_colors: tuple[int, ...] = setting(
        (),
        "Colours in RGB masks, r,g,b[,r,g,b...], of pixels that do not count.",
        least=0,
        most=255,
    )
    mask_encoding: str = setting(
        "auto",
        "How to read masks. index: values (RGB masks need R = G = B). color: colours, even of "
        "palette and grey masks. auto: values of grey and palette masks, colours of RGB masks; "
        "refuses masks whose values and colours mean different classes.",
        choices=("auto", "index", "color"),
    )
    image_suffix: str = setting(
        "", "Ending of image names that mask names lack, such as _sat in 1_sat.jpg."
    )
    mask_suffix: str = setting(
        "", "Ending of mask names that image names lack, such as _mask in 1_mask.png."
    )
    split_lists: tuple[str, ...] = setting(
        (),
        "Splits as NAME=FILE; each line of a file is the name or path of an image, or the paths of "
        "an image and its mask.",
        names="named_files",
    )
    val_fraction: float = setting(
        0.0,
        "Share of the images that go to the split val; the rest go to train.",
        least=0,
        below=1,
    )
    split_seed: int = setting(0, "Seed of the random choice for val_fraction.", least=0)

    def __post_init__(self):
        super().__post_init__()
        for name in ("images_dir", "masks_dir", "class_list"):
            require_given(name, getattr(self, name), "a path")

        only_one = not (self.val_fraction and self.split_lists)
        require(only_one, "val_fraction", self.val_fraction, "0 with --split_lists")
        has_effect = bool(self.val_fraction or not self.split_seed)
        require(has_effect, "split_seed", self.split_seed, "0 without --val_fraction")

        colors = self.ignore_colors
        require(len(colors) % 3 == 0, "ignore_colors", colors, "triples r,g,b of 0 to 255")
        require(
            not (self.ignore_colors and self.mask_encoding == "index"),
            "ignore_colors",
            self.ignore_colors,
            "none with --mask_encoding=index, which reads no colours: give --ignore_label",
        )


def main(config: FolderConfig) -> None:
    """Converts all splits; skips those already converted from the same files."""
    class_list = class_lists.read_class_list(Path(config.class_list))
    coding = mask_coding(config, class_list)
    output_dir = Path(config.output_dir)
    info = catalog.DatasetInfo(
        name=config.dataset or output_dir.resolve().name,
        classes=class_list.classes,
        ignore_label=coding.ignore_label,
    )
    building.build(config, info, find_splits(config), coding)


def mask_coding(config: FolderConfig, class_list: class_lists.ClassList) -> masks.MaskCoding:
    """Returns what the values and colours of masks mean, from the class list and the settings.

    Raises:
      UserError: if a value or colour would mean two things.
    """
    classes = class_list.classes
    class_of = {
        value: label_class.name for label_class in classes for value in label_class.label_ids
    }
    too_large = [value for value in class_of if value > 255]
    if too_large:
        raise UserError(
            f"The class list {config.class_list} has the label_id {too_large[0]}; masks have 8 "
            "bits, so values are 0 to 255."
        )

    stated = tuple(dict.fromkeys(config.ignore_label))
    ignored = stated or (() if 255 in class_of else (255,))
    for value in ignored:
        if value in class_of:
            raise UserError(
                f"--ignore_label has {value}, the label_id of {class_of[value]!r} in "
                f"{config.class_list}; take it out of one of them."
            )

    # If the values are train ids already and one value is ignored, no value has to change.
    are_indices = all(
        label_class.label_ids in ((), (index,)) for index, label_class in enumerate(classes)
    )
    is_plain = are_indices and len(ignored) == 1
    ignore_label = ignored[0] if is_plain else 255
    if is_plain and config.ignore_colors and ignore_label < len(classes):
        name = classes[ignore_label].name
        raise UserError(
            f"--ignore_label={ignore_label} is the class {name!r} in {config.class_list}, and all "
            f"its pixels would be ignored too; leave --ignore_label out. (To ignore {name!r} on "
            "purpose, remove its line from the class list and add its colour to --ignore_colors.)"
        )

    index_map = [-1] * 256
    for index, label_class in enumerate(classes):
        for value in label_class.label_ids or (index,):
            index_map[value] = index
    for value in ignored:
        index_map[value] = ignore_label

    return masks.MaskCoding(
        num_classes=len(classes),
        ignore_label=ignore_label,
        colors=_colors(config, class_list),
        ignore_colors=_ignore_colors(config, class_list),
        encoding=config.mask_encoding,
        ignored_values=stated,
        index_map=() if is_plain else tuple(index_map),
        class_names=tuple(label_class.name for label_class in classes),
        class_list=config.class_list,
    )


def _colors(config: FolderConfig, class_list: class_lists.ClassList) -> tuple[masks.Color, ...]:
    if class_list.has_colors:
        return tuple(label_class.color for label_class in class_list.classes)
    if config.mask_encoding == "color":
        raise UserError(
            f"--mask_encoding=color needs the classes' colours, and {config.class_list} has none; "
            "give it the columns r, g and b."
        )
    return ()


def _ignore_colors(
    config: FolderConfig, class_list: class_lists.ClassList
) -> tuple[masks.Color, ...]:
    flat = config.ignore_colors
    colors = tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3))
    for label_class in class_list.classes if class_list.has_colors else ():
        if label_class.color in colors:
            raise UserError(
                f"--ignore_colors has the colour of {label_class.name!r} in {config.class_list}, "
                f"{','.join(map(str, label_class.color))}; take it out of one of them."
            )
    return colors


def find_splits(config: FolderConfig) -> dict[str, list[encoding.FilePair]]:
    """Returns the image and mask files of each split, in the order of their names.

    Raises:
      UserError: if a folder, image or mask is missing, or it is not clear which splits there are.
    """
    images_and_masks = folder_pairs.ImagesAndMasks(
        folder_pairs.Layout(
            Path(config.images_dir),
            Path(config.masks_dir),
            image_suffix=config.image_suffix,
            mask_suffix=config.mask_suffix,
        )
    )
    names = images_and_masks.images
    if config.split_lists:
        members = _listed_members(config, images_and_masks)
    elif config.val_fraction:
        members = _random_members(config, list(names))
    else:
        members = _members_by_folder(list(names), Path(config.images_dir))
    splits = {
        split: [
            encoding.FilePair(names[path], path, images_and_masks.mask_of(path)) for path in paths
        ]
        for split, paths in members.items()
    }

    if unlisted := len(names) - len(set().union(*members.values())):
        warn(
            f"{config.images_dir}: left out {counted(unlisted, 'image')} of {len(names)}, "
            "which no split's list names."
        )
    _warn_of_shared_images(splits)
    return splits


def _random_members(config: FolderConfig, images: list[Path]) -> dict[str, list[Path]]:
    """Draws the images of the split val; the others go to train."""
    if len(images) == 1:
        raise UserError(
            f"--val_fraction={config.val_fraction} needs two images, and {config.images_dir} holds "
            f"one, {images[0]}; add others, or give --split_lists=train=FILE with its name in FILE."
        )
    num_val = max(1, round(config.val_fraction * len(images)))
    if num_val == len(images):
        raise UserError(
            f"--val_fraction={config.val_fraction} puts all {len(images)} images into val and none "
            "into train; give a smaller share, such as 0.2."
        )

    shuffled = random.Random(config.split_seed).sample(images, len(images))
    return {"train": sorted(shuffled[num_val:]), "val": sorted(shuffled[:num_val])}


def _listed_members(
    config: FolderConfig, images_and_masks: folder_pairs.ImagesAndMasks
) -> dict[str, list[Path]]:
    """Returns the images of each split that --split_lists names."""
    members: dict[str, list[Path]] = {}
    for part in config.split_lists:
        split, _, list_path = part.partition("=")
        if not re.fullmatch(r"\w[\w.-]*", split) or not list_path or split in members:
            raise UserError(
                f"--split_lists={part} is not possible; allowed: NAME=FILE, once for each split, "
                "with a name of letters, digits, '_', '-' and '.', such as train=a.txt,val=b.txt."
            )
        members[split] = _read_list(split, Path(list_path), config, images_and_masks)
    return members


def _read_list(
    split: str,
    list_path: Path,
    config: FolderConfig,
    images_and_masks: folder_pairs.ImagesAndMasks,
) -> list[Path]:
    """Returns the images that a list names, in its order."""
    images_dir, masks_dir = Path(config.images_dir), Path(config.masks_dir)
    by_name = {name: path for path, name in images_and_masks.images.items()}

    def image_of(text: str) -> Path | None:
        """Returns the image that a text names, by name or path, with or without ending."""
        for name in (text, *_paths_inside(text, images_dir)):
            if image := by_name.get(name) or by_name.get(_without_ending(name)):
                return image
        return None

    def image_of_line(line: str) -> Path | None:
        if image := image_of(line):
            return image

        # An image and its mask. Any gap may be the one between them, since names may have spaces.
        for gap in re.finditer(r"[\s,;]+", line):
            image, mask = image_of(line[: gap.start()]), line[gap.end() :]
            paths = [masks_dir / name for name in (mask, *_paths_inside(mask, masks_dir))]
            existing = filter(Path.exists, paths)
            if image and any(map(images_and_masks.mask_of(image).samefile, existing)):
                return image
        return None

    lines = files.read_lines(
        list_path,
        f"The list of split {split!r},",
        is_content=lambda line: image_of_line(line) is not None,
    )

    members: dict[Path, None] = {}  # a set that keeps the order of the list
    for number, line in lines:
        image = image_of_line(line)
        where = f"Line {number} of {list_path}, {line!r},"
        if image is None:
            raise UserError(
                f"{where} names no image in {images_dir}; a line must be the name of an image, its "
                "path from that folder or to it, or that path and the path of its mask."
            )
        if image in members:
            raise UserError(f"{where} names {image}, which an earlier line names too.")
        members[image] = None
    return list(members)


def _without_ending(name: str) -> str:
    ending = Path(name).suffix
    return name.removesuffix(ending) if ending.lower() in files.IMAGE_ENDINGS else name


def _paths_inside(text: str, folder: Path) -> list[str]:
    """Returns which paths from `folder` a path in a list may mean.

    For a folder .../data/images, lists may say a.jpg, images/a.jpg, ./images/a.jpg,
    ../images/a.jpg, data/images/a.jpg or the whole path: any number of the last folders may lead.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    paths = ["/".join(parts)]
    for folders in {folder.absolute().parts, folder.resolve().parts}:
        for count in range(1, len(parts)):
            if folders[-count:] == tuple(parts[:count]):
                paths.append("/".join(parts[count:]))
    return paths


def _members_by_folder(images: list[Path], images_dir: Path) -> dict[str, list[Path]]:
    """Groups the images by their folder in `images_dir`, whose name is the name of the split."""
    members: dict[str, list[Path]] = {}
    for path in images:
        relative = path.relative_to(images_dir)
        if len(relative.parts) == 1:
            raise UserError(
                f"{path} is not in the folder of a split; put images in {images_dir}/train and "
                f"{images_dir}/val, or give --split_lists or --val_fraction. (For folders such as "
                "train/images, docs/data.md shows the links that turn them round.)"
            )
        members.setdefault(relative.parts[0], []).append(path)
    return members


def _warn_of_shared_images(splits: Mapping[str, Sequence[encoding.FilePair]]) -> None:
    """Warns of images that are in two splits, even if the files have different names.

    A model must not be scored on images that it was trained on. A split whose name contains the
    name of another may share its images, as trainval does with train and val.
    """
    paths = {split: [pair.image_path for pair in pairs] for split, pairs in splits.items()}
    first_of = files.first_of_equals(itertools.chain(*paths.values()))
    # For each split, its first image of each content; reversed, since the last one given stays.
    in_split = {
        split: {first_of[path]: path for path in reversed(images) if path in first_of}
        for split, images in paths.items()
    }

    for one, other in itertools.combinations(splits, 2):
        shared = sorted(in_split[one].keys() & in_split[other].keys())
        if shared and one not in other and other not in one:
            path, twin = in_split[one][shared[0]], in_split[other][shared[0]]
            where = f"{path}" if path == twin else f"{path}, the same file as {twin}"
            warn(
                f"{one!r} and {other!r} share {counted(len(shared), 'image')} (the first: {where});"
                " a score on training images says nothing: take them out of one split."
            )


def run() -> None:
    flags.run(main, [FolderConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

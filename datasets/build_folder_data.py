r"""Converts your own images and masks to TFRecords.

    python -m datasets.build_folder_data --images_dir=photos --masks_dir=masks \
        --class_list=classes.csv --output_dir=records

Images are JPEG, PNG, BMP, WebP or TIFF, of 8-bit RGB unless --image_channels or --image_max_value
say otherwise; masks are PNGs (or lossless BMP, TIFF or WebP files) of the same name: grey,
palette or RGB. The class list says what a mask's values or colours mean.
In place of masks, --annotations takes what annotation tools draw: the JSON files of labelme and
Supervisely, COCO's JSON files of instances or stuff, and CVAT's XML for images.
Splits come from sub-folders that both folders share (photos/train, masks/train, ...), from list
files (--split_lists=train=train.txt,val=val.txt), or from a seeded share (--val_fraction=0.2).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import flags, require, require_exactly_one, require_given, setting
from deeplab_tf.conversion import (
    building,
    data_trees,
    encoding,
    folder_pairs,
    masks,
    split_members,
)
from deeplab_tf.conversion.annotations import sources
from deeplab_tf.data import catalog, class_lists, image_kinds
from deeplab_tf.messages import UserError

_WITH_MASKS: dict[str, tuple] = {"masks_dir": (), "data_dir": ()}
_WITH_ANNOTATIONS: dict[str, tuple] = {"annotations": ()}


@dataclass(frozen=True, kw_only=True)
class FolderConfig(building.BuilderConfig):
    """Where images, labels and classes are, and how they are split."""

    images_dir: str = setting("", "Folder with the images, or with one folder for each split.")
    masks_dir: str = setting(
        "", "Folder with the masks, arranged like the images; it may be the same folder."
    )
    data_dir: str = setting(
        "",
        "In place of images_dir and masks_dir, a folder with a usual tree in it: images/train and "
        "masks/train (or annotations, ann_dir, labels), or train/images and train/masks.",
    )
    annotations: tuple[str, ...] = setting(
        (),
        "In place of masks_dir, what an annotation tool drew: a folder of labelme's .json files, "
        "which may lie next to the images; Supervisely's project, or a folder ann in it; COCO's "
        ".json of instances or stuff; or CVAT's .xml for images. With a file for each split, "
        "NAME=FILE, or a folder with files of these names.",
        names="named_files",
    )
    unlabeled: str = setting(
        "background",
        "What pixels without an annotation are: the class background (or _background_, "
        "__background__), or ignored.",
        choices=("background", "ignore"),
        only_with=_WITH_ANNOTATIONS,
    )
    unlisted: str = setting(
        "refuse",
        "What becomes of annotations whose label the class list lacks: refuse stops, ignore makes "
        "pixels that do not count, skip does not draw them.",
        choices=("refuse", "ignore", "skip"),
        only_with=_WITH_ANNOTATIONS,
    )
    crowds: str = setting(
        "class",
        "What COCO's crowds (regions of many objects) are: their class, or ignored.",
        choices=("class", "ignore"),
        only_with=_WITH_ANNOTATIONS,
    )
    class_list: str = setting(
        "",
        "Classes in the order of their train ids: names, one per line; a CSV file with the column "
        "name and optionally r, g, b and label_id (values in masks, such as 7;8); or CVAT's "
        "labelmap.txt. Annotations of COCO, CVAT and Supervisely list their classes themselves.",
    )
    image_channels: int = setting(
        3,
        "Channels of the images. With other than 3, or with image_max_value, images are PNG or "
        "TIFF files or arrays of numpy.save (.npy, [height, width, channels]) that have exactly "
        "these channels; the first three are shown as red, green and blue.",
        least=1,
        most=image_kinds.MOST_CHANNELS,
    )
    image_max_value: int = setting(
        0,
        "Value in the images that means full brightness, such as 10000 or 65535: it becomes 255, "
        "and larger values count as this one. 0 means 255, for images of 8 bits; any value above "
        "255 says that they have 16 bits.",
        least=0,
        most=image_kinds.MOST_VALUE,
    )
    dataset: str = setting("", "Name of the data set; by default the name of output_dir.")
    ignore_label: tuple[int, ...] = setting(
        (),
        "Mask values of pixels that do not count; 255 by default, unless it is a class's label_id. "
        "Records keep a single value as it is; several values, or any with label_ids, become 255.",
        least=0,
        most=255,
        only_with=_WITH_MASKS,
    )
    ignore_colors: tuple[int, ...] = setting(
        (),
        "Colours in RGB masks, r,g,b[,r,g,b...], of pixels that do not count.",
        least=0,
        most=255,
        only_with=_WITH_MASKS,
    )
    mask_encoding: str = setting(
        "auto",
        "How to read masks. index: values (RGB masks need R = G = B). color: colours, even of "
        "palette and grey masks. auto: values of grey and palette masks, colours of RGB masks; "
        "refuses masks whose values and colours mean different classes.",
        choices=("auto", "index", "color"),
        only_with=_WITH_MASKS,
    )
    image_suffix: str = setting(
        "",
        "Ending of image names that mask names lack, such as _sat in 1_sat.jpg.",
        only_with=_WITH_MASKS,
    )
    mask_suffix: str = setting(
        "",
        "Ending of mask names that image names lack, such as _mask in 1_mask.png.",
        only_with=_WITH_MASKS,
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
        if self.data_dir:
            require(not self.images_dir, "images_dir", self.images_dir, "nothing with --data_dir")
        else:
            require_given("images_dir", self.images_dir, "a path")
        require_exactly_one(
            masks_dir=self.masks_dir, annotations=self.annotations, data_dir=self.data_dir
        )
        if not self.annotations:
            require_given("class_list", self.class_list, "a path")

        only_one = not (self.val_fraction and self.split_lists)
        require(only_one, "val_fraction", self.val_fraction, "0 with --split_lists")
        has_effect = bool(self.val_fraction or not self.split_seed)
        require(has_effect, "split_seed", self.split_seed, "0 without --val_fraction")

        is_possible = self.exif_orientation == "apply" or self.image_kind().is_rgb
        require(
            is_possible,
            "exif_orientation",
            self.exif_orientation,
            "apply for images that are not 8-bit RGB, and none of those may have EXIF data that "
            "turn it: leave the flag out, and save such images without these data",
        )

        colors = self.ignore_colors
        require(len(colors) % 3 == 0, "ignore_colors", colors, "triples r,g,b of 0 to 255")
        require(
            not (self.ignore_colors and self.mask_encoding == "index"),
            "ignore_colors",
            self.ignore_colors,
            "none with --mask_encoding=index, which reads no colours: give --ignore_label",
        )

    def image_kind(self) -> image_kinds.ImageKind:
        """Returns the kind of the images, as the settings say."""
        full = self.image_max_value or image_kinds.RGB.max_value
        return image_kinds.ImageKind(self.image_channels, full)

    def image_endings(self) -> tuple[str, ...]:
        """Returns the endings of the images' files."""
        arrays = () if self.image_kind().is_rgb else (files.ARRAY_ENDING,)
        return (*files.IMAGE_ENDINGS, *arrays)


def main(config: FolderConfig) -> None:
    """Converts all splits; skips those already converted from the same files."""
    class_list = None
    if config.class_list:
        class_list = class_lists.read_class_list(Path(config.class_list))
    if config.annotations:
        class_list, coding, splits = find_drawings(config, class_list)
    else:
        assert class_list is not None  # FolderConfig requires it
        coding, splits = mask_coding(config, class_list), find_splits(config)
    _require_folder_for_records(config, splits)

    output_dir = Path(config.output_dir)
    info = catalog.DatasetInfo(
        name=config.dataset or output_dir.resolve().name,
        classes=class_list.classes,
        ignore_label=coding.ignore_label,
        image_kind=config.image_kind(),
    )
    building.build(config, info, splits, coding)


def _require_folder_for_records(
    config: FolderConfig, splits: Mapping[str, Sequence[encoding.FilePair]]
) -> None:
    """Refuses a folder of images or labels for the records: later builds would meet them there."""
    named = filter(None, (config.images_dir, config.masks_dir, *config.annotations))
    pairs = itertools.chain(*splits.values())
    holding = {path.parent for pair in pairs for path in (pair.image_path, pair.mask_path) if path}
    output_dir = Path(config.output_dir).resolve()
    if output_dir in {folder.resolve() for folder in (*map(Path, named), *holding)}:
        raise UserError(
            f"--output_dir={config.output_dir} is a folder of images or labels; give the records a "
            "folder of their own outside of these, such as --output_dir=records."
        )


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
    if config.data_dir:
        parts = data_trees.recognise(
            Path(config.data_dir),
            image_endings=config.image_endings(),
            image_suffix=config.image_suffix,
            mask_suffix=config.mask_suffix,
        )
    else:
        parts = [data_trees.Part("", Path(config.images_dir), Path(config.masks_dir))]

    splits: dict[str, list[encoding.FilePair]] = {}
    for part in parts:
        splits |= _splits_of_part(config, part)
    split_members.warn_of_shared_images(splits)
    return splits


def _splits_of_part(
    config: FolderConfig, part: data_trees.Part
) -> dict[str, list[encoding.FilePair]]:
    """Returns the splits in a folder of images and a folder of masks."""
    images_and_masks = folder_pairs.ImagesAndMasks(
        folder_pairs.Layout(
            part.images_dir,
            part.masks_dir,
            image_suffix=config.image_suffix,
            mask_suffix=config.mask_suffix,
            image_endings=config.image_endings(),
        )
    )

    def is_mask_of(image: Path, text: str) -> bool:
        folder = part.masks_dir
        paths = [folder / name for name in (text, *split_members.paths_inside(text, folder))]
        mask = images_and_masks.mask_of(image)
        return any(map(mask.samefile, filter(Path.exists, paths)))

    names, prefix = images_and_masks.images, ""
    if part.split:
        allowed = "{} where the folders of --data_dir are the splits"
        require(not config.val_fraction, "val_fraction", config.val_fraction, allowed.format(0))
        require(not config.split_lists, "split_lists", config.split_lists, allowed.format("none"))
        members, prefix = {part.split: list(names)}, f"{part.split}/"
    else:
        settings = _split_settings(config, part.images_dir)
        members = split_members.members_of_splits(settings, names, is_mask_of)
        if not (config.val_fraction or config.split_lists):  # so folders are the splits
            members = data_trees.without_unlabelled(members, part)
            if config.data_dir:
                members = data_trees.with_split_names(members, part.images_dir)
    return {
        split: [
            encoding.FilePair(f"{prefix}{names[path]}", path, images_and_masks.mask_of(path))
            for path in paths
        ]
        for split, paths in members.items()
    }


def find_drawings(
    config: FolderConfig, class_list: class_lists.ClassList | None
) -> tuple[class_lists.ClassList, masks.MaskCoding, dict[str, list[encoding.FilePair]]]:
    """Returns the classes, what labels mean, and the images of each split with their drawings.

    Raises:
      UserError: if a file is missing or damaged, or it is not clear what it means.
    """
    annotations = sources.read_sources(config.annotations)
    class_list, coding = sources.classes_of(
        annotations,
        class_list,
        path=config.class_list,
        unlabeled=config.unlabeled,
        unlisted=config.unlisted,
        crowds=config.crowds,
    )
    splits = sources.pairs_of_splits(annotations, _split_settings(config, Path(config.images_dir)))
    split_members.warn_of_shared_images(splits)
    return class_list, coding, splits


def _split_settings(config: FolderConfig, images_dir: Path) -> split_members.SplitSettings:
    return split_members.SplitSettings(
        images_dir,
        config.split_lists,
        config.val_fraction,
        config.split_seed,
        config.image_endings(),
        config.skip_bad,
    )


def _main_of_program(config: FolderConfig) -> None:
    if not config.image_kind().is_rgb:
        import tensorflow as tf  # decodes PNGs of 16 bits; 8-bit RGB needs none

        # It would take the memory of GPUs from trainers on this host.
        tf.config.set_visible_devices([], "GPU")
    main(config)


def run() -> None:
    flags.run(_main_of_program, [FolderConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

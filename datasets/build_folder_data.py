"""Converts anybody's images and masks to TFRecords.

    python -m datasets.build_folder_data --images_dir=photos --masks_dir=masks \
        --class_list=classes.csv --output_dir=records

Images are JPEG, PNG, BMP, WebP or TIFF; masks are PNGs (or lossless BMP, TIFF or WebP files) of the
same name: grey, palette or RGB. What a mask's values or colours mean is said by the class list.
Splits come from sub-folders that both folders share (photos/train, masks/train, ...), from list
files (--split_lists=train=train.txt,val=val.txt), or from a seeded share (--val_fraction=0.2).
"""

import itertools
import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags, files
from deeplab_tf.config import UserError, require, setting
from deeplab_tf.data import building, catalog, class_lists, conversion, masks

_JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")
_POLYGON_ENDINGS = (".json", ".xml", ".txt")
_POLYGONS = (
    "polygons are not read: draw them as PNG masks first, as datasets/README.md shows for labelme, "
    "CVAT, Supervisely and COCO."
)


@dataclass(frozen=True, kw_only=True)
class FolderConfig(building.BuilderConfig):
    """Where images, masks and classes are, and how they are split."""

    images_dir: str = setting("", "Folder with the images, or with one folder a split.")
    masks_dir: str = setting(
        "", "Folder with the masks (PNG), arranged like the images; it may be the same folder."
    )
    class_list: str = setting(
        "",
        "Classes in the order of their train ids: names, one a line; a CSV file with the column "
        "name and, if wanted, r, g, b and label_id (masks' values, as 7;8); or a labelmap.txt of "
        "CVAT's.",
    )
    dataset: str = setting("", "Data set's name; the name of output_dir by default.")
    ignore_label: tuple[int, ...] = setting(
        (),
        "Mask values of pixels that do not count: 255, unless it is a class's label_id. Records "
        "store a single value as it is; for several, or with label_ids, they store 255.",
        least=0,
    )
    ignore_colors: tuple[int, ...] = setting(
        (), "Colours r,g,b[,r,g,b...] of RGB masks that become the ignored label.", least=0
    )
    mask_encoding: str = setting(
        "auto",
        "index takes masks' values, those of RGB masks too if R, G and B are equal; color takes "
        "colours, those of palette and grey masks too; auto takes the values of grey and palette "
        "masks and the colours of RGB masks, and refuses masks that show other colours than those "
        "of their values' classes.",
        choices=("auto", "index", "color"),
    )
    image_suffix: str = setting(
        "", "What an image's name has at its end and its mask's has not, as _sat in 1_sat.jpg."
    )
    mask_suffix: str = setting(
        "", "What a mask's name has at its end and its image's has not, as _mask in 1_mask.png."
    )
    split_lists: tuple[str, ...] = setting(
        (),
        "Splits as NAME=FILE; a line of a file is an image's name or path, or its path and its "
        "mask's.",
        names="named_files",
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
        only_one = not (self.val_fraction and self.split_lists)
        require(only_one, "val_fraction", self.val_fraction, "0 with --split_lists")
        require(
            all(value <= 255 for value in self.ignore_label),
            "ignore_label",
            self.ignore_label,
            "values of 0 to 255, as masks have",
        )
        require(
            len(self.ignore_colors) % 3 == 0 and all(value <= 255 for value in self.ignore_colors),
            "ignore_colors",
            self.ignore_colors,
            "triples r,g,b of 0 to 255",
        )
        require(
            not (self.ignore_colors and self.mask_encoding == "index"),
            "ignore_colors",
            self.ignore_colors,
            "none with --mask_encoding=index, which reads no colours: give --ignore_label",
        )


def main(config: FolderConfig) -> None:
    """Converts all splits; those already converted from the same files are left alone."""
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
    """Returns what the masks' values and colours mean, by the class list and the settings.

    Raises:
      UserError: if a value or colour is to mean two things.
    """
    classes = class_list.classes
    class_of = {value: own.name for own in classes for value in own.label_ids}
    too_large = [value for value in class_of if value > 255]
    if too_large:
        raise UserError(
            f"The class list {config.class_list} has the label_id {too_large[0]}; masks have 8 "
            "bits, so values of 0 to 255."
        )
    stated = tuple(dict.fromkeys(config.ignore_label))
    ignored = stated or (() if 255 in class_of else (255,))
    for value in ignored:
        if value in class_of:
            raise UserError(
                f"--ignore_label has {value}, the label_id of {class_of[value]!r} in "
                f"{config.class_list}; take it out of one of them."
            )

    # One ignored value next to values that are train ids already: nothing is mapped.
    are_indices = all(own.label_ids in ((), (index,)) for index, own in enumerate(classes))
    is_plain = are_indices and len(ignored) == 1
    ignore_label = ignored[0] if is_plain else 255
    index_map = [-1] * 256
    for index, own in enumerate(classes):
        for value in own.label_ids or (index,):
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
        class_names=tuple(own.name for own in classes),
        class_list=config.class_list,
    )


def _colors(config: FolderConfig, class_list: class_lists.ClassList) -> tuple[masks.Color, ...]:
    if class_list.has_colors:
        return tuple(own.color for own in class_list.classes)
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
    for own in class_list.classes if class_list.has_colors else ():
        if own.color in colors:
            raise UserError(
                f"--ignore_colors has the colour of {own.name!r} in {config.class_list}, "
                f"{','.join(map(str, own.color))}; take it out of one of them."
            )
    return colors


def find_splits(config: FolderConfig) -> dict[str, list[conversion.FilePair]]:
    """Returns each split's image and mask files, in the order of their names.

    Raises:
      UserError: if a folder, image or mask is missing, or the splits cannot be told.
    """
    images_dir, masks_dir = Path(config.images_dir), Path(config.masks_dir)
    if masks_dir.is_file() and masks_dir.suffix.lower() in _POLYGON_ENDINGS:
        raise UserError(f"--masks_dir={masks_dir} is no folder of masks; {_POLYGONS}")
    for flag, folder in (("images_dir", images_dir), ("masks_dir", masks_dir)):
        if not folder.is_dir():
            raise UserError(f"--{flag}={folder} does not exist or is not a folder.")
    names, mask_names, listing = _images_and_masks(config)
    _refuse_unnameable(names)
    building.warn_of_left_out(images_dir, len(names), listing)
    _warn_of_masks_without_image(config, names, mask_names)
    find_mask = _mask_finder(config, mask_names)

    def pair(path: Path) -> conversion.FilePair:
        return conversion.FilePair(names[path], path, find_mask(path, names[path]))

    paths = list(names)
    if config.split_lists:
        members = _listed_members(config.split_lists, names, images_dir, masks_dir, pair)
    elif config.val_fraction:
        shuffled = random.Random(config.split_seed).sample(paths, len(paths))
        num_val = max(1, round(config.val_fraction * len(paths)))
        members = {"train": sorted(shuffled[num_val:]), "val": sorted(shuffled[:num_val])}
    else:
        members = _members_by_folder(paths, images_dir)
    if unlisted := len(paths) - len(set().union(*members.values())):
        building.warn(f"{unlisted} of {len(paths)} images in {images_dir} are in no split's list.")
    return {split: [pair(path) for path in some] for split, some in members.items()}


def _images_and_masks(
    config: FolderConfig,
) -> tuple[dict[Path, str], dict[Path, str], files.Listing]:
    """Returns the images and the masks, each with its name, and what was left out of the images.

    Where images and masks share a folder, no file is both.
    """
    images_dir, masks_dir = Path(config.images_dir), Path(config.masks_dir)
    listing = files.list_folder(images_dir)
    images = {path: name for name, path in listing.images}
    mask_files = {path: name for name, path in files.list_folder(masks_dir).images}

    image_root, mask_root = images_dir.resolve(), masks_dir.resolve()
    if image_root == mask_root:
        is_image = _image_test(config, images)
        images = {path: name for path, name in images.items() if is_image(path, name)}
        mask_files = {path: name for path, name in mask_files.items() if not is_image(path, name)}
    elif mask_root.is_relative_to(image_root):
        masks_inside = images_dir / mask_root.relative_to(image_root)
        images = {p: name for p, name in images.items() if not p.is_relative_to(masks_inside)}
    elif image_root.is_relative_to(mask_root):
        images_inside = masks_dir / image_root.relative_to(mask_root)
        mask_files = {
            p: name for p, name in mask_files.items() if not p.is_relative_to(images_inside)
        }

    if config.image_suffix:
        named = {p: name for p, name in images.items() if _ends(name, config.image_suffix)}
        others = len(images) - len(named)
        if others and image_root != mask_root:
            listing.left_out[f"without {config.image_suffix}"] += others
        images = named
    if not images:
        suffix = f" whose name ends with {config.image_suffix!r}" if config.image_suffix else ""
        left_out = f"; {listing.note()}" if listing.left_out else ""
        raise UserError(
            f"--images_dir={images_dir} holds no image{suffix} "
            f"({', '.join(files.IMAGE_ENDINGS)}){left_out}."
        )
    return images, mask_files, listing


def _image_test(config: FolderConfig, names: dict[Path, str]) -> Callable[[Path, str], bool]:
    """Returns what tells the images from the masks of one folder."""
    if config.image_suffix:
        return lambda path, name: _ends(name, config.image_suffix)
    if config.mask_suffix:
        return lambda path, name: not _ends(name, config.mask_suffix)
    # A file with the name of a JPEG is its mask, since no mask can be a JPEG.
    jpegs = {_folded(n): path for path, n in names.items() if path.suffix.lower() in _JPEG_ENDINGS}
    return lambda path, name: jpegs.get(_folded(name), path) == path


def _ends(name: str, suffix: str) -> bool:
    return _folded(name).endswith(_folded(suffix))


def _folded(name: str) -> str:
    """Returns a name in which letters of either case, and of either Unicode form, are equal."""
    return unicodedata.normalize("NFC", name).casefold()


def _key(name: str, suffix: str) -> str:
    """Returns what an image's and its mask's names have in common."""
    return _folded(name).removesuffix(_folded(suffix))


def _mask_finder(config: FolderConfig, mask_names: dict[Path, str]) -> Callable[[Path, str], Path]:
    """Returns what finds an image's mask: by its name, or else its name with letters of any case.

    A PNG is preferred to other files of its name.
    """
    found: dict[str, list[Path]] = {}
    for path, name in mask_names.items():
        if _ends(name, config.mask_suffix):
            found.setdefault(_key(name, config.mask_suffix), []).append(path)
    image_of: dict[Path, Path] = {}

    def rank(mask: Path, name: str) -> tuple[bool, ...]:
        ending = mask.suffix.lower()
        stem = name[: len(name) - len(config.image_suffix)]
        is_exact = mask_names[mask] == stem + config.mask_suffix
        return ending in _JPEG_ENDINGS, ending != ".png", not is_exact

    def find_mask(image: Path, name: str) -> Path:
        key = _key(name, config.image_suffix)
        ranked = sorted(found.get(key, ()), key=lambda mask: rank(mask, name))
        if not ranked:
            raise UserError(_missing_mask(config, image, name, mask_names))
        mask = ranked[0]
        if len(ranked) > 1 and rank(ranked[1], name) == rank(mask, name):
            raise UserError(
                f"The image {image} has two masks, {mask} and {ranked[1]}; remove one of them."
            )
        if image_of.setdefault(mask, image) != image:
            raise UserError(
                f"The mask {mask} is that of two images, {image_of[mask]} and {image}, whose names "
                "are equal but for upper case; rename one of them and give it its own mask."
            )
        return mask

    return find_mask


def _warn_of_masks_without_image(
    config: FolderConfig, names: dict[Path, str], mask_names: dict[Path, str]
) -> None:
    keys = {_key(name, config.image_suffix) for name in names.values()}
    own = [path for path, name in mask_names.items() if _ends(name, config.mask_suffix)]
    unused = [path for path in own if _key(mask_names[path], config.mask_suffix) not in keys]
    if unused:
        building.warn(
            f"{len(unused)} of {len(own)} masks in {config.masks_dir} have no image (the first: "
            f"{unused[0]}) and are left out."
        )
    if others := len(mask_names) - len(own):
        building.warn(
            f"{others} of {len(mask_names)} images in {config.masks_dir} are no masks by their "
            f"name (--mask_suffix={config.mask_suffix}) and are left out."
        )


def _missing_mask(config: FolderConfig, image: Path, name: str, mask_names: dict[Path, str]) -> str:
    """Returns what an image's missing mask would be called, and why it may be missing."""
    masks_dir = Path(config.masks_dir)
    stem = name[: len(name) - len(config.image_suffix)]
    wanted = masks_dir / f"{stem}{config.mask_suffix}.png"
    for ending in _POLYGON_ENDINGS:
        polygons = wanted.with_name(f"{Path(stem).name}{ending}")
        some = [polygons] if polygons.is_file() else []
        if not mask_names:  # one file may describe all images
            some += sorted(masks_dir.rglob(f"*{ending}"))
        if some:
            return f"The image {image} has no mask {wanted}, but there is {some[0]}; {_POLYGONS}"

    similar = [path for path, own in mask_names.items() if _folded(own).startswith(_folded(stem))]
    hint = f" ({similar[0]} does)" if similar else ""
    return (
        f"The image {image} has no mask: {wanted} does not exist{hint}; --mask_suffix and "
        "--image_suffix say what only one of the two names ends with, and --split_lists leaves "
        "images out."
    )


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
    split_lists: tuple[str, ...],
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
    for part in split_lists:
        split, _, list_path = part.partition("=")
        if not re.fullmatch(r"\w[\w.-]*", split) or not list_path or split in members:
            raise UserError(
                f"--split_lists has {part!r}; allowed is NAME=FILE, once for each split, with a "
                "name of letters, digits, '_', '-' and '.'."
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
    _warn_of_shared_images(members)
    return members


def _warn_of_shared_images(members: dict[str, list[Path]]) -> None:
    """Warns where a model would be scored on what it was trained on.

    A split whose name holds another's may hold its images, as trainval does train's and val's.
    """
    for one, other in itertools.combinations(members, 2):
        shared = sorted(set(members[one]) & set(members[other]))
        if shared and one not in other and other not in one:
            building.warn(
                f"{len(shared)} images (the first: {shared[0]}) are in both {one!r} and {other!r}; "
                "a score on images that were trained on says nothing."
            )


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


def run() -> None:
    config_flags.run(main, [FolderConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

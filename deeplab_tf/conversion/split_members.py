"""Decides which images of a folder belong to which split.

Splits come from sub-folders, from list files, or from a seeded share.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import data_trees, encoding
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.messages import UserError, counted, warn


@dataclass(frozen=True)
class SplitSettings:
    """Where splits come from: from sub-folders of `images_dir` if nothing else is given.

    split_lists: NAME=FILE of each split.
    val_fraction: share of the images that go to the split val, above 0 and below 1; 0 for none.
    split_seed: seed of the choice of that share.
    image_endings: of the files that are images.
    skip_bad: whether images with damaged annotations are left out.
    """

    images_dir: Path
    split_lists: tuple[str, ...] = ()
    val_fraction: float = 0.0
    split_seed: int = 0
    image_endings: tuple[str, ...] = files.IMAGE_ENDINGS
    skip_bad: bool = False


_USUAL_SPLITS = ("train", "val", "valid", "test")
# Cuts the name of a split into words: trainval has two, and so have train_aug and fold10.
_BETWEEN_WORDS = re.compile(r"(train|valid|val|test|\d+)|[\W_]+", re.IGNORECASE)

_WHY_NOT_SHARED = "a score on training images says nothing: take them out of one split."
_DIGITS = 16  # of a digest: among a million images, two agree by chance with probability 3e-8

# Whether a text names the mask of an image.
IsMask = Callable[[Path, str], bool]


def members_of_splits(
    settings: SplitSettings, images: Mapping[Path, str], is_mask_of: IsMask
) -> dict[str, list[Path]]:
    """Returns the images of each split, and warns of those that no list names.

    Args:
      images: the name of each image, which is its path from the folder, with slashes and without
        ending.
      is_mask_of: lines of a list may name an image and its mask.
    Raises:
      UserError: if a list is wrong, or it is not clear which splits there are.
    """
    if settings.split_lists:
        members = _listed_members(settings, images, is_mask_of)
    elif settings.val_fraction:
        _refuse_folders_of_splits(settings, images)
        members = _random_members(settings, list(images))
    else:
        members = _members_by_folder(list(images), settings.images_dir)

    if unlisted := len(images) - len(set().union(*members.values())):
        warn(
            f"{settings.images_dir}: left out {counted(unlisted, 'image')} of {len(images)}, "
            "which no split's list names."
        )
    return members


def usual_split(name: str) -> str:
    """Returns the split that a name such as train2017 means; "" if it means none."""
    year_left_out = name.rstrip("0123456789")
    split = data_trees.split_name(year_left_out).lower()
    return split if split in _USUAL_SPLITS else ""


def _refuse_folders_of_splits(settings: SplitSettings, images: Iterable[Path]) -> None:
    """Refuses to draw a share of images whose folders already say which splits they are in.

    The share would mix them, and images that others test on would be trained on.
    """
    folders: dict[str, Path] = {}  # of each split, the first
    for path in images:
        for folder in path.relative_to(settings.images_dir).parents:
            if split := usual_split(folder.name):
                folders.setdefault(split, settings.images_dir / folder)
    if len(folders) > 1:
        above = next(iter(folders.values())).parent
        where = "" if above == settings.images_dir else f" and give --images_dir={above}"
        raise UserError(
            f"--val_fraction={settings.val_fraction} would mix the splits whose folders there are, "
            f"{' and '.join(map(str, folders.values()))}; splits come from sub-folders, from "
            f"--split_lists or from --val_fraction: leave it out{where}, or give the folder of one "
            "of them as --images_dir, with its labels."
        )


def _random_members(settings: SplitSettings, images: list[Path]) -> dict[str, list[Path]]:
    """Draws the images of the split val; the others go to train."""
    if len(images) == 1:
        raise UserError(
            f"--val_fraction={settings.val_fraction} needs two images, and {settings.images_dir} "
            f"holds one, {images[0]}; add others, or give --split_lists=train=FILE with its name "
            "in FILE."
        )
    num_val = max(1, round(settings.val_fraction * len(images)))
    if num_val == len(images):
        raise UserError(
            f"--val_fraction={settings.val_fraction} puts all {counted(len(images), 'image')} "
            "into val and none into train; give a smaller share, such as 0.2."
        )

    shuffled = random.Random(settings.split_seed).sample(images, len(images))
    return {"train": sorted(shuffled[num_val:]), "val": sorted(shuffled[:num_val])}


def _listed_members(
    settings: SplitSettings, images: Mapping[Path, str], is_mask_of: IsMask
) -> dict[str, list[Path]]:
    """Returns the images of each split that --split_lists names."""
    members: dict[str, list[Path]] = {}
    for part in settings.split_lists:
        split, _, list_path = part.partition("=")
        if not re.fullmatch(r"\w[\w.-]*", split) or not list_path or split in members:
            raise UserError(
                f"--split_lists={part} is not possible; allowed: NAME=FILE, once for each split, "
                "with a name of letters, digits, '_', '-' and '.', such as train=a.txt,val=b.txt."
            )
        members[split] = _read_list(split, Path(list_path), settings, images, is_mask_of)
    return members


def _read_list(
    split: str,
    list_path: Path,
    settings: SplitSettings,
    images: Mapping[Path, str],
    is_mask_of: IsMask,
) -> list[Path]:
    """Returns the images that a list names, in its order."""
    images_dir = settings.images_dir
    by_name = {name: path for path, name in images.items()}

    def without_ending(name: str) -> str:
        ending = Path(name).suffix
        return name.removesuffix(ending) if ending.lower() in settings.image_endings else name

    def image_of(text: str) -> Path | None:
        """Returns the image that a text names, by name or path, with or without ending."""
        for name in (text, *paths_inside(text, images_dir)):
            if image := by_name.get(name) or by_name.get(without_ending(name)):
                return image
        return None

    def image_of_line(line: str) -> Path | None:
        if image := image_of(line):
            return image

        # An image and its mask. Any gap may be the one between them, since names may have spaces.
        for gap in re.finditer(r"[\s,;]+", line):
            image, mask = image_of(line[: gap.start()]), line[gap.end() :]
            if image and is_mask_of(image, mask):
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


def paths_inside(text: str, folder: Path) -> list[str]:
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
                "train/images and train/masks, give --data_dir.)"
            )
        members.setdefault(relative.parts[0], []).append(path)
    return members


def may_share_images(one: str, other: str) -> bool:
    """Whether the name of a split says that it is a part of another, as train is of trainval.

    Whole words count: fold1 is no part of fold10.
    """
    part, whole = sorted((_words(one), _words(other)), key=len)
    starts = range(len(whole) - len(part) + 1)
    return part != whole and any(whole[start : start + len(part)] == part for start in starts)


def _words(split: str) -> list[str]:
    return [word for word in _BETWEEN_WORDS.split(split) if word] or [split]


def warn_of_shared_images(splits: Mapping[str, Sequence[encoding.FilePair]]) -> None:
    """Warns of images that are in two splits, even if the files have different names.

    A model must not be scored on images that it was trained on.
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
        if shared and not may_share_images(one, other):
            path, twin = in_split[one][shared[0]], in_split[other][shared[0]]
            where = f"{path}" if path == twin else f"{path}, the same file as {twin}"
            warn(
                f"{one!r} and {other!r} share {counted(len(shared), 'image')} (the first: {where});"
                f" {_WHY_NOT_SHARED}"
            )


def image_digest(example: EncodedExample) -> str:
    """Returns what dataset.json keeps to know an image again: the start of its file's SHA-256."""
    return example.image_source.hex()[:_DIGITS]


def warn_of_images_built_earlier(
    split: str, pairs: Sequence[encoding.FilePair], entry: Mapping, earlier: Mapping[str, Mapping]
) -> None:
    """Warns of images of a split that earlier calls put into other splits of the same folder.

    Args:
      pairs: all that were asked for.
      entry: the split's entry in dataset.json.
      earlier: the entries of the splits that earlier calls built.
    """
    skipped = {bad["name"] for bad in entry.get("skipped", ())}
    paths = [pair.image_path for pair in pairs if pair.name not in skipped]
    path_of = dict(zip(_image_digests(entry), paths, strict=False))

    for other, other_entry in earlier.items():
        digests = set(_image_digests(other_entry))
        shared = [path for digest, path in path_of.items() if digest in digests]
        if shared and not may_share_images(split, other):
            warn(
                f"{split!r} shares {counted(len(shared), 'image')} (the first: {shared[0]}) with "
                f"{other!r}, which an earlier call built; {_WHY_NOT_SHARED}"
            )


def _image_digests(entry: Mapping) -> list[str]:
    """Returns the digest of each image in a split; none if its builder keeps none."""
    digests = entry.get("image_digests", "")
    return [digests[start : start + _DIGITS] for start in range(0, len(digests), _DIGITS)]

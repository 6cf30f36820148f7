"""Facts about each data set: splits, sizes, classes, colours and the ignored label.

`KNOWN` lists the public data sets, with their classes in labels/*.csv. Any other data set is
described by the dataset.json that its builder writes next to the shards.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab_tf import json_files
from deeplab_tf.config import DataConfig
from deeplab_tf.config.programs import InspectConfig
from deeplab_tf.data import class_lists
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.data.image_kinds import MOST_CHANNELS, MOST_VALUE, RGB, ImageKind
from deeplab_tf.json_files import (
    keyed,
    listed,
    mapped,
    or_listed,
    or_null,
    string,
    switch,
    text,
    tupled,
    whole,
)
from deeplab_tf.messages import UserError

MANIFEST = "dataset.json"
LABELS_DIR = Path(__file__).parent / "labels"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The facts of one data set.

    splits: number of images of each split, by its name.
    builder: the module in datasets/ that writes the records, with the flags that choose these
      classes.
    image_kind: channels and depth of the images.
    """

    name: str
    classes: tuple[LabelClass, ...]
    ignore_label: int = 255
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    builder: str = "build_folder_data"
    image_kind: ImageKind = RGB

    @property
    def build_command(self) -> str:
        """The command that builds the data set.

        The builders are the package `datasets` in a clone, `deeplab_tf.datasets` once installed.
        """
        installed = (Path(__file__).parents[1] / "datasets").is_dir()
        return f"python -m {'deeplab_tf.datasets' if installed else 'datasets'}.{self.builder}"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        return [label_class.name for label_class in self.classes]

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        return [label_class.color for label_class in self.classes]

    @property
    def label_ids(self) -> list[int]:
        """The value of each class in the original masks; the first one if a class has several."""
        return [
            (*label_class.label_ids, index)[0] for index, label_class in enumerate(self.classes)
        ]

    def to_json(self) -> dict:
        """Returns the part of dataset.json that describes the classes and the images."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
            **self.image_kind.to_json(),
            "classes": [label_class.to_json() for label_class in self.classes],
        }


_BUILD_AGAIN = "build the data set again"


def first_difference(
    one: DatasetInfo, other: DatasetInfo, *, places: tuple[str, str] = ("there", "here")
) -> str:
    """Describes the first difference between the classes of two data sets; "" if they agree.

    They agree if they have the same class names in the same order, and the same ignored label.
    The data sets' own names, the colours and the values in the original masks are not compared.

    Args:
      places: where each of the two comes from, such as "in the model" and "in the records".
    """
    pairs = itertools.zip_longest(one.class_names, other.class_names)
    for index, names in enumerate(pairs):
        if names[0] != names[1]:
            first, second = ("none" if name is None else repr(name) for name in names)
            text = f"class {index} is {first} {places[0]}, {second} {places[1]}"
            counts = f" ({one.num_classes} and {other.num_classes} classes)"
            return text + (counts if one.num_classes != other.num_classes else "")

    if one.ignore_label != other.ignore_label:
        return (
            f"the ignored label is {one.ignore_label} {places[0]}, {other.ignore_label} {places[1]}"
        )
    return ""


def image_difference(
    one: DatasetInfo, other: DatasetInfo, *, places: tuple[str, str] = ("there", "here")
) -> str:
    """Describes how the images of two data sets differ in kind; "" if they do not.

    Args:
      places: as in `first_difference`.
    """
    if one.image_kind == other.image_kind:
        return ""
    return (
        f"the images have {one.image_kind.described()} {places[0]}, "
        f"{other.image_kind.described()} {places[1]}"
    )


def from_json(content: dict, origin: Path, *, advice: str = _BUILD_AGAIN) -> DatasetInfo:
    """Builds a DatasetInfo from the content of a dataset.json found at `origin`.

    Args:
      advice: what the user can do if it is damaged.
    Raises:
      UserError: if a key is missing or wrong, or two of them contradict each other.
    """
    try:
        _check_manifest(content, "")
    except ValueError as error:
        raise UserError(f"{origin} is damaged ({error}); {advice}.") from None
    return DatasetInfo(
        name=content["name"],
        classes=tuple(map(class_lists.from_json, content["classes"])),
        ignore_label=content["ignore_label"],
        splits={name: split["images"] for name, split in content.get("splits", {}).items()},
        image_kind=ImageKind.from_json(content),
    )


_MOST = 2**63 - 1
_MOST_CLASSES = 2**15  # more than records can label: imported weights may have more
_COUNT = whole(0, _MOST)
_BYTE = whole(0, 255)
_SPLIT = keyed(
    {
        "images": _COUNT,
        "shards": listed(keyed({"file": text(), "bytes": _COUNT})),
    },
    {  # keys that earlier versions did not write, and keys for people
        "skipped": listed(keyed({"name": string(), "reason": string()}, {"unread": switch()})),
        "labelled": switch(),
        "published_images": or_null(_COUNT),
        "source": string(),
        "image_digests": string(),
        "mask_settings": string(),
        "statistics": keyed(
            {"pixels": mapped(_COUNT), "images_with": mapped(_COUNT), "ignored_pixels": _COUNT}
        ),
        "uncounted_labels": _COUNT,
        "image_values": keyed({"total": whole(1, _MOST), "clipped": _COUNT, "largest": _COUNT}),
        "remarks": mapped(keyed({"images": _COUNT, "first": string()})),
        "palette": listed(tupled(_COUNT, listed(_BYTE), string())),
    },
)
_MANIFEST = keyed(
    {
        "name": text(),
        "num_classes": whole(1, _MOST_CLASSES),
        "ignore_label": _BYTE,
        "classes": listed(
            keyed(
                {"name": text(), "color": tupled(_BYTE, _BYTE, _BYTE)},
                {"label_id": or_listed(_COUNT)},
            ),
            least=1,
            most=_MOST_CLASSES,
        ),
    },
    {
        "image_channels": whole(1, MOST_CHANNELS),  # unless they are 8-bit RGB
        "image_max_value": whole(1, MOST_VALUE),
        "splits": mapped(_SPLIT),  # of a data set
        "trained_on": keyed({"images": _COUNT}),  # of a run
    },
)


def _check_manifest(content: Any, key: str) -> None:
    """Checks what dataset.json holds, as a check of `json_files`."""
    _MANIFEST(content, key)

    names = [label_class["name"] for label_class in content["classes"]]
    if content["num_classes"] != len(names):
        raise ValueError(
            f"num_classes is {content['num_classes']}, but {len(names)} classes are listed"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes are called {twice!r}")
    for split, entry in content.get("splits", {}).items():
        for counts in ("pixels", "images_with"):
            # Read by place: other programs that write JSON may sort the keys.
            if [*entry.get("statistics", {}).get(counts, names)] != names:
                raise ValueError(
                    f"splits.{split}.statistics.{counts} does not list the classes in their order"
                )


def read_class_table(path: Path) -> tuple[LabelClass, ...]:
    """Returns the classes of a class list; raises what `class_lists.read_class_list` raises."""
    return class_lists.read_class_list(path).classes


def _known(
    name: str, builder: str, splits: dict[str, int], ignore_label: int = 255
) -> Callable[[], DatasetInfo]:
    """Returns a function that makes the DatasetInfo, so that only the CSV files needed are read."""
    return lambda: DatasetInfo(
        name=name,
        classes=read_class_table(LABELS_DIR / f"{name}.csv"),
        ignore_label=ignore_label,
        splits=splits,
        builder=builder,
    )


def index_map(info: DatasetInfo, *, size: int, others: int) -> tuple[int, ...]:
    """Returns the train id of each label id below `size`; `others` for ids of no class."""
    train_id = {
        label_id: index
        for index, label_class in enumerate(info.classes)
        for label_id in label_class.label_ids or (index,)
    }
    return tuple(train_id.get(label_id, others) for label_id in range(size))


# Split sizes as published: docs/ancestors.md, official DeepLab (Records), SSSegmentation (Data).
# Colours in labels/*.csv: VOC's bit-interleaved map for VOC and for PASCAL Context, which publishes
# none; cityscapesScripts' for Cityscapes; the MIT Scene Parsing Benchmark's for ADE20K.
_ADE20K = {"train": 20210, "val": 2000}
_CONTEXT = {"train": 4998, "val": 5105}
KNOWN = {
    "ade20k": _known("ade20k", "build_ade20k_data", _ADE20K),
    # As in the official package: the network has a class 0, "other", whose pixels are ignored.
    "ade20k_151": _known(
        "ade20k_151", "build_ade20k_data --official_classes", _ADE20K, ignore_label=0
    ),
    # Brostow et al. 2009, with the splits and classes of SegNet (Badrinarayanan et al. 2015).
    "camvid": _known("camvid", "build_folder_data", {"train": 367, "val": 101}),
    "cityscapes": _known(
        "cityscapes",
        "build_cityscapes_data",
        {
            "train_fine": 2975,
            "val_fine": 500,
            "test_fine": 1525,
            "trainval_fine": 3475,
            "train_coarse": 22973,
            "trainval_coarse": 23473,
        },
    ),
    "pascal_context": _known("pascal_context", "build_pascal_context_data", _CONTEXT),
    "pascal_context_59": _known(
        "pascal_context_59", "build_pascal_context_data --without_background", _CONTEXT
    ),
    "pascal_voc_seg": _known(
        "pascal_voc_seg",
        "build_voc2012_data",
        {"train": 1464, "trainaug": 10582, "trainval": 2913, "val": 1449},
    ),
}
# Splits of known data sets that have two names: our builders' name, then the other. The official
# package says train_aug, and its first builders of Cityscapes have names without _fine.
_TWO_NAMES = {
    "pascal_voc_seg": (("trainaug", "train_aug"),),
    "cityscapes": tuple((f"{part}_fine", part) for part in ("train", "val", "test")),
}
# Data sets that have several conventions under one name: the one that our builders write, then the
# official package's. Ours always come with a dataset.json, so records without one are official.
_CONVENTIONS = {"ade20k": ("ade20k", "ade20k_151")}


def conventions_of(name: str) -> list[DatasetInfo]:
    """Returns what a known data set's name may stand for; nothing if no data set is known by it."""
    return [KNOWN[known]() for known in _CONVENTIONS.get(name, (name,)) if known in KNOWN]


def other_name(info: DatasetInfo, split: str) -> str:
    """Returns the other name of a split of a known data set; "" if it has none."""
    for names in _TWO_NAMES.get(info.name, ()):
        if split in names:
            return names[1 - names.index(split)]
    return ""


def published_images(info: DatasetInfo, split: str) -> int | None:
    """Returns how many images a split has as published; None if nobody published it.

    Args:
      info: the data set as published, not as its dataset.json describes the records that are there.
    """
    return info.splits.get(split, info.splits.get(other_name(info, split)))


def as_published(info: DatasetInfo) -> DatasetInfo | None:
    """Returns the known data set of this name; None for other data, even if called the same."""
    known = KNOWN[info.name]() if info.name in KNOWN else None
    is_same = known and not (first_difference(known, info) or image_difference(known, info))
    return known if is_same else None


def known_as(info: DatasetInfo) -> DatasetInfo | None:
    """Returns the known data set with the same classes as `info`, whatever `info` is called."""
    known = (make() for make in KNOWN.values() if info.image_kind.is_rgb)
    return next((dataset for dataset in known if not first_difference(dataset, info)), None)


def load(
    name: str,
    dataset_dir: str | Path,
    *,
    class_list: str = "",
    num_classes: int = 0,
    ignore_label: int = -1,
) -> DatasetInfo:
    """Returns the facts of a data set: from its dataset.json, from `KNOWN`, or as they are given.

    If there is a dataset.json, it decides. A known name must then have the same classes; any other
    name is not checked, since users call their records what they like. All other arguments must
    agree with what is found.

    Args:
      name: value of --dataset; may be empty if there is a dataset.json.
      dataset_dir: folder of the shards; may lack a dataset.json if the name is known, or the
        classes are given.
      class_list: file with the classes; "" for none.
      num_classes: number of classes; 0 allows any.
      ignore_label: the ignored label; -1 allows any.
    Raises:
      UserError: if nothing describes the data set, or what does contradicts itself.
    """
    manifest = Path(dataset_dir) / MANIFEST
    if dataset_dir and manifest.is_file():
        info = from_json(read_manifest(dataset_dir), manifest)
        _require_classes_of(name, info, manifest)
        origin = str(manifest)
    elif name in KNOWN:
        info = _by_name(
            name,
            has_records=bool(dataset_dir) and any(Path(dataset_dir).glob("*-[0-9]*")),
            num_classes=num_classes,
            ignore_label=ignore_label,
        )
        origin = f"--dataset={name}"
    elif class_list or num_classes:
        return _as_given(name, class_list, num_classes, ignore_label)
    else:
        if not dataset_dir:
            raise UserError(
                "--dataset_dir is empty; give the folder that a builder wrote (docs/data.md)."
            )
        if not Path(dataset_dir).is_dir():
            raise UserError(
                f"--dataset_dir={dataset_dir} is not a folder; give the one that a builder wrote "
                "(docs/data.md)."
            )
        raise UserError(
            f"--dataset_dir={dataset_dir} has no {MANIFEST}, which names the classes; give the "
            "folder that a builder wrote (docs/data.md), or name what the shards hold: --dataset, "
            f"one of {', '.join(sorted(KNOWN))}, or for your own classes --class_list=FILE or "
            "--num_classes=N, with --ignore_label."
        )

    _require_agreement(info, origin, class_list, num_classes, ignore_label)
    return info


def load_described(settings: DataConfig | InspectConfig) -> DatasetInfo:
    """Returns what `load` does, as the settings of a program say."""
    return load(
        settings.dataset,
        settings.dataset_dir,
        class_list=settings.class_list,
        num_classes=settings.num_classes,
        ignore_label=settings.ignore_label,
    )


def _require_classes_of(name: str, info: DatasetInfo, manifest: Path) -> None:
    """Raises UserError if a known data set has other classes than the records.

    If the name has several conventions, the records may follow any of them.
    """
    if name not in KNOWN:
        return
    differences = [
        first_difference(KNOWN[known](), info, places=(f"in {name}", "in the records"))
        for known in _CONVENTIONS.get(name, (name,))
    ]
    if all(differences):
        raise UserError(
            f"--dataset={name} has other classes than {manifest}: {differences[0]}; give records "
            f"of {name}, which `{KNOWN[name]().build_command} --output_dir=DIR` builds, or "
            "--dataset= (empty) to use the classes of these records."
        )


def _by_name(name: str, *, has_records: bool, num_classes: int, ignore_label: int) -> DatasetInfo:
    """Returns a known data set.

    Args:
      has_records: whether there are shards, which then have no dataset.json. Under a name of
        several conventions they are taken for the official package's, unless `num_classes` or
        `ignore_label` fits another one.
    """
    conventions = [KNOWN[known]() for known in _CONVENTIONS.get(name, (name,))]
    fitting = [info for info in conventions if info.num_classes == num_classes]
    fitting = fitting or [info for info in conventions if info.ignore_label == ignore_label]
    return (fitting or conventions)[-1 if has_records else 0]


def _as_given(name: str, class_list: str, num_classes: int, ignore_label: int) -> DatasetInfo:
    """Returns a data set of the user's own, which only the settings describe."""
    classes = read_class_table(Path(class_list)) if class_list else numbered_classes(num_classes)
    info = DatasetInfo(
        name=name or f"classes_{len(classes)}",
        classes=classes,
        ignore_label=255 if ignore_label < 0 else ignore_label,
    )
    _require_agreement(info, f"--class_list={class_list}", "", num_classes, -1)
    return info


def numbered_classes(num_classes: int) -> tuple[LabelClass, ...]:
    """Returns classes that are called class_0, class_1, ... for want of names."""
    return tuple(
        LabelClass(f"class_{index}", class_lists.default_color(index))
        for index in range(num_classes)
    )


def _require_agreement(
    info: DatasetInfo, origin: str, class_list: str, num_classes: int, ignore_label: int
) -> None:
    """Raises UserError if a setting contradicts what `origin` says of the data set."""
    if class_list:
        listed = dataclasses.replace(info, classes=read_class_table(Path(class_list)))
        difference = first_difference(listed, info, places=(f"in {class_list}", f"in {origin}"))
        if difference:
            raise UserError(
                f"--class_list={class_list} has other classes than {origin}: {difference}; leave "
                "--class_list out, or give other records."
            )
    if num_classes not in (0, info.num_classes):
        raise UserError(
            f"--num_classes={num_classes} contradicts {origin}, which has {info.num_classes} "
            "classes; leave --num_classes out, or give other records."
        )
    if ignore_label not in (-1, info.ignore_label):
        raise UserError(
            f"--ignore_label={ignore_label} contradicts {origin}, whose ignored label is "
            f"{info.ignore_label}; leave --ignore_label out, or give other records."
        )


def read_manifest(dataset_dir: str | Path, *, advice: str = "") -> dict:
    """Reads and checks <dataset_dir>/dataset.json.

    Args:
      advice: what the user can do if it is missing or damaged.
    Raises:
      UserError: if it is missing, or a key is missing or wrong.
    """
    path = Path(dataset_dir) / MANIFEST
    if not path.is_file():
        advice = advice or "build the data set"
        raise UserError(f"There is no {MANIFEST} in {dataset_dir}; {advice}.")
    advice = advice or f"remove it and {_BUILD_AGAIN}"
    return json_files.read(path, "The description", _check_manifest, advice=advice)

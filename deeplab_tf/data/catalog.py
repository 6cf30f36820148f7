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
from deeplab_tf.data import class_lists
from deeplab_tf.data.class_lists import LabelClass
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
    builder: the module in datasets/ that writes the records.
    """

    name: str
    classes: tuple[LabelClass, ...]
    ignore_label: int = 255
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    builder: str = "build_folder_data"

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
        """Returns the part of dataset.json that describes the classes."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
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
    {  # what earlier versions did not write, and what only print
        "skipped": listed(keyed({"name": string(), "reason": string()})),
        "labelled": switch(),
        "published_images": or_null(_COUNT),
        "source": string(),
        "mask_settings": string(),
        "statistics": keyed(
            {"pixels": mapped(_COUNT), "images_with": mapped(_COUNT), "ignored_pixels": _COUNT}
        ),
        "uncounted_labels": _COUNT,
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
_ADE20K = ("build_ade20k_data", {"train": 20210, "val": 2000})
_CONTEXT = ("build_pascal_context_data", {"train": 4998, "val": 5105})
KNOWN = {
    "ade20k": _known("ade20k", *_ADE20K),
    # As in the official package: the network has a class 0, "other", whose pixels are ignored.
    "ade20k_151": _known("ade20k_151", *_ADE20K, ignore_label=0),
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
    "pascal_context": _known("pascal_context", *_CONTEXT),
    "pascal_context_59": _known("pascal_context_59", *_CONTEXT),
    "pascal_voc_seg": _known(
        "pascal_voc_seg",
        "build_voc2012_data",
        {"train": 1464, "trainaug": 10582, "trainval": 2913, "val": 1449},
    ),
}


def known_as(info: DatasetInfo) -> DatasetInfo | None:
    """Returns the known data set with the same classes as `info`, whatever `info` is called."""
    known = (make() for make in KNOWN.values())
    return next((dataset for dataset in known if not first_difference(dataset, info)), None)


def load(name: str, dataset_dir: str | Path) -> DatasetInfo:
    """Returns the facts of a data set: from its dataset.json, or else from `KNOWN`.

    If there is a dataset.json, it decides. A known name must then have the same classes; any other
    name is not checked, since users call their records what they like.

    Args:
      name: value of --dataset; may be empty if there is a dataset.json.
      dataset_dir: folder of the shards; may lack a dataset.json if the name is known.
    Raises:
      UserError: if neither describes the data set, or the two have different classes.
    """
    manifest = Path(dataset_dir) / MANIFEST
    if dataset_dir and manifest.is_file():
        info = from_json(read_manifest(dataset_dir), manifest)
        expected = KNOWN[name]() if name in KNOWN else info
        difference = first_difference(expected, info, places=(f"in {name}", "in the records"))
        if difference:
            raise UserError(
                f"--dataset={name} has other classes than {manifest}: {difference}; give the "
                f"folder with the records of {name}, or --dataset= (empty) to use the classes of "
                "these records."
            )
        return info

    if name in KNOWN:
        return KNOWN[name]()

    known = ", ".join(sorted(KNOWN))
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
        f"--dataset_dir={dataset_dir} has no {MANIFEST}; give the folder that a builder wrote "
        f"(docs/data.md), or, if the shards have none, name the data set too, as --dataset: "
        f"{known}."
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

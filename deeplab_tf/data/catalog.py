"""What the package knows of each data set: splits, sizes, classes, colours, the ignored label.

Known data sets are literals here, their class tables in labels/*.csv. Any other data set is
described by the dataset.json that its builder writes beside the shards.
"""

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import UserError

MANIFEST = "dataset.json"
LABELS_DIR = Path(__file__).parent / "labels"


@dataclass(frozen=True)
class LabelClass:
    """One class: its name and its colour, RGB in 0..255."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set's facts; `splits` maps a split's name to its number of images."""

    name: str
    classes: tuple[LabelClass, ...]
    ignore_label: int = 255
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    builder: str = "build_folder_data"

    @property
    def build_command(self) -> str:
        """The command that builds the data set: the builders' package is another in a clone."""
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

    def to_json(self) -> dict:
        """Returns the part of dataset.json that describes the classes."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
            "classes": [{"name": c.name, "color": list(c.color)} for c in self.classes],
        }


def from_json(content: dict, origin: Path) -> DatasetInfo:
    """Builds a DatasetInfo from the content of a dataset.json found at `origin`.

    Raises:
      UserError: if a key is missing or the counts contradict each other.
    """
    try:
        classes = tuple(LabelClass(c["name"], tuple(c["color"])) for c in content["classes"])
        info = DatasetInfo(
            name=content["name"],
            classes=classes,
            ignore_label=content["ignore_label"],
            splits={name: split["images"] for name, split in content.get("splits", {}).items()},
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{origin} lacks {error}; build the data set again.") from None
    if content.get("num_classes") != info.num_classes:
        raise UserError(
            f"{origin} says num_classes={content.get('num_classes')} but lists "
            f"{info.num_classes} classes; build the data set again."
        )
    return info


def read_class_table(path: Path) -> tuple[LabelClass, ...]:
    """Reads a class list: a CSV file with the columns name,r,g,b, and optionally index.

    Raises:
      UserError: if the file is missing or a line is not name,r,g,b with colours in 0..255.
    """
    if not path.is_file():
        raise UserError(f"The class list {path} does not exist; it is a CSV file: name,r,g,b.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # spreadsheets write the mark
    except UnicodeDecodeError:
        raise UserError(f"The class list {path} is not UTF-8 text; save it as such.") from None
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = {"name", "r", "g", "b"} - set(reader.fieldnames or ())
    if missing:
        raise UserError(
            f"The class list {path} has no column {', '.join(sorted(missing))}; "
            "its first line must be name,r,g,b (or index,name,r,g,b)."
        )
    classes = [_label_class(row, index, path) for index, row in enumerate(reader)]
    names = [label_class.name for label_class in classes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not 1 < len(classes) <= 255:
        problem = f"names {twice[0]!r} twice" if twice else f"holds {len(classes)} classes"
        raise UserError(f"The class list {path} {problem}; allowed are 2 to 255 distinct classes.")
    return tuple(classes)


def _label_class(row: dict, index: int, path: Path) -> LabelClass:
    where = f"Line {index + 2} of the class list {path}"
    try:
        color = (int(row["r"]), int(row["g"]), int(row["b"]))
    except (TypeError, ValueError):
        raise UserError(f"{where} is not name,r,g,b: {list(row.values())}.") from None
    if not row["name"] or not all(0 <= value <= 255 for value in color):
        raise UserError(f"{where} needs a name and colours in 0..255: {list(row.values())}.")
    if row.get("index") not in (None, str(index)):
        raise UserError(f"{where} has index {row['index']}; indices must count up from 0.")
    return LabelClass(row["name"].strip(), color)


def _known(name: str, builder: str, splits: dict[str, int]) -> DatasetInfo:
    classes = read_class_table(LABELS_DIR / f"{name}.csv")
    return DatasetInfo(name=name, classes=classes, splits=splits, builder=builder)


# Split sizes and classes: ADE20K SceneParsing 2016 (Zhou et al. 2017); 0 in its files is ignored.
KNOWN = {
    "ade20k": lambda: _known("ade20k", "build_ade20k_data", {"train": 20210, "val": 2000}),
    # Brostow et al. 2009, in the split and classes of SegNet (Badrinarayanan et al. 2015).
    "camvid": lambda: _known("camvid", "build_folder_data", {"train": 367, "val": 101}),
}


def load(name: str, dataset_dir: str | Path) -> DatasetInfo:
    """Returns the facts of a data set: those beside its shards, else those known here.

    Args:
      name: value of --dataset; empty trusts dataset.json alone.
      dataset_dir: folder of the shards; may lack a dataset.json if the name is known.
    Raises:
      UserError: if neither describes the data set, or they are different data sets.
    """
    manifest = Path(dataset_dir) / MANIFEST
    if dataset_dir and manifest.is_file():
        info = from_json(read_manifest(dataset_dir), manifest)
        if name and name != info.name:
            raise UserError(
                f"--dataset={name}, but {manifest} describes {info.name!r}; "
                "give the folder of the right data set or leave --dataset out."
            )
        return info
    if name in KNOWN:
        return KNOWN[name]()
    known = ", ".join(sorted(KNOWN))
    if not dataset_dir:
        raise UserError(
            f"--dataset_dir is empty and --dataset={name} is not one of {known}; "
            "give the folder that a builder in datasets/ wrote."
        )
    raise UserError(
        f"There is no {MANIFEST} in --dataset_dir={dataset_dir}, and --dataset={name} is not one "
        f"of {known}; build the data set with one of the builders (datasets/README.md)."
    )


def read_manifest(dataset_dir: str | Path) -> dict:
    """Reads <dataset_dir>/dataset.json.

    Raises:
      UserError: if it is missing or not JSON.
    """
    path = Path(dataset_dir) / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no {MANIFEST} in {dataset_dir}; build the data set.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); build the data set again.") from None

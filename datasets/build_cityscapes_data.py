"""Converts Cityscapes to TFRecords: 19 classes, fine and coarse labels.

    python -m datasets.build_cityscapes_data --cityscapes_root=cityscapes --output_dir=records

The label ids in gtFine and gtCoarse are mapped to the 19 train ids here, so the files
..._labelTrainIds.png of createTrainIdLabelImgs.py are not needed; they are read where the others
are missing. Cityscapes needs a login, so there is no
--download: fetch leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from
https://www.cityscapes-dataset.com and unpack both into one folder. The split test_fine has no
labels; to make predictions for the benchmark's server, run
`deeplab_tf.vis --vis_split=test_fine --also_save_raw_predictions --raw_label_ids`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import flags, setting
from deeplab_tf.conversion import building, masks
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError, warn

# The kind of labels (None if there are none) and the folders of each split. Which split has which
# folders, and the sizes: docs/ancestors.md, official DeepLab, Records.
SPLITS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "train_fine": ("gtFine", ("train",)),
    "val_fine": ("gtFine", ("val",)),
    "test_fine": (None, ("test",)),
    "trainval_fine": ("gtFine", ("train", "val")),
    "train_coarse": ("gtCoarse", ("train", "train_extra")),
    "trainval_coarse": ("gtCoarse", ("train", "train_extra", "val")),
}
DEFAULT_SPLITS = ("train_fine", "val_fine", "test_fine")
NUM_LABEL_IDS = 34  # cityscapesScripts, helpers/labels.py; -1, the licence plate, is stored as 255
SUFFIX = "_leftImg8bit.png"


@dataclass(frozen=True, kw_only=True)
class CityscapesConfig(building.BuilderConfig):
    """Where the unpacked archives are, and where the records go."""

    cityscapes_root: str = setting(
        "./cityscapes", "Folder with leftImg8bit/ and gtFine/ (and gtCoarse/)."
    )
    splits: tuple[str, ...] = setting(
        (),
        f"Splits to convert, out of {', '.join(SPLITS)}; if empty, {', '.join(DEFAULT_SPLITS)}, "
        "the latter if its images are there.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.splits:
            building.require_splits(self.splits, tuple(SPLITS))


def main(config: CityscapesConfig) -> None:
    """Converts the splits; skips those already converted from the same files."""
    info = catalog.load("cityscapes", "")
    root = Path(config.cityscapes_root)
    splits = config.splits or _splits_in(root)
    ids = _ids_in(root, splits)

    # Beyond the label ids only 255 is allowed. Train ids stay as they are.
    index_map: tuple[int, ...] = ()
    if ids == "labelIds":
        train_ids = catalog.index_map(info, size=NUM_LABEL_IDS, others=info.ignore_label)
        index_map = (*train_ids, *[-1] * (255 - NUM_LABEL_IDS), info.ignore_label)
    coding = masks.MaskCoding(
        num_classes=info.num_classes, ignore_label=info.ignore_label, index_map=index_map
    )

    pairs = {split: find_pairs(root, split, ids=ids) for split in splits}
    building.build(config, info, pairs, coding)


def _splits_in(root: Path) -> tuple[str, ...]:
    """Returns the splits to convert by default: test_fine only if its images are there."""
    folder = root / "leftImg8bit" / "test"
    if folder.is_dir() or not folder.parent.is_dir():
        return DEFAULT_SPLITS
    warn(f"There is no {folder}, so the split test_fine is left out.")
    return DEFAULT_SPLITS[:-1]


def _ids_in(root: Path, splits: Sequence[str]) -> str:
    """Returns "labelTrainIds" if the masks are there only in that form, otherwise "labelIds"."""
    kinds = [SPLITS[split] for split in splits]
    folders = {root / kind / part for kind, parts in kinds if kind for part in parts}

    def is_there(ids: str) -> bool:
        return any(True for folder in folders for _ in folder.glob(f"*/*_{ids}.png"))

    only_train_ids = not is_there("labelIds") and is_there("labelTrainIds")
    return "labelTrainIds" if only_train_ids else "labelIds"


def find_pairs(root: Path, split: str, *, ids: str = "labelIds") -> list[FilePair]:
    """Returns the images of a split and their masks, in the order of cities and names.

    Args:
      ids: what the masks hold, as their names say: "labelIds" or "labelTrainIds".
    Raises:
      UserError: if a folder or a mask is missing.
    """
    kind, folders = SPLITS[split]
    pairs = []
    for folder in folders:
        images = root / "leftImg8bit" / folder
        help = _help(kind, folder)
        listed = building.list_images(images, SUFFIX) if images.is_dir() else []
        if not listed:
            raise UserError(f"{images} holds no city's folder with images; {help}")

        for _, path in listed:
            name = path.name.removesuffix(SUFFIX)
            mask = None
            if kind:
                mask = root / kind / folder / path.parent.name / f"{name}_{kind}_{ids}.png"
            pairs.append(FilePair(name, path, mask))

        building.require_files(pairs, help)
    return pairs


def _help(kind: str | None, folder: str) -> str:
    """Returns what the user can do if files of this kind are missing."""
    archives = {
        "gtFine": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
        "gtCoarse": "leftImg8bit_trainvaltest.zip and gtCoarse.zip",
        None: "leftImg8bit_trainvaltest.zip",
    }[kind]
    if folder == "train_extra":
        archives = "leftImg8bit_trainextra.zip and gtCoarse.zip"
    return (
        f"log in at https://www.cityscapes-dataset.com, fetch {archives}, and unpack into "
        "one folder, --cityscapes_root."
    )


def run() -> None:
    no_login = f"no program can log in for you; {_help('gtFine', 'train')}"
    instead = {"download": no_login, "download_mirror": no_login} | building.OFFICIAL_FORMATS
    flags.run(main, [CityscapesConfig], (__doc__ or "").strip(), instead=instead)


if __name__ == "__main__":
    run()

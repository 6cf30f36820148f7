"""Converts Cityscapes to TFRecords: 19 classes, fine and coarse labels.

    python -m datasets.build_cityscapes_data --cityscapes_root=cityscapes --output_dir=records

The label ids in gtFine and gtCoarse are mapped to the 19 train ids here, so the files
..._labelTrainIds.png of other programs are not needed. Cityscapes needs a login, so there is no
--download: fetch leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from
https://www.cityscapes-dataset.com and unpack both into one folder. The split test_fine has no
labels; to make predictions for the benchmark's server, run
`deeplab_tf.vis --vis_split=test_fine --also_save_raw_predictions --raw_label_ids`.
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import flags, setting
from deeplab_tf.conversion import building, masks
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError

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
NUM_LABEL_IDS = 34  # cityscapesScripts, helpers/labels.py; -1, the licence plate, is stored as 255
SUFFIX = "_leftImg8bit.png"


@dataclass(frozen=True, kw_only=True)
class CityscapesConfig(building.BuilderConfig):
    """Where the unpacked archives are, and where the records go."""

    cityscapes_root: str = setting(
        "./cityscapes", "Folder with leftImg8bit/ and gtFine/ (and gtCoarse/)."
    )
    splits: tuple[str, ...] = setting(
        ("train_fine", "val_fine", "test_fine"), f"Splits to convert, out of {', '.join(SPLITS)}."
    )

    def __post_init__(self):
        super().__post_init__()
        building.require_splits(self.splits, tuple(SPLITS))


def main(config: CityscapesConfig) -> None:
    """Converts the splits; skips those already converted from the same files."""
    info = catalog.load("cityscapes", "")
    ids = catalog.index_map(info, size=NUM_LABEL_IDS, others=info.ignore_label)
    coding = masks.MaskCoding(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        # Beyond the label ids only 255 is allowed.
        index_map=(*ids, *[-1] * (255 - NUM_LABEL_IDS), info.ignore_label),
    )

    root = Path(config.cityscapes_root)
    pairs = {split: find_pairs(root, split) for split in config.splits}
    building.build(config, info, pairs, coding)


def find_pairs(root: Path, split: str) -> list[FilePair]:
    """Returns the images of a split and their masks of label ids, in the order of cities and names.

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
                mask = root / kind / folder / path.parent.name / f"{name}_{kind}_labelIds.png"
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
    instead = {"download": no_login, "download_mirror": no_login}
    flags.run(main, [CityscapesConfig], (__doc__ or "").strip(), instead=instead)


if __name__ == "__main__":
    run()

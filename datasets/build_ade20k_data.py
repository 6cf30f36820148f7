"""Converts ADE20K SceneParsing 2016 to TFRecords: 150 classes, 20,210 and 2,000 images.

    python -m datasets.build_ade20k_data --ade20k_root=ADEChallengeData2016 --output_dir=records

The archive is ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark. In its annotations 0
means "other" and becomes the ignored label; k becomes class k - 1. --official_classes keeps the
annotations as they are, like Google's package: 151 classes, with the ignored label 0. Command lines
of that package, which name the folders one by one, mean its classes.
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import archives
from deeplab_tf.config import flags, setting
from deeplab_tf.conversion import building, masks
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError

FOLDERS = {"train": "training", "val": "validation"}
ARCHIVE = archives.Archive(
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    algorithm="sha1",  # as GluonCV publishes it
    digest="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
    folder="ADEChallengeData2016",
)
HELP = ARCHIVE.help("ade20k_root")


@dataclass(frozen=True, kw_only=True)
class ADE20KConfig(building.DownloadConfig):
    """Where the unpacked archive is, and where the records go."""

    ade20k_root: str = setting(
        "./ADE20K/ADEChallengeData2016",
        "Unpacked archive: the folder with images/ and annotations/.",
    )
    train_image_folder: str = setting(
        "", "Training images; if empty, those in <ade20k_root>/images/training."
    )
    train_image_label_folder: str = setting(
        "", "Their annotations; if empty, those in <ade20k_root>/annotations/training."
    )
    val_image_folder: str = setting(
        "", "Validation images; if empty, those in <ade20k_root>/images/validation."
    )
    val_image_label_folder: str = setting(
        "", "Their annotations; if empty, those in <ade20k_root>/annotations/validation."
    )
    official_classes: bool = setting(
        None,
        "Whether to keep 151 classes and ignore class 0 (data set ade20k_151).",
        open="true with train_image_folder and its like, as in the official package; else false",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.official_classes is None:
            given = [path for split in FOLDERS for path in self.given_folders(split)]
            object.__setattr__(self, "official_classes", any(given))

    def given_folders(self, split: str) -> tuple[str, str]:
        """Returns the folders of a split's images and annotations; "" for those in the archive."""
        if split == "train":
            return self.train_image_folder, self.train_image_label_folder
        return self.val_image_folder, self.val_image_label_folder


def main(config: ADE20KConfig) -> None:
    """Converts both splits; skips those already converted from the same files."""
    root = Path(config.ade20k_root)
    if config.download:
        archives.install(ARCHIVE, root, flag="ade20k_root", mirror=config.download_mirror)

    info = catalog.load("ade20k_151" if config.official_classes else "ade20k", "")
    coding = masks.MaskCoding(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        index_map=catalog.index_map(info, size=151, others=info.ignore_label),
    )
    building.build(config, info, {split: find_pairs(config, split) for split in FOLDERS}, coding)
    print(
        f"labels: {info.num_classes} classes, {info.ignore_label} is ignored (data set {info.name})"
    )


def find_pairs(config: ADE20KConfig, split: str) -> list[FilePair]:
    """Returns the images and annotations of a split, in the order of their names.

    Raises:
      UserError: if a folder or an annotation is missing.
    """
    in_archive = (
        Path(config.ade20k_root, part, FOLDERS[split]) for part in ("images", "annotations")
    )
    images, masks = (
        Path(given or folder)
        for given, folder in zip(config.given_folders(split), in_archive, strict=True)
    )
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; {HELP}")

    pairs = [
        FilePair(name, path, masks / f"{name}.png")
        for name, path in building.list_images(images, ".jpg")
    ]
    if not pairs:
        raise UserError(f"{images} holds no .jpg image; {HELP}")
    building.require_files(pairs, HELP)
    return pairs


def run() -> None:
    flags.run(main, [ADE20KConfig], (__doc__ or "").strip(), instead=building.OFFICIAL_FORMATS)


if __name__ == "__main__":
    run()

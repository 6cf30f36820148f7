"""Converts ADE20K SceneParsing 2016 to TFRecords: 150 classes, 20,210 and 2,000 images.

    python -m datasets.build_ade20k_data --ade20k_root=ADEChallengeData2016 --output_dir=records

The archive is ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark. In its annotations 0
is "other" and becomes the ignored label; k becomes class k - 1.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import Config, UserError, require, setting
from deeplab_tf.data import catalog, conversion

FOLDERS = {"train": "training", "val": "validation"}
ARCHIVE = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"


@dataclass(frozen=True, kw_only=True)
class ADE20KConfig(Config):
    """Where the unpacked archive is, and where the records go."""

    ade20k_root: str = setting(
        "./ADE20K/ADEChallengeData2016",
        "Unpacked archive: the folder with images/ and annotations/.",
    )
    output_dir: str = setting("", "Folder for the shards and dataset.json.")
    num_shards: int = setting(16, "Shards of each split.", least=1)
    num_processes: int = setting(0, "Processes that decode and encode; 0 takes all cores.", least=0)

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.output_dir), "output_dir", "(empty)", "a path")


def main(config: ADE20KConfig) -> None:
    """Converts both splits; those already converted from the same files are left alone."""
    info = catalog.load("ade20k", "")
    coding = conversion.MaskCoding(
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        index_map=(info.ignore_label, *range(info.num_classes)),
    )
    splits = {split: find_pairs(Path(config.ade20k_root), split) for split in FOLDERS}
    from deeplab_tf.data import records  # imports TensorFlow: after everything that may be wrong

    for split, pairs in splits.items():
        if len(pairs) != info.splits[split]:
            print(f"Note: {split} has {len(pairs)} images, the published set {info.splits[split]}.")
        records.convert_split(
            pairs,
            functools.partial(conversion.encode_pair, coding=coding),
            output_dir=Path(config.output_dir),
            info=info,
            split=split,
            num_shards=config.num_shards,
            num_processes=config.num_processes,
        )


def find_pairs(root: Path, split: str) -> list[conversion.FilePair]:
    """Returns a split's images and annotations, in the order of their names.

    Raises:
      UserError: if a folder or an annotation is missing.
    """
    images, masks = (root / part / FOLDERS[split] for part in ("images", "annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist; unpack {ARCHIVE} and give its folder "
                "ADEChallengeData2016 as --ade20k_root."
            )
    pairs = [
        conversion.FilePair(path.stem, path, masks / f"{path.stem}.png")
        for path in sorted(images.glob("*.jpg"))
    ]
    missing = [pair for pair in pairs if not pair.mask_path.is_file()]
    if missing or not pairs:
        raise UserError(
            f"{missing[0].mask_path} does not exist."
            if missing
            else f"{images} holds no .jpg image."
        )
    return pairs


def run() -> None:
    config_flags.run(main, [ADE20KConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

r"""Converts PASCAL VOC 2012 to TFRecords, with the extra labels of SBD: 21 classes.

    python -m datasets.build_voc2012_data --voc_root=VOCdevkit/VOC2012 \
        --sbd_root=benchmark_RELEASE --output_dir=records

The splits train, val and trainval come from ImageSets/Segmentation. `trainaug` is train and val
of SBD (Hariharan et al. 2011) together with VOC's train, without VOC's val: 10,582 images. Images
of VOC's train keep their masks of VOC. 255 in VOC's masks is the ignored label.

The official package names the folders one by one, and makes a split of each list:

    python -m datasets.build_voc2012_data --image_folder=VOCdevkit/VOC2012/JPEGImages \
        --semantic_segmentation_folder=VOCdevkit/VOC2012/SegmentationClassRaw \
        --list_folder=VOCdevkit/VOC2012/ImageSets/Segmentation --image_format=jpg \
        --output_dir=records
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import archives
from deeplab_tf.config import flags, require, setting
from deeplab_tf.conversion import building, masks
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError

VOC = archives.Archive(
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    algorithm="md5",  # hash as torchvision publishes it, size as TensorFlow Datasets does
    digest="6cd6e144f989b92b3379bac3b3de84fd",
    folder="VOCdevkit/VOC2012",
    size=1_999_639_040,
)
SBD = archives.Archive(
    url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    algorithm="md5",  # as torchvision publishes it
    digest="82b4d87ceb2ed10f6038a1cba92111cb",
    folder="benchmark_RELEASE",
)
SPLITS = ("train", "trainaug", "trainval", "val")
WITH_SBD = ("trainaug", "train_aug")  # our name, and the official package's
IMAGE_FORMATS = ("jpg", "jpeg", "png")


@dataclass(frozen=True, kw_only=True)
class VOC2012Config(building.DownloadConfig):
    """Where the unpacked archives are, and where the records go."""

    voc_root: str = setting(
        "./VOCdevkit/VOC2012", "Folder with JPEGImages/, SegmentationClass/ and ImageSets/."
    )
    sbd_root: str = setting(
        "./benchmark_RELEASE", "SBD's folder with dataset/; only the split trainaug needs it."
    )
    image_folder: str = setting("", "Folder of the images; if empty, <voc_root>/JPEGImages.")
    semantic_segmentation_folder: str = setting(
        "",
        "Folder of the masks, palette or grey PNGs; if empty, <voc_root>/SegmentationClass.",
    )
    list_folder: str = setting(
        "", "Folder of the lists, NAME.txt; if empty, <voc_root>/ImageSets/Segmentation."
    )
    image_format: str = setting(
        "",
        "Ending of the images' names; if empty, each image may have any of them.",
        choices=("", *IMAGE_FORMATS),
    )
    label_format: str = setting("png", "Ending of the masks' names.", choices=("png",))
    splits: tuple[str, ...] = setting(
        (),
        "Splits to convert. If empty: train, trainaug, trainval and val; or with list_folder, one "
        "for each list in it. trainaug may be called train_aug, as in the official package.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.splits:
            known = () if self.list_folder else (*SPLITS, WITH_SBD[1])
            building.require_splits(self.splits, known or self.splits)
        own = bool(self.image_folder or self.semantic_segmentation_folder or self.list_folder)
        require(not (own and self.download), "download", True, "with --voc_root, not with folders")

    @property
    def images_dir(self) -> Path:
        return Path(self.image_folder or Path(self.voc_root, "JPEGImages"))

    @property
    def masks_dir(self) -> Path:
        return Path(self.semantic_segmentation_folder or Path(self.voc_root, "SegmentationClass"))

    @property
    def lists_dir(self) -> Path:
        return Path(self.list_folder or Path(self.voc_root, "ImageSets", "Segmentation"))


def main(config: VOC2012Config) -> None:
    """Converts the splits; skips those already converted from the same files."""
    splits = splits_of(config)
    if config.download:
        mirror = config.download_mirror
        archives.install(VOC, Path(config.voc_root), flag="voc_root", mirror=mirror)
        if set(WITH_SBD) & set(splits):
            archives.install(SBD, Path(config.sbd_root), flag="sbd_root", mirror=mirror)

    info = catalog.load("pascal_voc_seg", "")
    coding = masks.MaskCoding(num_classes=info.num_classes, ignore_label=info.ignore_label)
    pairs = {split: find_pairs(config, split) for split in splits}
    building.build(config, info, pairs, coding)


def splits_of(config: VOC2012Config) -> tuple[str, ...]:
    """Returns the splits to convert.

    Raises:
      UserError: if --list_folder holds no list.
    """
    if config.splits or not config.list_folder:
        return config.splits or SPLITS
    lists = sorted(path.stem for path in config.lists_dir.glob("*.txt"))
    if not lists:
        raise UserError(
            f"--list_folder={config.list_folder} holds no list (NAME.txt); give the folder with "
            "one list for each split."
        )
    return tuple(lists)


def find_pairs(config: VOC2012Config, split: str) -> list[FilePair]:
    """Returns the images and masks of a split, in the order of its list; trainaug sorted by name.

    Raises:
      UserError: if a folder, a list, an image or a mask is missing.
    """
    _require_folders(config)
    is_listed = config.list_folder and (config.lists_dir / f"{split}.txt").is_file()
    if split in WITH_SBD and not is_listed:
        return _trainaug_pairs(config)

    pairs = [_voc_pair(name, config) for name in _voc_list(split, config)]
    building.require_files(pairs, VOC.help("voc_root"))
    return pairs


def _require_folders(config: VOC2012Config) -> None:
    folders = (config.images_dir, config.masks_dir, config.lists_dir)
    root = Path(config.voc_root)
    needs_root = any(folder.is_relative_to(root) for folder in folders)
    for folder in ((root,) if needs_root else ()) + folders:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; {VOC.help('voc_root')}")


def _voc_list(split: str, config: VOC2012Config) -> list[str]:
    return building.read_list(config.lists_dir / f"{split}.txt", VOC.help("voc_root"))


def _voc_pair(name: str, config: VOC2012Config) -> FilePair:
    endings = (config.image_format,) if config.image_format else IMAGE_FORMATS
    images = [config.images_dir / f"{name}.{ending}" for ending in endings]
    image = next((path for path in images if path.is_file()), images[0])
    return FilePair(name, image, config.masks_dir / f"{name}.png")


def _trainaug_pairs(config: VOC2012Config) -> list[FilePair]:
    """Returns the pairs of trainaug, each with VOC's mask, or SBD's if VOC's train lacks it."""
    sbd_root = Path(config.sbd_root)
    help = f"{SBD.help('sbd_root')[:-1]}, or leave trainaug out of --splits."
    if not sbd_root.is_dir():
        raise UserError(f"{sbd_root} does not exist; {help}")

    in_sbd = [
        name
        for part in ("train", "val")
        for name in building.read_list(sbd_root / "dataset" / f"{part}.txt", help)
    ]
    in_voc, held_out = set(_voc_list("train", config)), set(_voc_list("val", config))

    pairs = []
    for name in sorted((in_voc | set(in_sbd)) - held_out):
        pair = _voc_pair(name, config)
        building.require_files([FilePair(name, pair.image_path, None)], VOC.help("voc_root"))
        if name in in_voc:
            building.require_files([pair], VOC.help("voc_root"))
        else:
            mask = sbd_root / "dataset" / "cls" / f"{name}.mat"
            pair = FilePair(name, pair.image_path, mask)
            building.require_files([pair], help)
        pairs.append(pair)
    return pairs


def run() -> None:
    flags.run(main, [VOC2012Config], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

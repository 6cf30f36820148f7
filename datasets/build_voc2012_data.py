r"""Converts PASCAL VOC 2012 to TFRecords, with the extra labels of SBD: 21 classes.

    python -m datasets.build_voc2012_data --voc_root=VOCdevkit/VOC2012 \
        --sbd_root=benchmark_RELEASE --output_dir=records

The splits train, val and trainval are those of ImageSets/Segmentation. `trainaug` is train and val
of SBD (Hariharan et al. 2011) together with VOC's train, without VOC's val: 10,582 images. Images
of VOC's train keep their masks of VOC. 255 in VOC's masks is the ignored label.
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import archives
from deeplab_tf.config import flags, setting
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


@dataclass(frozen=True, kw_only=True)
class VOC2012Config(building.DownloadConfig):
    """Where the unpacked archives are, and where the records go."""

    voc_root: str = setting(
        "./VOCdevkit/VOC2012", "Folder with JPEGImages/, SegmentationClass/ and ImageSets/."
    )
    sbd_root: str = setting(
        "./benchmark_RELEASE", "SBD's folder with dataset/; only the split trainaug needs it."
    )
    splits: tuple[str, ...] = setting(SPLITS, "Splits to convert.")

    def __post_init__(self):
        super().__post_init__()
        building.require_splits(self.splits, SPLITS)


def main(config: VOC2012Config) -> None:
    """Converts the splits; skips those already converted from the same files."""
    voc_root, sbd_root = Path(config.voc_root), Path(config.sbd_root)
    if config.download:
        archives.install(VOC, voc_root, flag="voc_root", mirror=config.download_mirror)
        if "trainaug" in config.splits:
            archives.install(SBD, sbd_root, flag="sbd_root", mirror=config.download_mirror)

    info = catalog.load("pascal_voc_seg", "")
    coding = masks.MaskCoding(num_classes=info.num_classes, ignore_label=info.ignore_label)
    pairs = {split: find_pairs(split, voc_root, sbd_root) for split in config.splits}
    building.build(config, info, pairs, coding)


def find_pairs(split: str, voc_root: Path, sbd_root: Path) -> list[FilePair]:
    """Returns the images and masks of a split, in the order of its list; trainaug sorted by name.

    Raises:
      UserError: if a folder, a list, an image or a mask is missing.
    """
    if not voc_root.is_dir():
        raise UserError(f"{voc_root} does not exist; {VOC.help('voc_root')}")
    if split == "trainaug":
        return _trainaug_pairs(voc_root, sbd_root)

    pairs = [_voc_pair(name, voc_root) for name in _voc_list(split, voc_root)]
    building.require_files(pairs, VOC.help("voc_root"))
    return pairs


def _voc_list(split: str, voc_root: Path) -> list[str]:
    path = voc_root / "ImageSets" / "Segmentation" / f"{split}.txt"
    return building.read_list(path, VOC.help("voc_root"))


def _voc_pair(name: str, voc_root: Path) -> FilePair:
    image = voc_root / "JPEGImages" / f"{name}.jpg"
    return FilePair(name, image, voc_root / "SegmentationClass" / f"{name}.png")


def _trainaug_pairs(voc_root: Path, sbd_root: Path) -> list[FilePair]:
    """Returns the pairs of trainaug, each with VOC's mask, or SBD's if VOC's train lacks it."""
    help = f"{SBD.help('sbd_root')[:-1]}, or leave trainaug out of --splits."
    if not sbd_root.is_dir():
        raise UserError(f"{sbd_root} does not exist; {help}")

    in_sbd = [
        name
        for part in ("train", "val")
        for name in building.read_list(sbd_root / "dataset" / f"{part}.txt", help)
    ]
    in_voc, held_out = set(_voc_list("train", voc_root)), set(_voc_list("val", voc_root))

    pairs = []
    for name in sorted((in_voc | set(in_sbd)) - held_out):
        pair = _voc_pair(name, voc_root)
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

r"""Converts PASCAL Context to TFRecords: 60 classes, or 59 without the background.

    python -m datasets.build_pascal_context_data --voc2010_root=VOCdevkit/VOC2010 \
        --labels_dir=trainval --output_dir=records [--without_background]

The images come from VOC 2010. The labels are the .mat files of the PASCAL-Context release
(Mottaghi et al. 2014) with 459 labels: the 59 published classes are kept, in alphabetical order,
and all other labels become background. PNGs that hold the 60 classes already (0 background, 255
ignored) can be given instead. With 59 classes the background becomes the ignored label.
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import archives
from deeplab_tf.config import flags, setting
from deeplab_tf.conversion import building, masks
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError

VOC2010 = archives.Archive(
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    algorithm="md5",  # as torchvision publishes it
    digest="da459979d0c395079b5c75ee67908abb",
    folder="VOCdevkit/VOC2010",
)
LABELS = archives.Archive(
    url="https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
    algorithm="md5",  # as the tf_image_segmentation package publishes it
    digest="df034edb2c12aa7d33b42b20bb1796e3",
    folder="trainval",
)
NUM_LABELS = 460  # 0 is unlabelled, 1 to 459 are the release's labels
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class PascalContextConfig(building.DownloadConfig):
    """Where images and labels are, and where the records go."""

    voc2010_root: str = setting(
        "./VOCdevkit/VOC2010", "Folder with JPEGImages/ and ImageSets/ of VOC 2010."
    )
    labels_dir: str = setting(
        "./trainval", "Folder with the release's NAME.mat files, or NAME.png files of 60 classes."
    )
    without_background: bool = setting(
        False, "Whether to ignore the background: 59 classes (data set pascal_context_59)."
    )


def main(config: PascalContextConfig) -> None:
    """Converts both splits; skips those already converted from the same files."""
    root, labels_dir = Path(config.voc2010_root), Path(config.labels_dir)
    if config.download:
        archives.install(VOC2010, root, flag="voc2010_root", mirror=config.download_mirror)
        archives.install(LABELS, labels_dir, flag="labels_dir", mirror=config.download_mirror)

    info = catalog.load("pascal_context_59" if config.without_background else "pascal_context", "")
    pairs = {split: find_pairs(root, labels_dir, split) for split in SPLITS}
    building.build(config, info, pairs, mask_coding(info, from_mat=_has_mat_files(labels_dir)))


def mask_coding(info: catalog.DatasetInfo, *, from_mat: bool) -> masks.MaskCoding:
    """Returns how .mat files of 459 labels, or PNGs of 60 classes, become train ids."""
    num_dropped = 60 - info.num_classes  # 1 if there is no background, otherwise 0
    if from_mat:
        background = info.ignore_label if num_dropped else 0
        ids = catalog.index_map(info, size=NUM_LABELS, others=background)
    else:
        dropped = [info.ignore_label] * num_dropped
        unused = [-1] * (info.ignore_label - 60)
        ids = (*dropped, *range(info.num_classes), *unused, info.ignore_label)
    return masks.MaskCoding(
        num_classes=info.num_classes, ignore_label=info.ignore_label, index_map=ids
    )


def find_pairs(root: Path, labels_dir: Path, split: str) -> list[FilePair]:
    """Returns the images and labels of a split, in the order of its list.

    Raises:
      UserError: if a folder, the list, an image or a label is missing.
    """
    voc_help = VOC2010.help("voc2010_root")
    for folder, help in ((root, voc_help), (labels_dir, LABELS.help("labels_dir"))):
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; {help}")

    # VOC's main lists name the same images, in the splits that PASCAL Context uses.
    context_list = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    main_list = root / "ImageSets" / "Main" / f"{split}.txt"
    names = building.read_list(context_list if context_list.is_file() else main_list, voc_help)

    suffix = ".mat" if _has_mat_files(labels_dir) else ".png"
    pairs = [
        FilePair(name, root / "JPEGImages" / f"{name}.jpg", labels_dir / f"{name}{suffix}")
        for name in names
    ]
    building.require_files(pairs, f"{voc_help[:-1]}; {LABELS.help('labels_dir')}")
    return pairs


def _has_mat_files(labels_dir: Path) -> bool:
    return any(labels_dir.glob("*.mat"))


def run() -> None:
    flags.run(main, [PascalContextConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

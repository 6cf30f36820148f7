"""Miniature data sets in the layouts of the original archives."""

from pathlib import Path

import numpy as np
import scipy.io
import tensorflow as tf
from PIL import Image

SIZES = [(37, 61), (64, 48), (45, 45), (33, 70)]  # height, width


def label_of(values, number: int) -> np.ndarray:
    """A label that holds all `values`, int [H, W], in blocks (in pixels, if they are many)."""
    height, width = SIZES[number % len(SIZES)]
    side = 3 if len(values) < 200 else 1
    blocks = np.arange(height)[:, np.newaxis] // side * (width // side + 1)
    blocks = blocks + np.arange(width) // side
    return np.asarray(values)[(blocks + number) % len(values)]


def write_image(path: Path, number: int, mode: str = "RGB") -> None:
    """An image that differs from number to number, of the size of label_of(..., number)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIZES[number % len(SIZES)]
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, [5, 5, 3], dtype=np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)


def write_mask(path: Path, label: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label.astype(np.uint8))
    if palette:  # VOC's colours: class 1 is dark red, grey level 38
        colors = np.random.default_rng(0).integers(0, 256, [256, 3], dtype=np.uint8)
        colors[:2] = (0, 0, 0), (128, 0, 0)
        image.putpalette(colors.tobytes())
    image.save(path)


def write_lists(folder: Path, lists: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{member}\n" for member in members))


VOC_VALUES = [*range(21), 255]


def voc2012(root: Path) -> None:
    """VOC 2012 and SBD: `a`s are VOC's train, `b`s its val, `c`s only SBD's."""
    voc, sbd = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    lists = {"train": ["a_0", "a_1"], "val": ["b_2", "b_3"]}
    lists["trainval"] = lists["train"] + lists["val"]
    write_lists(voc / "ImageSets/Segmentation", lists)
    of_sbd = {"train": ["c_0", "b_2"], "val": ["a_1", "c_1", "c_2"]}
    write_lists(sbd, of_sbd)
    for name in {*lists["trainval"], *of_sbd["train"], *of_sbd["val"]}:
        number = int(name[-1])
        write_image(voc / f"JPEGImages/{name}.jpg", number)
        if name[0] != "c":
            mask = voc / f"SegmentationClass/{name}.png"
            write_mask(mask, label_of(VOC_VALUES, number), palette=True)
    for name in [*of_sbd["train"], *of_sbd["val"]]:
        number = int(name[-1])
        (sbd / "cls").mkdir(exist_ok=True)
        content = {
            "Segmentation": label_of(range(20, -1, -1), number).astype(np.uint8),
            "Boundaries": np.zeros([20, 1]),
            "CategoriesPresent": np.arange(1, 21, dtype=np.uint8),
        }
        scipy.io.savemat(sbd / f"cls/{name}.mat", {"GTcls": content}, do_compression=True)


def ade20k(root: Path) -> None:
    for split, folder, numbers in (("train", "training", range(3)), ("val", "validation", (1, 2))):
        for number in numbers:
            name = f"ADE_{split}_{number:08d}"
            image = root / f"ADEChallengeData2016/images/{folder}/{name}.jpg"
            write_image(image, number, "L" if number == 2 else "RGB")  # the real set has grey ones
            mask = root / f"ADEChallengeData2016/annotations/{folder}/{name}.png"
            write_mask(mask, label_of(range(151), number))


CITYSCAPES_IDS = [*range(34), 255]


def cityscapes(root: Path) -> None:
    """Coarse labels list the ids the other way round, so that they are told apart."""
    kinds = {"gtFine": CITYSCAPES_IDS, "gtCoarse": CITYSCAPES_IDS[::-1]}
    for folder, city, numbers in (
        ("train", "aachen", (0, 1)),
        ("train", "zurich", (2,)),
        ("val", "munster", (3, 1)),
        ("test", "berlin", (0, 2)),
        ("train_extra", "erlangen", (3,)),
    ):
        for number in numbers:
            name = f"{city}_{number:06d}_000019"
            write_image(root / f"leftImg8bit/{folder}/{city}/{name}_leftImg8bit.png", number)
            for kind, values in kinds.items():
                if folder == "test" or (kind, folder) == ("gtFine", "train_extra"):
                    continue
                label, path = label_of(values, number), root / f"{kind}/{folder}/{city}"
                write_mask(path / f"{name}_{kind}_labelIds.png", label)
                instances = Image.fromarray(label.astype(np.uint16) * 1000)
                instances.save(path / f"{name}_{kind}_instanceIds.png")


CONTEXT_SPLITS = {"train": ["2008_000000", "2008_000001", "2008_000002"], "val": ["2008_000003"]}


def pascal_context(root: Path) -> None:
    """VOC 2010's images and lists, and the release's .mat files with all 459 labels."""
    splits = CONTEXT_SPLITS | {"val": [*CONTEXT_SPLITS["val"], "2008_000004"]}
    write_lists(root / "VOCdevkit/VOC2010/ImageSets/Main", splits)
    (root / "trainval").mkdir()
    for name in [*splits["train"], *splits["val"]]:
        number = int(name[-1])
        write_image(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg", number)
        label = label_of(range(460), number).astype(np.uint16)
        scipy.io.savemat(root / f"trainval/{name}.mat", {"LabelMap": label})


def read_back(folder: Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Reads a split as the official data_generator.py does: name -> image, label (None if none).

    Its keys, types and defaults: docs/ancestors.md, official DeepLab, Records.
    """
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/filename": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/format": tf.io.FixedLenFeature((), tf.string, default_value="jpeg"),
        "image/height": tf.io.FixedLenFeature((), tf.int64, default_value=0),
        "image/width": tf.io.FixedLenFeature((), tf.int64, default_value=0),
        "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/segmentation/class/format": tf.io.FixedLenFeature((), tf.string, "png"),
    }
    found = {}
    files = sorted(str(path) for path in folder.glob(f"{split}-*.tfrecord"))
    for serialized in tf.data.TFRecordDataset(files):
        record = tf.io.parse_single_example(serialized, features)
        decode = tf.io.decode_jpeg if record["image/format"] == b"jpeg" else tf.io.decode_png
        image = decode(record["image/encoded"], channels=3).numpy()
        assert image.shape[:2] == (record["image/height"], record["image/width"])
        encoded, label = record["image/segmentation/class/encoded"], None
        if encoded != b"":
            label = tf.io.decode_png(encoded, channels=1).numpy()[..., 0]
        found[record["image/filename"].numpy().decode()] = image, label
    return found

"""Reads records as the official package does, by its keys, defaults and file pattern.

Facts: data_generator.py of the official package. It knows no dataset.json, takes all files that
begin with the split's name and a hyphen, and decodes the label of every record.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
    "image/filename": tf.io.FixedLenFeature((), tf.string, ""),
    "image/format": tf.io.FixedLenFeature((), tf.string, "jpeg"),
    "image/height": tf.io.FixedLenFeature((), tf.int64, 0),
    "image/width": tf.io.FixedLenFeature((), tf.int64, 0),
    "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, ""),
    "image/segmentation/class/format": tf.io.FixedLenFeature((), tf.string, "png"),
}
# The splits that it allows: the descriptors of data_generator.py.
SPLITS = {
    "pascal_voc_seg": {"train", "train_aug", "trainval", "val"},
    "cityscapes": {
        "train_fine", "train_coarse", "trainval_fine", "trainval_coarse", "val_fine", "test_fine",
    },
    "ade20k": {"train", "val"},
}  # fmt: skip


def _decoded(content: tf.Tensor, channels: int) -> np.ndarray:
    decode = tf.io.decode_jpeg if tf.io.is_jpeg(content) else tf.io.decode_png
    return decode(content, channels=channels).numpy()


def read(folder: Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns image and label [H, W] of each record, by its name."""
    found = {}
    files = sorted(tf.io.gfile.glob(str(folder / f"{split}-*")))  # it reads them in any order
    for serialized in tf.data.TFRecordDataset(files):
        record = tf.io.parse_single_example(serialized, _FEATURES)
        assert record["image/format"] in (b"jpeg", b"png")
        assert record["image/segmentation/class/format"] == b"png"
        image = _decoded(record["image/encoded"], 3)
        label = _decoded(record["image/segmentation/class/encoded"], 1)[..., 0]
        assert image.shape[:2] == label.shape == (record["image/height"], record["image/width"])
        found[record["image/filename"].numpy().decode()] = image, label
    return found

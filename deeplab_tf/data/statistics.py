"""What a split holds: sizes, pixels of each class, and the settings that these suggest."""

import collections
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deeplab_tf.data import pipeline, records
from deeplab_tf.data.catalog import DatasetInfo

# Crops of the ancestor's largest recipe; docs/ancestors.md, SSSegmentation, Cityscapes.
_LARGEST_CROP = 512 * 1024


@dataclass(frozen=True)
class Statistics:
    """Counts over the images of a split.

    sizes: images of each (height, width). pixels: int64 [classes], pixels of each class.
    images: int64 [classes], images in which a class occurs. room: int64 [classes], pixels with
    any class in those images. ignored: pixels with the ignored label.
    """

    sizes: collections.Counter[tuple[int, int]]
    pixels: np.ndarray
    images: np.ndarray
    room: np.ndarray
    ignored: int

    def class_weights(self) -> np.ndarray:
        """Returns loss weights by median frequency balancing, float64 [classes].

        (Eigen and Fergus 2015, sec. 6.3.2.) A class's frequency is its share of the pixels of
        the images that it occurs in; its weight is the median frequency over its own. Classes
        that do not occur get 0.
        """
        frequency = self.pixels / np.maximum(self.room, 1)
        present = frequency > 0
        if not present.any():
            return np.zeros(len(frequency))
        median = np.median(frequency[present])
        return np.where(present, median / np.where(present, frequency, 1), 0.0)

    def crop_size(self) -> tuple[int, int]:
        """Returns a crop for training at the images' own size: height and width.

        The median image, halved until it is no larger than 512x1024 pixels; multiples of 16.
        """
        sizes = np.array(list(self.sizes.elements()))
        height, width = np.median(sizes, axis=0)
        while height * width > _LARGEST_CROP:
            height, width = height / 2, width / 2
        return max(16, int(height) // 16 * 16), max(16, int(width) // 16 * 16)


def measure(
    table: records.RecordTable,
    info: DatasetInfo,
    *,
    progress: Callable[[int], None] = lambda images: None,
) -> Statistics:
    """Decodes every image and label of a split and counts.

    Raises:
      UserError: naming an image whose label has another size or a value outside of the classes.
    """
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    pixels, images, room = np.zeros([3, info.num_classes], np.int64)
    ignored = 0
    batches = pipeline.eval_batches(
        table,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=False,
    )
    for batch in batches:
        height, width = batch.images.shape[1:3]
        sizes[height, width] += 1
        counts = np.bincount(batch.labels.ravel(), minlength=256)
        ignored += int(counts[info.ignore_label])
        counts[info.ignore_label] = 0
        counts = counts[: info.num_classes]
        pixels += counts
        images += counts > 0
        room += np.where(counts > 0, counts.sum(), 0)
        progress(1)
    return Statistics(sizes, pixels, images, room, ignored)

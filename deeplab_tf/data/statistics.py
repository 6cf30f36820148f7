"""Counts the labels of a split, and derives settings from the counts; without TensorFlow.

Builders count while they convert, inspect_data counts records; both use `LabelCounts`.
"""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

# The crop of the ancestor's largest recipe; docs/ancestors.md, SSSegmentation, Cityscapes.
_LARGEST_CROP = 512 * 1024


def histogram(label: np.ndarray) -> list[int]:
    """Returns how often each value occurs in a label, uint8 [H, W]: 256 numbers.

    Pillow counts the bytes in place and without Python's lock. np.bincount copies them to int64
    first and takes twice the time.
    """
    height, width = label.shape
    return Image.frombuffer("L", (width, height), label, "raw", "L", 0, 1).histogram()


@dataclass
class LabelCounts:
    """Counts over labels.

    pixels: int64 [classes], pixels of each class.
    images: int64 [classes], images in which each class occurs.
    ignored: pixels with the ignored label.
    """

    pixels: np.ndarray
    images: np.ndarray
    ignored: int = 0

    @classmethod
    def none(cls, num_classes: int) -> "LabelCounts":
        """Returns counts that are all 0."""
        return cls(np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64))

    @property
    def ignored_share(self) -> float:
        """The share of all pixels that have the ignored label, 0 to 1."""
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)

    def add(self, values: Sequence[int], ignore_label: int) -> np.ndarray:
        """Adds the values of a label, as counted by `histogram`; returns its pixels of each class.

        The ignored label may also be the index of a class, whose pixels are then ignored.
        """
        pixels = np.array(values[: len(self.pixels)], np.int64)
        if ignore_label < len(pixels):
            pixels[ignore_label] = 0

        self.pixels += pixels
        self.images += pixels > 0
        self.ignored += values[ignore_label]
        return pixels

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(
            self.pixels + other.pixels,
            self.images + other.images,
            self.ignored + other.ignored,
        )

    def to_json(self, class_names: Sequence[str]) -> dict:
        """Returns the counts as dataset.json and statistics.json hold them."""
        return {
            "pixels": dict(zip(class_names, self.pixels.tolist(), strict=True)),
            "images_with": dict(zip(class_names, self.images.tolist(), strict=True)),
            "ignored_pixels": self.ignored,
        }

    @classmethod
    def from_json(cls, content: dict) -> "LabelCounts":
        """Returns the counts that `to_json` wrote."""
        return cls(
            np.array([*content["pixels"].values()], np.int64),
            np.array([*content["images_with"].values()], np.int64),
            content["ignored_pixels"],
        )


def counts_of(entry: dict) -> LabelCounts | None:
    """Returns a split's counts from its entry in dataset.json; None if any label is uncounted.

    Builders count only what they decode. Earlier versions did not count at all.
    """
    if not entry.get("labelled") or entry.get("uncounted_labels", 1):
        return None
    return LabelCounts.from_json(entry["statistics"])


@dataclass
class Moments:
    """Sums over the values of images, from which each channel's mean and deviation follow.

    count: of values of a channel. sums, squares: float64 [channels], of the values and of their
    squares.
    """

    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(1))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, values: np.ndarray) -> None:
        """Adds values [..., channels]."""
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self.count += len(flat)
        self.sums = self.sums + flat.sum(axis=0)
        self.squares = self.squares + np.square(flat).sum(axis=0)

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each channel's mean and standard deviation, float64 [channels].

        The deviation is at least what the setting image_std allows.
        """
        mean = self.sums / self.count
        variance = np.maximum(self.squares / self.count - np.square(mean), 0)
        return mean, np.maximum(np.sqrt(variance), 0.001)


@dataclass
class Statistics:
    """Counts over the records of a split.

    sizes: number of images of each (height, width).
    labels: the pixels of the labels.
    room: int64 [classes]; for each class, the pixels of all classes in the images that it occurs
      in.
    values: of the images, if they are not 8-bit RGB; scaled to 0..255, as networks take them.
    """

    sizes: collections.Counter[tuple[int, int]]
    labels: LabelCounts
    room: np.ndarray
    values: Moments = field(default_factory=Moments)

    @classmethod
    def none(cls, num_classes: int) -> "Statistics":
        """Returns counts that are all 0."""
        room = np.zeros(num_classes, np.int64)
        return cls(collections.Counter(), LabelCounts.none(num_classes), room)

    def add(self, size: tuple[int, int], label: np.ndarray, ignore_label: int) -> None:
        """Adds an image's height and width, and its label, uint8 [H, W]; [0, 0] if it has none."""
        self.sizes[size] += 1
        if label.size:
            pixels = self.labels.add(histogram(label), ignore_label)
            self.room += np.where(pixels > 0, pixels.sum(), 0)

    def class_weights(self) -> np.ndarray:
        """Returns loss weights by median frequency balancing, float64 [classes].

        The frequency of a class is its share of the pixels in the images that it occurs in. Its
        weight is the median frequency divided by its own (Eigen and Fergus 2015, sec. 6.3.2).
        Classes that do not occur get 0.
        """
        frequency = self.labels.pixels / np.maximum(self.room, 1)
        present = frequency > 0
        if not present.any():
            return np.zeros(len(frequency))
        median = np.median(frequency[present])
        return np.where(present, median / np.where(present, frequency, 1), 0.0)

    def crop_size(self) -> tuple[int, int]:
        """Returns a crop size for training at the images' own size: height and width.

        It is the size of the median image, halved until it has no more pixels than 512x1024, and
        rounded down to multiples of 16.
        """
        sizes = np.array(list(self.sizes.elements()))
        height, width = np.median(sizes, axis=0)
        while height * width > _LARGEST_CROP:
            height, width = height / 2, width / 2
        return max(16, int(height) // 16 * 16), max(16, int(width) // 16 * 16)


def table(class_names: Sequence[str], splits: Mapping[str, LabelCounts]) -> str:
    """Returns a line per class with its pixels in each split, and a line for the ignored label.

    As in the reports of eval and inspect_data, the percentage of a class is of the pixels that
    count, and the percentage of the ignored label is of all pixels. Classes that do not occur have
    no percentage.
    """
    width = max(map(len, [*class_names, "ignored, of all"]))
    columns = [max(len(split), 13) for split in splits]  # 13 characters hold 9,999,999,999
    header = f"{'pixels':<{width}}"
    lines = [
        header + "".join(f"  {s:>{c}}  {'%':>6}" for s, c in zip(splits, columns, strict=True))
    ]

    for index, name in enumerate(class_names):
        cells = [(counts.pixels[index], counts.pixels.sum()) for counts in splits.values()]
        lines.append(f"{name:<{width}}" + _cells(cells, columns))

    lines.append("-" * len(lines[0]))
    cells = [(counts.ignored, counts.pixels.sum() + counts.ignored) for counts in splits.values()]
    lines.append(f"{'ignored, of all':<{width}}" + _cells(cells, columns))
    return "\n".join(lines)


def _cells(cells: Sequence[tuple[int, int]], columns: Sequence[int]) -> str:
    """Returns the rest of a line: for each split its pixels and their percentage of a total."""
    text = ""
    for (pixels, total), column in zip(cells, columns, strict=True):
        share = f"{100 * pixels / total:.2f}" if pixels else "-"
        text += f"  {pixels:>{column},}  {share:>6}"
    return text

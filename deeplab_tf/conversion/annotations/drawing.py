"""What an annotation tool drew in an image, and what its labels mean.

A Drawing becomes a label array of train ids, which then goes the way of every mask
(`encoding.encode_pair`). Shapes are drawn in the file's order, later ones over earlier ones, by the
rules of the tool's own converter.
"""

import dataclasses
import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplab_tf.conversion.masks import MaskCoding
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.messages import UserError

MOST_COORDINATE = 10**6  # pixels; as many as an image may have in a row
NOT_DRAWN = -1


@dataclass(frozen=True, kw_only=True)
class DrawnCoding(MaskCoding):
    """What the labels of annotations mean; its `repr` decides whether records are up to date.

    values: the train id, the ignored label or NOT_DRAWN, for each name of a label.
    unlabeled: the value of pixels that no shape covers.
    ignores_crowds: whether regions of many objects become the ignored label, not their class.
    """

    values: tuple[tuple[str, int], ...]
    unlabeled: int
    ignores_crowds: bool = False

    @functools.cached_property
    def _value_of_name(self) -> Mapping[str, int]:
        return dict(self.values)

    def value_of(self, label: str, *, is_crowd: bool = False) -> int:
        """Returns the value of a shape's pixels, or NOT_DRAWN."""
        value = self._value_of_name[label]
        return self.ignore_label if is_crowd and self.ignores_crowds and value >= 0 else value


@dataclass(frozen=True)
class Drawing(ABC):
    """The shapes in one image.

    path: the annotation file.
    image_name: what the file calls the image: a name, or a path from somewhere.
    size: width and height of the image; None if the file does not say.
    subset: the split that the file assigns the image to; "" if none.
    """

    path: Path
    image_name: str
    size: tuple[int, int] | None
    subset: str = field(default="", kw_only=True)

    @property
    def where(self) -> str:
        """What errors call the drawing."""
        return f"the image {self.image_name!r} in {self.path}"

    @abstractmethod
    def labels(self) -> Counter[str]:
        """Returns how many shapes have each label."""

    @abstractmethod
    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Returns train ids and the ignored label, uint8 [H, W].

        Args:
          size: width and height, which are `self.size` if there is one.
        Raises:
          UserError: if a shape is damaged.
        """

    @abstractmethod
    def polygons(self) -> list[np.ndarray]:
        """Returns the corners of each polygon or rectangle, x and y in pixels, [n, 2]."""

    @abstractmethod
    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns the numbers in pixels, [n, 2], that place each shape that `polygons` lacks.

        None stands for a mask or runs, which cannot be in other units than pixels.
        """

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that decides what is drawn, apart from the coding."""
        digest = hashlib.sha256(type(self).__name__.encode())
        _add(digest, (self.size, self.content()))
        return digest.digest()

    @abstractmethod
    def content(self) -> object:
        """Returns the shapes, as dataclasses, tuples, arrays and plain values."""


def _add(digest, value: object) -> None:
    """Adds a value to a hash: arrays by their bytes, everything else by its repr."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value))
    elif isinstance(value, tuple):
        digest.update(f"({len(value)}".encode())
        for part in value:
            _add(digest, part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(type(value).__name__.encode())
        _add(digest, tuple(getattr(value, part.name) for part in dataclasses.fields(value)))
    else:
        digest.update(f"{value!r},".encode("utf-8", "backslashreplace"))


@dataclass(frozen=True)
class UnreadableDrawing(Drawing):
    """A file that cannot be read; --skip_bad leaves its image out.

    reason: the sentence that says why.
    """

    reason: str

    def labels(self) -> Counter[str]:
        """Returns nothing."""
        return Counter()

    def content(self) -> object:
        """Returns why there is no content."""
        return self.reason

    def polygons(self) -> list[np.ndarray]:
        """Returns nothing."""
        return []

    def other_shapes(self) -> list[np.ndarray | None]:
        """Returns nothing."""
        return []

    def draw(self, size: tuple[int, int], coding: DrawnCoding) -> np.ndarray:
        """Raises the error with which reading ended."""
        raise UserError(self.reason)


@dataclass
class AnnotationFile:
    """What one file, or a folder of files with an image each, says.

    drawings: one for each image, in the file's order.
    classes: the classes that the file lists, without a background of our own; None if it lists
      none.
    listed_in: the file with the list of classes, if it is another one.
    left_out: how many shapes were left out, by the reason.
    """

    tool: str
    path: Path
    drawings: list[Drawing]
    classes: list[LabelClass] | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    listed_in: Path | None = None

    @property
    def class_list_path(self) -> Path:
        """The file that lists the classes, which users can change."""
        return self.listed_in or self.path


def coordinates(points: object, fail: Callable[[str], Exception]) -> np.ndarray:
    """Returns points as float64 [n, 2], x and y in pixels.

    Args:
      points: a list of numbers x, y, x, y..., which may be in a list of its own, or of pairs.
      fail: makes the error from what is wrong.
    """
    try:
        array = np.array(points, np.float64)
        num_rows = math.prod(array.shape[:-1])
        if array.size and num_rows > 1 and array.shape[-1] != 2:  # x, y and a depth, or more
            raise ValueError
        array = array.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise fail("has points that are no pairs of numbers") from None
    if not np.isfinite(array).all() or (np.abs(array) > MOST_COORDINATE).any():
        raise fail(
            f"has a coordinate that is no number from -{MOST_COORDINATE:,} to {MOST_COORDINATE:,}"
        )
    return array

"""The content of a record: one encoded image with its label, and what happened to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deeplab_tf.data.image_kinds import ValueCounts

Color = tuple[int, int, int]

# Decisions of the conversion about an image that its owner may want to know:
Remark = Literal[
    "turned",  # as its EXIF data say
    "turned_unsure",  # the same, but the mask may have been drawn on the image as stored
    "not_turned",  # in spite of its EXIF data: the mask fits only the image as stored
    "channel_dropped",  # transparency, or a channel that is not a colour
    "values",  # --mask_encoding=auto read the mask by its values
    "colors",  # --mask_encoding=auto read the mask by its colours
]


@dataclass(frozen=True)
class EncodedExample:
    """One image and its label as they are stored in a record.

    image: the bytes of an image file.
    label: the bytes of a PNG; empty if the data set publishes no label.
    source: SHA-256 of the files that it was made of.
    image_source: SHA-256 of only the image's file.
    label_values: how many pixels of the label have each value, 256 numbers; empty if there is no
      label or it was not decoded.
    remarks: what the owner of the images should know about the conversion.
    palette: as in `masks.EncodedMask`.
    channels: of the image.
    image_values: counts of its values; None for 8-bit RGB, whose values are taken as they are.
    """

    name: str
    image: bytes
    image_format: str
    height: int
    width: int
    label: bytes
    source: bytes = b""
    label_values: Sequence[int] = ()
    remarks: tuple[Remark, ...] = ()
    palette: tuple[tuple[int, Color], ...] = ()
    channels: int = 3
    image_values: ValueCounts | None = None
    image_source: bytes = b""

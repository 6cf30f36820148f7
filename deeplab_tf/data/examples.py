"""What a record holds: one image and its label, encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Color = tuple[int, int, int]

# What a conversion does to an image without being asked:
Remark = Literal[
    "turned",  # as its EXIF data say
    "turned_unsure",  # so too, though the mask fits the image as it is stored as well
    "not_turned",  # though its EXIF data say so: the mask fits only the image as it is stored
    "channel_dropped",  # transparency, or a channel that is no colour
    "values",  # by which --mask_encoding=auto read the mask
    "colors",
]


@dataclass(frozen=True)
class EncodedExample:
    """One image and its label as they are stored: encoded bytes, the label always as PNG.

    label: empty where the data set publishes none.
    source: SHA-256 of the files that it was made of.
    label_values: how many pixels of the label have each value, 256 numbers; empty if it has no
      label or was not decoded.
    remarks: what its owner should know of the image's conversion.
    palette: as in `masks.EncodedMask`.
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

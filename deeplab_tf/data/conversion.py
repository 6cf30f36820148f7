"""Raw image and mask files -> what a record holds, on all cores and without TensorFlow.

Every image and mask is fully decoded, unless the user trusts them: checking only headers lets cut
JPEGs through. Masks become 8-bit index PNGs, whose values are train ids or the ignored label.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config import UserError
from deeplab_tf.data import decoding, masks
from deeplab_tf.data.masks import MaskCoding

CONVERSION = 4  # counts up when the same files may become other records or counts
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # Pillow would print one for each image
_STORED_FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}  # by Pillow's names
_TURNS = {  # EXIF 2.32, tag Orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # others are their own
_SIDEWAYS = (5, 6, 7, 8)  # swap width and height
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "1")

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
    palette: tuple[tuple[int, masks.Color], ...] = ()


@dataclass(frozen=True)
class BadFile:
    """A pair that could not be encoded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FilePair:
    """An image file and its mask file (None if the data set publishes none) under one name."""

    name: str
    image_path: Path
    mask_path: Path | None


def encode_pair(
    pair: FilePair, coding: MaskCoding, *, verify: str = "full", exif_orientation: str = "apply"
) -> EncodedExample:
    """Reads, checks and encodes an image with its mask.

    The bytes of both are kept as they are when TensorFlow decodes them to the same pixels.

    Args:
      verify: "full", or "header": files that are kept as they are are not decoded.
      exif_orientation: "apply" turns an image as its EXIF data say, unless only the unturned one
        has the mask's size; "ignore" turns none.
    Raises:
      UserError: naming the file that is unreadable, out of the class list, or of another size.
    """
    stored = _open_image(pair.image_path, decode=verify == "full")
    if verify == "full" and stored.format == "png":
        decoding.require_whole_png(stored.content, pair.image_path)
    source = hashlib.sha256(stored.content)
    mask = masks.EncodedMask(b"", None, ())
    if pair.mask_path:
        mask_content = decoding.read_file(pair.mask_path)
        source.update(mask_content)
        mask = masks.encode_mask(mask_content, pair.mask_path, coding, verify=verify)
    remark = _orientation_remark(stored, pair, mask.size, exif_orientation)
    dropped: Remark | None = "channel_dropped" if stored.has_other_channel else None

    image, content, image_format = stored.image, stored.content, stored.format
    is_turned = remark in ("turned", "turned_unsure")
    if is_turned or image.mode not in ("RGB", "L") or not image_format:
        with decoding.naming(pair.image_path):
            image = (stored.turned() if is_turned else image).convert("RGB")
        image.info.pop("transparency", None)  # of the old mode: Pillow cannot write it
        content, image_format = decoding.encode_png(image), "png"
    return EncodedExample(
        name=pair.name,
        image=content,
        image_format=image_format,
        height=image.height,
        width=image.width,
        label=mask.png,
        source=source.digest(),
        label_values=mask.counts,
        remarks=tuple(told for told in (remark, dropped, mask.chosen_reading) if told),
        palette=mask.palette,
    )


def _orientation_remark(
    stored: "_StoredImage",
    pair: FilePair,
    mask_size: tuple[int, int] | None,
    exif_orientation: str,
) -> Remark | None:
    """Returns whether the image is turned as its EXIF data say; None if they say nothing.

    Args:
      mask_size: width and height; None if there is no mask.
    Raises:
      UserError: if the image cannot have the mask's size.
    """
    size = stored.image.size
    turned_size = size[::-1] if stored.orientation in _SIDEWAYS else size
    turns = stored.orientation in _TURNS and exif_orientation == "apply"
    if turns and mask_size in (None, turned_size):
        # Half a turn, a mirroring and a square keep the size: it does not tell what was annotated.
        return "turned_unsure" if mask_size == size else "turned"
    if mask_size in (None, size):
        return "not_turned" if turns else None
    way_out = "they must have the same size."
    if mask_size == turned_size:
        way_out = "turned as its EXIF data say it would fit: leave out --exif_orientation=ignore."
    raise UserError(
        f"{pair.image_path} is {size[0]}x{size[1]} but its mask {pair.mask_path} "
        f"is {mask_size[0]}x{mask_size[1]}; {way_out}"
    )


def read_image(path: Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3], RGB, turned as its EXIF data says.

    Raises:
      UserError: if it is not an image of 8 bits a channel.
    """
    return read_image_and_loss(path)[0]


def read_image_and_loss(path: Path) -> tuple[np.ndarray, bool]:
    """Reads an image file as `read_image`; also says whether a channel of it was dropped."""
    stored = _open_image(path)
    return np.asarray(stored.turned().convert("RGB")), stored.has_other_channel


@dataclass(frozen=True)
class _StoredImage:
    """An image file: its pixels as they are stored, and what it says of them.

    format: "jpeg", "png", or empty for those that TensorFlow does not decode to the same pixels.
    orientation: how its EXIF data turn it, 1 (upright) to 8.
    has_other_channel: whether there are channels besides red, green and blue.
    """

    image: Image.Image
    content: bytes
    format: str
    orientation: int
    has_other_channel: bool

    def turned(self) -> Image.Image:
        """Returns the image as its EXIF data turn it."""
        turn = _TURNS.get(self.orientation)
        return self.image if turn is None else self.image.transpose(turn)


def _open_image(path: Path, *, decode: bool = True) -> _StoredImage:
    """Opens an image file; refuses more than 8 bits a channel."""
    content = decoding.read_file(path)
    # First, as Pillow opens some deeper images as if they had 8 bits, and others not at all.
    if deep := files.deeper_than_8_bits(content):
        raise UserError(
            f"{path} has {deep}, but images have 8; scale all of them by the same range, as "
            "'gdal_translate -ot Byte -scale 0 4095 0 255 IN OUT' does for 12-bit values."
        )
    image = decoding.open_image(content, path, decode=False)
    tiff_orientation = decoding.tiff_orientation(image)
    # The first are decoded anyway; a PNG's EXIF data may come after its pixels.
    is_stored = image.format in _STORED_FORMATS
    if decode or not is_stored or (image.format == "PNG" and b"eXIf" in content):
        with decoding.naming(path):
            image.load()
    if image.mode not in _IMAGE_MODES:
        raise UserError(f"{path} has the mode {image.mode}; images have 8 bits a channel.")

    stored_format = _STORED_FORMATS.get(image.format or "", "")
    has_other_channel = _has_other_channel(image)
    if tiff_orientation in _TURNS:
        orientation = tiff_orientation
        image = image.transpose(_TURNS[_INVERSE.get(orientation, orientation)])
    else:
        # Pillow's own reading takes XMP and PNG text for EXIF data too, which other programs and
        # `encoded` pass over.
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        orientation = files.exif_orientation(exif)
    return _StoredImage(image, content, stored_format, orientation, has_other_channel)


def _has_other_channel(image: Image.Image) -> bool:
    """Whether an image has channels besides red, green and blue, which no record holds."""
    return (
        image.mode in ("RGBA", "LA")
        or (image.mode == "P" and "transparency" in image.info)
        or decoding.num_hidden_bands(image) > 0
    )


def fingerprint(pairs: Sequence[FilePair], *settings: Any) -> str:
    """Returns a hash of the files' names, sizes and times and of the conversion's settings."""
    digest = hashlib.sha256(repr((CONVERSION, *settings)).encode())
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            state = path.stat()
            digest.update(f"{pair.name}|{path.name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()

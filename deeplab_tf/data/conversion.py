"""Raw image and mask files -> what a record holds, on all cores and without TensorFlow.

Every image and mask is fully decoded, unless the user trusts them: header checks alone let cut
JPEGs through. Masks become 8-bit index PNGs, whose values are train ids or the ignored label.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config import UserError
from deeplab_tf.data import decoding, masks
from deeplab_tf.data.masks import MaskCoding

CONVERSION = 3  # counts up when the same files may become other records
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
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "1")


@dataclass(frozen=True)
class EncodedExample:
    """One image and its label as they are stored: encoded bytes, the label always as PNG.

    label: empty where the data set publishes none.
    source: SHA-256 of the files that it was made of.
    """

    name: str
    image: bytes
    image_format: str
    height: int
    width: int
    label: bytes
    source: bytes = b""


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


def encode_pair(pair: FilePair, coding: MaskCoding, *, verify: str = "full") -> EncodedExample:
    """Reads, checks and encodes an image with its mask.

    The bytes of both are kept as they are when TensorFlow decodes them to the same pixels.
    An image that its EXIF data turns is turned unless only the unturned one has the mask's size.

    Args:
      verify: "full", or "header": files that are kept as they are are not decoded.
    Raises:
      UserError: naming the file that is unreadable, out of the class list, or of another size.
    """
    image, content = _open_image(pair.image_path, decode=verify == "full")
    if verify == "full" and image.format == "PNG":
        decoding.require_whole_png(content, pair.image_path)
    source = hashlib.sha256(content)
    with decoding.naming(pair.image_path):
        upright = _upright(image)
    label = b""
    if pair.mask_path:
        mask_content = decoding.read_file(pair.mask_path)
        source.update(mask_content)
        label, size = masks.encode_mask(mask_content, pair.mask_path, coding, verify=verify)
        if upright.size != size:
            upright = image
        if upright.size != size:
            raise UserError(
                f"{pair.image_path} is {image.width}x{image.height} but its mask {pair.mask_path} "
                f"is {size[0]}x{size[1]}; they must have the same size."
            )
    stored, image_format = (
        content,
        _STORED_FORMATS.get(image.format or "", ""),
    )
    if upright is not image or image.mode not in ("RGB", "L") or not image_format:
        with decoding.naming(pair.image_path):
            upright = upright.convert("RGB")
        upright.info.pop("transparency", None)  # of the old mode: Pillow cannot write it
        stored, image_format = decoding.encode_png(upright), "png"
    return EncodedExample(
        name=pair.name,
        image=stored,
        image_format=image_format,
        height=upright.height,
        width=upright.width,
        label=label,
        source=source.digest(),
    )


def read_image(path: Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3], RGB, turned as its EXIF data says.

    Raises:
      UserError: if it is not an image of 8 bits a channel.
    """
    image, _ = _open_image(path)
    return np.asarray(_upright(image).convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF data says; the same object if there is nothing to turn.

    Pillow's own reading takes XMP and PNG text for EXIF data too, which other programs and
    `encoded` pass over. A TIFF, always decoded here, was turned by Pillow then.
    """
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    turn = _TURNS.get(files.exif_orientation(exif))
    return image if turn is None else image.transpose(turn)


def _open_image(path: Path, *, decode: bool = True) -> tuple[Image.Image, bytes]:
    """Opens an image and returns it with its bytes; refuses more than 8 bits a channel."""
    content = decoding.read_file(path)
    # First, as Pillow opens some deeper images as if they had 8 bits, and others not at all.
    if deep := files.deeper_than_8_bits(content):
        raise UserError(
            f"{path} has {deep}, but images have 8; scale all of them by the same range, as "
            "'gdal_translate -ot Byte -scale 0 4095 0 255 IN OUT' does for 12-bit values."
        )
    image = decoding.open_image(content, path, decode=decode)
    # The first are decoded anyway; a PNG's EXIF data may come after its pixels.
    if image.format not in _STORED_FORMATS or (image.format == "PNG" and b"eXIf" in content):
        with decoding.naming(path):
            image.load()
    if image.mode not in _IMAGE_MODES:
        raise UserError(f"{path} has the mode {image.mode}; images have 8 bits a channel.")
    return image, content


def fingerprint(pairs: Sequence[FilePair], *settings: Any) -> str:
    """Returns a hash of the files' names, sizes and times and of the conversion's settings."""
    digest = hashlib.sha256(repr((CONVERSION, *settings)).encode())
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            state = path.stat()
            digest.update(f"{pair.name}|{path.name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()

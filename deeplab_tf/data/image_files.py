"""Reads image files of all formats as 8-bit RGB, or as the kind of a data set's images.

8-bit RGB is read without TensorFlow.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding, other_images
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError, counted, warn

warnings.filterwarnings("ignore", "Corrupt EXIF data")  # Pillow would print it for every image
CHANNEL_DROPPED = (
    "with channels other than red, green and blue (transparency, infrared), which were dropped."
)
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames of JPEGs; ITU-T T.81 table B.1
TURNS = {  # EXIF 2.32, tag Orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # what undoes a turn; all others undo themselves
SIDEWAYS = (5, 6, 7, 8)  # swap width and height
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "1")


def read_image(path: Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3], RGB, turned as its EXIF data say.

    Raises:
      UserError: if it is not an image with 8 bits per channel.
    """
    return read_image_and_loss(path)[0]


def read_image_and_loss(path: Path, kind: ImageKind = RGB) -> tuple[np.ndarray, bool]:
    """Reads an image file as `read_image` does; also says whether something was lost.

    8-bit RGB images may lose a channel. Images of another `kind`, [H, W, channels] of its dtype,
    may lose brightness above its `max_value`.
    """
    return decode_image(decoding.read_file(path), path, kind)


def decode_image(
    content: bytes, name: str | Path, kind: ImageKind = RGB
) -> tuple[np.ndarray, bool]:
    """Decodes the content of an image file as `read_image_and_loss` does; `name` is for errors."""
    if not kind.is_rgb:
        image, counts = other_images.decode(content, name, kind)
        return image, counts.clipped > 0
    stored = _opened(content, name, decode=True)
    return np.asarray(stored.turned().convert("RGB")), stored.has_other_channel


@dataclass(frozen=True)
class StoredImage:
    """An image file: its pixels as they are stored, and what its header says about them.

    format: "jpeg" or "png"; empty for formats that TensorFlow does not decode to the same pixels.
    orientation: how its EXIF data turn it, 1 (upright) to 8.
    has_other_channel: whether it has channels other than red, green and blue.
    """

    image: Image.Image
    content: bytes
    format: str
    orientation: int
    has_other_channel: bool

    def turned(self) -> Image.Image:
        """Returns the image as its EXIF data turn it."""
        turn = TURNS.get(self.orientation)
        return self.image if turn is None else self.image.transpose(turn)


def open_image(path: Path, *, decode: bool = True) -> StoredImage:
    """Opens an image file.

    Args:
      decode: as in `decoding.open_image`.
    Raises:
      UserError: if it is damaged, or has more than 8 bits per channel.
    """
    return _opened(decoding.read_file(path), path, decode=decode)


def require_8_bits(content: bytes, name: str | Path) -> None:
    """Raises UserError if an image file, called `name` there, has over 8 bits per channel."""
    if depth := files.deeper_than_8_bits(content):
        raise UserError(
            f"{name} has {depth}, but images have 8; scale all images by the same range, as "
            "'gdal_translate -ot Byte -scale 0 4095 0 255 IN OUT' does for 12-bit values, or keep "
            "the depth: give build_folder_data --image_max_value, the value that means full "
            "brightness (and --image_channels if they are not 3), and train on its records."
        )


def require_image_mode(image: Image.Image, name: str | Path) -> None:
    """Raises UserError, with the image's name, unless it has 8 bits per channel."""
    if image.mode not in _IMAGE_MODES:
        raise UserError(f"{name} has the mode {image.mode}; images have 8 bits per channel.")


def _opened(content: bytes, path: str | Path, *, decode: bool) -> StoredImage:
    # Checked before Pillow sees the file: it opens some deeper images as if they had 8 bits.
    require_8_bits(content, path)

    image = decoding.open_image(content, path, decode=False, thorough=decode)
    tiff_orientation = decoding.tiff_orientation(image)
    # Formats that records do not store are decoded sooner or later anyway. A PNG with EXIF data is
    # decoded now, because they may come after its pixels.
    stored_format = _stored_format(image, content)
    if decode or not stored_format or (image.format == "PNG" and b"eXIf" in content):
        with decoding.naming(path):
            image.load()
    require_image_mode(image, path)

    has_other_channel = has_dropped_channel(image)
    if tiff_orientation in TURNS:
        # Pillow has turned the TIFF already; turn it back to the pixels as they are stored.
        orientation = tiff_orientation
        image = image.transpose(TURNS[_INVERSE.get(orientation, orientation)])
    else:
        # Not image.getexif(): it also takes an orientation from XMP and PNG text, which other
        # programs and `encoded` ignore.
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        orientation = files.exif_orientation(exif)
    return StoredImage(image, content, stored_format, orientation, has_other_channel)


def _stored_format(image: Image.Image, content: bytes) -> str:
    """Returns the format under which records hold a file as it is; "" if they do not."""
    if image.format == "PNG":
        return "png"
    if image.format not in ("JPEG", "MPO"):  # an MPO starts as a JPEG
        return ""

    # TensorFlow may lack the rarer kinds.
    segments = files.jpeg_segments(content)
    frames = (part for part in segments if part[0] in files.JPEG_FRAMES)
    frame, header = next(frames, (-1, b""))
    if frame != _PROGRESSIVE:
        return "jpeg" if frame in _SEQUENTIAL else ""

    # Where the last scans are missing, versions of libjpeg smooth the picture differently.
    is_complete = {component: [False] * 64 for component in header[6::3]}  # each coefficient
    for marker, scan in segments:
        if marker == files.JPEG_SCAN and len(scan) > 3:
            # T.81 B.2.3: components, then the range of coefficients, then their missing bits.
            first, last, bits = scan[-3:]
            for component in scan[1:-3:2]:
                if bits & 15 == 0 and component in is_complete:
                    is_complete[component][first : last + 1] = [True] * (last + 1 - first)
    return "jpeg" if all(map(all, is_complete.values())) else ""


def has_dropped_channel(image: Image.Image) -> bool:
    """Whether an image has channels other than red, green and blue, which conversion drops."""
    return (
        image.mode in ("RGBA", "LA")
        or (image.mode == "P" and "transparency" in image.info)
        or decoding.num_hidden_bands(image) > 0
    )


def warn_of_losses(paths: Sequence[Path], kind: ImageKind = RGB) -> None:
    """Warns of images that lost something in `read_image_and_loss`, if there are any."""
    lost = CHANNEL_DROPPED
    if not kind.is_rgb:
        lost = f"with values above {kind.max_value}, which count as {kind.max_value}."
    if paths:
        warn(f"{counted(len(paths), 'image')} (the first: {str(paths[0])!r}) {lost}")

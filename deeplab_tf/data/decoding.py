"""Decodes the bytes of image files with Pillow; every error names the file."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from deeplab_tf.messages import UserError

# Largest image or mask. TensorFlow's JPEG decoder refuses 2^29 bytes of RGB or more; Pillow stops
# at the same size.
MAX_PIXELS = 2**29 // 3
# Pillow warns from half its limit on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_TIFF_ORIENTATION, _TIFF_SAMPLES_PER_PIXEL = 274, 277  # TIFF 6.0, sec. 8


def read_file(path: Path) -> bytes:
    """Reads a file.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:  # needs fewer system calls than a buffered one
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def open_image(content: bytes, name: str | Path, *, decode: bool = True) -> Image.Image:
    """Opens the content of an image file.

    Args:
      name: what errors call the file.
      decode: whether to decode the pixels now; otherwise Pillow does so when they are first needed.
    Raises:
      UserError: if it is not an image, is damaged or too large, or holds several pictures.
    """
    with naming(name):
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError

        # An MPO file is a JPEG followed by a preview or a second view: the first picture counts.
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1 and image.format != "MPO":
            raise UserError(f"{name} holds {pictures} pictures; only one is allowed.")
        if image.format == "BMP":
            _require_exact_bmp(image, content, name)

        image.decodermaxblock = len(content)  # decodes the content in one piece, without copying it
        if decode:
            image.load()
    return image


def _require_exact_bmp(image: Image.Image, content: bytes, name: str | Path) -> None:
    """Refuses a BMP whose depth Pillow gets wrong because its palette is grey.

    Pillow would then read several pixels of 4 or 8 bits as one, or one pixel as several.
    """
    core_header = content[14:18] == struct.pack("<I", 12)
    (bits,) = struct.unpack_from("<H", content, 24 if core_header else 28)
    if (image.mode, bits) not in (("1", 1), ("L", 8)) and image.mode in ("1", "L"):
        raise UserError(
            f"{name} is a BMP of {bits} bits with a grey palette, which cannot be read exactly; "
            "save it as PNG."
        )


def tiff_orientation(image: Image.Image) -> int:
    """Returns the orientation of a TIFF, 1 (upright) to 8; 1 if it has none, or is not a TIFF.

    Call this before the image is decoded: Pillow turns TIFFs as it decodes them, and then forgets
    the tag.
    """
    return _tiff_number(image, _TIFF_ORIENTATION)


def num_hidden_bands(image: Image.Image) -> int:
    """Returns how many channels of a TIFF Pillow drops: those that are not colour or alpha."""
    return max(0, _tiff_number(image, _TIFF_SAMPLES_PER_PIXEL) - len(image.getbands()))


def _tiff_number(image: Image.Image, tag: int) -> int:
    return image.tag_v2.get(tag, 1) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1


def decode_grey(image: Image.Image, name: str | Path) -> np.ndarray:
    """Decodes an opened image of mode L straight into an array, uint8 [H, W].

    np.asarray(image) would give the same values, but copy them twice.

    Raises:
      UserError: if it is damaged.
    """
    with naming(name):
        values = np.empty((image.height, image.width), np.uint8)
        # Pillow decodes into the memory that an image already has, so give it the array's.
        memory = Image.frombuffer("L", image.size, values, "raw", "L", 0, 1).im
        image.im = memory
        image.load()
    assert image.im is memory  # otherwise `values` was never filled
    return values


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Turns Pillow's errors about a damaged file into a UserError that names the file.

    Truncated files count as damaged even if other code in this process told Pillow to fill them up.
    """
    fills_up = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name} cannot be decoded: it is not an image of a known format."
        ) from None
    except MemoryError:  # not the file's fault
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{name} has more than {MAX_PIXELS / 1e6:.0f} megapixels, the most that an image or "
            "mask may have; cut image and mask into tiles, as 'gdal_retile.py -of PNG "
            "-ps 4096 4096 -targetDir TILES FILE' does."
        ) from None
    except Exception as error:  # Pillow's errors about damaged files have no common base class
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be decoded: {reason}.") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = fills_up


def require_whole_png(content: bytes, name: str | Path) -> None:
    """Refuses a PNG that is cut off or has a damaged chunk.

    Pillow may read such a file, but TensorFlow does not, and records hold the file as it is.

    Raises:
      UserError: naming the file.
    """
    view, position, kind = memoryview(content), 8, b""  # chunks start after the 8-byte signature
    try:
        while kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", content, position)
            end = position + 8 + length
            (checksum,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(view[position + 4 : end]) != checksum:
                part = kind.decode("ascii", "replace")
                raise UserError(
                    f"{name} cannot be decoded: its part {part} is damaged; get the file again."
                )
            position = end + 4
    except struct.error:
        raise UserError(
            f"{name} cannot be decoded: its end is missing; get the file again."
        ) from None


def encode_png(image: Image.Image, **settings: int) -> bytes:
    """Returns the image as the content of a PNG file; the settings are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **settings)
    return buffer.getvalue()

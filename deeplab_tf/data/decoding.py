"""Bytes of an image file -> Pillow's image or an array; every error names the file."""

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

# Of an image or mask. TensorFlow's JPEG decoder takes less than 2^29 bytes of RGB; Pillow's limit
# is the same.
MAX_PIXELS = 2**29 // 3
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # above half the limit
_TIFF_ORIENTATION, _TIFF_SAMPLES_PER_PIXEL = 274, 277  # TIFF 6.0, sec. 8


def read_file(path: Path) -> bytes:
    """Reads a file.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:  # fewer system calls than buffered
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def open_image(content: bytes, name: str | Path, *, decode: bool = True) -> Image.Image:
    """Opens an image file's content.

    Args:
      name: what errors call it.
      decode: whether the pixels are decoded now, and not when they are first needed.
    Raises:
      UserError: if it is no image, is damaged, or holds several pictures.
    """
    with naming(name):
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1 and image.format != "MPO":  # a JPEG, then a preview or a second view
            raise UserError(f"{name} holds {pictures} pictures; one is allowed.")
        if image.format == "BMP":
            _require_exact_bmp(image, content, name)
        image.decodermaxblock = len(content)  # the decoder then takes it whole, without copies
        if decode:
            image.load()
    return image


def _require_exact_bmp(image: Image.Image, content: bytes, name: str | Path) -> None:
    """Refuses a BMP that Pillow takes for another depth because its palette is grey.

    It then reads several pixels of a palette of 4 or 8 bits as one, or one as several.
    """
    core_header = content[14:18] == struct.pack("<I", 12)
    (bits,) = struct.unpack_from("<H", content, 24 if core_header else 28)
    if (image.mode, bits) not in (("1", 1), ("L", 8)) and image.mode in ("1", "L"):
        raise UserError(
            f"{name} is a BMP of {bits} bits with a grey palette, which cannot be read exactly; "
            "save it as PNG."
        )


def tiff_orientation(image: Image.Image) -> int:
    """Returns how a TIFF is turned, 1 (upright) to 8; 1 if it does not say it, or is no TIFF.

    Asked for before decoding: Pillow turns a TIFF itself as it decodes it, and then forgets it.
    """
    return _tiff_number(image, _TIFF_ORIENTATION)


def num_hidden_bands(image: Image.Image) -> int:
    """Returns how many channels Pillow leaves out: a TIFF's that are no colour or transparency."""
    return max(0, _tiff_number(image, _TIFF_SAMPLES_PER_PIXEL) - len(image.getbands()))


def _tiff_number(image: Image.Image, tag: int) -> int:
    return image.tag_v2.get(tag, 1) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1


def decode_grey(image: Image.Image, name: str | Path) -> np.ndarray:
    """Decodes an opened image of mode L straight into an array, uint8 [H, W].

    Raises:
      UserError: if it is damaged.
    """
    with naming(name):
        values = np.empty((image.height, image.width), np.uint8)
        memory = Image.frombuffer("L", image.size, values, "raw", "L", 0, 1).im
        image.im = memory  # Pillow decodes into what is there; np.asarray would copy it twice
        image.load()
    assert image.im is memory
    return values


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Turns what Pillow raises for a damaged file into a UserError that names the file.

    Cut files are damaged even where other code in this process has told Pillow to fill them up.
    """
    fills_up = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} cannot be decoded: it is no image of a known format.") from None
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{name} has more than {MAX_PIXELS / 1e6:.0f} megapixels, the most that an image or "
            "mask may have; cut image and mask into tiles, as 'gdal_retile.py -of PNG "
            "-ps 4096 4096 -targetDir TILES FILE' does."
        ) from None
    except Exception as error:  # what Pillow raises on damaged files has no common base
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be decoded: {reason}.") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = fills_up


def require_whole_png(content: bytes, name: str | Path) -> None:
    """Refuses a PNG without its end or with a damaged chunk, which Pillow passes over.

    TensorFlow's decoder does not, and records hold the file as it is.

    Raises:
      UserError: naming the file.
    """
    view, position, kind = memoryview(content), 8, b""
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

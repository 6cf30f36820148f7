"""Decodes the bytes of image files with Pillow; every error names the file."""

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from deeplab_tf import files
from deeplab_tf.messages import UserError

# Largest image or mask. TensorFlow's JPEG decoder refuses 2^29 bytes of RGB or more; Pillow stops
# at the same size.
MAX_PIXELS = 2**29 // 3
MAX_SIDE = 10**6  # libpng, which TensorFlow uses, stops there
# The formats that files may have. Pillow knows more, and runs other programs for some of them.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # those that every decoder must know
_GET = "get the file again."
_CUT_INTO_TILES = (
    "cut image and mask into tiles, as 'gdal_retile.py -of PNG -ps 4096 4096 -targetDir TILES "
    "FILE' does."
)
# Pillow warns from half its limit on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # TIFF 6.0, sec. 8
_TIFF_ORIENTATION, _TIFF_SAMPLES_PER_PIXEL = 274, 277


class UnreadFileError(UserError):
    """The system could not read a file; its content may still be right."""


def read_file(path: Path) -> bytes:
    """Reads a file.

    Raises:
      UnreadFileError: if it cannot be read.
    """
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise UnreadFileError(f"{path} cannot be read: {error.strerror}.") from None


def open_image(
    content: bytes, name: str | Path, *, decode: bool = True, thorough: bool = True
) -> Image.Image:
    """Opens the content of an image file.

    Args:
      name: what errors call the file.
      decode: whether to decode the pixels now; otherwise Pillow does so when they are first needed.
      thorough: whether to check the checksums and rows of a PNG, and the markers of a JPEG, which
        takes time.
    Raises:
      UserError: if it is not an image, is cut, damaged or too large, or holds several pictures.
    """
    if not content:
        raise UserError(f"{name} cannot be decoded: it is empty; {_GET}")
    with naming(name):
        image = Image.open(io.BytesIO(content), formats=_opened_formats())
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if max(image.size) > MAX_SIDE:
            raise UserError(
                f"{name} has a side of more than {MAX_SIDE:,} pixels, the most that an image or "
                f"mask may have; {_CUT_INTO_TILES}"
            )

        # An MPO file is a JPEG followed by a preview or a second view: the first picture counts.
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1 and image.format != "MPO":
            raise UserError(f"{name} holds {pictures} pictures; only one is allowed.")
        if image.format == "BMP":
            _require_exact_bmp(image, content, name)
        # Pillow reads some damaged files, but TensorFlow does not, and records hold the files.
        if image.format == "PNG":
            _require_whole_png(content, name, thorough=thorough)
        if image.format == "TIFF":
            _require_whole_tiff(image, name)
        if image.format in ("JPEG", "MPO"):
            _require_whole_jpeg(content, name, thorough=thorough)

        image.decodermaxblock = len(content)  # decodes the content in one piece, without copying it
        if decode:
            image.load()
    return image


@functools.cache
def _opened_formats() -> list[str]:
    """Returns the names of `_FORMATS`, without those that this Pillow was built without."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


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
        if not getattr(image, "tile", ()):  # decoded already, for EXIF data after the pixels
            return np.asarray(image)
        # Zeros, since Pillow does not fill up rows that the file lacks.
        values = np.zeros((image.height, image.width), np.uint8)
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
            f"{name} cannot be decoded: it is not an image of a known format "
            f"({', '.join(_FORMATS)}); save it as PNG."
        ) from None
    except MemoryError:  # not the file's fault
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{name} has more than {MAX_PIXELS / 1e6:.0f} megapixels, the most that an image or "
            f"mask may have; {_CUT_INTO_TILES}"
        ) from None
    except Exception as error:  # Pillow's errors about damaged files have no common base class
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be decoded: {reason}.") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = fills_up


def _require_whole_tiff(image: Image.Image, name: str | Path) -> None:
    """Refuses an opened TIFF whose strips or tiles leave rows or columns out.

    Pillow would leave them black, which in a mask is a class.
    """
    width, height = (_tiff_number(image, tag) for tag in (_TIFF_WIDTH, _TIFF_HEIGHT))
    ends = [part[1][2:] for part in getattr(image, "tile", ())]
    if ends and (max(x for x, _ in ends) < width or max(y for _, y in ends) < height):
        raise UserError(f"{name} cannot be decoded: some of its pixels are missing; {_GET}")


def _require_whole_png(content: bytes, name: str | Path, *, thorough: bool) -> None:
    """Refuses a PNG that is cut off, or has chunks that are damaged or that nobody may skip.

    thorough: whether to check the checksums, and that there are as many rows as the header says.
    """
    view, position, kind = memoryview(content), 8, b""  # chunks start after the 8-byte signature
    kinds, compressed = [], []
    try:
        while kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", content, position)
            end = position + 8 + length
            (checksum,) = struct.unpack_from(">I", content, end)
            is_damaged = thorough and zlib.crc32(view[position + 4 : end]) != checksum
            if is_damaged or not (kind in _PNG_CHUNKS or (kind.isalpha() and kind[0] >= ord("a"))):
                part = files.shown(kind.decode("ascii", "backslashreplace"))
                raise UserError(f"{name} cannot be decoded: its part {part} is damaged; {_GET}")
            if kind in _PNG_CHUNKS:
                kinds.append((kind, length))
            if kind == b"IDAT":
                compressed.append(view[position + 8 : end])
            position = end + 4
    except struct.error:
        raise UserError(f"{name} cannot be decoded: its end is missing; {_GET}") from None

    starts_well = kinds[0] == (b"IHDR", 13) and content[12:16] == b"IHDR"
    is_known = content[26:28] == b"\0\0" and content[28] <= 1  # compression, filters, interlacing
    names = [kind for kind, _ in kinds]
    if not (starts_well and is_known and names.count(b"IHDR") == 1 and names.count(b"PLTE") <= 1):
        raise UserError(f"{name} cannot be decoded: its header is damaged; {_GET}")
    if b"IDAT" not in names:  # Pillow would leave the pixels as the memory happens to be
        raise UserError(f"{name} cannot be decoded: it has no pixels; {_GET}")
    if thorough and _lacks_rows(content[16:29], compressed):
        raise UserError(f"{name} cannot be decoded: some of its rows are missing; {_GET}")


# First column and row, and steps to the next, of the pixels of each pass of an interlaced PNG (PNG,
# 2nd edition, sec. 8.2).
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_NUM_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
_BLOCK = 1 << 20


def _lacks_rows(header: bytes, compressed: Sequence[memoryview]) -> bool:
    """Whether a PNG's compressed data end, as complete data, before its last row.

    Pillow would leave the missing rows black, which in a mask is a class; libpng refuses the file.
    Data that are damaged in another way are left to the decoder.

    This decompresses the file once more, which takes about as long as decoding it: 0.08 s for 3
    megapixels of RGB. Pillow does not report it, and most images are decoded later, wherever their
    pixels are first needed.

    Args:
      header: the content of IHDR.
      compressed: the content of each IDAT.
    """
    width, height, depth, color_type, *_, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _NUM_CHANNELS.get(color_type, 1)
    wanted = 0
    for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + (bits * columns + 7) // 8)  # a byte names each row's filter

    # In blocks, since a small file may grow to any size.
    inflater = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        for part in compressed:
            rest: bytes | memoryview = part
            while rest and wanted > 0 and not inflater.eof:
                wanted -= len(inflater.decompress(rest, _BLOCK))
                rest = inflater.unconsumed_tail
    return inflater.eof and wanted > 0


def _require_whole_jpeg(content: bytes, name: str | Path, *, thorough: bool) -> None:
    """Refuses a JPEG that is cut off or, if `thorough`, has markers that no JPEG has."""
    # Most files end with the end marker, whose two bytes never occur in pixels. In some, more
    # follows.
    if not thorough and content.endswith(b"\xff\xd9"):
        return
    markers = [marker for marker, _ in files.jpeg_segments(content)]
    if any(marker in files.JPEG_UNUSED for marker in markers):
        raise UserError(f"{name} cannot be decoded: its pixels are damaged; {_GET}")
    if files.JPEG_END not in markers:
        raise UserError(f"{name} cannot be decoded: its end is missing; {_GET}")


def encode_png(image: Image.Image, **settings: int) -> bytes:
    """Returns the image as the content of a PNG file; the settings are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **settings)
    return buffer.getvalue()

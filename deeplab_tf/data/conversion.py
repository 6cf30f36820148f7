"""Raw image and mask files -> what a record holds, on all cores and without TensorFlow.

Every image and mask is fully decoded, unless the user trusts them: header checks alone let cut
JPEGs through. Masks become 8-bit index PNGs, whose values are train ids or the ignored label.
"""

import contextlib
import functools
import hashlib
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from deeplab_tf import files
from deeplab_tf.config import UserError

CONVERSION = 3  # counts up when the same files may become other records
# Of an image or mask: 2^29 bytes of RGB; Pillow's own limit, and less than TensorFlow's decoders'.
MAX_PIXELS = 2**29 // 3
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # Pillow would print one for each image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # above half the limit
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
class MaskCoding:
    """How a mask file's values become train ids.

    num_classes, ignore_label: values below num_classes are train ids, `ignore_label` passes.
    colors: class colours, for masks drawn in RGB; position is the train id.
    ignore_colors: RGB colours that become the ignored label.
    by_color: whether palette masks are read by their colours and not by their indices.
    index_map: maps stored indices (position) to train ids or the ignored label; -1 refuses an
      index, as beyond the map's end; empty takes indices as they are.
    """

    num_classes: int
    ignore_label: int
    colors: tuple[tuple[int, int, int], ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    by_color: bool = False
    index_map: tuple[int, ...] = ()

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """The train id of each stored index, int16 [256 or more]; -1 where it is refused."""
        table = np.full(max(256, len(self.index_map)), -1, np.int16)
        if self.index_map:
            table[: len(self.index_map)] = self.index_map
        else:
            table[: self.num_classes] = np.arange(self.num_classes)
            table[self.ignore_label] = self.ignore_label
        return table


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
    source = hashlib.sha256(content)
    with _decoding(pair.image_path):
        upright = _upright(image)
    label = b""
    if pair.mask_path:
        mask_content = _read(pair.mask_path)
        source.update(mask_content)
        label, size = _encoded_mask(pair.mask_path, coding, mask_content, verify)
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
        with _decoding(pair.image_path):
            upright = upright.convert("RGB")
        upright.info.pop("transparency", None)  # of the old mode: Pillow cannot write it
        stored, image_format = _png(upright), "png"
    return EncodedExample(
        name=pair.name,
        image=stored,
        image_format=image_format,
        height=upright.height,
        width=upright.width,
        label=label,
        source=source.digest(),
    )


def _encoded_mask(
    path: Path, coding: MaskCoding, content: bytes, verify: str
) -> tuple[bytes, tuple[int, int]]:
    """Returns a mask of train ids as a PNG, and its width and height."""
    image = None if path.suffix == ".mat" else _open(path, content, decode=False)[0]
    if image and image.format == "PNG" and image.mode == "L" and content[24] == 8:
        if verify == "header" and not coding.index_map:
            return content, image.size
        values = _decode_grey(image, path)
        if _is_coded(values, coding):
            return content, image.size
        mask = _ids_of_indices(values, path, coding)
    else:
        mask = read_mask(path, coding, content)
    # Runs of equal values suit labels: smaller than at the default level, and twice as fast.
    label = _png(Image.fromarray(mask), compress_level=1, compress_type=zlib.Z_RLE)
    return label, (mask.shape[1], mask.shape[0])


def _is_coded(values: np.ndarray, coding: MaskCoding) -> bool:
    """Whether all values of a mask, uint8, are train ids already."""
    if coding.index_map:
        return bool((coding.train_ids[values] == values).all())
    # Comparisons take less than a fifth of the time of the table.
    if coding.ignore_label == 255:
        return bool((values + np.uint8(1)).max() <= coding.num_classes)  # 255 + 1 is 0 in uint8
    coded = values < coding.num_classes
    coded |= values == coding.ignore_label
    return bool(coded.all())


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
    content = _read(path)
    # First, as Pillow opens some deeper images as if they had 8 bits, and others not at all.
    if deep := files.deeper_than_8_bits(content):
        raise UserError(
            f"{path} has {deep}, but images have 8; scale all of them by the same range, as "
            "'gdal_translate -ot Byte -scale 0 4095 0 255 IN OUT' does for 12-bit values."
        )
    image, _ = _open(path, content, decode=decode)
    # The first are decoded anyway; a PNG's EXIF data may come after its pixels.
    if image.format not in _STORED_FORMATS or (image.format == "PNG" and b"eXIf" in content):
        with _decoding(path):
            image.load()
    if image.mode not in _IMAGE_MODES:
        raise UserError(f"{path} has the mode {image.mode}; images have 8 bits a channel.")
    return image, content


def read_mask(path: Path, coding: MaskCoding, content: bytes | None = None) -> np.ndarray:
    """Reads a mask file as train ids, uint8 [H, W].

    Args:
      path: an image (grey, palette, 1-bit, 16-bit or RGB) or a .mat file of SBD or PASCAL Context.
      content: the file's bytes, if they were read already.
    Raises:
      UserError: naming the file and the values or colours outside of the class list.
    """
    if path.suffix == ".mat":
        return _ids_of_indices(_read_mat(path, content), path, coding)
    image, content = _open(path, content)
    if image.format == "PNG" and image.mode == "L" and content[24] < 8:  # bits, in its header
        raise UserError(
            f"The mask {path} is grey with {content[24]} bits, which programs read as other "
            "values; save it with 8 bits."
        )
    if image.mode == "P" and coding.by_color:
        image = image.convert("RGB")
    if image.mode in ("RGB", "RGBA"):
        return _ids_of_colors(np.asarray(image.convert("RGB")), path, coding)
    if image.mode not in ("L", "P", "1", "I", "I;16"):
        raise UserError(f"The mask {path} has the mode {image.mode}; allowed: grey, palette, RGB.")
    return _ids_of_indices(np.asarray(image), path, coding)  # of a palette image: its indices


def _read_mat(path: Path, content: bytes | None) -> np.ndarray:
    import scipy.io

    try:
        variables = scipy.io.loadmat(io.BytesIO(content or _read(path)))
        if "GTcls" in variables:  # SBD
            values = variables["GTcls"][0, 0]["Segmentation"]
        else:  # PASCAL Context
            values = variables["LabelMap"]
        indices = values.astype(np.int64)
    except UserError:
        raise
    except Exception as error:  # what scipy raises on damaged files has no common base
        raise UserError(
            f"{path} can not be read as a MATLAB file with GTcls.Segmentation (SBD) or LabelMap "
            f"(PASCAL Context): {type(error).__name__}: {error}."
        ) from None
    if indices.ndim != 2 or (indices != values).any():
        raise UserError(f"{path} holds {values.dtype}{values.shape}, not a label for each pixel.")
    return indices


def _ids_of_indices(values: np.ndarray, path: Path, coding: MaskCoding) -> np.ndarray:
    ids = np.take(coding.train_ids, values, mode="clip")
    if values.dtype != np.uint8:
        ids[(values < 0) | (values >= len(coding.train_ids))] = -1
    if (ids < 0).any():
        raise UserError(
            f"The mask {path} holds the value {_listed(np.unique(values[ids < 0]))}, which is not "
            f"in the class list (0 to {coding.num_classes - 1}) and not the ignored label "
            f"{coding.ignore_label}."
        )
    return ids.astype(np.uint8)


def _ids_of_colors(rgb: np.ndarray, path: Path, coding: MaskCoding) -> np.ndarray:
    codes = rgb.astype(np.int64) @ (65536, 256, 1)
    ids = np.full(codes.shape, -1, np.int64)
    for train_id, color in enumerate(coding.colors):
        ids[codes == np.dot(color, (65536, 256, 1))] = train_id
    for color in coding.ignore_colors:
        ids[codes == np.dot(color, (65536, 256, 1))] = coding.ignore_label
    if (ids < 0).any():
        unknown = [tuple(map(int, color)) for color in np.unique(rgb[ids < 0], axis=0)]
        raise UserError(
            f"The mask {path} has the colour {_listed(unknown)}, which is not in the "
            "class list; add it there, or to --ignore_colors."
        )
    return ids.astype(np.uint8)


def _listed(values: Sequence) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (f" (and {len(values) - 5} more)" if len(values) > 5 else "")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:  # fewer system calls than buffered
            return file.read()
    except OSError as error:
        raise UserError(f"{path} can not be read: {error.strerror}.") from None


def _open(
    path: Path, content: bytes | None = None, *, decode: bool = True
) -> tuple[Image.Image, bytes]:
    content = _read(path) if content is None else content
    with _decoding(path):
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1 and image.format != "MPO":  # a JPEG, then a preview or a second view
            raise UserError(f"{path} holds {pictures} pictures; one is allowed.")
        image.decodermaxblock = len(content)  # the decoder then takes it whole, without copies
        if decode:
            image.load()
    return image, content


def _decode_grey(image: Image.Image, path: Path) -> np.ndarray:
    """Decodes an image of mode L straight into an array, uint8 [H, W]."""
    with _decoding(path):
        values = np.empty((image.height, image.width), np.uint8)
        memory = Image.frombuffer("L", image.size, values, "raw", "L", 0, 1).im
        image.im = memory  # Pillow decodes into what is there; np.asarray would copy it twice
        image.load()
    assert image.im is memory
    return values


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Names the file in what Pillow raises for a damaged one, as a UserError.

    Cut files are damaged even where other code in this process has told Pillow to fill them up.
    """
    fills_up = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path} can not be decoded: it is no image of a known format.") from None
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{path} has more than {MAX_PIXELS / 1e6:.0f} megapixels, the most that an image or "
            "mask may have; cut image and mask into tiles, as 'gdal_retile.py -ps 4096 4096 "
            "-targetDir TILES FILE' does."
        ) from None
    except Exception as error:  # what Pillow raises on damaged files has no common base
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} can not be decoded: {reason}.") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = fills_up


def _png(image: Image.Image, **settings: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **settings)
    return buffer.getvalue()


def fingerprint(pairs: Sequence[FilePair], *settings: Any) -> str:
    """Returns a hash of the files' names, sizes and times and of the conversion's settings."""
    digest = hashlib.sha256(repr((CONVERSION, *settings)).encode())
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            state = path.stat()
            digest.update(f"{pair.name}|{path.name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()

"""Raw image and mask files -> what a record holds, on all cores and without TensorFlow.

Every image and mask is fully decoded: header checks alone let cut JPEGs through. Masks become
8-bit index PNGs, whose values are train ids or the ignored label.
"""

import concurrent.futures
import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from deeplab_tf.config import UserError

MAX_PIXELS = 256_000_000  # larger images are refused before they fill the memory
_EXIF_ORIENTATION = 0x0112
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "1")


@dataclass(frozen=True)
class EncodedExample:
    """One image and its label as they are stored: encoded bytes, the label always as PNG."""

    name: str
    image: bytes
    image_format: str
    height: int
    width: int
    label: bytes


@dataclass(frozen=True)
class MaskCoding:
    """How a mask file's values become train ids.

    num_classes, ignore_label: values below num_classes are train ids, `ignore_label` passes.
    colors: class colours, for masks drawn in RGB; position is the train id.
    ignore_colors: RGB colours that become the ignored label.
    by_color: whether palette masks are read by their colours and not by their indices.
    index_map: maps stored indices (position) to train ids before the check; empty keeps them.
    """

    num_classes: int
    ignore_label: int
    colors: tuple[tuple[int, int, int], ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    by_color: bool = False
    index_map: tuple[int, ...] = ()


@dataclass(frozen=True)
class FilePair:
    """An image file and its mask file under one name."""

    name: str
    image_path: Path
    mask_path: Path


def encode_pair(pair: FilePair, coding: MaskCoding) -> EncodedExample:
    """Reads, checks and encodes an image with its mask.

    The image's bytes are kept as they are when TensorFlow decodes them to the same pixels.
    An image that its EXIF data turns is turned if only then its size is the mask's.

    Raises:
      UserError: naming the file that is unreadable, out of the class list, or of another size.
    """
    label = read_mask(pair.mask_path, coding)
    image, content = _open(pair.image_path)
    size = (label.shape[1], label.shape[0])
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.size != size and image.size != size:
        raise UserError(
            f"{pair.image_path} is {image.width}x{image.height} but its mask {pair.mask_path} is "
            f"{size[0]}x{size[1]}; they must have the same size."
        )
    stored, image_format = content, {"JPEG": "jpeg", "PNG": "png"}.get(image.format or "", "")
    turn = turned and upright.size == size
    _require_image_mode(image, pair.image_path)
    plain = image.mode in ("RGB", "L") and image_format
    if turn or not plain:
        stored, image_format = _png((upright if turn else image).convert("RGB")), "png"
    return EncodedExample(
        name=pair.name,
        image=stored,
        image_format=image_format,
        height=size[1],
        width=size[0],
        label=_png(Image.fromarray(label)),
    )


def read_image(path: Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3], RGB, turned as its EXIF data says.

    Raises:
      UserError: if it is not an image of 8 bits a channel.
    """
    image, _ = _open(path)
    _require_image_mode(image, path)
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _require_image_mode(image: Image.Image, path: Path) -> None:
    if image.mode not in _IMAGE_MODES:
        raise UserError(f"{path} has the mode {image.mode}; images have 8 bits a channel.")


def read_mask(path: Path, coding: MaskCoding) -> np.ndarray:
    """Reads a mask file as train ids, uint8 [H, W]; grey, palette, 1-bit, 16-bit or RGB.

    Raises:
      UserError: naming the file and the values or colours outside of the class list.
    """
    image, _ = _open(path)
    if image.mode == "P" and coding.by_color:
        image = image.convert("RGB")
    if image.mode in ("RGB", "RGBA"):
        return _ids_of_colors(np.asarray(image.convert("RGB")), path, coding)
    if image.mode not in ("L", "P", "1", "I", "I;16"):
        raise UserError(f"The mask {path} has the mode {image.mode}; allowed: grey, palette, RGB.")
    values = np.asarray(image).astype(np.int64)  # of a palette image: its indices
    if coding.index_map:
        table = np.array(coding.index_map, np.int64)
        inside = (values >= 0) & (values < len(table))
        values = np.where(inside, table[np.where(inside, values, 0)], -1)
    valid = ((values >= 0) & (values < coding.num_classes)) | (values == coding.ignore_label)
    if not valid.all():
        wrong = np.unique(np.asarray(image).astype(np.int64)[~valid])
        raise UserError(
            f"The mask {path} holds the value {_listed(wrong)}, which is not in the class list "
            f"(0 to {coding.num_classes - 1}) and not the ignored label {coding.ignore_label}."
        )
    return values.astype(np.uint8)


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


def _open(path: Path) -> tuple[Image.Image, bytes]:
    try:
        content = path.read_bytes()
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{path} has {image.width}x{image.height} pixels; too many to convert.")
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1:
            raise UserError(f"{path} holds {pictures} pictures; one is allowed.")
        image.load()
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} can not be decoded: {error}.") from None
    return image, content


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def encode_all(
    pairs: Sequence[FilePair], encode: Callable[[FilePair], EncodedExample], num_processes: int = 0
) -> Iterator[EncodedExample]:
    """Encodes pairs in their order on several processes.

    Args:
      pairs: what to encode.
      encode: picklable function of one pair, such as functools.partial(encode_pair, coding=...).
      num_processes: 0 takes one for each core.
    Raises:
      UserError: of the first pair that can not be encoded.
    """
    num_processes = min(num_processes or os.cpu_count() or 1, len(pairs))
    if num_processes <= 1:
        yield from map(encode, pairs)
        return
    # Spawned, not forked: the parent may hold TensorFlow's threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        try:
            yield from pool.map(encode, pairs, chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fingerprint(pairs: Sequence[FilePair], *settings: Any) -> str:
    """Returns a hash of the files' names, sizes and times and of the conversion's settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for pair in pairs:
        for path in (pair.image_path, pair.mask_path):
            state = path.stat()
            digest.update(f"{pair.name}|{path.name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()

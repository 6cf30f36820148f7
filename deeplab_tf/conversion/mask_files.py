"""Opens mask files, and refuses those that may no longer hold the values that were drawn.

Lossy formats, deep images and the like are recognised from the header. What the values mean is
decided in `masks`.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.messages import UserError, counted

# GIFs are masks only with a --mask_encoding.
ENDINGS = (*files.IMAGE_ENDINGS, ".gif")

# Names are Pillow's.
_FORMATS = ("PNG", "BMP", "TIFF", "WEBP", "GIF")
_LOSSY_FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF"}
_LOSSLESS_TIFF = (
    "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "lzma", "zstd",
    "tiff_ccitt", "group3", "group4",
)  # fmt: skip
_MODES = ("L", "P", "1", "RGB", "RGBA", "LA")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0, sec. 8


def open_exact(content: bytes, name: str | Path, *, encoding: str) -> Image.Image:
    """Opens a mask, unless its header says that its values may not be those that were drawn.

    Args:
      name: what errors call the mask.
      encoding: as in `masks.MaskCoding`.
    Raises:
      UserError: naming the mask, and how to save it.
    """
    # Checked before Pillow sees the file: it opens some deeper images as if they had 8 bits.
    if depth := files.deeper_than_8_bits(content):
        raise UserError(
            f"The mask {name} has {depth}, but masks have 8; save its values in a grey PNG with "
            "8 bits (docs/data.md has the lines that do it)."
        )

    image = decoding.open_image(content, name, decode=False)
    if image.format == "PNG" and b"eXIf" in content:  # EXIF data may come after the pixels
        with decoding.naming(name):
            image.load()
    if image.format == "PNG" and image.mode == "L" and content[24] == 8 and not image.info:
        return image  # like most masks; none of the checks below applies

    if lossy := _lossy_format(image, content):
        raise UserError(
            f"The mask {name} holds {lossy} data, which may change a mask's values; export the "
            "masks again as PNG: converting these files does not bring the values back."
        )
    if image.format not in _FORMATS:
        raise UserError(
            f"The mask {name} is a {image.format} file; allowed are PNG, BMP, TIFF and WebP: save "
            "it as PNG."
        )
    if image.format == "GIF" and encoding == "auto":
        raise UserError(
            f"The mask {name} is a GIF, and programs that write GIFs renumber the colours; export "
            "the masks as PNG, or give --mask_encoding=color, which reads their colours."
        )
    parts = getattr(image, "tile", ())
    if image.format == "GIF" and any(part[1] != (0, 0, *image.size) for part in parts):
        raise UserError(
            f"The mask {name} is a GIF whose picture covers only a part of it, and the rest has no "
            "class; export the masks as PNG."
        )
    if image.mode not in _MODES:
        raise UserError(
            f"The mask {name} has the mode {image.mode}; allowed are grey, palette and RGB: save "
            "it as PNG with one of them."
        )
    if hidden := decoding.num_hidden_bands(image):
        bands = len(image.getbands())
        raise UserError(
            f"The mask {name} has {bands + hidden} bands, and it is not clear which of them hold "
            "the class; save it with one band of values, or with three of colours."
        )
    if bits := _few_grey_bits(image, content):
        raise UserError(
            f"The mask {name} is grey with {bits}, which programs read as different values; save "
            "it with 8 bits, or as a palette PNG."
        )
    if _orientation(image) != 1:
        raise UserError(
            f"The mask {name} has EXIF data that turn or mirror it; save it without them, upright "
            "as its image is seen."
        )
    return image


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns TIFFs, other programs may not
        return decoding.tiff_orientation(image)
    return files.exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))


def _lossy_format(image: Image.Image, content: bytes) -> str:
    """Returns what the data of a file are called if they may be lossy; "" if they are exact."""
    if image.format in _LOSSY_FORMATS:
        return _LOSSY_FORMATS[image.format]
    compression = image.info.get("compression")
    if image.format == "TIFF" and compression not in _LOSSLESS_TIFF:
        return f"TIFF {compression}"
    # Google, WebP container specification: a lossy picture is a chunk of the kind "VP8 ".
    return "lossy WebP" if image.format == "WEBP" and b"VP8 " in _chunk_kinds(content) else ""


def _chunk_kinds(webp: bytes) -> set[bytes]:
    """Returns the kinds of the chunks in a WebP file."""
    kinds, position = set(), 12
    while position + 8 <= len(webp):
        kinds.add(webp[position : position + 4])
        size = int.from_bytes(webp[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return kinds


def _few_grey_bits(image: Image.Image, content: bytes) -> str:
    """Returns how a grey file stores values that decoders stretch or invert; "" if it does not.

    A PNG of one bit is fine: it has only the values 0 and 1.
    """
    if image.mode not in ("L", "1"):
        return ""
    if image.format == "PNG" and content[24] in (2, 4):
        return counted(content[24], "bit")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_PHOTOMETRIC) == 0:
            return "0 as white"
        bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
        return f"{bits} bits" if 1 < bits < 8 else ""
    return ""


def decode_mat(content: bytes, name: str | Path) -> np.ndarray:
    """Decodes a MATLAB file of SBD or PASCAL Context as a label for each pixel, int64 [H, W].

    Raises:
      UserError: naming the file, if it holds something else.
    """
    import scipy.io  # slow to import, and only some data sets have such files

    try:
        variables = scipy.io.loadmat(io.BytesIO(content))
        if "GTcls" in variables:  # SBD
            values = variables["GTcls"][0, 0]["Segmentation"]
        else:  # PASCAL Context
            values = variables["LabelMap"]
        indices = values.astype(np.int64)
    except Exception as error:  # scipy's errors about damaged files have no common base class
        raise UserError(
            f"{name} cannot be read as a MATLAB file with GTcls.Segmentation (SBD) or LabelMap "
            f"(PASCAL Context): {type(error).__name__}: {error}."
        ) from None
    if indices.ndim != 2 or (indices != values).any():
        raise UserError(f"{name} holds {values.dtype}{values.shape}, not a label for each pixel.")
    return indices

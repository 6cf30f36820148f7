"""Mask files -> train ids: the one gate, without TensorFlow.

What a mask's values mean is a MaskCoding. A mask becomes an 8-bit index PNG, whose values are train
ids or the ignored label; a file that contradicts itself or the class list is refused.
"""

import functools
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf.config import UserError
from deeplab_tf.data import decoding


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


def encode_mask(
    content: bytes, path: Path, coding: MaskCoding, *, verify: str = "full"
) -> tuple[bytes, tuple[int, int]]:
    """Returns a mask of train ids as a PNG, and its width and height.

    Args:
      content: the mask file's bytes.
      path: its name, for errors; .mat files are known by it.
      verify: "full", or "header": a mask that needs no change is not decoded.
    Raises:
      UserError: as `read_mask`.
    """
    image = None if path.suffix == ".mat" else decoding.open_image(content, path, decode=False)
    if image and image.format == "PNG" and image.mode == "L" and content[24] == 8:
        if verify == "header" and not coding.index_map:
            return content, image.size
        values = decoding.decode_grey(image, path)
        if _is_coded(values, coding):
            return content, image.size
        mask = _ids_of_indices(values, path, coding)
    else:
        mask = read_mask(path, coding, content)
    # Runs of equal values suit labels: smaller than at the default level, and twice as fast.
    label = decoding.encode_png(Image.fromarray(mask), compress_level=1, compress_type=zlib.Z_RLE)
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


def read_mask(path: Path, coding: MaskCoding, content: bytes | None = None) -> np.ndarray:
    """Reads a mask file as train ids, uint8 [H, W].

    Args:
      path: an image (grey, palette, 1-bit, 16-bit or RGB) or a .mat file of SBD or PASCAL Context.
      content: the file's bytes, if they were read already.
    Raises:
      UserError: naming the file and the values or colours outside of the class list.
    """
    content = decoding.read_file(path) if content is None else content
    if path.suffix == ".mat":
        return _ids_of_indices(_read_mat(path, content), path, coding)
    image = decoding.open_image(content, path)
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


def _read_mat(path: Path, content: bytes) -> np.ndarray:
    import scipy.io

    try:
        variables = scipy.io.loadmat(io.BytesIO(content))
        if "GTcls" in variables:  # SBD
            values = variables["GTcls"][0, 0]["Segmentation"]
        else:  # PASCAL Context
            values = variables["LabelMap"]
        indices = values.astype(np.int64)
    except UserError:
        raise
    except Exception as error:  # what scipy raises on damaged files has no common base
        raise UserError(
            f"{path} cannot be read as a MATLAB file with GTcls.Segmentation (SBD) or LabelMap "
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

"""Images that Python callers give as objects, taken as 8-bit RGB or refused.

Nothing is scaled and no axes are moved: a wrong guess about an array would give wrong predictions
without a word.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding, image_files, other_images
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.messages import UserError, warn

_WANTED = "uint8 [height, width, 3], RGB"


def pixels_of_pillow(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a Pillow image, uint8 [H, W, 3], without turning them.

    Warns of a dropped channel, and of EXIF data that would turn the image. The labels must have the
    size of the caller's pixels, so it is not turned.

    Raises:
      UserError: if it has more than 8 bits per channel, or cannot be decoded.
    """
    path = getattr(image, "filename", "")
    name = f"The image {path}" if path else "The Pillow image"
    _require_8_bits_in_file(image, name)
    with decoding.naming(name):
        image.load()
    image_files.require_image_mode(image, name)

    if image_files.has_dropped_channel(image):
        warn(f"{name} is {image_files.CHANNEL_DROPPED}")
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    if files.exif_orientation(exif) in image_files.TURNS:
        warn(
            f"{name} is predicted as its pixels stand, though its EXIF data turn it; give its "
            "path, or PIL.ImageOps.exif_transpose(image), to have it upright."
        )
    return np.asarray(image.convert("RGB"))


def _require_8_bits_in_file(image: Image.Image, name: str) -> None:
    """Raises UserError if Pillow reduced, or will reduce, an image's file to 8 bits per channel."""
    path = getattr(image, "filename", "")
    if path and os.path.isfile(path):
        image_files.require_8_bits(decoding.read_file(Path(os.fsdecode(path))), name)
    if "16" in str([tile[3] for tile in getattr(image, "tile", ())]):  # such as RGB;16B
        raise UserError(
            f"{name} has 16 bits per channel, but images have 8; give an array that you scaled to "
            f"{_WANTED}."
        )


def pixels_of_array(image: Any) -> np.ndarray:
    """Returns a copy of an array, or of what NumPy takes for one, if it is uint8 [H, W, 3].

    A copy, since scores are computed later, when the caller may have overwritten the array.

    Raises:
      UserError: if it has another type or shape.
    """
    if not hasattr(image, "__array__"):
        raise UserError(
            f"An image is a {type(image).__name__}; give a path, an image of Pillow, or an array, "
            f"{_WANTED}."
        )
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise UserError(
            f"An image is an array of {array.dtype}; give {_WANTED}{_way_to_uint8(array.dtype)}."
        )
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(
            f"An image has the shape {list(array.shape)}; give {_WANTED}{_way_to_rgb(array.shape)}."
        )
    return array.copy()


def values_of_array(image: Any, kind: ImageKind) -> np.ndarray:
    """Returns a copy of an array of another kind than 8-bit RGB, [H, W, kind.channels].

    Values above `kind.max_value` become it, with a warning.

    Raises:
      UserError: if it is no array of this kind.
    """
    if isinstance(image, Image.Image) or not hasattr(image, "__array__"):
        raise UserError(
            f"An image is a {type(image).__name__}, but the model's images have "
            f"{kind.described()}; give the path of such a file, or an array, "
            f"{np.dtype(kind.dtype)} [height, width, {kind.channels}]."
        )
    values, counts = other_images.fitted(np.asarray(image), "An image", kind)
    if counts.clipped:
        warn(
            f"{counts.clipped} values of an image are above {kind.max_value} and count as "
            f"{kind.max_value}."
        )
    return values.copy()


def _way_to_uint8(dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return ", such as np.uint8(np.round(image * 255)) of values in 0..1"
    if dtype == np.uint16:
        return ", scaled by the same range for all images, such as np.uint8(image // 257)"
    return ", whose values are 0..255"


def _way_to_rgb(shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return ", with pixels"
    if len(shape) == 2:
        return ", such as np.stack([image] * 3, axis=-1) of a grey image"
    if len(shape) == 4 and shape[-1] == 3:
        return ", or a list of such arrays, such as list(images)"
    if len(shape) == 3 and shape[2] == 4:
        return ", such as image[..., :3] of an RGBA image"
    if len(shape) == 3 and shape[2] == 1:
        return ", such as np.repeat(image, 3, axis=-1) of a grey image"
    if len(shape) == 3 and shape[0] == 3:
        return ", such as np.moveaxis(image, 0, -1) if the channels come first"
    return ""

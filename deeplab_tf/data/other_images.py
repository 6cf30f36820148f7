"""Reads images that are not 8-bit RGB: other numbers of channels, and up to 16 bits.

They come as PNG or TIFF files, or as arrays that `numpy.save` wrote. Nothing is converted: a file
has the channels and the depth that the data set says, or it is refused. Records hold such an image
as one grey PNG, in which the channels lie below each other: a PNG itself has at most four channels,
and some count as transparency.
"""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.data.image_kinds import ImageKind, ValueCounts
from deeplab_tf.messages import UserError, counted, shortened

_MOST_VALUES = 2**29 - 1  # of one PNG, as TensorFlow decodes it (decode_image_op.cc)
_EXTRA_SAMPLES = 338  # TIFF 6.0, p. 31
_ASSOCIATED_ALPHA = 1
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, p. 37
# PNG (2nd edition) sec. 11.2.2: channels by colour type. Palettes (3) have none.
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_PILLOW_MODES = {"L": 1, "I;16": 1, "I;16L": 1, "I;16B": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_AS_ARRAY = (
    "save its array, [height, width, channels], uint8 or uint16, with numpy.save as a "
    f"{files.ARRAY_ENDING} file"
)


def decode(content: bytes, name: str | Path, kind: ImageKind) -> tuple[np.ndarray, ValueCounts]:
    """Decodes an image file.

    Args:
      content: a PNG, TIFF or other image file with the wanted channels, or an array of NumPy.
      name: what errors call it.
    Returns:
      The values, of `kind.dtype`, [H, W, channels], where larger ones have become `kind.max_value`,
      and counts of the values before that.
    Raises:
      UserError: if it is damaged, too large, or has other channels or another depth.
    """
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        image = _decoded_array(content, name)
    else:
        image = _decoded_file(content, name, kind)
    return fitted(image, name, kind)


def fitted(image: np.ndarray, name: str | Path, kind: ImageKind) -> tuple[np.ndarray, ValueCounts]:
    """Returns what `decode` does, for values that are decoded already.

    Args:
      image: uint8 or uint16, in any order of bytes, [H, W, C], or [H, W] for one channel.
    """
    _require_type(image.dtype, name)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    image = image[..., np.newaxis] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] != kind.channels or 0 in image.shape:
        raise UserError(
            f"{name} has the shape {list(image.shape)}, but the images have {kind.described()}: "
            f"give [height, width, {kind.channels}]{_moved(image.shape, kind)}."
        )
    if kind.dtype == np.uint16 and image.dtype == np.uint8:
        raise UserError(
            f"{name} has 8 bits per channel, but the images have {kind.described()}, so it "
            "could hold only their darkest values; give the original, with 16 bits."
        )
    if kind.dtype == np.uint8 and image.dtype == np.uint16:
        raise UserError(
            f"{name} has 16 bits per channel, but the images have {kind.described()}; save "
            "values of 8 bits as such, or give build_folder_data --image_max_value, the value that "
            "means full brightness, above 255, and train on its records."
        )
    _require_size(image.shape[1], image.shape[0], kind, name)

    largest, clipped = int(image.max()), 0
    if largest > kind.max_value:
        clipped = int(np.count_nonzero(image > kind.max_value))
        image = np.minimum(image, kind.max_value)
    return image.astype(kind.dtype, copy=False), ValueCounts(image.size, clipped, largest)


def encode(image: np.ndarray) -> bytes:
    """Returns an image, uint8 or uint16 [H, W, C], as records hold it: a grey PNG, [C * H, W]."""
    height, width, channels = image.shape
    below = np.ascontiguousarray(image.transpose(2, 0, 1)).reshape(channels * height, width)
    return decoding.encode_png(Image.fromarray(below))


def _require_type(dtype: np.dtype, name: str | Path) -> None:
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} is an array of {files.shown(str(dtype))}; give uint8 or uint16, such as "
            "np.round(image * 65535).astype(np.uint16) of values in 0..1, with an image_max_value "
            "of 65535."
        )


def _require_size(width: int, height: int, kind: ImageKind, name: str | Path) -> None:
    most_pixels = min(decoding.MAX_PIXELS, _MOST_VALUES // kind.channels)
    most_side = decoding.MAX_SIDE // kind.channels
    if height * width > most_pixels or max(height, width) > most_side:
        raise UserError(
            f"{name} is {width}x{height}; an image of {counted(kind.channels, 'channel')} may have "
            f"{most_pixels / 1e6:.0f} megapixels and sides of {most_side:,} pixels: cut image and "
            "mask into tiles."
        )


def _moved(shape: tuple[int, ...], kind: ImageKind) -> str:
    if len(shape) == 3 and shape[0] == kind.channels:
        return ", such as np.moveaxis(image, 0, -1) if the channels come first"
    return ""


def _decoded_array(content: bytes, name: str | Path) -> np.ndarray:
    """Returns the array of a .npy file; its header is checked before its size is believed."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read_header(stream)
    except Exception:  # NumPy's errors about damaged headers have no common base class
        raise UserError(
            f"{name} cannot be decoded: its header is damaged; write it again with numpy.save."
        ) from None

    values = memoryview(content)[stream.tell() :]
    _require_type(dtype, name)
    # Not isinstance: True is an int too, which NumPy lets pass here and refuses later.
    if len(shape) > 3 or not all(type(length) is int and length > 0 for length in shape):
        raise UserError(
            f"{name} has the shape {shortened(str(list(shape)))}, which no image has; write "
            "[height, width, channels], each at least 1, with numpy.save."
        )
    wanted = dtype.itemsize * math.prod(shape)  # Python's numbers do not overflow
    if len(values) != wanted:
        raise UserError(
            f"{name} cannot be decoded: it has {counted(len(values), 'byte')} of values, and its "
            f"shape {list(shape)} needs {wanted}; write it again with numpy.save."
        )
    return np.frombuffer(values, dtype).reshape(shape, order="F" if is_fortran else "C")


def _decoded_file(content: bytes, name: str | Path, kind: ImageKind) -> np.ndarray:
    image = decoding.open_image(content, name, decode=False)
    _require_size(*image.size, kind, name)  # before TensorFlow calls a larger one damaged
    orientation = decoding.tiff_orientation(image)
    depth = files.deeper_than_8_bits(content)
    with decoding.naming(name):
        image.load()  # EXIF data may come after the pixels
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    if max(orientation, files.exif_orientation(exif)) > 1:
        raise UserError(
            f"{name} has EXIF data that turn it, but only 8-bit RGB images are turned; save it "
            "upright, without them."
        )

    if image.format == "PNG":
        return _decoded_png(content, name, kind)
    channels = _PILLOW_MODES.get(image.mode, 0)
    is_deep = depth == "16 bits per channel" and image.mode.startswith("I;16")
    is_exact = image.format == "TIFF" or image.mode in ("L", "RGB")
    if not channels or not is_exact or (depth and not is_deep) or _changes_pixels(image):
        raise UserError(
            f"{name} is a {image.format} file whose channels cannot be read exactly"
            f"{f' ({depth})' if depth else ''}; {_AS_ARRAY}."
        )
    _require_channels(channels, name, kind)
    return np.asarray(image)


def _changes_pixels(image: Image.Image) -> bool:
    """Whether Pillow drops a channel of a TIFF, divides the others by it, or may invert them."""
    tags = getattr(image, "tag_v2", {})
    # If 0 is white, Pillow inverts 8-bit files but not 16-bit ones.
    if decoding.num_hidden_bands(image) or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return True
    extra = tags.get(_EXTRA_SAMPLES, ())
    return _ASSOCIATED_ALPHA in (extra if isinstance(extra, tuple) else (extra,))


def _decoded_png(content: bytes, name: str | Path, kind: ImageKind) -> np.ndarray:
    # Pillow reads colours of 16 bits as if they had 8.
    import tensorflow as tf  # here, since workers that convert 8-bit RGB do without it

    depth, color_type = content[24], content[25]
    if color_type not in _PNG_CHANNELS or depth not in (8, 16):
        raise UserError(
            f"{name} is a PNG with a palette or with {counted(depth, 'bit')}; save it without "
            "palette, with 8 or 16 bits per channel."
        )
    channels = _PNG_CHANNELS[color_type]
    _require_channels(channels, name, kind)
    try:
        return tf.io.decode_png(
            content, channels=0, dtype=tf.uint8 if depth == 8 else tf.uint16
        ).numpy()
    except tf.errors.InvalidArgumentError:
        raise UserError(
            f"{name} cannot be decoded: its pixels are damaged; get the file again."
        ) from None


def _require_channels(channels: int, name: str | Path, kind: ImageKind) -> None:
    if channels != kind.channels:
        raise UserError(
            f"{name} has {counted(channels, 'channel')}, but the images of this data set have "
            f"{kind.channels}; give files with {kind.channels}, or give build_folder_data "
            f"--image_channels={channels} and train on its records."
        )

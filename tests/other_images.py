"""Images that are not 8-bit RGB, in files that this module writes byte by byte, and a data set."""

import struct
import zlib

import numpy as np
from PIL import Image

from deeplab_tf.data.image_kinds import ImageKind

KIND = ImageKind(channels=4, max_value=10_000)
FLAGS = ["--image_channels=4", "--image_max_value=10000"]
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels


def png(values, extra=b""):
    """The content of a PNG with these values, uint8 or uint16 [H, W, C]; `extra`: more chunks."""
    height, width, channels = values.shape
    rows = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # no filter
    color = _COLOR_TYPES[channels]
    header = struct.pack(">2I5B", width, height, 8 * values.itemsize, color, 0, 0, 0)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def chunk(kind, payload):
    return (
        struct.pack(">I", len(payload))
        + kind
        + payload
        + struct.pack(">I", zlib.crc32(kind + payload))
    )


def tiff(values, **tags):
    """The content of a TIFF with these values; tags: further entries, such as t338."""
    height, width, channels = values.shape
    bits = 8 * values.itemsize
    entries = {
        256: width, 257: height, 258: (bits,) * channels, 259: 1, 262: 2 if channels > 2 else 1,
        273: None, 277: channels, 278: height, 279: values.nbytes, 284: 1,
    }  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    longer, written = b"", b""
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        if tag == 273:
            numbers = (start + 64,)
        packed = struct.pack(f"<{len(numbers)}{letter}", *numbers)
        if len(packed) > 4:
            place = struct.pack("<I", start + len(longer))
            longer += packed
            packed = place
        written += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + written + bytes(4)
    return head + longer.ljust(64, b"\0") + values.astype(values.dtype.newbyteorder("<")).tobytes()


def write_tree(root, *, counts=(("train", 4), ("val", 2)), size=(40, 48)):
    """Writes images and masks; only channel 4 shows where class 1 is.

    Every second image is an array, the others are PNGs. The first value of the first image is
    above the maximum.
    """
    rng = np.random.default_rng(0)
    for split, count in counts:
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 8000, [*size, 4]).astype(np.uint16)
            mask = np.zeros(size, np.uint8)
            mask[8:24, 10 : 26 + index] = 1
            image[..., 3] = np.where(mask, 9000, 1000)
            if index == 0:
                image[0, 0, 0] = 20_000
            path = root / "images" / split / f"{index}"
            if index % 2:
                np.save(f"{path}.npy", image)
            else:
                path.with_suffix(".png").write_bytes(png(image))
            Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    (root / "classes.txt").write_text("ground\nplants\n")

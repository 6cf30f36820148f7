"""Draws small pictures and stores them in many ways, for fuzzers."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from tests.faults.mutations import mutated


def pixels(rng: random.Random) -> np.ndarray:
    """A picture of random size, smooth or of noise: uint8 [H, W, 3]."""
    noise = np.random.default_rng(rng.randrange(2**32))
    height, width = rng.randrange(1, 40), rng.randrange(1, 40)
    if rng.random() < 0.5:
        return noise.integers(0, 256, [height, width, 3], np.uint8)
    coarse = Image.fromarray(noise.integers(0, 256, [3, 3, 3], np.uint8))
    return np.asarray(coarse.resize((width, height)))


def jpeg(rng: random.Random) -> bytes:
    image = Image.fromarray(pixels(rng)).convert(rng.choice(["RGB", "RGB", "L"]))
    settings = {"restart_marker_blocks": 1} if rng.random() < 0.3 else {}
    return _saved(
        image,
        "JPEG",
        quality=rng.choice([5, 50, 95]),
        subsampling=rng.choice([0, 1, 2]),
        progressive=rng.random() < 0.4,
        **settings,
    )


def png(rng: random.Random) -> bytes:
    mode = rng.choice(["RGB", "L", "P", "RGBA", "LA", "1"])
    return _saved(Image.fromarray(pixels(rng)).convert(mode), "PNG")


def mask(rng: random.Random, num_classes: int) -> bytes:
    """An 8-bit grey PNG of train ids and 255."""
    ids = pixels(rng)[..., 0] % (num_classes + 1)
    return _saved(Image.fromarray(np.where(ids == num_classes, 255, ids).astype(np.uint8)), "PNG")


def _saved(image: Image.Image, kind: str, **settings) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def mutated_png(content: bytes, rng: random.Random) -> bytes:
    """Damages a PNG, mostly such that its checksums fit again, as a bad encoder would write it."""
    if rng.random() < 0.2:
        return mutated(content, rng)

    parts = _chunks(content)
    index = rng.randrange(len(parts))
    kind, data = parts[index]
    change = rng.randrange(8)
    if change == 0:
        del parts[index]
    elif change == 1:
        parts.insert(rng.randrange(len(parts)), parts[index])
    elif change == 2:
        parts.insert(rng.randrange(len(parts)), (mutated(kind, rng)[:4].ljust(4, b"x"), data))
    elif change == 3 and kind == b"IDAT":
        parts[index] = kind, zlib.compress(mutated(zlib.decompress(data), rng))
    elif change == 4 and kind == b"IDAT":
        cut = rng.randrange(len(data) + 1)
        parts[index : index + 1] = [(kind, data[:cut]), (kind, data[cut:])]
    elif change == 5:
        extra = rng.choice([b"tRNS", b"gAMA", b"sBIT", b"PLTE", b"iCCP", b"eXIf", b"acTL", b"cICP"])
        parts.insert(
            rng.randrange(len(parts)), (extra, rng.randbytes(rng.choice([1, 2, 4, 6, 30])))
        )
    elif kind not in (b"IHDR", b"IDAT"):
        parts[index] = kind, mutated(data, rng)
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    parts, position = [], 8
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        data = content[position + 8 : position + 8 + length]
        parts.append((content[position + 4 : position + 8], data))
        position += 12 + length
    return parts

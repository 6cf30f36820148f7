"""Reads depth and orientation from the headers of image files.

Pillow opens many images of more than 8 bits as if they had 8.
"""

import contextlib
import re
import struct
from collections.abc import Iterator

# Markers of JPEG files, ITU-T T.81 table B.1. `_JPEG_MARKER` has all that are not part of pixels.
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_UNUSED = {*range(0x01, 0xC0), 0xD8}  # by what follows the start of a file
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BITS_PER_SAMPLE, _ORIENTATION, _SAMPLE_FORMAT = 258, 274, 339
_SAMPLE_KINDS = {2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}


def deeper_than_8_bits(content: bytes) -> str:
    """Returns an image file's depth, such as "16 bits per channel", if it is over 8-bit integers.

    Returns "" for 8 bits or fewer, and for formats that are never deeper. Sources: PNG (2nd
    edition) sec. 11.2.2; TIFF 6.0 p. 16, 29 and 80, BigTIFF; ITU-T T.81 B.2.2, T.800 A.5.1;
    Netpbm's ppm(5); SGI image file format 1.00; AV1-ISOBMFF 2.3.3.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        depths = content[24:25]
    elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _deep_tiff(content)
    elif content.startswith(b"\xff\xd8"):
        depths = _jpeg_precision(content)
    elif content.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):  # JPEG 2000
        start = content.find(b"\xff\x4f\xff\x51")
        end = start + 42 + 3 * int.from_bytes(content[start + 40 : start + 42], "big")
        depths = bytes((size & 127) + 1 for size in content[start + 42 : end : 3])
    elif header := re.match(rb"P[2356](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s", content):
        depths = b"\x10" if int(header[1]) > 255 else b""
    elif content.startswith(b"\x01\xda"):  # SGI
        depths = b"\x10" if content[3:4] == b"\2" else b""
    elif content[4:12] == b"ftypavif":
        flags = content[content.find(b"av1C") + 6 :][:1]
        depths = b"\x0a" if flags and flags[0] & 64 else b""
    else:
        depths = b""

    depth = max(depths, default=8)
    return f"{depth} bits per channel" if depth > 8 else ""


def _jpeg_precision(content: bytes) -> bytes:
    """Returns the byte of a JPEG's frame header that holds its bits per sample; b"" if none."""
    frames = (part for marker, part in jpeg_segments(content) if marker in JPEG_FRAMES)
    return next(frames, b"")[:1]


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of each segment of a JPEG, up to the end marker.

    If the file is cut, there is no end marker. What lies between the segments, such as the pixels
    after the header of a scan, is left out.
    """
    position = 2  # after the marker of the start
    while match := _JPEG_MARKER.search(content, position):
        marker, start = content[match.end() - 1], match.end()
        position = start + int.from_bytes(content[start : start + 2], "big")
        yield marker, content[start + 2 : position]
        if marker == JPEG_END:
            return


def _deep_tiff(content: bytes) -> str:
    """Returns the depth of a TIFF as `deeper_than_8_bits` does."""
    tags = _tiff_tags(content)
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    kind = max(tags.get(_SAMPLE_FORMAT, (1,)), key=lambda number: number in _SAMPLE_KINDS)
    if kind in _SAMPLE_KINDS:
        return f"{bits} bits per channel ({_SAMPLE_KINDS[kind]})"
    return f"{bits} bits per channel" if bits > 8 else ""


def exif_orientation(exif: bytes) -> int:
    """Reads the orientation from EXIF data, which start with a TIFF header: 1 (upright) to 8.

    Returns 1 if there is no such tag, or the data are damaged before it (EXIF 2.32 sec. 4.6.4).
    """
    is_exif = exif[:4] in (b"II*\0", b"MM\0*")
    values = _tiff_tags(exif).get(_ORIENTATION, (1,)) if is_exif else (1,)
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def _tiff_tags(content: bytes) -> dict[int, tuple[int, ...]]:
    """Reads the three tags above from the first directory of a TIFF.

    If the file is cut, it reads those that come before the cut.
    """
    order = "<" if content[:1] == b"I" else ">"
    # An entry of a directory is tag, type, count, and the value or its offset. BigTIFF has 8 bytes
    # for counts and offsets.
    is_big = content[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")

    tags = {}
    with contextlib.suppress(struct.error, OverflowError):  # reads beyond the end of the file
        (start,) = struct.unpack_from(order + offset, content, 8 if is_big else 4)
        (number,) = struct.unpack_from(order + count, content, start)
        start += struct.calcsize(order + count)
        for _ in range(min(number, 65535)):
            tag, kind, length, value = struct.unpack_from(order + entry, content, start)
            start += struct.calcsize(order + entry)
            if tag not in (_BITS_PER_SAMPLE, _ORIENTATION, _SAMPLE_FORMAT) or length == 0:
                continue

            # Values that do not fit into the entry lie where its value points to.
            numbers = f"{order}{min(length, 65535)}{_TIFF_NUMBERS.get(kind, 's')}"
            source, place = value, 0
            if struct.calcsize(numbers) > len(value):
                source, (place,) = content, struct.unpack(order + offset, value)
            if kind in _TIFF_NUMBERS:
                tags[tag] = struct.unpack_from(numbers, source, place)
    return tags

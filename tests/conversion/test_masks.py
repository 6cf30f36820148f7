import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.conversion import masks
from deeplab_tf.conversion.masks import MaskCoding, decode_mask, encode_mask
from deeplab_tf.messages import UserError

LABEL = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)
COLORS = ((0, 0, 0), (200, 10, 10), (10, 200, 10))
WHITE = (255, 255, 255)
PALETTE = np.zeros([256, 3], np.uint8)
PALETTE[[0, 1, 2, 255]] = *COLORS, WHITE
OWN = {"encoding": "auto", "class_list": "c.csv", "class_names": ("ground", "car", "tree")}
BINARY = {**OWN, "num_classes": 2, "class_names": ("ground", "car")}
RAMP = tuple((i, i, i) for i in range(256))


def coding(**settings):
    own = {"num_classes": 3, "ignore_label": 255, "colors": COLORS, **OWN}
    return MaskCoding(**(own | settings))


def file(image, kind="PNG", **save):
    """The content of an image file; an array becomes an image first."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **save)
    return buffer.getvalue()


def palette_image(values, palette=PALETTE):
    image = Image.fromarray(values)
    image.putpalette(np.ravel(palette).astype(np.uint8).tobytes())
    return image


def rgb(values, palette=PALETTE):
    return np.asarray(palette, np.uint8)[values]


def rgba(values, alpha):
    return np.dstack([rgb(values), np.broadcast_to(np.uint8(alpha), values.shape)])


def png(bits, kind, rows, *chunks, width=2, height=None, interlaced=0):
    """A PNG of one row or more, each given as its bytes, with other chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height or len(rows), bits, kind, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")):
        checksum = zlib.crc32(name + body)
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
    return content


def inverted_tiff(values):
    """A TIFF whose 0 is white: tag 262, PhotometricInterpretation, is 0 and not 1."""
    content = file(values, "TIFF")
    tag = struct.pack("<HHII", 262, 3, 1, 1)
    assert content.count(tag) == 1
    return content.replace(tag, struct.pack("<HHII", 262, 3, 1, 0))


def taller_tiff(values):
    """A TIFF that is said to have more rows (tag 257) than its only strip (tag 278) has."""
    content = file(values, "TIFF")
    tag = struct.pack("<HHI", 257, 4, 1)
    assert content.count(tag) == 1
    return content.replace(tag + struct.pack("<I", len(values)), tag + struct.pack("<I", 9))


TURNED = Image.Exif()
TURNED[0x0112] = 6
LOSSY = "may change a mask's values; export the masks again as PNG"
SEEN_THROUGH = "transparent pixels, which have no class; save it without"
EQUAL = np.repeat(LABEL[..., np.newaxis], 3, axis=-1)
SWAPPED = [COLORS[0], COLORS[2], COLORS[1]]
ZERO_ONE = LABEL % 2  # 0 1 0 1 / 0 0 1 0
ZERO_WHITE = ZERO_ONE * np.uint8(255)
TABLE = {
    # Values: grey, palette, and RGB whose channels are equal.
    "grey": (file(LABEL), {}, LABEL),
    "grey, known data set": (file(LABEL), {"encoding": "index", "colors": ()}, LABEL),
    "palette": (file(palette_image(LABEL)), {}, LABEL),
    "palette of 2 bits": (file(palette_image(LABEL % 3, COLORS)), {}, LABEL % 3),
    "palette of no class": (file(palette_image(LABEL, PALETTE // 2 + 7)), {}, LABEL),
    "1 bit": (file(ZERO_ONE == 1), {}, ZERO_ONE),
    "1 bit by colour": (file(ZERO_ONE == 1), {"encoding": "color"}, r"\(255, 255, 255\)"),
    "1 bit, not a class's": (file(ZERO_ONE == 1), {"index_map": (0,)}, "holds the value 1, which"),
    "grey bmp": (file(LABEL, "BMP"), {}, LABEL),
    "grey tiff": (file(LABEL, "TIFF", compression="tiff_lzw"), {}, LABEL),
    "unknown value": (
        file(LABEL + np.uint8(2)),  # 2 3 4 1 / 4 4 3 2
        {},
        r"holds the value 3, 4, which is not in the class list \(0 to 2\) and not ignored \(255\)",
    ),
    "index map": (
        file(LABEL + np.uint8(7)),  # 7 8 9 6 / 9 9 8 7
        {"index_map": (*[-1] * 6, 255, 0, 1, 1)},
        np.array([[0, 1, 1, 255], [1, 1, 1, 0]]),
    ),
    "not in the index map": (
        file(LABEL),
        {"index_map": (-1, 0, 1, 1, -1, 2, 255)},
        r"value 0, 255, which is not in the class list \(1 to 3, 5\) and not ignored \(6\)",
    ),
    "equal channels": (file(EQUAL), {"encoding": "index"}, LABEL),
    "equal channels, no flag": (file(EQUAL), {}, "R, G and B are equal: give --mask_enc.*=index"),
    "equal channels, no colours": (file(EQUAL), {"colors": ()}, "or give --mask_encoding=index"),
    "unequal channels": (file(rgb(LABEL)), {"encoding": "index"}, "R, G and B differ; leave"),
    # Colours.
    "rgb": (file(rgb(LABEL)), {"ignore_colors": (WHITE,)}, LABEL),
    "rgb bmp": (file(rgb(LABEL % 3), "BMP"), {}, LABEL % 3),
    "rgb webp": (file(rgb(LABEL % 3), "WEBP", lossless=True), {}, LABEL % 3),
    "unknown colour": (file(rgb(LABEL)), {}, r"colour \(255, 255, 255\), which.*--ignore_colors"),
    "palette by colour": (
        file(palette_image(LABEL % 3, SWAPPED)),
        {"encoding": "color"},
        np.array([0, 2, 1])[LABEL % 3],
    ),
    "grey by colour": (
        file(ZERO_WHITE),
        {**BINARY, "colors": (COLORS[0], WHITE), "encoding": "color"},
        ZERO_ONE,
    ),
    "shared colour": (
        file(rgb(LABEL % 2)),
        {"colors": (COLORS[0], COLORS[1], COLORS[1])},
        r"class 1 'car' and class 2 'tree' of c\.csv share the colour \(200, 10, 10\); give each",
    ),
    "shared colour, values": (file(LABEL), {"colors": (COLORS[0], COLORS[1], COLORS[1])}, LABEL),
    "rgb, no colours": (file(rgb(LABEL)), {"colors": ()}, "c.csv has none; give it the columns"),
    # Colours that say something else than values.
    "swapped palette": (
        file(palette_image(LABEL % 3, SWAPPED)),
        {},
        "the index 1, which means class 1 'car', but its colour .* means class 2 'tree'",
    ),
    "swapped palette, values": (
        file(palette_image(LABEL % 3, SWAPPED)),
        {"encoding": "index"},
        LABEL % 3,
    ),
    "swapped palette, unused": (file(palette_image(LABEL * 0, SWAPPED)), {}, LABEL * 0),
    "palette filled with black": (
        file(palette_image(LABEL, [*COLORS, *[(0, 0, 0)] * 253])),
        {},
        LABEL,
    ),
    "ignored colour": (
        file(palette_image(LABEL % 3)),
        {"ignore_colors": (COLORS[1],), "colors": ()},
        "class 1 'car', but its colour .* means the ignored label",
    ),
    "white is a class": (
        file(ZERO_WHITE),
        {**BINARY, "colors": (COLORS[0], WHITE)},
        "the value 255, which means the ignored label, but .* class 1 'car'; give --mask_enc",
    ),
    "white is a class, values": (
        file(ZERO_WHITE),
        {**BINARY, "colors": (COLORS[0], WHITE), "encoding": "index"},
        ZERO_WHITE,
    ),
    "white is one of coloured classes": (
        file(LABEL),
        {"colors": (COLORS[0], COLORS[1], WHITE)},
        LABEL,
    ),
    "1 bit, black is class 1": (
        file(ZERO_ONE == 1),
        {**BINARY, "colors": (WHITE, COLORS[0])},
        "the index 0, which means class 0 'ground', but .* class 1 'car'",
    ),
    "grey mask renumbered": (  # 0, 1, 2, 255 were made a palette's 0, 1, 2, 3
        file(palette_image(np.minimum(LABEL, 3), [*RAMP[:3], WHITE])),
        {"num_classes": 4, "colors": (), "class_names": ()},
        "shows grey 255 for the index 3, and either may be",
    ),
    "black and white palette of these classes": (
        file(palette_image(ZERO_ONE, [COLORS[0], WHITE])),
        {**BINARY, "colors": (COLORS[0], WHITE)},
        ZERO_ONE,
    ),
    "palette too short": (
        file(palette_image(LABEL, [*COLORS] * 7)),
        {},
        "has the index 255, but a palette of 21 colours; .*--mask_encoding=index",
    ),
    "palette one too short": (
        file(palette_image(LABEL % 21 + np.uint8(18), [*COLORS] * 7)),  # 18 to 21
        {"num_classes": 22, "class_names": ()},
        "has the index 21, but a palette of 21 colours",
    ),
    "grey palette filled with white": (
        file(palette_image(ZERO_ONE, [COLORS[0], *[WHITE] * 255])),
        {"colors": ()},
        ZERO_ONE,
    ),
    "palette too short, values": (
        file(palette_image(LABEL, [*COLORS] * 7)),
        {"encoding": "index"},
        LABEL,
    ),
    # Files that lost their values.
    "jpeg": (file(LABEL, "JPEG"), {}, f"holds JPEG data, which {LOSSY}"),
    "jpeg by colour": (file(rgb(LABEL), "JPEG"), {"encoding": "color"}, LOSSY),
    "lossy webp": (file(rgb(LABEL), "WEBP", lossless=False), {}, f"lossy WebP data, which {LOSSY}"),
    "lossy webp with alpha": (file(rgba(LABEL, 9), "WEBP"), {}, f"lossy WebP data, which {LOSSY}"),
    "jpeg in tiff": (file(LABEL, "TIFF", compression="jpeg"), {}, f"TIFF jpeg data, .*{LOSSY}"),
    "jpeg 2000": (file(LABEL, "JPEG2000"), {}, f"holds JPEG 2000 data, .*{LOSSY}"),
    "gif": (file(LABEL, "GIF"), {}, "is a GIF, and programs that write GIFs renumber the colours"),
    "gif by colour": (file(palette_image(LABEL % 3), "GIF"), {"encoding": "color"}, LABEL % 3),
    "gif in part": (  # bytes 8 and 9 are the height of the whole, which may exceed the picture's
        (lambda gif: gif[:8] + b"\x09\0" + gif[10:])(file(palette_image(LABEL % 3), "GIF")),
        {"encoding": "color"},
        "a GIF whose picture covers only a part of it",
    ),
    "tga": (file(LABEL, "TGA"), {}, "not an image of a known format"),
    "empty": (b"", {}, "cannot be decoded: it is empty; get the file again"),
    "no image": (b"no image", {}, "it is not an image of a known format"),
    "16 bits": (file(LABEL.astype(np.uint16)), {}, "has 16 bits per channel, but masks have 8"),
    "16 bits, rgb": (
        png(16, 2, [bytes(12)]),
        {"encoding": "color"},
        "has 16 bits per channel, but masks have 8",
    ),
    "16 bits, rgba": (png(16, 6, [bytes(16)]), {}, "has 16 bits per channel"),
    "16 bits, tiff": (file(LABEL.astype(np.uint16), "TIFF"), {}, "has 16 bits per channel"),
    "float": (
        file(LABEL.astype(np.float32), "TIFF"),
        {},
        r"32 bits per channel \(floating point\)",
    ),
    "2 grey bits": (png(2, 0, [b"\x10"]), {}, "grey with 2 bits, which programs read as different"),
    "4 grey bits": (png(4, 0, [b"\x01"]), {}, "grey with 4 bits, which programs read as different"),
    "white is 0": (inverted_tiff(LABEL), {}, "grey with 0 as white"),
    "cmyk": (file(Image.new("CMYK", (2, 2)), "TIFF"), {}, "has the mode CMYK; allowed are grey"),
    "hidden band": (file(Image.new("RGBX", (2, 2)), "TIFF"), {}, "has 4 bands, and .* one band of"),
    "two pictures": (
        file(LABEL, "TIFF", save_all=True, append_images=[Image.fromarray(LABEL)]),
        {},
        "holds 2 pictures; only one is allowed",
    ),
    "animated png": (
        file(LABEL, save_all=True, append_images=[Image.fromarray(LABEL[::-1])]),
        {},
        "holds 2 pictures; only one is allowed",
    ),
    "turned": (file(LABEL, exif=TURNED), {}, "has EXIF data that turn or mirror it"),
    "cut": (file(LABEL)[:-20], {}, "m.png cannot be decoded"),
    "without its end": (file(LABEL)[:-12], {}, "m.png cannot be decoded: its end is missing"),
    "wrong checksum": (
        file(rgb(LABEL))[:-13] + b"\0" + file(rgb(LABEL))[-12:],
        {},
        "m.png cannot be decoded: its part IDAT is damaged",
    ),
    "rows missing": (
        png(8, 0, [b"\0\1"], height=2),
        {},
        "m.png cannot be decoded: some of its rows",
    ),
    "rows missing, palette": (
        png(1, 3, [b"\0"] * 7, (b"PLTE", bytes(6)), width=9, height=8),
        {},
        "some of its rows are missing",
    ),
    "rows missing, interlaced": (  # passes 1 (1 pixel), 6 (1) and 7 (2), in a row each
        png(8, 0, [b"\0", b"\1"], height=2, interlaced=1),
        {},
        "some of its rows are missing",
    ),
    "interlaced": (
        png(8, 0, [b"\1", b"\2", b"\0\1"], height=2, interlaced=1),
        {},
        [[1, 2], [0, 1]],
    ),
    "more rows than said": (png(8, 0, [b"\0\1", b"\2\2"], height=1), {}, [[0, 1]]),
    "strips missing": (taller_tiff(LABEL), {}, "m.png cannot be decoded: some of its pixels are"),
    # Transparency.
    "opaque alpha": (file(rgba(LABEL % 3, 255)), {}, LABEL % 3),
    "opaque alpha, grey": (file(Image.fromarray(LABEL).convert("LA")), {}, LABEL),
    "alpha": (file(rgba(LABEL % 3, [255, 255, 255, 254])), {}, SEEN_THROUGH),
    "alpha, values": (file(rgba(LABEL * 0, 0)), {"encoding": "index"}, SEEN_THROUGH),
    "alpha, grey": (file(np.dstack([LABEL, LABEL]), "PNG"), {}, SEEN_THROUGH),
    "alpha, webp": (file(rgba(LABEL % 3, 200), "WEBP", lossless=True), {}, SEEN_THROUGH),
    "transparent grey": (file(LABEL, transparency=2), {}, f"{SEEN_THROUGH}.*=index"),
    "transparent grey, unused": (file(LABEL, transparency=9), {}, LABEL),
    "transparent grey, values": (file(LABEL, transparency=2), {"encoding": "index"}, LABEL),
    "transparent grey of 16 bits": (
        png(8, 0, [b"\0\1"], (b"tRNS", b"\1\1")),
        {},
        f"{SEEN_THROUGH}.*=index",
    ),
    "transparent white of 1 bit": (png(1, 0, [b"\x40"], (b"tRNS", b"\0\1")), {}, SEEN_THROUGH),
    "transparent white of 1 bit, unused": (png(1, 0, [b"\0"], (b"tRNS", b"\0\1")), {}, [[0, 0]]),
    "transparent black of 1 bit": (png(1, 0, [b"\x40"], (b"tRNS", b"\0\0")), {}, SEEN_THROUGH),
    "transparent black of 1 bit, unused": (png(1, 0, [b"\xc0"], (b"tRNS", b"\0\0")), {}, [[1, 1]]),
    "transparent colour of 16 bits": (
        png(8, 2, [bytes(6)], (b"tRNS", b"\7\0" * 3)),
        {},
        SEEN_THROUGH,
    ),
    "transparent index": (
        file(palette_image(LABEL), transparency=0),
        {},
        f"{SEEN_THROUGH}.*=index",
    ),
    "translucent index": (
        file(palette_image(LABEL), transparency=b"\xff\x80"),
        {},
        f"{SEEN_THROUGH}.*=index",
    ),
    "opaque indices": (file(palette_image(LABEL), transparency=b"\xff\xff"), {}, LABEL),
    "transparent index, values": (
        file(palette_image(LABEL), transparency=0),
        {"encoding": "index"},
        LABEL,
    ),
    "transparent colour": (
        file(rgb(LABEL), transparency=COLORS[2]),
        {"ignore_colors": (WHITE,)},
        SEEN_THROUGH,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_mask_becomes_its_labels_or_a_sentence(case):
    """Both ways through the gate: straight to an array, and to the PNG that a record holds."""
    content, settings, expected = TABLE[case]
    if isinstance(expected, str):
        for read in (decode_mask, encode_mask):
            with pytest.raises(UserError, match=expected) as refusal:
                read(content, "m.png", coding(**settings))
            assert "m.png" in str(refusal.value) and str(refusal.value).endswith(".")
        return

    np.testing.assert_array_equal(decode_mask(content, "m.png", coding(**settings)), expected)
    label, size, counts, *_ = encode_mask(content, "m.png", coding(**settings))
    stored = Image.open(io.BytesIO(label))
    assert (stored.format, stored.mode) == ("PNG", "L") and size == stored.size
    assert "transparency" not in stored.info
    np.testing.assert_array_equal(np.asarray(stored), expected)


def test_known_data_sets_get_no_advice_on_flags_that_their_builders_lack():
    for content in (file(rgb(LABEL)), file(LABEL + np.uint8(2)), file(rgba(LABEL, 9))):
        with pytest.raises(UserError) as refusal:
            decode_mask(content, "m.png", MaskCoding(num_classes=3, ignore_label=255))
        assert "--" not in str(refusal.value)


def test_the_gate_reads_files_too(tmp_path):
    (tmp_path / "m.png").write_bytes(file(LABEL))
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "m.png", coding()), LABEL)
    with pytest.raises(UserError, match=r"none\.png cannot be read: No such file"):
        masks.read_mask(tmp_path / "none.png", coding())


def test_masks_that_are_labels_already_keep_their_bytes():
    content = file(LABEL, compress_level=0)  # larger than the writer would make it
    assert encode_mask(content, "m.png", coding())[0] == content
    swapped = coding(index_map=(1, 0, 2, *[-1] * 252, 255))
    assert encode_mask(content, "m.png", swapped)[0] != content


@pytest.mark.parametrize("num_classes", [2, 6, 255])
@pytest.mark.parametrize("ignore_label", [0, 6, 254, 255])
def test_grey_masks_pass_if_all_their_values_are_allowed(num_classes, ignore_label):
    own = MaskCoding(num_classes, ignore_label)
    allowed = {*range(num_classes), ignore_label}
    ids = np.resize(np.array(sorted(allowed), np.uint8), [30, 40])
    content = file(ids)
    assert encode_mask(content, "m.png", own)[:2] == (content, (40, 30))
    for value in sorted({num_classes, 253, 254, 255} - allowed):
        ids[29, 39] = value
        with pytest.raises(UserError, match=rf"m\.png holds the value {value}, which is not"):
            encode_mask(file(ids), "m.png", own)


def test_headers_alone_are_checked_on_demand():
    unread = file(np.full([30, 40], 77, np.uint8))
    assert encode_mask(unread, "m.png", coding(), verify="header")[:3] == (unread, (40, 30), ())
    with pytest.raises(UserError, match="its end is missing"):
        encode_mask(unread[:-12], "m.png", coding(), verify="header")
    for case in ("jpeg", "16 bits, rgb", "4 grey bits", "transparent index", "swapped palette"):
        content, settings, expected = TABLE[case]
        with pytest.raises(UserError, match=expected):
            encode_mask(content, "m.png", coding(**settings), verify="header")
    swapped = coding(index_map=(1, 0, 2, *[-1] * 252, 255))
    with pytest.raises(UserError, match="holds the value 77"):  # it is to be changed
        encode_mask(unread, "m.png", swapped, verify="header")


def test_a_grey_palette_in_a_bmp_is_read_exactly_or_refused():
    """Pillow takes a BMP of 8 bits for one of 1 bit where its palette is black and white."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
    palette = bytes([0, 0, 0, 0, 255, 255, 255, 0])
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 0, 64, 0, 0, 2, 0)
    start = 14 + len(header) + len(palette)
    content = struct.pack("<2sIHHI", b"BM", start + 64, 0, 0, start) + header + palette
    with pytest.raises(UserError, match=r"m\.bmp is a BMP of 8 bits with a grey palette"):
        decode_mask(content + pixels[::-1].tobytes(), "m.bmp", coding())


def test_exif_data_after_the_pixels_are_seen():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    Image.fromarray(np.zeros([8, 8], np.uint8)).save(buffer, "PNG", exif=exif)
    content = buffer.getvalue()
    at = content.index(b"eXIf") - 4
    size = int.from_bytes(content[at : at + 4], "big") + 12
    moved = content[:at] + content[at + size : -12] + content[at : at + size] + content[-12:]
    for either in (content, moved):
        with pytest.raises(UserError, match="turn"):
            decode_mask(either, "m.png", coding())


def test_a_png_without_pixels_is_refused():
    content = file(np.zeros([1, 5], np.uint8))
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    with pytest.raises(UserError, match="m.png cannot be decoded: it has no pixels"):
        encode_mask(content[:start] + content[end:], "m.png", coding())


@pytest.mark.parametrize("index_map", [(), (1, 0, 2, *[-1] * 252, 255)])
def test_exif_data_do_not_change_the_values(index_map):
    values = np.random.default_rng(0).integers(0, 2, [30, 40], np.uint8)
    content = io.BytesIO()
    upright = Image.Exif()
    upright[0x0112] = 1
    Image.fromarray(values).save(content, "PNG", exif=upright)
    mask = encode_mask(content.getvalue(), "m.png", coding(index_map=index_map))
    expected = 1 - values if index_map else values
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask.png))), expected)
    assert list(mask.counts[:2]) == np.bincount(expected.ravel()).tolist()

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from deeplab_tf.conversion.encoding import FilePair, encode_pair, fingerprint
from deeplab_tf.conversion.masks import MaskCoding, read_mask
from deeplab_tf.data import decoding
from deeplab_tf.data.image_files import read_image
from deeplab_tf.messages import UserError

CODING = MaskCoding(
    num_classes=3,
    ignore_label=255,
    colors=((0, 0, 0), (200, 10, 10), (10, 200, 10)),
    ignore_colors=((255, 255, 255),),
)
LABEL = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def pair(tmp_path, image, mask_size=(40, 30), **save):
    Image.fromarray(np.zeros(mask_size[::-1], np.uint8)).save(tmp_path / "mask.png")
    path = tmp_path / f"image.{save.pop('suffix', 'jpg')}"
    image.save(path, **save)
    return FilePair("image", path, tmp_path / "mask.png")


def noise(mode="RGB"):
    shape = (30, 40) if mode == "L" else (30, 40, len(mode))
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels, mode=mode)


def test_plain_images_keep_their_bytes(tmp_path):
    example = encode_pair(pair(tmp_path, noise()), CODING)
    assert example.image == (tmp_path / "image.jpg").read_bytes()
    assert (example.image_format, example.height, example.width) == ("jpeg", 30, 40)
    np.testing.assert_array_equal(decoded(example.label), np.zeros([30, 40]))


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("RGBA", "png"), ("RGB", "bmp")])
def test_other_images_become_rgb_png(tmp_path, mode, suffix):
    image = noise(mode)
    example = encode_pair(pair(tmp_path, image, suffix=suffix), CODING)
    assert example.image_format == "png"
    with Image.open(tmp_path / f"image.{suffix}") as stored:
        np.testing.assert_array_equal(decoded(example.image), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "mask_size", "setting", "shape", "remarks"),
    [
        (6, (30, 40), "apply", (40, 30, 3), ("turned",)),
        (6, (40, 30), "apply", None, ("not_turned",)),
        (6, (40, 30), "ignore", None, ()),
        (3, (40, 30), "apply", (30, 40, 3), ("turned_unsure",)),
        (3, (40, 30), "ignore", None, ()),
        (1, (40, 30), "apply", None, ()),
        (9, (40, 30), "apply", None, ()),  # no orientation
    ],
)
def test_exif_turns_an_image_unless_only_the_unturned_fits_the_mask(
    tmp_path, orientation, mask_size, setting, shape, remarks
):
    """A shape of None: the file's bytes are stored, which TensorFlow decodes unturned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    files = pair(tmp_path, noise(), mask_size=mask_size, exif=exif)
    example = encode_pair(files, CODING, exif_orientation=setting)
    assert example.remarks == remarks
    if shape:
        assert decoded(example.image).shape == (example.height, example.width, 3) == shape
    else:
        assert example.image == files.image_path.read_bytes()
        assert (example.height, example.width) == (30, 40)


def test_without_a_mask_exif_decides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = FilePair("image", pair(tmp_path, noise(), exif=exif).image_path, None)
    example = encode_pair(files, CODING)
    assert (example.height, example.width, example.remarks) == (40, 30, ("turned",))
    stored = encode_pair(files, CODING, exif_orientation="ignore")
    assert (stored.height, stored.width, stored.remarks) == (30, 40, ())


def test_a_mask_that_fits_only_the_turned_image_names_the_flag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = pair(tmp_path, noise(), mask_size=(30, 40), exif=exif)
    with pytest.raises(UserError, match="40x30 but .* 30x40; .*leave out --exif_orientation=ign"):
        encode_pair(files, CODING, exif_orientation="ignore")


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "tif")])
def test_a_channel_next_to_the_colours_is_told(tmp_path, mode, suffix):
    image = noise("RGBA").convert(mode)
    example = encode_pair(pair(tmp_path, image, suffix=suffix), CODING)
    assert example.remarks == ("channel_dropped",)


def test_an_infrared_channel_that_pillow_does_not_show_is_told(tmp_path):
    """Of a TIFF whose fourth channel is no transparency, Pillow gives red, green and blue."""
    files = pair(tmp_path, noise("RGBA"), suffix="tif")
    content = bytearray(files.image_path.read_bytes())
    place = content.index(struct.pack("<HHI", 338, 3, 1)) + 8  # tag ExtraSamples, one SHORT
    assert content[place] == 2  # unassociated transparency
    content[place] = 0  # unspecified
    files.image_path.write_bytes(content)
    assert Image.open(files.image_path).mode == "RGB"
    assert encode_pair(files, CODING).remarks == ("channel_dropped",)
    assert encode_pair(pair(tmp_path, noise("RGB"), suffix="tif"), CODING).remarks == ()


def test_a_masks_values_are_counted_as_they_are_stored(tmp_path):
    files = pair(tmp_path, noise())
    mask = np.zeros([30, 40], np.uint8)
    mask[:2], mask[5, :7] = 2, 255
    Image.fromarray(mask).save(files.mask_path)
    expected = np.bincount(mask.ravel(), minlength=256).tolist()  # 80 of 2, 7 of 255
    assert [*encode_pair(files, CODING).label_values] == expected
    swapped = MaskCoding(3, 255, index_map=(2, 1, 0, *[-1] * 252, 255))
    expected[0], expected[2] = expected[2], expected[0]
    example = encode_pair(files, swapped)
    assert [*example.label_values] == expected
    np.testing.assert_array_equal(np.bincount(decoded(example.label).ravel()), expected)


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, turn, verify):
    """Pillow turns a TIFF when it decodes it; the oracle is the same image as a PNG."""
    exif = Image.Exif()
    exif[0x0112] = turn
    noise().save(tmp_path / "image.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "image.png")))
    files = pair(tmp_path, noise(), suffix="tif", mask_size=expected.shape[1::-1])
    noise().save(files.image_path, tiffinfo={0x0112: turn})
    np.testing.assert_array_equal(
        decoded(encode_pair(files, CODING, verify=verify).image), expected
    )
    np.testing.assert_array_equal(read_image(files.image_path), expected)


def test_xmp_turns_no_image(tmp_path):
    """Pillow would; TensorFlow, OpenCV and browsers look at EXIF data only."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    files = pair(tmp_path, noise())
    noise().save(files.image_path, xmp=xmp)
    assert Image.open(files.image_path).getexif()[0x0112] == 6
    assert read_image(files.image_path).shape == (30, 40, 3)


def test_a_transparent_grey_value_does_not_stop_the_conversion(tmp_path):
    files = pair(tmp_path, noise(), suffix="png")
    noise().convert("1").save(files.image_path, transparency=0)
    np.testing.assert_array_equal(
        decoded(encode_pair(files, CODING).image), read_image(files.image_path)
    )


@pytest.mark.parametrize("limit", ["decoding.MAX_PIXELS", "Image.MAX_IMAGE_PIXELS"])
def test_more_pixels_than_the_limit_are_refused_with_the_way_out(tmp_path, monkeypatch, limit):
    files = pair(tmp_path, noise())
    monkeypatch.setattr(decoding, "MAX_PIXELS", 30 * 40)
    encode_pair(files, CODING), read_image(files.image_path)
    if limit == "decoding.MAX_PIXELS":  # whatever Pillow's own is
        monkeypatch.setattr(decoding, "MAX_PIXELS", 30 * 40 - 1)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 40 // 2 - 1)
    for read in (
        lambda: encode_pair(files, CODING, verify="header"),
        lambda: read_image(files.image_path),
        lambda: read_mask(files.mask_path, CODING),
    ):
        with pytest.raises(UserError, match=r"has more than .* megapixels, .* into tiles"):
            read()


def test_the_limit_is_pillows_own():
    """So that a file under it is never refused by Pillow, in words without a way out."""
    assert decoding.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_sizes_that_differ_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"image\.jpg is 40x30 but its mask .*mask\.png is 41x30"):
        encode_pair(pair(tmp_path, noise(), mask_size=(41, 30)), CODING)


def test_a_cut_jpeg_is_refused(tmp_path):
    files = pair(tmp_path, noise())
    content = files.image_path.read_bytes()
    files.image_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"image\.jpg cannot be decoded"):
        encode_pair(files, CODING)


def deep_png(color_type, channels):
    """A 16-bit PNG of zeros, 30 x 40; Pillow writes grey ones only."""
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, color_type, 0, 0, 0)),
            (b"IDAT", zlib.compress((b"\0" + bytes(2 * channels * 40)) * 30)),
            (b"IEND", b""),
        )
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_a_png_that_tensorflow_would_not_decode_is_refused(tmp_path):
    """Pillow reads all pixels of both: one lacks its end, the other has a wrong checksum."""
    files = pair(tmp_path, noise(), suffix="png")
    content = files.image_path.read_bytes()
    files.image_path.write_bytes(content[:-12])
    with pytest.raises(UserError, match=r"image\.png cannot be decoded: its end is missing"):
        encode_pair(files, CODING)
    files.image_path.write_bytes(content[:-13] + bytes([content[-13] ^ 1]) + content[-12:])
    np.asarray(Image.open(files.image_path))
    with pytest.raises(UserError, match=r"image\.png cannot be decoded: its part IDAT is damaged"):
        encode_pair(files, CODING)


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_deep_images_are_refused(tmp_path, color_type, channels, verify):
    files = pair(tmp_path, noise(), suffix="png")
    files.image_path.write_bytes(deep_png(color_type, channels))
    Image.open(files.image_path).load()  # Pillow takes it for one of 8 bits, unless it is grey
    message = r"has 16 bits per channel, but images have 8; scale .* or keep .* build_folder_data"
    with pytest.raises(UserError, match=r"image\.png " + message):
        encode_pair(files, CODING, verify=verify)
    with pytest.raises(UserError, match=message):
        read_image(files.image_path)


def test_headers_alone_are_checked_on_demand(tmp_path):
    files = pair(tmp_path, noise())
    content = files.image_path.read_bytes()
    # Only half of the pixels, but with the end marker.
    files.image_path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    example = encode_pair(files, CODING, verify="header")
    assert example.image == files.image_path.read_bytes()
    assert example.label == files.mask_path.read_bytes()
    assert (example.height, example.width) == (30, 40)
    with pytest.raises(UserError, match="must have the same size"):
        encode_pair(pair(tmp_path, noise(), mask_size=(41, 30)), CODING, verify="header")
    for cut in (content[: len(content) // 2], content[:-2]):
        files.image_path.write_bytes(cut)
        with pytest.raises(UserError, match=r"image\.jpg cannot be decoded: its end is missing"):
            encode_pair(files, CODING, verify="header")
    files.image_path.write_bytes(b"no image")
    with pytest.raises(UserError, match="not an image of a known format"):
        encode_pair(files, CODING, verify="header")


def test_damaged_exif_data_are_passed_over(tmp_path):
    image = noise()
    broken = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12"
    files = pair(tmp_path, image, exif=broken)
    example = encode_pair(files, CODING)
    assert example.image == files.image_path.read_bytes()
    not_tiff = pair(tmp_path, image, suffix="png", exif=b"no TIFF")
    assert encode_pair(not_tiff, CODING).image_format == "png"
    read_image(files.image_path)


def test_a_phones_jpeg_with_a_second_picture_is_its_first(tmp_path):
    first, second = noise(), Image.new("RGB", (40, 30))
    files = pair(tmp_path, Image.new("RGB", (40, 30)))
    first.save(files.image_path, format="MPO", save_all=True, append_images=[second])
    example = encode_pair(files, CODING)
    assert example.image_format == "jpeg" and Image.open(files.image_path).n_frames == 2
    np.testing.assert_array_equal(decoded(example.image), np.asarray(Image.open(files.image_path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    files = pair(tmp_path, noise(), exif=exif, mask_size=(30, 40) if orientation > 4 else (40, 30))
    expected = ImageOps.exif_transpose(Image.open(files.image_path))
    np.testing.assert_array_equal(decoded(encode_pair(files, CODING).image), expected)
    np.testing.assert_array_equal(read_image(files.image_path), expected)


def test_a_cut_image_is_refused_though_pillow_was_told_to_fill_it_up(tmp_path, monkeypatch):
    path = tmp_path / "a.bmp"
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3], dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match="truncated"):
        read_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_no_orientation_is_applied_twice_or_against_the_flag(tmp_path, orientation, suffix):
    """Pillow turns TIFF files itself as it decodes them."""
    image = noise()
    image.getexif()[0x0112] = orientation
    exact = {"lossless": True} if suffix == "webp" else {}
    files = pair(tmp_path, image, suffix=suffix, exif=image.getexif(), **exact)
    stored = encode_pair(files, CODING, exif_orientation="ignore")
    np.testing.assert_array_equal(decoded(stored.image), image)

    expected = ImageOps.exif_transpose(image)
    Image.new("L", expected.size).save(files.mask_path)
    np.testing.assert_array_equal(decoded(encode_pair(files, CODING).image), expected)
    np.testing.assert_array_equal(read_image(files.image_path), expected)


def test_no_other_program_is_run_for_an_image(tmp_path):
    """Pillow runs Ghostscript for EPS files, whatever their names."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    with pytest.raises(UserError, match=r"a\.jpg cannot be decoded: it is not an image of a known"):
        read_image(path)


def test_a_text_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "a.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "0" * 2**24, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=texts)
    assert path.stat().st_size < 2**16
    with pytest.raises(UserError, match=r"a\.png cannot be decoded: Decompressed data too large"):
        read_image(path)


def test_an_image_with_an_endless_side_is_refused(tmp_path):
    path = tmp_path / "a.bmp"
    Image.new("1", (1, 1_000_001)).save(path)
    with pytest.raises(UserError, match=r"a\.bmp has a side of more than 1,000,000 pixels"):
        read_image(path)


def test_files_of_another_folder_are_other_files(tmp_path):
    """An archive may give the masks of two folders the same names, sizes and times."""
    prints = []
    for folder in ("first", "second"):
        path = tmp_path / folder / "1.png"
        path.parent.mkdir()
        path.write_bytes(folder[:5].encode())
        os.utime(path, (1e9, 1e9))
        prints.append(fingerprint([FilePair("1", path, path)]))
    assert prints[0] != prints[1]
    assert prints[1] == fingerprint([FilePair("1", path, path)])

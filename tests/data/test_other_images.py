import io
import pickle
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import image_files, other_images
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError
from tests.other_images import KIND, chunk, png, tiff

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 10_001, [5, 7, 4]).astype(np.uint16)
SHALLOW = RNG.integers(0, 256, [5, 7, 4]).astype(np.uint8)


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def kind_of(values):
    return ImageKind(values.shape[-1], 255 if values.dtype == np.uint8 else 10_000)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("whole", [DEEP, SHALLOW], ids=["16", "8"])
def test_a_png_gives_its_values(channels, whole):
    values = np.ascontiguousarray(whole[..., :channels])
    kind = ImageKind(channels, 10_000 if whole is DEEP else 254)
    read, counts = other_images.decode(png(values), "a.png", kind)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, np.minimum(values, kind.max_value))
    assert counts == (values.size, np.sum(values > kind.max_value), values.max())


@pytest.mark.parametrize(
    "array",
    [
        DEEP,
        DEEP.astype(">u2"),
        np.asfortranarray(DEEP),
        SHALLOW,
        RNG.integers(0, 9, [3, 4, 9], "B"),
    ],
    ids=["plain", "big endian", "by columns", "8 bits", "9 channels"],
)
def test_an_array_gives_its_values(array):
    read, _ = other_images.decode(npy(array), "a.npy", kind_of(array))
    assert read.dtype == (np.uint8 if array.itemsize == 1 else np.uint16)
    np.testing.assert_array_equal(read, array)


def test_an_array_in_memory_may_have_another_order_of_bytes():
    read, _ = other_images.fitted(DEEP.astype(">u2"), "An image", KIND)
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read, DEEP)


def test_an_array_of_one_channel_may_lack_its_axis():
    read, _ = other_images.decode(npy(DEEP[..., 0]), "a.npy", ImageKind(1, 10_000))
    np.testing.assert_array_equal(read, DEEP[..., :1])


@pytest.mark.parametrize(
    "values", [DEEP[..., :1], SHALLOW[..., :1], SHALLOW[..., :3]], ids=["16", "grey", "rgb"]
)
def test_a_tiff_gives_its_values(values):
    kind = ImageKind(values.shape[-1], 10_000 if values.itemsize == 2 else 254)
    read, _ = other_images.decode(tiff(values), "a.tif", kind)
    np.testing.assert_array_equal(read, np.minimum(values, kind.max_value))


def test_a_tiff_with_plain_alpha_gives_it_as_a_channel():
    read, _ = other_images.decode(tiff(SHALLOW, t338=2), "a.tif", ImageKind(4))
    np.testing.assert_array_equal(read, SHALLOW)


def test_values_above_the_maximum_are_clipped_and_counted():
    values = np.array([[[0, 10_000, 10_001, 65_535]]], np.uint16)
    read, counts = other_images.decode(png(values), "a.png", KIND)
    assert read.tolist() == [[[0, 10_000, 10_000, 10_000]]]
    assert counts == (4, 2, 65_535)


def header_of(shape):
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return len(text).to_bytes(2, "little") + text


CUT = npy(DEEP)[:-1]
HUGE = npy(DEEP).replace(b"(5, 7, 4)", b"(5, 7, 1000000000)").replace(b" " * 9 + b"\n", b"\n")
ENDLESS = npy(DEEP)[:8] + header_of("(0, 1" + 30 * "0" + ", 4)")
LOGICAL = npy(DEEP)[:8] + header_of("(True, True, 4)") + bytes(8)
MANY_AXES = npy(DEEP)[:8] + header_of(str((1,) * 70)) + bytes(2)
# Its pixels are damaged too, but its size is what the user must hear of.
WIDE = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">2I5B", 250_001, 1, 16, 6, 0, 0, 0))
    + chunk(b"IDAT", b"nothing")
    + chunk(b"IEND", b"")
)
NEGATIVE = npy(DEEP).replace(b"(5, 7, 4)", b"(-5, -7, 4)").replace(b"  \n", b"\n")
DEEPLY_NESTED = npy(DEEP)[:8] + (9000).to_bytes(2, "little") + b"-" * 8998 + b"1\n"
PALETTE = io.BytesIO()
Image.fromarray(SHALLOW[..., 0]).convert("P").save(PALETTE, "PNG")
TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")


@pytest.mark.parametrize(
    "content, kind, reason",
    [
        (png(DEEP[..., :3].copy()), KIND, "has 3 channels, .* have 4; .* --image_channels=3"),
        (png(SHALLOW), KIND, "has 8 bits per channel, but the images have 4 channels of 0..10000"),
        (png(DEEP), ImageKind(4), "has 16 bits per channel, .*--image_max_value, .* above 255"),
        (PALETTE.getvalue(), ImageKind(1), "a PNG with a palette"),
        (png(DEEP, TURNED), KIND, "EXIF data that turn it, but only 8-bit RGB images are turned"),
        (png(DEEP)[:-20], KIND, "its part b?'?IEND'? is damaged|its end is missing"),
        (npy(DEEP.astype(np.float32)), KIND, "an array of float32; .*image_max_value of 65535"),
        (npy(DEEP.astype(np.int32)), KIND, "an array of int32"),
        (npy(np.moveaxis(DEEP, -1, 0)), KIND, r"shape \[4, 5, 7\].*np.moveaxis\(image, 0, -1\)"),
        (npy(DEEP[..., 0]), KIND, r"shape \[5, 7, 1\].*give \[height, width, 4\]"),
        (npy(DEEP[:0]), KIND, r"shape \[0, 7, 4\]"),
        (npy(np.array([{}])), KIND, "an array of object; give uint8"),
        (npy(np.zeros(3, "V0")), KIND, r"an array of \|V0"),
        (npy(np.uint16(7)), KIND, r"shape \[\], but"),
        (NEGATIVE, KIND, r"the shape \[-5, -7, 4\], which no image has"),
        (ENDLESS, KIND, r"the shape \[0, 10{30}, 4\], which no image has"),
        (LOGICAL, KIND, r"the shape \[True, True, 4\], which no image has"),
        (MANY_AXES, KIND, r"the shape \[1, 1, .*, which no image has"),
        (WIDE, KIND, "250001x1; .* 4 channels .* sides of 250,000 pixels: cut"),
        (DEEPLY_NESTED, KIND, "its header is damaged"),
        (CUT, KIND, "has 279 bytes of values, and its shape .* needs 280"),
        (HUGE, KIND, "needs 70000000000"),
        (npy(DEEP)[:9], KIND, "its header is damaged"),
        (b"\x93NUMPY\x09\0" + npy(DEEP)[8:], KIND, "its header is damaged"),
        (pickle.dumps(DEEP), KIND, "not an image of a known format"),
        (tiff(DEEP[..., :3]), ImageKind(3, 10_000), "TIFF .*exactly .16 bits .*numpy.save"),
        (tiff(SHALLOW[..., :1], t262=0), ImageKind(1), "TIFF .*cannot be read exactly"),  # inverted
        (tiff(DEEP[..., :1], t262=0), ImageKind(1, 10_000), "TIFF .*cannot be read exactly"),
        (tiff(SHALLOW, t338=0), ImageKind(4), "TIFF .*cannot be read exactly"),
        (tiff(SHALLOW, t338=1), ImageKind(4), "TIFF .*cannot be read exactly"),  # divided by alpha
        (tiff(DEEP[..., :1], t339=2), ImageKind(1, 10_000), "TIFF .*exactly .16 bits .*signed"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(content, kind, reason):
    with pytest.raises(UserError, match=reason) as error:
        other_images.decode(content, "FILE", kind)
    assert str(error.value).startswith("FILE ") and "\n" not in str(error.value)


def test_a_lossy_file_with_transparency_is_refused():
    content = io.BytesIO()
    Image.fromarray(SHALLOW).save(content, "WEBP")
    with pytest.raises(UserError, match="WEBP file whose channels cannot be read exactly"):
        other_images.decode(content.getvalue(), "FILE", ImageKind(4))


def test_images_beyond_one_png_are_refused():
    image = np.broadcast_to(np.uint8(0), [1025, 1, 1000])
    with pytest.raises(UserError, match="1x1025; .* sides of 1,000 pixels: cut"):
        other_images.fitted(image, "FILE", ImageKind(1000))


def test_records_hold_the_channels_below_each_other():
    """OpenCV reads the PNG."""
    stored = cv2.imdecode(np.frombuffer(other_images.encode(DEEP), "B"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, np.concatenate(np.moveaxis(DEEP, -1, 0)))


def test_pictures_show_the_first_three_channels():
    image = np.array([[[0, 10_000, 5_000, 7]]], np.uint16)
    assert KIND.picture(image).tolist() == [[[0, 255, 128]]]  # 127.5 is rounded to even
    assert ImageKind(2, 51).picture(np.array([[[10, 3]]], np.uint8)).tolist() == [[[50, 50, 50]]]
    image = SHALLOW[..., :3]
    assert RGB.picture(image) is image


def test_networks_values_lead_back_to_those_of_images():
    scaled = DEEP.astype(np.float32) * np.float32(255 / 10_000)
    np.testing.assert_array_equal(KIND.unscaled(scaled), DEEP)
    assert KIND.unscaled(scaled).dtype == np.uint16
    assert RGB.unscaled(np.float32([0.4, 254.6])).tolist() == [0, 255]


def test_files_of_the_kind_are_read_where_images_are(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(DEEP))
    image, is_loss = image_files.read_image_and_loss(path, KIND)
    np.testing.assert_array_equal(image, DEEP)
    assert not is_loss
    with pytest.raises(UserError, match="16 bits per channel, .*--image_max_value"):
        image_files.read_image_and_loss(path)

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.data.record_checks import (
    RecordChecks,
    find_bad,
    naming_bad_records,
    require_good,
)
from deeplab_tf.messages import UserError

INFO = catalog.DatasetInfo(name="two", classes=catalog.load("camvid", "").classes)
CHECKS = RecordChecks(num_classes=11, ignore_label=255)
PIXELS = np.random.default_rng(0).integers(0, 256, [4, 6, 3], np.uint8)
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 11


def encoded(array, kind="png", mode=None, **settings):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array, mode)
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


IMAGE, LABEL = encoded(PIXELS), encoded(IDS)


def record(image=IMAGE, label=LABEL, name=b"odd", **numbers):
    """A record as any program may have written it."""
    example = tf.train.Example()
    features = example.features.feature
    for key, value in (
        ("image/encoded", image),
        ("image/segmentation/class/encoded", label),
        ("image/filename", name),
    ):
        if value is not None:
            features[key].bytes_list.value.append(value)
    for key, value in numbers.items():
        features[f"image/{key}"].int64_list.value.append(value)
    return example.SerializeToString()


def split(folder, *odd):
    """A split of good records with the odd ones after the first."""
    with records.shard_writer(folder / "train-00000-of-00001.tfrecord") as writer:
        for serialized in (record(name=b"first"), *odd, record(name=b"last")):
            writer.write(serialized)
    return records.open_split(folder, "train", INFO)


def read_all(table, batch_size=1, **settings):
    batches = pipeline.eval_batches(
        table, batch_size=batch_size, num_classes=11, ignore_label=255, **settings
    )
    return list(batches)


def palette_png(index):
    image = Image.fromarray(index, "P")
    image.putpalette(np.arange(255, -1, -1, np.uint8).repeat(3).tobytes())
    return encoded(image)


CMYK = encoded(Image.new("CMYK", (6, 4), (9, 99, 199, 50)), "jpeg")
SIXTEEN = encoded(IDS.astype(np.uint16))
# A PNG with its header says 3 x 3 pixels of 16 bits, RGB, which Pillow cannot write.
_HEADER = b"IHDR" + struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
_PIXELS = b"IDAT" + zlib.compress((b"\0" + bytes(36)) * 4)
RGB48 = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    for part in (_HEADER, _PIXELS, b"IEND")
)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"label": SIXTEEN}, "The label of 'odd' .* is a grey PNG of 16 bits"),
        ({"label": palette_png(IDS)}, "The label of 'odd' .* is a palette PNG of 8 bits"),
        ({"label": encoded(IDS > 5)}, "The label of 'odd' .* is a grey PNG of 1 bit,"),
        ({"label": encoded(PIXELS)}, "The label of 'odd' .* is a RGB PNG of 8 bits"),
        ({"label": encoded(IDS, "jpeg")}, "The label of 'odd' .* is a JPEG"),
        ({"label": b"abc"}, "The label of 'odd' .* is of an unknown format"),
        ({"label": LABEL[:60]}, "The label of 'odd' .* cannot be decoded"),
        ({"label": encoded(IDS[:3])}, "'odd' .* is 4x6 .height x width. but its label is 3x6"),
        ({"label": encoded(IDS + 20)}, "The label of 'odd' .* holds the value 30, which is not"),
        ({"label": b""}, "The image 'odd' .* has no label"),
        ({"label": None}, "The image 'odd' .* has no label"),
        ({"image": encoded(PIXELS, "gif")}, "The image 'odd' .* is a GIF"),
        ({"image": encoded(PIXELS, "bmp")}, "The image 'odd' .* is a BMP"),
        ({"image": CMYK}, "The image 'odd' .* is a CMYK JPEG"),
        ({"image": RGB48}, "The image 'odd' .* has 16 bits per channel"),
        ({"image": IMAGE[:60]}, "The image 'odd' .* cannot be decoded"),
        ({"image": IMAGE[:20]}, "The image 'odd' .* is a PNG without size"),
        ({"image": encoded(PIXELS, "jpeg")[:200]}, "The image 'odd' .* cannot be decoded"),
        ({"image": b""}, "The record of 'odd' .* has no image"),
        ({"image": None}, "The record of 'odd' .* has no image"),
        ({"name": b"a\nb\xff", "label": SIXTEEN}, r"The label of 'a\\+nb\\+xff' "),
    ],
)
def test_a_record_that_would_be_read_wrongly_is_named(tmp_path, odd, message):
    table = split(tmp_path, record(**odd))
    with pytest.raises((tf.errors.OpError, UnicodeDecodeError)):
        CHECKS.parse(tf.constant(record(**odd)))
    with pytest.raises(UserError, match=message) as caught:
        require_good(table, 1, CHECKS)
    assert f"record 2 of 3 in {table.files[0]}" in str(caught.value)
    assert "build the data set again." in str(caught.value)
    require_good(table, 0, CHECKS)
    require_good(table, 2, CHECKS)


def test_reading_names_the_first_bad_record(tmp_path):
    odd = record(label=SIXTEEN)
    with pytest.raises(UserError, match="'odd' .record 3 of 6 in"):
        read_all(split(tmp_path, record(), odd, odd, record()))


def test_a_record_of_something_else_is_named(tmp_path):
    # TensorFlow's error quotes these bytes, which are not UTF-8.
    with pytest.raises(UserError, match="Record 2 of 3 in .* is not an image and a label"):
        read_all(split(tmp_path, b"\xff\xff"))


def test_a_damaged_shard_is_named_by_its_record(tmp_path):
    table = split(tmp_path, record())
    path = Path(table.files[0])
    content = bytearray(path.read_bytes())
    content[int(table.offsets[1]) + 50] ^= 4
    path.write_bytes(content)
    message = f"Record 2 of 3 in {path} is damaged: its checksum is wrong; copy the shard again"
    with pytest.raises(UserError, match=message):
        read_all(table)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_size_fields_and_names_of_records_are_not_needed(tmp_path, batch_size):
    wide = record(encoded(PIXELS[:2]), encoded(IDS[:2]), None, height=4, width=6)
    table = split(tmp_path, record(name=b"", height=-1, width=5), wide)
    seen = {
        name: (image, label)
        for batch in read_all(table, batch_size=batch_size)
        for name, image, label, _ in zip(*batch, strict=True)
    }
    assert set(seen) == {"first", "record_1", "record_2", "last"}
    np.testing.assert_array_equal(seen["record_1"][0], PIXELS)
    np.testing.assert_array_equal(seen["record_2"][0], PIXELS[:2])
    np.testing.assert_array_equal(seen["record_2"][1][..., 0], IDS[:2])


def test_images_of_records_may_be_of_any_kind_that_is_read_exactly():
    grey, few = PIXELS[..., 0], IDS % 2 > 0
    kinds = {
        "grey": (encoded(grey), np.stack([grey] * 3, axis=-1)),
        "1 bit": (encoded(few), np.stack([few * np.uint8(255)] * 3, axis=-1)),
        "palette": (palette_png(grey), np.stack([255 - grey] * 3, axis=-1)),
    }
    for image, expected in kinds.values():
        np.testing.assert_array_equal(CHECKS.parse(tf.constant(record(image)))["image"], expected)


def test_an_unlabelled_record_is_fine_where_none_is_needed(tmp_path):
    batches = read_all(split(tmp_path, record(label=None)), labelled=False)
    assert [batch.labels.shape for batch in batches] == [(1, 4, 6, 1), (1, 0, 0, 1), (1, 4, 6, 1)]


def test_a_failure_that_is_not_a_records_passes(tmp_path):
    table = split(tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError), naming_bad_records(table, CHECKS):
        tf.reshape(tf.zeros([2]), [3])
    with pytest.raises(tf.errors.NotFoundError), naming_bad_records(table, CHECKS):
        raise tf.errors.NotFoundError(None, None, "unknown client")


def names_of(table):
    return [records.parse(table.read(i))["name"].numpy().decode() for i in range(len(table))]


def test_bad_records_are_left_out_or_replaced_by_the_next_good_one(tmp_path, capsys):
    bad, good = record(label=SIXTEEN, name=b"bad"), record(name=b"good")
    with records.shard_writer(tmp_path / "train-00000-of-00001.tfrecord") as writer:
        for serialized in (good, bad, bad, record(name=b"other"), bad):
            writer.write(serialized)
    table = records.open_split(tmp_path, "train", INFO)

    indices = find_bad(table, CHECKS, most=3, split="train")
    assert indices.tolist() == [1, 2, 4]
    told = capsys.readouterr().err
    assert told.count("Warning: train, not used: The label of 'bad'") == 3
    assert names_of(table.without(indices)) == ["good", "other"]
    # The one after the last is the first.
    replaced = table.with_next_in_place_of(indices)
    assert names_of(replaced) == ["good", "other", "other", "other", "good"]


@pytest.mark.parametrize(
    ("num_good", "num_bad", "message"),
    [
        (2, 3, "3 of 5 records of val are bad, and --max_bad_records=2 allows 2; the first: The l"),
        (0, 2, "2 of 2 records of val are bad"),
    ],
)
def test_more_bad_records_than_allowed_are_refused(tmp_path, num_good, num_bad, message):
    with records.shard_writer(tmp_path / "val-00000-of-00001.tfrecord") as writer:
        for serialized in [record()] * num_good + [record(label=SIXTEEN)] * num_bad:
            writer.write(serialized)
    table = records.open_split(tmp_path, "val", INFO)
    with pytest.raises(UserError, match=f"^{message}"):
        find_bad(table, CHECKS, most=2, split="val")

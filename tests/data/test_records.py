import functools
import json
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.conversion import building, encoding, masks
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError

INFO = catalog.DatasetInfo(
    name="pair", classes=(catalog.LabelClass("a", (0, 0, 0)), catalog.LabelClass("b", (9, 9, 9)))
)


def write(folder, count=5, num_shards=2, split="train"):
    """Records n0, n1, ...: images of 2x3 pixels with the value of their number."""
    raw = folder.parent / "raw"
    raw.mkdir(exist_ok=True)
    pairs = []
    for number in range(count):
        pair = encoding.FilePair(f"n{number}", raw / f"{number}.png", raw / f"{number}m.png")
        Image.fromarray(np.full([2, 3, 3], number, np.uint8)).save(pair.image_path)
        Image.fromarray(np.full([2, 3], number % 2, np.uint8)).save(pair.mask_path)
        pairs.append(pair)
    coding = masks.MaskCoding(num_classes=2, ignore_label=255)
    building.convert_split(
        pairs,
        functools.partial(encoding.encode_pair, coding=coding),
        output_dir=folder,
        info=INFO,
        split=split,
        num_shards=num_shards,
        num_processes=1,
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "records"


def test_records_follow_the_official_schema(folder):
    write(folder, count=1, num_shards=1)
    # Keys of the official package's build_data.py (docs/ancestors.md, official DeepLab, Records).
    serialized = next(iter(tf.data.TFRecordDataset(str(folder / "train-00000-of-00001.tfrecord"))))
    features = tf.train.Example.FromString(serialized.numpy()).features.feature
    assert set(features) == {
        "image/encoded",
        "image/filename",
        "image/format",
        "image/height",
        "image/width",
        "image/channels",
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
    }
    assert features["image/height"].int64_list.value == [2]
    assert features["image/width"].int64_list.value == [3]
    assert features["image/filename"].bytes_list.value == [b"n0"]
    assert features["image/format"].bytes_list.value == [b"png"]


def test_every_record_is_read_back_by_its_number(folder):
    write(folder, count=5, num_shards=2)
    table = records.open_split(folder, "train", INFO)
    assert len(table) == 5
    for number in (4, 0, 2, 3, 1):
        record = records.parse(table.read(tf.constant(number)))
        assert record["name"].numpy() == f"n{number}".encode()
        np.testing.assert_array_equal(record["image"], np.full([2, 3, 3], number))
        np.testing.assert_array_equal(record["label"], np.full([2, 3, 1], number % 2))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_shard_is_refused(folder, damage):
    write(folder)
    shard = folder / "train-00001-of-00002.tfrecord"
    if damage == "missing":
        shard.unlink()
    else:  # cut between two records: TensorFlow itself would silently read fewer
        shard.write_bytes(b"")
    with pytest.raises(UserError, match="train-00001-of-00002"):
        records.open_split(folder, "train", INFO)


def test_copies_of_a_split_have_one_digest_and_other_records_another(folder, tmp_path):
    write(folder)
    shutil.copytree(folder, tmp_path / "copy")
    write(tmp_path / "longer", count=6)
    write(tmp_path / "other_shards", num_shards=1)
    digests = [
        records.open_split(path, "train", INFO).digest()
        for path in (folder, tmp_path / "copy", tmp_path / "longer", tmp_path / "other_shards")
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_record_of_other_content_in_the_same_place_has_another_digest(tmp_path):
    digests, places = set(), set()
    for content in ([b"one", b"two"], [b"one", b"TWO"], [b"ONE", b"two"], [b"two", b"one"]):
        with records.shard_writer(tmp_path / "train-00000-of-00001.tfrecord") as writer:
            for record in content:
                writer.write(record)
        table = records.open_split(tmp_path, "train", INFO)
        assert [table.read(index).numpy() for index in range(2)] == content
        digests.add(table.digest())
        places.add(table.digest_of_places())
    assert len(digests) == 4 and len(places) == 1


def test_shards_of_the_official_package_are_read_without_a_manifest(folder):
    write(folder)
    (folder / catalog.MANIFEST).unlink()
    assert len(records.open_split(folder, "train", INFO)) == 5
    shutil.copy(folder / "train-00000-of-00002.tfrecord", folder / "train-00000-of-00003.tfrecord")
    with pytest.raises(UserError, match="not complete"):
        records.open_split(folder, "train", INFO)


def test_a_file_that_is_no_tfrecord_is_refused(folder):
    folder.mkdir()
    (folder / "train-00000-of-00001.tfrecord").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not a TFRecord"):
        records.open_split(folder, "train", INFO)


def test_an_unknown_split_names_those_there_are(folder):
    write(folder)
    write(folder, split="val")
    with pytest.raises(UserError, match="no split 'test'; it has: train, val"):
        records.open_split(folder, "test", INFO)


def test_a_damaged_manifest_is_one_sentence(folder):
    write(folder)
    (folder / catalog.MANIFEST).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        catalog.load("", folder)
    content = INFO.to_json() | {"num_classes": 3}
    (folder / catalog.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="num_classes is 3, but 2 classes are listed"):
        catalog.load("", folder)


def test_jpegs_have_the_pixels_that_opencv_gives(shapes_dir):
    for path in sorted((shapes_dir / "images" / "val").iterdir()):
        expected = cv2.imread(str(path))[..., ::-1]
        np.testing.assert_array_equal(records.decode_image(path.read_bytes()), expected)
        grey = cv2.imencode(".jpg", expected[..., 1])[1].tobytes()
        expected = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(records.decode_image(grey), expected)

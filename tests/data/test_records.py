import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.config import UserError
from deeplab_tf.data import catalog, conversion, records

INFO = catalog.DatasetInfo(
    name="pair", classes=(catalog.LabelClass("a", (0, 0, 0)), catalog.LabelClass("b", (9, 9, 9)))
)


def example(number):
    label = conversion._png(Image.fromarray(np.full([2, 3], number % 2, np.uint8)))
    image = conversion._png(Image.fromarray(np.full([2, 3, 3], number, np.uint8)))
    return conversion.EncodedExample(f"n{number}", image, "png", 2, 3, label)


def write(folder, count=5, num_shards=2, split="train", examples=None):
    records.write_split(
        examples or map(example, range(count)),
        output_dir=folder,
        info=INFO,
        split=split,
        num_images=count,
        num_shards=num_shards,
        source="s",
    )


def test_records_follow_the_official_schema(tmp_path):
    write(tmp_path, count=1, num_shards=1)
    # Keys of the official package's build_data.py (reference/official_deeplab.md sec. 2.1).
    serialized = next(
        iter(tf.data.TFRecordDataset(str(tmp_path / "train-00000-of-00001.tfrecord")))
    )
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


def test_every_record_is_read_back_by_its_number(tmp_path):
    write(tmp_path, count=5, num_shards=2)
    table = records.open_split(tmp_path, "train", INFO)
    assert len(table) == 5
    for number in (4, 0, 2, 3, 1):
        record = records.parse(table.read(tf.constant(number)))
        assert record["name"].numpy() == f"n{number}".encode()
        np.testing.assert_array_equal(record["image"], np.full([2, 3, 3], number))
        np.testing.assert_array_equal(record["label"], np.full([2, 3, 1], number % 2))


@pytest.mark.parametrize(("count", "num_shards", "expected"), [(3, 8, [1, 1, 1]), (5, 2, [3, 2])])
def test_no_shard_is_empty(tmp_path, count, num_shards, expected):
    write(tmp_path, count=count, num_shards=num_shards)
    shards = catalog.read_manifest(tmp_path)["splits"]["train"]["shards"]
    assert [shard["images"] for shard in shards] == expected


def test_a_failed_build_leaves_the_old_split_as_it_was(tmp_path):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing():
        yield example(0)
        raise UserError("cut.jpg can not be decoded")

    with pytest.raises(UserError, match="cut.jpg"):
        write(tmp_path, examples=failing())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_building_again_with_other_shards_removes_the_old_ones(tmp_path):
    write(tmp_path, num_shards=3)
    write(tmp_path, num_shards=2)
    names = sorted(path.name for path in tmp_path.glob("*.tfrecord"))
    assert names == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


def test_another_data_sets_folder_is_refused(tmp_path):
    write(tmp_path)
    other = catalog.DatasetInfo(name="pair", classes=INFO.classes[::-1])
    with pytest.raises(UserError, match="other classes"):
        records.write_split(
            [example(0)],
            output_dir=tmp_path,
            info=other,
            split="val",
            num_images=1,
            num_shards=1,
            source="s",
        )


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_shard_is_refused(tmp_path, damage):
    write(tmp_path)
    shard = tmp_path / "train-00001-of-00002.tfrecord"
    if damage == "missing":
        shard.unlink()
    else:  # cut between two records: TensorFlow itself would silently read fewer
        shard.write_bytes(b"")
    with pytest.raises(UserError, match="train-00001-of-00002"):
        records.open_split(tmp_path, "train", INFO)


def test_shards_of_the_official_package_are_read_without_a_manifest(tmp_path):
    write(tmp_path)
    (tmp_path / catalog.MANIFEST).unlink()
    assert len(records.open_split(tmp_path, "train", INFO)) == 5
    shutil.copy(
        tmp_path / "train-00000-of-00002.tfrecord", tmp_path / "train-00000-of-00003.tfrecord"
    )
    with pytest.raises(UserError, match="not whole"):
        records.open_split(tmp_path, "train", INFO)


def test_a_file_that_is_no_tfrecord_is_refused(tmp_path):
    (tmp_path / "train-00000-of-00001.tfrecord").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not a TFRecord"):
        records.open_split(tmp_path, "train", INFO)


def test_an_unknown_split_names_those_there_are(tmp_path):
    write(tmp_path)
    write(tmp_path, split="val")
    with pytest.raises(UserError, match="no split 'test'; it has: train, val"):
        records.open_split(tmp_path, "test", INFO)


def test_a_damaged_manifest_is_one_sentence(tmp_path):
    write(tmp_path)
    (tmp_path / catalog.MANIFEST).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        catalog.load("", tmp_path)
    content = INFO.to_json() | {"num_classes": 3}
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="num_classes=3 but lists 2"):
        catalog.load("", tmp_path)

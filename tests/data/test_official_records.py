"""Records as the official builders write them: without dataset.json, under official names."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.config import DataConfig
from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.messages import UserError

LABEL = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3


def png(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "png")
    return content.getvalue()


def write_shard(path, *labels: np.ndarray) -> None:
    """One record for each label, with the keys that the official build_data.py writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, label in enumerate(labels):
            height, width = label.shape
            record = tf.train.Example()
            for key, value in {
                "image/encoded": png(np.full([height, width, 3], number, np.uint8)),
                "image/filename": f"./images/{number}.jpg".encode(),
                "image/format": b"png",
                "image/segmentation/class/encoded": png(label),
                "image/segmentation/class/format": b"png",
            }.items():
                record.features.feature[key].bytes_list.value.append(value)
            sizes = {"height": height, "width": width, "channels": 3}
            for key, number_of in sizes.items():
                record.features.feature[f"image/{key}"].int64_list.value.append(number_of)
            writer.write(record.SerializeToString())


def write_split(folder, split: str, *labels: np.ndarray, num_shards: int = 4) -> None:
    """Shards as the official builders cut them: the last ones may be empty."""
    size = -(-len(labels) // num_shards)
    for shard in range(num_shards):
        part = labels[shard * size : (shard + 1) * size]
        write_shard(folder / f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord", *part)


def read_labels(folder, split: str, info: catalog.DatasetInfo) -> list[np.ndarray]:
    table = records.open_split(folder, split, info)
    batches = pipeline.eval_batches(
        table, batch_size=1, num_classes=info.num_classes, ignore_label=info.ignore_label
    )
    return [batch.labels[0, ..., 0] for batch in batches]


@pytest.mark.parametrize(
    ("dataset", "classes", "ignored"),
    # The official descriptors, data_generator.py.
    [("pascal_voc_seg", 21, 255), ("cityscapes", 19, 255), ("ade20k", 151, 0)],
)
def test_a_name_means_the_official_classes(tmp_path, dataset, classes, ignored):
    values = np.array([[0, classes - 1, ignored]], np.uint8)
    write_split(tmp_path, "val_fine", values, values[:, ::-1], values)
    info = catalog.load(dataset, tmp_path)
    assert (info.num_classes, info.ignore_label) == (classes, ignored)
    found = read_labels(tmp_path, "val_fine", info)  # 3 images: the published number is no matter
    np.testing.assert_array_equal(found, [values, values[:, ::-1], values])


def test_ade20k_is_never_read_on_shifted_labels(tmp_path):
    """255 occurs only in labels with 150 classes, 150 only in those with 151."""
    official, ours = (np.array([[value, 7]], np.uint8) for value in (150, 255))
    write_split(tmp_path / "official", "train", official)
    write_split(tmp_path / "ours", "train", ours)
    for name in ("ade20k", "ade20k_151"):
        assert catalog.load(name, tmp_path / "official").class_names[7] == "road"  # objectInfo150
        with pytest.raises(UserError, match="value 255.* --dataset=ade20k --num_classes=150"):
            read_labels(tmp_path / "ours", "train", catalog.load(name, tmp_path / "ours"))

    told = catalog.load("ade20k", tmp_path / "ours", num_classes=150)
    assert (told.num_classes, told.ignore_label, told.class_names[6]) == (150, 255, "road")
    np.testing.assert_array_equal(read_labels(tmp_path / "ours", "train", told), [ours])
    with pytest.raises(UserError, match="value 150.* --dataset=ade20k_151"):
        read_labels(tmp_path / "official", "train", told)


@pytest.mark.parametrize("convention", ["ade20k", "ade20k_151"])
def test_dataset_json_says_which_ade20k_it_is(tmp_path, convention):
    expected = catalog.load(convention, "")
    content = expected.to_json() | {"splits": {}}
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(content))
    assert catalog.load("ade20k", tmp_path).class_names == expected.class_names
    other = {"ade20k": 151, "ade20k_151": 150}[convention]
    with pytest.raises(UserError, match=f"--num_classes={other} contradicts .*dataset.json"):
        catalog.load("ade20k", tmp_path, num_classes=other)


def test_own_records_are_described_by_settings(tmp_path):
    write_split(tmp_path / "own", "train", LABEL, LABEL)
    (tmp_path / "classes.txt").write_text("ground\nroof\nroad\n")
    by_list = DataConfig(
        dataset_dir=tmp_path / "own", class_list=tmp_path / "classes.txt", ignore_label=0
    )
    info = catalog.load_described(by_list)
    assert (info.class_names, info.ignore_label) == (["ground", "roof", "road"], 0)
    np.testing.assert_array_equal(read_labels(tmp_path / "own", "train", info), [LABEL, LABEL])

    by_number = DataConfig(dataset_dir=tmp_path / "own", num_classes=3, dataset="roofs")
    info = catalog.load_described(by_number)
    assert info.class_names == ["class_0", "class_1", "class_2"]
    assert (info.name, info.ignore_label, len(set(info.colors))) == ("roofs", 255, 3)

    too_few = catalog.load_described(DataConfig(dataset_dir=tmp_path / "own", num_classes=2))
    with pytest.raises(UserError, match="holds the value 2, which is not in the class list"):
        read_labels(tmp_path / "own", "train", too_few)


@pytest.mark.parametrize(
    ("dataset", "given", "message"),
    [
        ("", {}, "has no dataset.json.*--dataset, one of ade20k, .*--class_list=FILE"),
        ("roofs", {}, "has no dataset.json"),
        ("pascal_voc_seg", {"num_classes": 20}, "=20 contradicts --dataset=pascal_voc_seg.* 21"),
        ("pascal_voc_seg", {"ignore_label": 0}, "--ignore_label=0 contradicts .* is 255"),
        (
            "pascal_voc_seg",
            {"class_list": "two.txt"},
            "0 is 'a' in .*two.txt, '__background__'",
        ),
        ("", {"class_list": "two.txt", "num_classes": 3}, "--num_classes=3 contradicts .* 2 cl"),
    ],
)
def test_what_contradicts_itself_or_says_too_little_is_refused(tmp_path, dataset, given, message):
    write_split(tmp_path / "own", "train", LABEL)
    (tmp_path / "two.txt").write_text("a\nb\n")
    if "class_list" in given:
        given = given | {"class_list": str(tmp_path / "two.txt")}
    with pytest.raises(UserError, match=message):
        catalog.load(dataset, tmp_path / "own", **given)


def test_a_setting_may_not_contradict_dataset_json(tmp_path):
    info = catalog.load("camvid", "")
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(info.to_json() | {"splits": {}}))
    assert catalog.load("", tmp_path, num_classes=11, ignore_label=255).name == "camvid"
    for given in ({"num_classes": 12}, {"ignore_label": 0}):
        with pytest.raises(UserError, match="contradicts .*dataset.json"):
            catalog.load("", tmp_path, **given)


@pytest.mark.parametrize(
    ("dataset", "there", "asked"),
    [
        ("pascal_voc_seg", "train_aug", "trainaug"),
        ("pascal_voc_seg", "trainaug", "train_aug"),
        ("cityscapes", "train", "train_fine"),
        ("cityscapes", "val_fine", "val"),
    ],
)
def test_a_split_of_two_names_is_found_under_both(tmp_path, dataset, there, asked):
    write_split(tmp_path, there, LABEL)
    info = catalog.load(dataset, tmp_path)
    for name in (there, asked):
        assert len(records.open_split(tmp_path, name, info)) == 1


def test_other_data_have_no_splits_of_two_names(tmp_path):
    write_split(tmp_path, "train", LABEL)
    info = catalog.load("cityscapes", tmp_path, num_classes=19)
    with pytest.raises(UserError, match="no records of the split 'train_coarse'; it has: train;"):
        records.open_split(tmp_path, "train_coarse", info)
    own = catalog.load("cityscapes_of_mine", tmp_path, num_classes=19)
    with pytest.raises(UserError, match="no records of the split 'train_fine'; it has: train;"):
        records.open_split(tmp_path, "train_fine", own)


def test_shards_of_any_number_are_read_but_not_those_of_other_splits(tmp_path):
    """The official reader takes all files that begin with the split's name and a hyphen."""
    others = (
        "train-extra-0.tfrecord",
        "train-0.tfrecord.bak",
        "train-2017-00000-of-00001.tfrecord",
    )
    for name in ("train-0.tfrecord", "train-1.tfrecord", *others):
        write_shard(tmp_path / name, LABEL)
    info = catalog.load("", tmp_path, num_classes=3)
    assert len(records.open_split(tmp_path, "train", info)) == 2


def test_shards_without_an_ending_are_complete_or_refused(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "val-00001-of-00002"):
        write_shard(tmp_path / name, LABEL)
    info = catalog.load("", tmp_path, num_classes=3)
    assert len(records.open_split(tmp_path, "train", info)) == 2
    with pytest.raises(UserError, match="'val' in .* is not complete: 1 shard of 2"):
        records.open_split(tmp_path, "val", info)

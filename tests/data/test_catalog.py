import dataclasses
import json

import numpy as np
import pytest

from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError


@pytest.mark.parametrize("name", catalog.KNOWN)
def test_known_data_sets_are_whole(name):
    info = catalog.load(name, "")
    assert info.name == name and len(set(info.class_names)) == info.num_classes
    assert len(set(info.label_ids)) == info.num_classes
    assert all(count > 0 for count in info.splits.values())
    assert catalog.from_json(info.to_json(), "x").classes == info.classes


def test_vocs_colors_are_its_bit_interleaved_map():
    """The devkit's rule: bit 3j + c of a class's index is bit 7 - j of its channel c."""
    for name, first in (("pascal_voc_seg", 0), ("pascal_context", 0), ("pascal_context_59", 1)):
        for index, color in enumerate(catalog.load(name, "").colors):
            bits = np.array(list(np.binary_repr(index + first, 24)[::-1]), int).reshape(8, 3)
            expected = bits.T @ (128 >> np.arange(8))
            assert color == tuple(expected)


def test_some_published_colors_and_names_by_hand():
    voc = catalog.load("pascal_voc_seg", "")
    assert voc.classes[15].name == "person" and voc.colors[15] == (192, 128, 128)
    assert voc.classes[20].name == "tvmonitor" and voc.colors[20] == (0, 64, 128)
    cityscapes = catalog.load("cityscapes", "")
    assert cityscapes.colors[0] == (128, 64, 128) and cityscapes.colors[18] == (119, 11, 32)
    assert cityscapes.label_ids[13] == 26 and cityscapes.class_names[13] == "car"
    ade20k = catalog.load("ade20k", "")
    assert ade20k.class_names[12] == "person" and ade20k.colors[12] == (150, 5, 61)
    assert catalog.load("ade20k_151", "").class_names == ["other", *ade20k.class_names]


def test_class_names_are_those_of_the_reference(shared):
    """The lists at the end of reference/ssseg_deeplabv3.md, section 2."""
    lines = (shared / "reference/ssseg_deeplabv3.md").read_text().splitlines()
    starts = {
        "VOC (21): ": "pascal_voc_seg",
        "Cityscapes (19): ": "cityscapes",
        "Context (60; drop the first for 59): ": "pascal_context",
    }
    compared = 0
    for line in lines:
        for start, name in starts.items():
            if line.startswith(start):
                names = line.removeprefix(start).strip().rstrip(".").split(", ")
                assert catalog.load(name, "").class_names == names
                compared += 1
        if line.startswith("ADE (150; "):
            entries = line.split("): ")[1].rstrip(".").split(", ")
            names = dict(entry.split(":") for entry in entries)
            own = {str(i): n for i, n in enumerate(catalog.load("ade20k", "").class_names)}
            assert own == names
            compared += 1
    assert compared == 4


def test_a_data_set_without_a_catalog_entry_needs_its_manifest_only(records_dir):
    info = catalog.load("", records_dir)
    assert info.name == "shapes" and "shapes" not in catalog.KNOWN
    assert info.splits == {"train": 9, "val": 5} and info.colors[1] == (230, 60, 60)


def described(folder, name, **changes):
    """Writes the dataset.json of a known data set's classes under the folder's name."""
    info = dataclasses.replace(catalog.KNOWN[name](), name=folder.name, **changes)
    (folder / catalog.MANIFEST).write_text(json.dumps(info.to_json() | {"splits": {}}))
    return info


def test_equal_classes_are_one_data_set_under_any_name(tmp_path):
    black = tuple(
        catalog.LabelClass(name, (0, 0, 0)) for name in catalog.load("camvid", "").class_names
    )
    described(tmp_path, "camvid", classes=black)
    info = catalog.load("camvid", tmp_path)
    assert info.name == tmp_path.name and info.colors[0] == (0, 0, 0)  # the records' names


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda info: {"classes": info.classes[:-1]},
            "class 10 is 'bicyclist' in camvid, none in the records",
        ),
        (lambda info: {"classes": info.classes[1::-1] + info.classes[2:]}, "class 0 is 'sky' in c"),
        (lambda info: {"ignore_label": 0}, "the ignored label is 255 in camvid, 0 in the records"),
    ],
)
def test_other_classes_under_a_known_name_are_refused_with_the_first(tmp_path, change, difference):
    folder = tmp_path / "camvid"
    folder.mkdir()
    described(folder, "camvid", **change(catalog.KNOWN["camvid"]()))
    with pytest.raises(UserError, match=f"--dataset=camvid .*{difference}.* or --dataset= "):
        catalog.load("camvid", folder)
    assert catalog.load("", folder).name == "camvid"  # the way that the sentence names


def test_a_split_whose_images_have_no_values_is_damaged(tmp_path):
    content = catalog.load("camvid", "").to_json()
    content["splits"] = {
        "train": {
            "images": 1,
            "shards": [{"file": "a", "bytes": 2}],
            "image_values": {"total": 0, "clipped": 0, "largest": 0},
        }
    }
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"splits\.train\.image_values\.total .*build the data set"):
        catalog.load("", tmp_path)


def test_a_split_of_an_early_version_is_read(tmp_path):
    """It had no list of the images that were skipped."""
    content = catalog.load("camvid", "").to_json()
    content["splits"] = {"train": {"images": 1, "shards": [{"file": "a", "bytes": 2}]}}
    (tmp_path / catalog.MANIFEST).write_text(json.dumps(content))
    assert catalog.load("", tmp_path).splits == {"train": 1}

"""The official builders' command lines, as its shell scripts have them, with our module names.

Their records are read as the official package reads its own.
"""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import catalog
from tests import trees
from tests.datasets import official_reader

VOC = "pascal_voc_seg/VOCdevkit/VOC2012"
# download_and_convert_voc2012.sh, with the values of its variables.
REMOVE_GT_COLORMAP = f"""datasets.remove_gt_colormap
    --original_gt_folder={VOC}/SegmentationClass
    --output_dir={VOC}/SegmentationClassRaw"""
BUILD_VOC = f"""datasets.build_voc2012_data
    --image_folder={VOC}/JPEGImages
    --semantic_segmentation_folder={VOC}/SegmentationClassRaw
    --list_folder={VOC}/ImageSets/Segmentation
    --image_format=jpg
    --output_dir=pascal_voc_seg/tfrecord"""
# download_and_convert_ade20k.sh
BUILD_ADE20K = """datasets.build_ade20k_data
    --train_image_folder=./ADE20K/ADEChallengeData2016/images/training/
    --train_image_label_folder=./ADE20K/ADEChallengeData2016/annotations/training/
    --val_image_folder=./ADE20K/ADEChallengeData2016/images/validation/
    --val_image_label_folder=./ADE20K/ADEChallengeData2016/annotations/validation/
    --output_dir=./ADE20K/tfrecord"""
# convert_cityscapes.sh
BUILD_CITYSCAPES = """datasets.build_cityscapes_data
    --cityscapes_root=./cityscapes
    --output_dir=./cityscapes/tfrecord"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls a program in `tmp_path` as its user does, and requires that it succeeds."""

    def run(command_line: str) -> None:
        program, *arguments = command_line.split()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as end:  # app.run always ends so
            importlib.import_module(program).run()
        assert not end.value.code, end.value.code

    return run


def labels(folder, split):
    return {name: label for name, (_, label) in official_reader.read(folder, split).items()}


def shards(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tfrecord"))


def test_voc_is_built_as_printed(tmp_path, call):
    trees.voc2012(tmp_path / "pascal_voc_seg")
    lists = tmp_path / VOC / "ImageSets/Segmentation"
    (lists / "train_aug.txt").write_text("a_0\nb_3\n")  # a user's own list
    call(REMOVE_GT_COLORMAP)
    raw = Image.open(tmp_path / VOC / "SegmentationClassRaw/b_2.png")
    assert raw.mode == "L"
    np.testing.assert_array_equal(np.asarray(raw), trees.label_of(trees.VOC_VALUES, 2))

    call(BUILD_VOC)
    folder = tmp_path / "pascal_voc_seg/tfrecord"
    expected = {
        "train": ["a_0", "a_1"],
        "train_aug": ["a_0", "b_3"],
        "trainval": ["a_0", "a_1", "b_2", "b_3"],
        "val": ["b_2", "b_3"],
    }
    assert set(expected) == official_reader.SPLITS["pascal_voc_seg"]
    assert shards(folder) == [
        f"{split}-{shard:05d}-of-{len(names):05d}.tfrecord"
        for split, names in expected.items()
        for shard in range(len(names))
    ]
    for split, names in expected.items():
        found = labels(folder, split)
        assert list(found) == names
        for name, label in found.items():
            np.testing.assert_array_equal(label, trees.label_of(trees.VOC_VALUES, int(name[-1])))


def test_ade20k_is_built_as_printed_with_the_official_labels(tmp_path, call):
    trees.ade20k(tmp_path / "ADE20K")
    call(BUILD_ADE20K)
    folder = tmp_path / "ADE20K/tfrecord"
    assert len(shards(folder)) == 5  # of one image each
    for split, count in (("train", 3), ("val", 2)):
        found = labels(folder, split)
        assert len(found) == count
        for name, label in found.items():
            np.testing.assert_array_equal(label, trees.label_of(range(151), int(name[-1])))
    info = catalog.load("ade20k", folder)  # as --dataset=ade20k of the official training says
    assert (info.num_classes, info.ignore_label) == (151, 0)


def test_our_classes_can_be_asked_for_with_official_folders(tmp_path, call):
    trees.ade20k(tmp_path / "ADE20K")
    call(f"{BUILD_ADE20K} --official_classes=false")
    label = labels(tmp_path / "ADE20K/tfrecord", "train")["ADE_train_00000000"]
    np.testing.assert_array_equal(label, trees.label_of([255, *range(150)], 0))


@pytest.mark.parametrize("ids", ["labelIds", "labelTrainIds"])
def test_cityscapes_is_built_as_printed(tmp_path, call, ids, capsys):
    trees.cityscapes(tmp_path / "cityscapes")
    # cityscapesScripts, helpers/labels.py: id -> trainId; all others are ignored.
    of_classes = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    train_ids = np.full(256, 255, np.uint8)
    train_ids[of_classes] = range(19)
    if ids == "labelTrainIds":  # what createTrainIdLabelImgs.py writes, and nothing else
        for path in (tmp_path / "cityscapes/gtFine").rglob("*_labelIds.png"):
            label = train_ids[np.asarray(Image.open(path))]
            trees.write_mask(path.with_name(path.name.replace("labelIds", ids)), label)
            path.unlink()
    (tmp_path / "cityscapes/leftImg8bit/test").rename(tmp_path / "test")

    call(BUILD_CITYSCAPES)
    assert "test, so the split test_fine is left out" in capsys.readouterr().err
    folder = tmp_path / "cityscapes/tfrecord"
    expected = {
        "train_fine": [("aachen", 0), ("aachen", 1), ("zurich", 2)],
        "val_fine": [("munster", 1), ("munster", 3)],
    }
    for split, images in expected.items():
        assert split in official_reader.SPLITS["cityscapes"]
        found = labels(folder, split)
        assert list(found) == [f"{city}_{number:06d}_000019" for city, number in images]
        for label, (_, number) in zip(found.values(), images, strict=True):
            values = train_ids[trees.label_of(trees.CITYSCAPES_IDS, number)]
            np.testing.assert_array_equal(label, values)


def test_sbd_has_the_official_name_for_the_official_reader(tmp_path, call):
    trees.voc2012(tmp_path)
    call("datasets.build_voc2012_data --splits=train_aug --output_dir=records")
    found = labels(tmp_path / "records", "train_aug")
    assert list(found) == ["a_0", "a_1", "c_0", "c_1", "c_2"]
    np.testing.assert_array_equal(found["c_2"], trees.label_of(range(20, -1, -1), 2))

import numpy as np
import pytest

from datasets import build_voc2012_data
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from tests import trees


@pytest.fixture
def raw(tmp_path):
    trees.voc2012(tmp_path)
    return tmp_path


def build(raw, **settings):
    build_voc2012_data.main(
        build_voc2012_data.VOC2012Config(
            voc_root=str(raw / "VOCdevkit/VOC2012"),
            sbd_root=str(raw / "benchmark_RELEASE"),
            output_dir=str(raw / "out"),
            num_processes=1,
            **settings,
        )
    )


def labels(raw, split):
    return {name: label for name, (_, label) in trees.read_back(raw / "out", split).items()}


def test_the_lists_name_the_splits_and_palettes_are_indices(raw, capsys):
    build(raw)
    assert list(labels(raw, "train")) == ["a_0", "a_1"]
    assert list(labels(raw, "trainval")) == ["a_0", "a_1", "b_2", "b_3"]
    for name, label in labels(raw, "val").items():
        np.testing.assert_array_equal(label, trees.label_of(trees.VOC_VALUES, int(name[-1])))
    assert set(np.unique(labels(raw, "val")["b_2"])) == {*range(21), 255}
    assert "train has 2 images, the published set 1464" in capsys.readouterr().err


def test_trainaug_joins_sbd_with_vocs_train_without_vocs_val(raw):
    build(raw, splits=("trainaug",))
    found = labels(raw, "trainaug")
    # a_0, a_1 from VOC (a_1 is in SBD too, with another mask); b_2 is in VOC's val
    assert list(found) == ["a_0", "a_1", "c_0", "c_1", "c_2"]
    np.testing.assert_array_equal(found["a_1"], trees.label_of(trees.VOC_VALUES, 1))
    np.testing.assert_array_equal(found["c_2"], trees.label_of(range(20, -1, -1), 2))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (
            "VOCdevkit",
            r"VOC2012 does not exist; unpack .*VOCtrainval_11-May-2012.tar.*voc_root",
        ),
        ("benchmark_RELEASE", r"benchmark.tgz.*--sbd_root.*leave trainaug out of --splits"),
        (
            "benchmark_RELEASE/dataset/cls/c_1.mat",
            r"cls/c_1.mat does not exist; unpack .*benchmark.tgz",
        ),
        ("VOCdevkit/VOC2012/JPEGImages/a_1.jpg", r"JPEGImages/a_1.jpg does not exist"),
        ("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", r"Segmentation/val.txt does not"),
    ],
)
def test_a_missing_part_says_what_to_fetch_and_writes_nothing(raw, gone, message):
    (raw / gone).rename(raw / "gone")
    with pytest.raises(UserError, match=message):
        build(raw)
    assert not (raw / "out").exists()


def test_a_damaged_mat_file_is_named(raw):
    mat = raw / "benchmark_RELEASE/dataset/cls/c_0.mat"
    mat.write_bytes(mat.read_bytes()[:150])
    with pytest.raises(UserError, match=r"c_0\.mat cannot be read as a MATLAB file"):
        build(raw, splits=("trainaug",))
    build(raw, splits=("trainaug",), skip_bad=True)
    assert list(labels(raw, "trainaug")) == ["a_0", "a_1", "c_1", "c_2"]


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_unknown_splits_are_refused(raw, splits):
    with pytest.raises(UserError, match="--splits=.*allowed: one or more of train, trainaug"):
        build(raw, splits=splits)


def test_images_and_masks_may_lie_in_other_folders(raw):
    """Lists of any name are splits; the images may be JPEGs and PNGs."""
    lists = raw / "lists"
    trees.write_lists(lists, {"half": ["a_0", "x_1"], "rest": ["b_2"]})
    voc = raw / "VOCdevkit/VOC2012"
    trees.write_image(voc / "JPEGImages/x_1.png", 1)
    trees.write_mask(raw / "grey/x_1.png", trees.label_of(trees.VOC_VALUES, 1))
    for name in ("a_0", "b_2"):
        trees.write_mask(raw / f"grey/{name}.png", trees.label_of([3], int(name[-1])))
    build(raw, list_folder=lists, semantic_segmentation_folder=raw / "grey")
    assert set(catalog.load("pascal_voc_seg", raw / "out").splits) == {"half", "rest"}
    found = labels(raw, "half")
    assert list(found) == ["a_0", "x_1"] and set(np.unique(found["a_0"])) == {3}
    np.testing.assert_array_equal(found["x_1"], trees.label_of(trees.VOC_VALUES, 1))
    with pytest.raises(UserError, match=r"x_1\.jpg does not exist"):
        build(raw, list_folder=lists, semantic_segmentation_folder=raw / "grey", image_format="jpg")


def test_a_folder_without_lists_is_refused(raw):
    (raw / "lists").mkdir()
    with pytest.raises(UserError, match=r"--list_folder=.*lists holds no list"):
        build(raw, list_folder=raw / "lists")

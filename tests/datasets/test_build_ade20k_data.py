import numpy as np
import pytest

from datasets import build_ade20k_data
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from tests import trees


@pytest.fixture
def raw(tmp_path):
    trees.ade20k(tmp_path)
    return tmp_path


def build(raw, **settings):
    build_ade20k_data.main(
        build_ade20k_data.ADE20KConfig(
            ade20k_root=str(raw / "ADEChallengeData2016"),
            output_dir=str(raw / "out"),
            num_processes=1,
            **settings,
        )
    )


def test_other_is_ignored_and_classes_count_from_zero(raw, capsys):
    build(raw)
    info = catalog.load("ade20k", raw / "out")
    assert info.num_classes == 150 and info.splits == {"train": 3, "val": 2}
    label = trees.read_back(raw / "out", "train")["ADE_train_00000000"][1]
    np.testing.assert_array_equal(label, trees.label_of([255, *range(150)], 0))
    assert "published set 20210" in capsys.readouterr().err


def test_files_that_are_no_images_of_the_set_are_left_out_and_counted(raw, capsys):
    folder = raw / "ADEChallengeData2016" / "images" / "training"
    for name in ("._ADE_train_00000000.jpg", "notes.txt", "extra.png"):
        (folder / name).write_bytes(b"")
    build(raw)
    assert len(trees.read_back(raw / "out", "train")) == 3
    told = "training: 3 images; left out: 1 .txt, 1 hidden (.*), 1 without .jpg."
    assert f"Warning: {folder.parent}/{told}" in capsys.readouterr().err


def test_the_official_convention_keeps_the_values(raw):
    build(raw, official_classes=True)
    info = catalog.load("ade20k_151", raw / "out")
    assert info.num_classes == 151 and info.ignore_label == 0
    image, label = trees.read_back(raw / "out", "train")["ADE_train_00000002"]
    np.testing.assert_array_equal(label, trees.label_of(range(151), 2))
    assert image.shape == (45, 45, 3)  # stored grey


def test_a_value_beyond_the_classes_is_refused(raw):
    mask = raw / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    trees.write_mask(mask, trees.label_of([151], 1))
    with pytest.raises(UserError, match=r"ADE_val_00000001\.png holds the value 151"):
        build(raw)


def test_a_missing_folder_says_what_to_download(raw):
    (raw / "ADEChallengeData2016/images").rename(raw / "pictures")
    with pytest.raises(UserError, match=r"ADEChallengeData2016\.zip"):
        build(raw)
    assert not (raw / "out").exists()

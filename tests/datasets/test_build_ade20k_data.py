import numpy as np
import pytest
from PIL import Image

from datasets import build_ade20k_data
from deeplab_tf.config import UserError
from deeplab_tf.data import catalog, records


@pytest.fixture
def raw(tmp_path):
    """Two images a split in the archive's layout; every value 0..150 occurs."""
    for split, name in (
        ("training", "ADE_train_1"),
        ("training", "ADE_train_2"),
        ("validation", "ADE_val_1"),
    ):
        for part in ("images", "annotations"):
            (tmp_path / "raw" / part / split).mkdir(parents=True, exist_ok=True)
        values = np.arange(151, dtype=np.uint8).reshape(1, 151)
        Image.fromarray(values).save(tmp_path / "raw" / "annotations" / split / f"{name}.png")
        Image.new("RGB", (151, 1)).save(tmp_path / "raw" / "images" / split / f"{name}.jpg")
    return tmp_path


def build(raw):
    build_ade20k_data.main(
        build_ade20k_data.ADE20KConfig(
            ade20k_root=str(raw / "raw"), output_dir=str(raw / "out"), num_processes=1
        )
    )


def test_other_is_ignored_and_classes_count_from_zero(raw, capsys):
    build(raw)
    info = catalog.load("ade20k", raw / "out")
    assert info.num_classes == 150 and info.splits == {"train": 2, "val": 1}
    record = records.parse(records.open_split(raw / "out", "train", info).read(0))
    np.testing.assert_array_equal(record["label"].numpy().ravel(), [255, *range(150)])
    assert "published set 20210" in capsys.readouterr().out


def test_a_missing_folder_says_what_to_download(raw):
    (raw / "raw" / "images").rename(raw / "raw" / "pictures")
    with pytest.raises(UserError, match=r"ADEChallengeData2016\.zip"):
        build(raw)
    assert not (raw / "out").exists()

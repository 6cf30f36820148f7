import dataclasses

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder_data
from deeplab_tf.config import UserError
from deeplab_tf.data import catalog, records


@pytest.fixture
def raw(tmp_path):
    """Six images in one folder, RGB masks in another, and their class list."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        label = np.full([20, 30 + number], number % 2, np.uint8)
        colors = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
        Image.fromarray(colors[label]).save(tmp_path / "masks" / f"i{number}.png")
        Image.fromarray(colors[label] // 2).save(tmp_path / "images" / f"i{number}.jpg")
    (tmp_path / "classes.csv").write_text("name,r,g,b\nground,10,20,30\nroof,200,100,0\n")
    return tmp_path


def config(raw, **values):
    return build_folder_data.FolderConfig(
        **{
            "images_dir": str(raw / "images"),
            "masks_dir": str(raw / "masks"),
            "class_list": str(raw / "classes.csv"),
            "output_dir": str(raw / "out"),
        }
        | values
    )


def names(raw, split):
    info = catalog.load("", raw / "out")
    table = records.open_split(raw / "out", split, info)
    parsed = [records.parse(table.read(index)) for index in range(len(table))]
    return {record["name"].numpy().decode(): record for record in parsed}


def test_a_seeded_share_becomes_val_and_nothing_is_lost(raw):
    build_folder_data.main(config(raw, val_fraction=0.33))
    train, val = names(raw, "train"), names(raw, "val")
    assert len(val) == 2 and set(train) | set(val) == {f"i{n}" for n in range(6)}
    assert not set(train) & set(val)
    again = build_folder_data.find_splits(config(raw, val_fraction=0.33))
    assert {pair.name for pair in again["val"]} == set(val)
    other = build_folder_data.find_splits(config(raw, val_fraction=0.33, split_seed=1))
    assert {pair.name for pair in other["val"]} != set(val)
    for name, record in (train | val).items():
        number = int(name[1:])
        np.testing.assert_array_equal(record["label"], np.full([20, 30 + number, 1], number % 2))
        assert record["image"].shape == (20, 30 + number, 3)


def test_lists_name_the_splits(raw):
    (raw / "a.txt").write_text("i3\ni1.jpg\n")
    (raw / "b.txt").write_text("i0\n")
    build_folder_data.main(config(raw, split_lists=f"train={raw}/a.txt,val={raw}/b.txt"))
    assert set(names(raw, "train")) == {"i3", "i1"} and set(names(raw, "val")) == {"i0"}


def test_sub_folders_name_the_splits(raw):
    for folder in ("images", "masks"):
        for split, numbers in (("train", range(4)), ("test", range(4, 6))):
            (raw / folder / split).mkdir()
            for number in numbers:
                file = next((raw / folder).glob(f"i{number}.*"))
                file.rename(raw / folder / split / file.name)
    build_folder_data.main(config(raw))
    assert set(names(raw, "test")) == {"test/i4", "test/i5"}
    assert catalog.load("", raw / "out").splits == {"train": 4, "test": 2}


def test_classes_and_colors_are_recorded(raw):
    build_folder_data.main(config(raw, val_fraction=0.5, dataset="roofs"))
    info = catalog.load("roofs", raw / "out")
    assert info.class_names == ["ground", "roof"] and info.colors[1] == (200, 100, 0)
    with pytest.raises(UserError, match="--dataset=towns, but .* describes 'roofs'"):
        catalog.load("towns", raw / "out")


def test_a_second_build_does_nothing_and_a_changed_mask_is_noticed(raw, capsys):
    settings = config(raw, val_fraction=0.33)
    build_folder_data.main(settings)
    capsys.readouterr()
    build_folder_data.main(settings)
    assert capsys.readouterr().out.count("up to date") == 2
    Image.new("RGB", (30, 20), (200, 100, 0)).save(raw / "masks" / "i0.png")
    build_folder_data.main(settings)
    assert capsys.readouterr().out.count("up to date") == 1


@pytest.mark.parametrize(
    ("spoil", "values", "message"),
    [
        (None, {"images_dir": "nowhere"}, "--images_dir=nowhere does not exist"),
        (None, {"class_list": "none.csv"}, "none.csv does not exist"),
        (None, {}, "lies in no split's folder"),
        ("masks/i2.png", {"val_fraction": 0.5}, r"i2.jpg has no mask: .*i2.png"),
        (None, {"split_lists": "train=missing.txt"}, "missing.txt"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(raw, spoil, values, message):
    if spoil:
        (raw / spoil).unlink()
    with pytest.raises(UserError, match=message):
        build_folder_data.main(config(raw, **values))
    assert not (raw / "out").exists()


def test_two_images_of_one_name_are_refused(raw):
    Image.new("RGB", (30, 20)).save(raw / "images" / "i0.png")
    with pytest.raises(UserError, match="share the name 'i0'"):
        build_folder_data.main(config(raw, val_fraction=0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,r,g\na,1,2\n", "no column b"),
        ("name,r,g,b\na,1,2,3\na,1,2,4\n", "names 'a' twice"),
        ("name,r,g,b\na,1,2,3\nb,1,2,300\n", "Line 3 .*0..255"),
        ("name,r,g,b\na,1,2,3\n", "holds 1 classes"),
        ("index,name,r,g,b\n0,a,1,2,3\n2,b,1,2,4\n", "indices must count up"),
    ],
)
def test_class_lists_are_checked(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        catalog.read_class_table(tmp_path / "c.csv")


def test_settings_are_checked():
    with pytest.raises(UserError, match="--images_dir"):
        build_folder_data.FolderConfig(output_dir="d")
    with pytest.raises(UserError, match="--ignore_colors=1,2"):
        dataclasses.replace(
            build_folder_data.FolderConfig(
                images_dir="a", masks_dir="b", class_list="c", output_dir="d"
            ),
            ignore_colors=(1, 2),
        )

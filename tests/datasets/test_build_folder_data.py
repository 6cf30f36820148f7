import dataclasses
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder_data
from deeplab_tf.conversion import split_members
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError


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


@pytest.mark.parametrize(
    "folders", [("training", "validation"), ("train", "val"), ("x/train2017", "x/val2017")]
)
def test_a_share_never_mixes_the_splits_of_folders(raw, folders):
    for kind in ("images", "masks"):
        for folder in folders:
            (raw / kind / folder).mkdir(parents=True)
            for path in sorted((raw / kind).glob("i?.*"))[:3]:
                path.rename(raw / kind / folder / path.name)
    one, other = (str(raw / "images" / folder) for folder in folders)
    with pytest.raises(UserError, match=f"{one} and {other}; .*leave it out.*, or give the folder"):
        build_folder_data.find_splits(config(raw, val_fraction=0.4))

    # The ways out: only one of them, or none of the flag.
    masks = str(raw / "masks" / folders[0])
    pair = config(raw, images_dir=one, masks_dir=masks, val_fraction=0.4)
    assert {k: len(v) for k, v in build_folder_data.find_splits(pair).items()} == {
        "train": 2,
        "val": 1,
    }
    above = {kind: str(Path(raw, kind, folders[0]).parent) for kind in ("images", "masks")}
    by_folder = config(raw, images_dir=above["images"], masks_dir=above["masks"])
    assert set(build_folder_data.find_splits(by_folder)) == {Path(one).name, Path(other).name}


def test_a_share_is_drawn_from_folders_that_are_no_splits(raw):
    for kind in ("images", "masks"):
        (raw / kind / "train").mkdir()
        (raw / kind / "bonn").mkdir()
        for number, path in enumerate(sorted((raw / kind).glob("i?.*"))):
            path.rename(raw / kind / ("train", "bonn")[number % 2] / path.name)
    splits = build_folder_data.find_splits(config(raw, val_fraction=0.34))
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 4, "val": 2}


def test_what_differs_from_the_records_there_is_named(raw):
    build_folder_data.main(config(raw, val_fraction=0.5))
    (raw / "out").rename(raw / "new")
    values = {"output_dir": str(raw / "new"), "val_fraction": 0.5}
    with pytest.raises(UserError, match="data set 'out', whose name is not 'new'; .*--dataset=out"):
        build_folder_data.main(config(raw, **values))
    build_folder_data.main(config(raw, dataset="out", **values))

    for line, message in (
        ("house,200,100,0", "class 1 is 'roof' there, 'house' here; choose another"),
        ("roof,0,0,0", "'roof' is the colour 200,100,0, not the colour 0,0,0; choose another"),
    ):
        (raw / "classes.csv").write_text(f"name,r,g,b\nground,10,20,30\n{line}\n")
        with pytest.raises(UserError, match=message):
            build_folder_data.main(config(raw, dataset="out", **values))


def test_a_dropped_channel_names_the_flag_that_keeps_it(raw, capsys):
    for path in sorted((raw / "images").iterdir()):
        Image.open(path).convert("RGBA").save(path.with_suffix(".png"))
        path.unlink()
    build_folder_data.main(config(raw, val_fraction=0.5))
    assert "which were dropped. To keep them, give the" in (told := capsys.readouterr().err)
    assert "such as --image_channels=4.\n" in told

    kept = {"output_dir": str(raw / "kept"), "image_channels": 4}
    build_folder_data.main(config(raw, val_fraction=0.5, **kept))
    assert "dropped" not in capsys.readouterr().err


def test_only_a_value_that_nobody_named_is_doubted_if_many_pixels_have_it(raw, capsys):
    for path in (raw / "masks").iterdir():
        mask = np.array([[0, 1], [255, 255]], np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(mask).save(path)
        Image.new("RGB", (4, 4)).save(raw / f"images/{path.stem}.jpg")
    (raw / "classes.csv").write_text("ground\nroof\n")
    for values, is_told in (({}, True), ({"ignore_label": (255,)}, False)):
        given = {"output_dir": str(raw / f"out{is_told}"), "val_fraction": 0.5}
        build_folder_data.main(config(raw, **given, **values))
        assert ("is it one of the classes?" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize("folder", ["images", "masks", "masks/../images/"])
@pytest.mark.parametrize("values", [{}, {"data_dir": True, "images_dir": "", "masks_dir": ""}])
def test_records_have_a_folder_of_their_own(raw, capsys, monkeypatch, folder, values):
    values = values | {"data_dir": str(raw)} if values else {}
    given = {"val_fraction": 0.5, "output_dir": f"{raw}/{folder}"}
    before = sorted(raw.rglob("*"))
    with pytest.raises(UserError, match="is a folder of images or labels; .*--output_dir=records"):
        build_folder_data.main(config(raw, **given | values))
    assert sorted(raw.rglob("*")) == before

    monkeypatch.chdir(raw)
    for _ in range(2):
        build_folder_data.main(config(raw, **given | values | {"output_dir": "records"}))
    assert "left out" not in capsys.readouterr().err


def test_lists_name_the_splits(raw):
    (raw / "a.txt").write_text("i3\ni1.jpg\n")
    (raw / "b.txt").write_text("i0\n")
    build_folder_data.main(config(raw, split_lists=(f"train={raw}/a.txt", f"val={raw}/b.txt")))
    assert set(names(raw, "train")) == {"i3", "i1"} and set(names(raw, "val")) == {"i0"}


@pytest.mark.parametrize(
    "lines",
    [
        "i3\ni1\n",
        "\ufeffi3.jpg\r\n\r\ni1.JPG\r\n",
        "# mine\nimages/i3.jpg\n./images/i1.jpg\n",
        "images\\i3.jpg\n../images/i1.jpg\n",
        "{raw}/images/i3.jpg\n{raw}/images/i1.jpg\n",
        "images/i3.jpg masks/i3.png\ni1.jpg\ti1.png\n",
        "{raw}/images/i3.jpg, {raw}/masks/i3.png\ni1 masks/i1.png\n",
    ],
)
def test_a_list_may_hold_names_paths_or_pairs(raw, lines):
    (raw / "a,b.txt").write_text(lines.format(raw=raw))
    splits = build_folder_data.find_splits(config(raw, split_lists=(f"t={raw}/a,b.txt",)))
    (pairs,) = splits.values()
    assert [pair.name for pair in pairs] == ["i3", "i1"]


def test_a_listed_name_is_taken_as_it_stands_first(raw):
    """Names may begin like comments, hold blanks, or be the names of folders above."""
    for name in ("#9", "i 1", "images/i1", "i1.b"):
        for folder, ending in (("images", "jpg"), ("masks", "png")):
            path = raw / folder / f"{name}.{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((raw / folder / f"i1.{ending}").read_bytes())
    (raw / "l.txt").write_text("#9.jpg\n# i3\ni 1\nimages/i1.jpg\ni1.b\n")
    (pairs,) = build_folder_data.find_splits(config(raw, split_lists=(f"t={raw}/l.txt",))).values()
    assert [pair.name for pair in pairs] == ["#9", "i 1", "images/i1", "i1.b"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("i1\n\ni9.jpg\n", r"Line 3 of .*l\.txt, 'i9\.jpg', names no image in .*images; a line"),
        ("other/i1.jpg\n", "Line 1 .*'other/i1.jpg', names no image"),
        ("i1.scan\n", "Line 1 .*'i1.scan', names no image"),
        ("images/i1.jpg masks/i2.png\n", "names no image"),  # another image's mask
        ("i1 i2\n", "names no image"),
        ("i1\nimages/i1.jpg\n", "Line 2 .* names .*i1.jpg, which an earlier line names too"),
        ("# none\n", "is empty"),
    ],
)
def test_lines_that_name_no_image_are_refused(raw, lines, message):
    (raw / "l.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        build_folder_data.find_splits(config(raw, split_lists=(f"t={raw}/l.txt",)))


def test_what_is_left_out_is_said(raw, capsys):
    (raw / "images/._i1.jpg").write_bytes(b"x")
    (raw / "images/film.mp4").write_bytes(b"x")
    (raw / "images/i6.bmp").write_bytes((raw / "images/i5.jpg").read_bytes())
    (raw / "masks/i6.png").write_bytes((raw / "masks/i5.png").read_bytes())
    splits = build_folder_data.find_splits(config(raw, val_fraction=0.5))
    assert sum(map(len, splits.values())) == 7
    assert "images: 7 images; left out: 1 .mp4, 1 hidden (.*)." in capsys.readouterr().err


def test_names_that_no_record_can_hold_are_refused(raw):
    (raw / "images" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"caf\\udce9.jpg is not UTF-8"):
        build_folder_data.find_splits(config(raw, val_fraction=0.5))


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
    assert catalog.load("towns", raw / "out") == info  # a name is no identity
    with pytest.raises(UserError, match="class 0 is 'sky' in camvid, 'ground' in the records"):
        catalog.load("camvid", raw / "out")


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
        (None, {}, "is not in the folder of a split"),
        ("masks/i2.png", {"val_fraction": 0.5}, r"i2.jpg has no mask: .*i2.png"),
        (None, {"split_lists": ("train=missing.txt",)}, "missing.txt"),
        (
            None,
            {"split_lists": ("a.txt,b.txt",)},
            "--split_lists=a.txt,b.txt is .* train=a.txt,val=",
        ),
        (None, {"val_fraction": 0.95}, "=0.95 puts all 6 images into val .* a smaller share"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(raw, spoil, values, message):
    if spoil:
        (raw / spoil).unlink()
    with pytest.raises(UserError, match=message):
        build_folder_data.main(config(raw, **values))
    assert not (raw / "out").exists()


def test_flags_that_would_have_no_effect_are_refused(raw):
    with pytest.raises(UserError, match="--val_fraction=0.5 .* allowed: 0 with --split_lists"):
        config(raw, val_fraction=0.5, split_lists=("train=a.txt",))
    with pytest.raises(UserError, match="--split_seed=1 .* allowed: 0 without --val_fraction"):
        config(raw, split_seed=1, split_lists=("train=a.txt",))


def test_a_share_of_one_image_names_a_way_that_exists(raw):
    for number in range(1, 6):
        (raw / f"images/i{number}.jpg").unlink()
    with pytest.raises(
        UserError, match="needs two images, .*--split_lists=train=FILE with its name"
    ):
        build_folder_data.find_splits(config(raw, val_fraction=0.2))
    (raw / "a.txt").write_text("i0\n")
    (pairs,) = build_folder_data.find_splits(config(raw, split_lists=(f"t={raw}/a.txt",))).values()
    assert [pair.name for pair in pairs] == ["i0"]


def test_two_images_of_one_name_are_refused(raw):
    Image.new("RGB", (30, 20)).save(raw / "images" / "i0.png")
    with pytest.raises(UserError, match="share the name 'i0'"):
        build_folder_data.main(config(raw, val_fraction=0.5))


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


def draw(folder, masks, *, images_dir="images", masks_dir="masks", image="{}.jpg", mask="{}.png"):
    """Writes one image and one mask for each given label, whose name has its position."""
    for part in (images_dir, masks_dir):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, own in enumerate(masks):
        own = own if isinstance(own, Image.Image) else Image.fromarray(own)
        own.save(folder / masks_dir / mask.format(f"i{number}"))
        Image.new("RGB", own.size).save(folder / images_dir / image.format(f"i{number}"))


def built(folder, classes, **values):
    """Builds records and returns the label values of each."""
    (folder / "c.csv").write_text(classes)
    settings = {"class_list": str(folder / "c.csv"), "val_fraction": 0.5} | values
    build_folder_data.main(config(folder, **settings))
    found = names(folder, "train") | names(folder, "val")
    return {name: sorted(set(record["label"].numpy().flat)) for name, record in found.items()}


def grey(*values):
    return np.array([values, values], np.uint8)


PLAIN = "name\nground\nroof\ntree\n"
BLACK_WHITE = "name,r,g,b\nground,0,0,0\nroof,255,255,255\n"
LABEL_IDS = "name,label_id\nground,7;8\nroof,255\ntree,0\n"
PICTURE = np.array([[(0, 0, 0), (255, 255, 255)]], np.uint8)


@pytest.mark.parametrize(
    ("mask", "classes", "values", "expected", "stored"),
    [
        (grey(0, 1, 2, 255), PLAIN, {}, [0, 1, 2, 255], 255),
        (grey(0, 1, 2), PLAIN, {"ignore_label": (0,)}, [0, 1, 2], 0),  # a class that is ignored
        (grey(0, 1, 2, 9), PLAIN, {"ignore_label": (9,)}, [0, 1, 2, 9], 9),
        (grey(0, 1, 2, 255), PLAIN, {"ignore_label": (0, 255)}, [1, 2, 255], 255),
        (grey(0, 1, 2, 9), PLAIN, {"ignore_label": (9, 0, 9)}, [1, 2, 255], 255),
        (grey(0, 1, 2), PLAIN, {"ignore_label": (0, 0)}, [0, 1, 2], 0),
        (grey(0, 7, 8, 255), LABEL_IDS, {}, [0, 1, 2], 255),
        (grey(0, 7, 9, 255), LABEL_IDS, {"ignore_label": (9,)}, [0, 1, 2, 255], 255),
        (grey(255, 2, 3), LABEL_IDS, {"ignore_label": (2, 3)}, [1, 255], 255),
        (grey(0, 255), BLACK_WHITE, {"mask_encoding": "color"}, [0, 1], 255),
        (grey(0, 255), "name,label_id\nground,0\nroof,255\n", {}, [0, 1], 255),
        (grey(0, 1, 255), BLACK_WHITE, {"mask_encoding": "index"}, [0, 1, 255], 255),
        (grey(0, 1, 255), BLACK_WHITE, {"ignore_label": (255,)}, [0, 1, 255], 255),
        (PICTURE, BLACK_WHITE, {}, [0, 1], 255),
        (PICTURE, "name,r,g,b\na,1,1,1\nb,0,0,0\n", {"ignore_colors": (255,) * 3}, [1, 255], 255),
        (PICTURE // 127, PLAIN, {"mask_encoding": "index"}, [0, 2], 255),
        (PICTURE, "ground:0,0,0::\nroof:255,255,255::\n", {}, [0, 1], 255),
    ],
)
def test_values_and_colors_mean_what_the_user_says(
    tmp_path, mask, classes, values, expected, stored
):
    draw(tmp_path, [mask, mask])
    assert built(tmp_path, classes, **values)["i0"] == expected
    assert catalog.load("", tmp_path / "out").ignore_label == stored


@pytest.mark.parametrize(
    ("mask", "classes", "values", "message"),
    [
        (
            grey(0),
            LABEL_IDS,
            {"ignore_label": (255,)},
            "has 255, the label_id of 'roof'",
        ),
        (grey(0), "name,label_id\na,7\nb,256\n", {}, "the label_id 256; masks have 8 bits"),
        (
            grey(0),
            PLAIN,
            {"mask_encoding": "color"},
            "=color needs the classes' colours",
        ),
        (
            grey(0),
            BLACK_WHITE,
            {"ignore_colors": (0, 0, 0)},
            "colour of 'ground' in .*0,0,0",
        ),
        (grey(3), PLAIN, {}, r"value 3, .* \(0 to 2\) .* of each class in a column label_id"),
        (grey(9), LABEL_IDS, {}, r"value 9, .* \(0, 7, 8, 255\) and not ignored \(no value is\)"),
        (grey(0, 255), BLACK_WHITE, {}, "the value 255, which means the ignored label, but"),
        (PICTURE, BLACK_WHITE, {"ignore_label": (0, 9)}, "--ignore_label=0,9 names values; give"),
        (
            PICTURE,
            BLACK_WHITE,
            {"ignore_label": (0,), "ignore_colors": (9, 9, 9)},
            "--ignore_label=0 is the class 'ground' in .*leave --ignore_label out",
        ),
        (
            PICTURE,
            PLAIN,
            {},
            r"c\.csv has none; give it the columns .* or give --mask_enc",
        ),
    ],
)
def test_what_would_mean_two_things_or_nothing_is_refused(tmp_path, mask, classes, values, message):
    draw(tmp_path, [mask, mask])
    with pytest.raises(UserError, match=message):
        built(tmp_path, classes, **values)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "layout",
    [
        {"image": "{}_sat.jpg", "mask": "{}_mask.png", "images_dir": "data", "masks_dir": "data"},
        {"image": "{}_sat.png", "mask": "{}_mask.png"},
        {"image": "{}_sat.png", "mask": "{}.png", "images_dir": "data", "masks_dir": "data"},
        {"mask": "{}_mask.png", "images_dir": "data", "masks_dir": "data"},
        {"image": "{}.png", "mask": "{}_Mask.png", "images_dir": "data", "masks_dir": "data"},
        {"images_dir": "data", "masks_dir": "data"},
        {"image": "{}.PNG", "images_dir": "data", "masks_dir": "data/masks"},
        {"images_dir": "data/images", "masks_dir": "data"},
        {"image": "{}.JPG", "mask": "{}.PNG"},
        {"image": "E\u0301{}.jpg", "mask": "\u00c9{}.png"},  # as macOS writes it, and others
        {"mask": "{}.tiff"},
        {"mask": "{}.BMP"},
    ],
    ids=str,
)
def test_images_and_masks_find_each_other(tmp_path, layout):
    draw(tmp_path, [grey(0, 1), grey(1, 2), grey(2)], **layout)
    suffixes = {}
    for side in ("image", "mask"):
        ending = layout.get(side, "").partition("}")[2].rpartition(".")[0]
        suffixes[f"{side}_suffix"] = ending.lower()
    folders = {
        side: str(tmp_path / layout.get(side, side[:-4])) for side in ("images_dir", "masks_dir")
    }
    found = built(tmp_path, PLAIN, **suffixes, **folders)
    stem = layout.get("image", "{}").rpartition(".")[0] or "{}"
    assert found == {stem.format("i0"): [0, 1], stem.format("i1"): [1, 2], stem.format("i2"): [2]}


@pytest.mark.parametrize("masks_dir", ["data", "elsewhere"])
def test_a_link_to_the_masks_finds_what_the_folder_does(tmp_path, capsys, masks_dir):
    draw(tmp_path, [grey(0, 1), grey(1, 2)], images_dir="data", masks_dir=masks_dir)
    link = tmp_path / ("data/link" if masks_dir == "elsewhere" else "link")
    link.symlink_to(tmp_path / masks_dir)
    found = built(tmp_path, PLAIN, images_dir=str(tmp_path / "data"), masks_dir=str(link))
    assert found == {"i0": [0, 1], "i1": [1, 2]}
    assert "left out" not in capsys.readouterr().err


def test_splits_above_images_and_masks_are_explained_and_linked(tmp_path):
    for split in ("train", "val"):
        draw(
            tmp_path / "data" / split,
            [grey(0, 1)],
            image=f"{split}{{}}.jpg",
            mask=f"{split}{{}}.png",
        )
    data = {"images_dir": str(tmp_path / "data"), "masks_dir": str(tmp_path / "data")}
    inner = {side: f"{tmp_path}/data/train/{side[:-4]}" for side in data}
    for folders, message in (
        (
            data,
            r"train/images/traini0\.png does not exist, though \S*train/masks/traini0\.png does",
        ),
        (inner, "For folders such as train/images and train/masks, give --data_dir"),
    ):
        with pytest.raises(UserError, match=message):
            built(tmp_path, PLAIN, val_fraction=0.0, **folders)

    for part in ("images", "masks"):  # as docs/data.md does it
        (tmp_path / part).mkdir()
        for split in ("train", "val"):
            (tmp_path / part / split).symlink_to(Path("..", "data", split, part))
    found = built(tmp_path, PLAIN, val_fraction=0.0)
    assert found == {"train/traini0": [0, 1], "val/vali0": [0, 1]}


def test_gifs_are_masks_by_their_colours(tmp_path):
    for folder in ("images", "data"):  # two folders, and one
        draw(tmp_path, [PICTURE, PICTURE], mask="{}.gif", images_dir=folder, masks_dir="data")
        folders = {"images_dir": f"{tmp_path}/{folder}", "masks_dir": f"{tmp_path}/data"}
        with pytest.raises(
            UserError, match=r"i[01]\.gif is a GIF, .* or give --mask_encoding=color"
        ):
            built(tmp_path, BLACK_WHITE, **folders)
        colored = built(tmp_path, BLACK_WHITE, mask_encoding="color", **folders)
        assert colored == {"i0": [0, 1], "i1": [0, 1]}
        shutil.rmtree(tmp_path / "out")


def test_a_folder_of_masks_may_hold_other_files(tmp_path, capsys):
    """Previews are JPEGs, which no mask is; a JPEG without a PNG is refused for what it is."""
    draw(tmp_path, [grey(0, 1), grey(1, 2)])
    Image.new("RGB", (2, 2)).save(tmp_path / "masks" / "i0.jpg")
    (tmp_path / "masks/colours.txt").write_text("x")
    assert built(tmp_path, PLAIN) == {"i0": [0, 1], "i1": [1, 2]}
    told = capsys.readouterr().err
    assert "masks: 3 masks; left out: 1 .txt, 1 with the same name as another mask." in told
    (tmp_path / "masks" / "i0.png").unlink()
    with pytest.raises(UserError, match=r"i0\.jpg holds JPEG data"):
        built(tmp_path, PLAIN)


def test_a_spare_mask_whose_name_differs_only_in_case_is_told(tmp_path, capsys):
    draw(tmp_path, [grey(0, 1), grey(1, 2)])
    shutil.copy(tmp_path / "masks/i0.png", tmp_path / "masks/I0.png")
    assert built(tmp_path, PLAIN) == {"i0": [0, 1], "i1": [1, 2]}
    told = capsys.readouterr().err
    assert "masks: 3 masks; left out: 1 with the same name as another mask." in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"i0.png": "i0.json"},
            r"i0\.jpg has no mask .*, but there is .*i0\.json; polygons",
        ),
        ({"i0.png": "a.xml", "i1.png": "b.txt"}, r"but there is .*a\.xml; polygons are not masks"),
        (
            {"i0.png": "deep/i0.png"},
            r"has no mask: \S*masks/i0\.png does not exist, though \S*deep/i0\.png does; .*links",
        ),
        (
            {"i0.png": "i0_m.png"},
            r"i0\.png does not exist \(.*i0_m\.png does\); give --mask_suffix",
        ),
        ({"i0.png": "i0.bmp", "i1.png": "i0.tif"}, r"i0\.jpg has two masks, .*\.bmp and .*\.tif"),
    ],
)
def test_missing_masks_are_explained(tmp_path, change, message):
    draw(tmp_path, [grey(0, 1), grey(1, 2)])
    (tmp_path / "masks/deep").mkdir()
    for old, new in change.items():
        (tmp_path / "masks" / old).rename(tmp_path / "masks" / new)
    with pytest.raises(UserError, match=message):
        built(tmp_path, PLAIN)


def test_a_file_of_polygons_is_no_folder_of_masks(tmp_path):
    draw(tmp_path, [grey(0, 1)])
    (tmp_path / "coco.json").write_text("{}")
    with pytest.raises(UserError, match=r"coco\.json is not a folder of masks; polygons"):
        built(tmp_path, PLAIN, masks_dir=str(tmp_path / "coco.json"))


def test_names_that_differ_in_case_do_not_share_a_mask(tmp_path):
    draw(tmp_path, [grey(0, 1)])
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "I0.jpg")
    with pytest.raises(UserError, match=r"i0\.png belongs to two images"):
        built(tmp_path, PLAIN)
    Image.fromarray(grey(1, 2)).save(tmp_path / "masks" / "I0.png")
    assert built(tmp_path, PLAIN) == {"i0": [0, 1], "I0": [1, 2]}


def test_what_belongs_to_no_image_or_list_is_told(tmp_path, capsys):
    draw(tmp_path, [grey(0, 1)] * 3, mask="{}_m.png")
    draw(tmp_path, [grey(0, 1)] * 4, mask="{}_m.png", images_dir="more")
    Image.fromarray(grey(0, 1)).save(tmp_path / "masks" / "i0_other.png")
    (tmp_path / "list.txt").write_text("i0\ni2\n")
    built(tmp_path, PLAIN, mask_suffix="_m", val_fraction=0.5)
    told = capsys.readouterr().err
    masks = f"{tmp_path}/masks"
    assert (
        f"{masks}: left out 1 mask of 4, for which there is no image (the first: {masks}/i3_m"
        in told
    )
    assert f"{masks}: 4 masks; left out: 1 without _m." in told
    assert "split's list" not in told
    lists = (f"train={tmp_path}/list.txt",)
    build_folder_data.main(
        config(
            tmp_path,
            class_list=str(tmp_path / "c.csv"),
            mask_suffix="_m",
            split_lists=lists,
            output_dir=str(tmp_path / "listed"),
        )
    )
    told = capsys.readouterr().err
    assert f"{tmp_path}/images: left out 1 image of 3, which no split's list names." in told


def test_masks_of_0_and_255_are_refused_with_a_way_that_exists(tmp_path, capsys):
    draw(tmp_path, [grey(0, 255)] * 2)
    with pytest.raises(UserError, match="All labels are 'ground' or ignored") as refusal:
        built(tmp_path, "name\nground\nroof\n")
    assert not (tmp_path / "out").exists()
    header, line = re.search(r"first line (\S+); another (\S+)\)", str(refusal.value)).groups()
    assert built(tmp_path, f"{header}\nground,0\n{line}\n")["i1"] == [0, 1]


BINARY = "name\nground\nroof\n"


def test_masks_of_0_and_1_beside_masks_of_0_and_255_are_refused_with_ways_that_exist(tmp_path):
    draw(tmp_path, [grey(0, 1), grey(0, 255), grey(0), grey(0, 1), grey(255)])
    told = (
        r"In 1 mask \(the first: 'i1'\) there are 'ground' and 255, which is ignored, but no 'roof'"
    )
    with pytest.raises(UserError, match=told) as refusal:
        built(tmp_path, BINARY)
    assert not (tmp_path / "out").exists()

    lines = re.search(r"its lines: (\S+) and (\S+) and (\S+)\)", str(refusal.value)).groups()
    assert built(tmp_path, "\n".join(lines))["i1"] == [0, 1]
    shutil.rmtree(tmp_path / "out")
    assert "give --ignore_label=255" in str(refusal.value)
    assert built(tmp_path, BINARY, ignore_label=(255,))["i1"] == [0, 255]


@pytest.mark.parametrize(
    ("masks", "warns"),
    [
        ([grey(0, 1), grey(0), grey(255), grey(0, 1)], False),  # nothing but void in one
        ([grey(0, 1, 255), grey(0, 255), grey(0), grey(1, 255)], False),  # void everywhere
        ([grey(0, 1, 255), grey(0, 255), grey(0, 1), grey(0)], True),
    ],
)
def test_masks_with_void_are_built(tmp_path, capsys, masks, warns):
    draw(tmp_path, masks)
    for number, values in built(tmp_path, BINARY).items():
        assert values == sorted(set(masks[int(number[1:])].flat))
    assert ("If 255 means 'roof' in some" in capsys.readouterr().err) == warns


def test_a_split_may_not_hold_what_another_is_scored_on_without_a_word(raw, capsys):
    (raw / "a.txt").write_text("i0\ni1\ni2\n")
    (raw / "b.txt").write_text("i2\ni3\n")
    (raw / "c.txt").write_text("i4\ni5\n")
    (raw / "images/i4.jpg").write_bytes((raw / "images/i1.jpg").read_bytes())

    def told(**lists):
        parts = tuple(f"{split}={raw}/{name}.txt" for split, name in lists.items())
        build_folder_data.find_splits(config(raw, split_lists=parts))
        return capsys.readouterr().err

    images = raw / "images"
    assert f"'train' and 'val' share 1 image (the first: {images}/i2.jpg);" in told(
        train="a", val="b"
    )
    copied = f"share 1 image (the first: {images}/i1.jpg, the same file as {images}/i4.jpg);"
    assert copied in told(train="a", val="c")
    assert "share" not in told(train="b", val="c")
    assert "share" not in told(train="a", trainval="a")


def test_a_later_call_knows_the_images_of_earlier_splits(raw, capsys):
    """Even if the file has another name and another mask; i2 cannot be converted."""
    (raw / "a.txt").write_text("i0\ni1\n")
    (raw / "b.txt").write_text("i2\ni3\ni4\ni5\n")
    (raw / "c.txt").write_text("i2\ni3\ni5\n")
    (raw / "images/i2.jpg").write_bytes(b"cut")
    (raw / "images/i4.jpg").write_bytes((raw / "images/i1.jpg").read_bytes())
    Image.new("RGB", (31, 20), (10, 20, 30)).save(raw / "masks/i4.png")

    def told(**lists):
        parts = tuple(f"{split}={raw}/{name}.txt" for split, name in lists.items())
        build_folder_data.main(config(raw, split_lists=parts, skip_bad=True))
        return capsys.readouterr().err

    assert "share" not in told(train="a")
    warning = (
        f"Warning: 'val' shares 1 image (the first: {raw}/images/i4.jpg) with 'train', which an "
        "earlier call built; a score on training images says nothing: take them out of one split."
    )
    assert warning in told(val="b")
    assert warning in told(val="b")  # which is up to date
    assert "'train' shares 1 image (the first: " in told(train="a")
    assert "share" not in told(trainval="b")  # which may share the images of both
    (raw / "out/dataset.json").unlink()
    told(train="a")
    assert "share" not in told(val="c")  # the way out


@pytest.mark.parametrize(
    ("one", "other", "may_share"),
    [
        ("train", "trainval", True),
        ("val", "trainval", True),
        ("trainaug", "train", True),
        ("Val", "TrainVal", True),
        ("fold1", "fold1_val", True),
        ("train", "train2", True),
        ("fold1", "fold10", False),
        ("fold1", "fold21", False),
        ("1", "10", False),
        ("train_fold1", "train_fold12", False),
        ("fold1", "fold_1", False),
        ("site_a", "site_ab", False),
        ("train", "val", False),
        ("_", "train", False),
    ],
)
def test_the_name_of_a_part_is_in_the_name_of_the_whole_by_words(one, other, may_share):
    assert split_members.may_share_images(one, other) == may_share
    assert split_members.may_share_images(other, one) == may_share


@pytest.mark.parametrize(("other", "warns"), [("fold10", True), ("fold1_small", False)])
def test_folds_whose_numbers_start_alike_may_not_share_images(raw, capsys, other, warns):
    (raw / "a.txt").write_text("i0\ni1\n")
    (raw / "b.txt").write_text("i1\n")
    lists = (f"fold1={raw}/a.txt", f"{other}={raw}/b.txt")
    build_folder_data.find_splits(config(raw, split_lists=lists))
    assert ("'fold1' and 'fold10' share 1 image" in capsys.readouterr().err) == warns


@pytest.mark.parametrize("split", ["x/train", "..", ".hidden", ""])
def test_the_name_of_a_split_is_no_path(raw, split):
    (raw / "a.txt").write_text("i0\n")
    with pytest.raises(UserError, match="with a name of letters, digits"):
        build_folder_data.find_splits(config(raw, split_lists=(f"{split}={raw}/a.txt",)))


def test_masks_that_are_read_in_two_ways_are_told(raw, capsys):
    """A picture that holds only greys may be stored as a grey PNG, which auto reads by value."""
    (raw / "classes.csv").write_text("name,r,g,b\nground,10,20,30\nroof,200,100,0\nnone,9,9,9\n")
    Image.fromarray(np.zeros([20, 33], np.uint8)).save(raw / "masks" / "i3.png")
    build_folder_data.main(config(raw, val_fraction=0.5))
    told = capsys.readouterr().err
    assert "read in two ways: 1 (the first: 'i3') by values, 5 (the first: 'i" in told


def test_a_split_of_an_earlier_call_is_told(raw, capsys):
    (raw / "a.txt").write_text("i0\ni1\n")
    (raw / "b.txt").write_text("i2\ni3\n")
    build_folder_data.main(config(raw, split_lists=(f"val={raw}/a.txt",)))
    capsys.readouterr()
    train = config(raw, split_lists=(f"train={raw}/b.txt",))
    build_folder_data.main(train)
    told = capsys.readouterr()
    assert "split val stays as an earlier call built it, 2 images" in told.out
    assert "other settings" not in told.err
    build_folder_data.main(dataclasses.replace(train, mask_encoding="color"))
    assert "the split 'val' was built with other settings for masks" in capsys.readouterr().err


def test_palettes_that_number_the_colours_differently_are_refused(raw):
    """As programs write that choose a palette for each picture; the way out gives what is drawn."""
    drawn = np.array([[0, 1], [1, 0]], np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    colors = [[10, 20, 30], [200, 100, 0]]
    for number in range(6):
        order = [0, 1] if number < 5 else [1, 0]
        mask = Image.fromarray(np.take(order, drawn).astype(np.uint8), "P")
        mask.putpalette([channel for index in order for channel in colors[index]])
        mask.save(raw / "masks" / f"i{number}.png")
        Image.new("RGB", (20, 20)).save(raw / "images" / f"i{number}.jpg")
    (raw / "classes.csv").write_text("ground\nroof\n")
    with pytest.raises(UserError, match=r"index 0 is \(10, 20, 30\) in .* and \(200, 100, 0\) in"):
        build_folder_data.main(config(raw, val_fraction=0.5))
    assert not (raw / "out").exists()

    (raw / "colors.csv").write_text("name,r,g,b\nground,10,20,30\nroof,200,100,0\n")
    settings = {"class_list": str(raw / "colors.csv"), "mask_encoding": "color"}
    build_folder_data.main(config(raw, val_fraction=0.5, **settings))
    for record in (names(raw, "train") | names(raw, "val")).values():
        np.testing.assert_array_equal(record["label"][..., 0], drawn)

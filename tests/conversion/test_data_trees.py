"""Trees of images and masks that people have, and what must not be guessed."""

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder_data
from deeplab_tf.messages import UserError


def tree(root, *folders):
    """Makes folders of images, or of masks if their path says so."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        is_mask = any(word in folder.lower() for word in ("mask", "ann", "label"))
        picture = Image.fromarray(np.full([4, 5], is_mask or number, np.uint8))
        picture.save(root / folder / ("a.png" if is_mask else "a.jpg"))
    (root / "classes.txt").write_text("background\ncat\n")


def splits(root, **values):
    given = {"data_dir": str(root), "class_list": str(root / "classes.txt"), "output_dir": "o"}
    found = build_folder_data.find_splits(build_folder_data.FolderConfig(**given | values))
    return {
        split: [
            (p.name, *(str(f.relative_to(root)) for f in (p.image_path, p.mask_path))) for p in of
        ]
        for split, of in found.items()
    }


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "annotations/{}"),
        ("img_dir/{}", "ann_dir/{}"),
        ("images/{}", "labels/{}"),
        ("{}/images", "{}/masks"),
        ("{}/Image", "{}/mask"),
    ],
)
@pytest.mark.parametrize("names", [("training", "validation"), ("train", "val")])
def test_the_usual_trees_are_recognised(tmp_path, capsys, images, masks, names):
    tree(tmp_path, *(kind.format(name) for name in names for kind in (images, masks)))
    assert splits(tmp_path) == {
        split: [(f"{split}/a", f"{images.format(name)}/a.jpg", f"{masks.format(name)}/a.png")]
        if images.startswith("{}")
        else [(f"{name}/a", f"{images.format(name)}/a.jpg", f"{masks.format(name)}/a.png")]
        for split, name in zip(("train", "val"), names, strict=True)
    }
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}: ") and "images in " in line and "masks in " in line


def test_a_tree_without_splits_takes_a_share(tmp_path):
    tree(tmp_path, "images", "masks")
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        content = (tmp_path / folder / f"a.{ending}").read_bytes()
        (tmp_path / folder / f"b.{ending}").write_bytes(content + b"")
    assert sorted(splits(tmp_path, val_fraction=0.5)) == ["train", "val"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("images/train", "masks/train", "labels/train"),
            r"read in several ways: .*/labels or images in .*/masks; say",
        ),
        (
            ("images/train", "img/train", "masks/train"),
            "several ways: .*--images_dir=.*in place of",
        ),
        (("images", "masks", "train/images", "train/masks"), "several ways"),
        (("train/images", "train/img", "train/masks"), "several ways"),
        (("train/images", "train/masks", "training/images", "training/masks"), "split 'train'"),
        (("photos", "masks"), "no known tree .*there is masks, photos.; give --images_dir"),
        ((), "there is no folder"),
    ],
)
def test_other_trees_are_refused(tmp_path, folders, message):
    tree(tmp_path, *folders)
    with pytest.raises(UserError, match=message):
        splits(tmp_path)


def test_readings_are_the_pairs_that_fit_and_the_one_suggested_builds(tmp_path):
    tree(tmp_path, "images/train", "masks/train", "img_dir/training", "ann_dir/training")
    for folder in ("images", "masks"):
        ending = "jpg" if folder == "images" else "png"
        (tmp_path / folder / f"train/a.{ending}").rename(tmp_path / folder / f"train/b.{ending}")
    with pytest.raises(UserError) as error:
        splits(tmp_path)
    told = str(error.value).replace(f"{tmp_path}/", "")
    assert "images in images and masks in masks or images in img_dir and masks in ann_dir;" in told
    assert "--images_dir=images --masks_dir=masks," in told
    pair = {"images_dir": str(tmp_path / "images"), "masks_dir": str(tmp_path / "masks")}
    assert list(splits(tmp_path, data_dir="", **pair)) == ["train"]


def test_masks_of_other_images_are_no_second_reading(tmp_path):
    tree(tmp_path, "images/train", "masks/train", "labels/train")
    (tmp_path / "labels/train/a.png").rename(tmp_path / "labels/train/c.png")
    assert splits(tmp_path) == {"train": [("train/a", "images/train/a.jpg", "masks/train/a.png")]}
    (tmp_path / "masks/train/a.png").rename(tmp_path / "masks/train/a_m.png")
    with pytest.raises(UserError, match="several ways"):  # as no name tells
        splits(tmp_path)
    assert list(splits(tmp_path, mask_suffix="_m")) == ["train"]


def test_a_folder_without_masks_is_no_second_reading(tmp_path):
    tree(tmp_path, "images/train", "masks/train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances.json").write_text("{}")
    assert list(splits(tmp_path)) == ["train"]


@pytest.mark.parametrize("folders", [("val/images", "val/gt_masks"), ("test/images",), ("val",)])
def test_splits_that_are_no_pair_are_told(tmp_path, capsys, folders):
    tree(tmp_path, "train/images", "train/masks", *folders)
    assert list(splits(tmp_path)) == ["train"]
    split = folders[0].partition("/")[0]
    assert f"left out {split}, whose images are in no known pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "masks"), [("images", "annotations"), ("img_dir", "ann_dir"), ("images", "Labels")]
)
def test_a_split_without_any_folder_of_masks_is_left_out(tmp_path, capsys, images, masks):
    tree(tmp_path, f"{images}/train", f"{masks}/train", f"{images}/test")
    pair = {"images_dir": str(tmp_path / images), "masks_dir": str(tmp_path / masks)}
    for values in ({}, pair | {"data_dir": ""}):
        assert list(splits(tmp_path, **values)) == ["train"]
        (told,) = capsys.readouterr().err.splitlines()
        assert f"{images}: left out test, for which" in told and "no folder of masks" in told


@pytest.mark.parametrize("folder", ["test", "testing"])
def test_a_folder_of_masks_that_lacks_some_is_refused(tmp_path, folder):
    """So is one that no split has: it may be the folder of the split that lacks one."""
    tree(tmp_path, "images/train", "masks/train", "images/test", f"masks/{folder}")
    (tmp_path / "images/test/a.jpg").rename(tmp_path / "images/test/b.jpg")
    with pytest.raises(UserError, match=r"test/b\.jpg has no mask"):
        splits(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images_dir": "x"}, "images_dir=x is not possible; allowed: nothing with --data_dir"),
        ({"masks_dir": "x"}, "Give either --masks_dir or --annotations or --data_dir"),
        (
            {"val_fraction": 0.5},
            "val_fraction=0.5 .*0 where the folders of --data_dir are the splits",
        ),
    ],
)
def test_settings_that_do_not_fit_together(tmp_path, values, message):
    tree(tmp_path, "train/images", "train/masks")
    with pytest.raises(UserError, match=message):
        splits(tmp_path, **values)

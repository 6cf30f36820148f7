"""Which image a name in an annotation file means, and when that image is missing."""

from pathlib import Path

import pytest
from PIL import Image

from deeplab_tf.conversion import folder_pairs
from deeplab_tf.conversion.annotations.drawing import AnnotationFile, UnreadableDrawing
from deeplab_tf.conversion.annotations.matching import ImageFinder, drawings_of_images
from deeplab_tf.messages import UserError


@pytest.fixture
def image_of(tmp_path):
    """Returns a function that makes images and finds the one that a drawing means."""

    def find(images, file, name, split="", tool="COCO", root=""):
        images_dir = tmp_path / "photos"
        for image in images:
            path = images_dir / image
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                Image.new("RGB", (2, 2)).save(path)
            else:
                path.mkdir(exist_ok=True)
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing = UnreadableDrawing(path, name, None, "")
        annotations = AnnotationFile(tool, tmp_path / root if root else path, [drawing])
        finder = ImageFinder(folder_pairs.list_images(images_dir), images_dir)
        found = finder.image_of(drawing, annotations, split)
        return found and found.relative_to(images_dir).as_posix()

    return find


SPLITS = ("train/1.jpg", "train/5.jpg", "val/1.jpg")


@pytest.mark.parametrize(
    ("images", "file", "name", "split", "expected"),
    [
        # The split's folder, even if it is empty or has a longer name.
        (SPLITS, "val.json", "1.jpg", "val", "val/1.jpg"),
        (SPLITS, "val.json", "5.jpg", "val", None),
        (("train/5.jpg", "val"), "val.json", "5.jpg", "val", None),
        (("train2017/5.jpg", "val2017/1.jpg"), "instances_val2017.json", "5.jpg", "val", None),
        (("training/5.jpg", "validation/1.jpg"), "a.json", "5.jpg", "val", None),
        (("train/5.jpg", "x/1.jpg"), "val.json", "5.jpg", "val", "train/5.jpg"),
        (("val/1.jpg", "val/crops/1.jpg"), "val.json", "1.jpg", "val", "val/1.jpg"),
        (("images/1.jpg", "val"), "photos/val/a.json", "1.jpg", "val", None),
        (("i/1.jpg", "labels"), "photos/labels/labels.json", "1.jpg", "val", "i/1.jpg"),
        # The folder in the name, also in another machine's path.
        (SPLITS, "c.json", "val/5.jpg", "", None),
        (SPLITS, "c.json", "C:\\data\\val\\images\\5.jpg", "", None),
        (SPLITS, "c.json", "/data/val/1.jpg", "", "val/1.jpg"),
        (SPLITS, "c.json", "/data/set/5.jpg", "", "train/5.jpg"),
        (SPLITS, "c.json", "x/../val/1.jpg", "", "val/1.jpg"),
        (("a/b/1.jpg", "b/1.jpg"), "c.json", "b/1.jpg", "", "b/1.jpg"),
        (("1.jpg", "b/1.jpg"), "c.json", "x/1.jpg", "", "1.jpg"),
        # The name is stronger than the split, unless both can be so.
        (SPLITS, "val.json", "train/5.jpg", "val", "train/5.jpg"),
        (("train/images/1.jpg", "val/images/2.jpg"), "v.json", "images/1.jpg", "val", None),
        # The folder of the file.
        (SPLITS, "photos/val/_annotations.coco.json", "5.jpg", "", None),
        (("1.jpg", "val/1.jpg"), "photos/val/a.json", "1.jpg", "", "val/1.jpg"),
        (("1.jpg", "val/1.jpg"), "photos/val/a.json", "../1.jpg", "", "1.jpg"),
        (("images/1.jpg",), "photos/annotations/a.json", "1.jpg", "", "images/1.jpg"),
        # Case and Unicode form.
        (("a.jpg",), "c.json", "A.JPG", "", "a.jpg"),
        (("Train/cafe\u0301.jpg",), "c.json", "train/CAF\u00c9.jpg", "", "Train/cafe\u0301.jpg"),
        (("a.jpg", "x/A.jpg"), "c.json", "A.jpg", "", "x/A.jpg"),
        (("a.png",), "c.json", "a", "", "a.png"),
        (("a.png",), "c.json", "a.jpg", "", None),
    ],
)
def test_the_image_of_one_drawing_of_many(image_of, images, file, name, split, expected):
    assert image_of(images, file, name, split) == expected


@pytest.mark.parametrize(
    ("images", "root", "file", "name", "split", "expected"),
    [
        (("x.jpg", "s/x.jpg"), "photos/s", "photos/s/x.json", "x.jpg", "", "s/x.jpg"),
        (("x.jpg", "s/x.jpg"), "photos/s", "photos/s/x.json", "", "", "s/x.jpg"),
        (("x.jpg", "s/y.jpg"), "photos/s", "photos/s/x.json", "x.jpg", "", None),
        (("x.jpg", "s/y.jpg"), "photos/s", "photos/s/x.json", "../x.jpg", "", "x.jpg"),
        (SPLITS, "labels", "labels/val/1.json", "1.jpg", "", "val/1.jpg"),
        # A folder of files for each split.
        (SPLITS, "labels/val", "labels/val/1.json", "1.jpg", "val", "val/1.jpg"),
        (SPLITS, "labels/train", "labels/train/1.json", "", "train", "train/1.jpg"),
        (SPLITS, "labels/val", "labels/val/5.json", "5.jpg", "val", None),
        (("5.jpg", "val/1.jpg"), "labels/val", "labels/val/5.json", "", "val", None),
        (("a.jpg",), "labels", "labels/A.JPG.json", "", "", "a.jpg"),
    ],
)
def test_the_image_of_a_file_of_labelme(image_of, images, root, file, name, split, expected):
    assert image_of(images, file, name, split, "labelme", root) == expected


def test_names_that_may_be_two_images_are_refused(image_of):
    with pytest.raises(UserError, match=r"1\.jpg' in .* may be .*train/1.jpg or .*val/1.jpg"):
        image_of(SPLITS, "c.json", "1.jpg")


def test_a_missing_image_is_told_from_another_of_its_name(image_of, tmp_path, capsys):
    image_of(SPLITS, "val.json", "5.jpg", "val")
    finder = ImageFinder(folder_pairs.list_images(tmp_path / "photos"), tmp_path / "photos")
    drawings = [UnreadableDrawing(Path("v.json"), f"{n}.jpg", None, "") for n in (1, 5)]
    file = AnnotationFile("COCO", Path("v.json"), drawings)
    found = drawings_of_images([file], finder, "val", skip_bad=True)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["photos/val/1.jpg"]
    told = capsys.readouterr().err
    assert "of 1 image of 2" in told and "'5.jpg', not " in told
    assert "train/5.jpg, which is in another folder" in told

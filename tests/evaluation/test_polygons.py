"""Polygons and run lengths give the prediction back, drawn by the rules of their own tools."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from deeplab_tf.evaluation import coco, labelme, polygons

NAMES = ["road", "sky", "car", "pole", "sea"]


def drawn_by_labelme(content):
    """As labelme's `shape_to_mask` and `shapes_to_label` do."""
    size = (content["imageWidth"], content["imageHeight"])
    label = np.full(size[::-1], 255, np.uint8)
    for shape in content["shapes"]:
        assert shape["shape_type"] == "polygon" and len(shape["points"]) > 2
        mask = Image.new("L", size)
        points = [tuple(point) for point in shape["points"]]
        ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
        label[np.asarray(mask) == 1] = NAMES.index(shape["label"])
    return label


def label_maps():
    rng = np.random.default_rng(0)
    for _ in range(150):  # every pixel another class: corners touch, regions are one pixel thin
        size = rng.integers(1, 14, 2)
        yield rng.integers(0, rng.integers(1, 6), size).astype(np.uint8)
    for smoothness in (0.7, 1, 2, 4):  # regions in holes of regions
        noise = rng.normal(size=(5, 60, 80))
        yield ndimage.gaussian_filter(noise, (0, smoothness, smoothness)).argmax(0).astype(np.uint8)


def test_labelme_draws_the_prediction():
    for labels in label_maps():
        content = json.loads(labelme.content(labels, NAMES, "../a.jpg"))
        np.testing.assert_array_equal(drawn_by_labelme(content), labels)


def test_a_square_with_a_hole():
    labels = np.zeros([4, 5], np.uint8)
    labels[1:4, 1:4] = 2
    labels[2, 2] = 1
    # Right and lower borders end a hundredth of a pixel before the next pixel.
    frame = {(0, 0), (4.99, 0), (4.99, 3.99), (4, 3.99)}
    frame |= {(4, 0.99), (0.99, 0.99), (0.99, 3.99), (0, 3.99)}
    assert [(region.class_number, set(region.corners)) for region in polygons.regions(labels)] == [
        (0, frame),
        (2, {(1, 1), (3.99, 1), (3.99, 3.99), (1, 3.99)}),
        (1, {(2, 2), (2.99, 2), (2.99, 2.99), (2, 2.99)}),
    ]


def test_labelmes_file_names_its_image():
    content = json.loads(labelme.content(np.zeros([2, 3], np.uint8), NAMES, "../a.jpg"))
    shapes = content.pop("shapes")
    assert content == {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "../a.jpg",
        "imageData": None,
        "imageHeight": 2,
        "imageWidth": 3,
    }
    assert [shape["label"] for shape in shapes] == ["road"]


Y, X = np.mgrid[:37, :53]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        # What pycocotools 2.0.11 encodes them as.
        ((X - 20) ** 2 + (Y - 18) ** 2 < 120, "P<9j04M2N2N2O0O2O0000000000000001N101N2N2N3LRi0"),
        ((X > 40) & (Y > 30), r"\`16o0000000000000000000000"),
        ((X < 5) & (Y < 9), "09l00000000`g1"),
        (X >= 0, "0Ym1"),
        ((X == 52) & (Y == 36), "Xm11"),
    ],
    ids=["disc", "lower right", "first pixel", "all", "last pixel"],
)
def test_run_lengths_are_written_as_pycocotools_does(mask, expected):
    assert coco.compressed(coco.runs(mask)) == expected


def test_a_coco_file_describes_its_images():
    file = coco.CocoFile(NAMES)
    file.add("a.jpg", np.zeros([4, 6], np.uint8))
    labels = np.zeros([37, 53], np.uint8)
    labels[(X > 40) & (Y > 30)] = 2
    file.add("sub/b.png", labels)
    content = json.loads(file.text())
    assert content["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": 2, "file_name": "sub/b.png", "height": 37, "width": 53},
    ]
    assert [category["name"] for category in content["categories"]] == NAMES
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4, 5]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1, 2, 2]
    assert content["annotations"][2] == {
        "id": 3,
        "image_id": 2,
        "category_id": 3,
        "segmentation": {"size": [37, 53], "counts": r"\`16o0000000000000000000000"},
        "area": 72,
        "bbox": [41, 31, 12, 6],
        "iscrowd": 0,
    }
    assert sum(a["area"] for a in content["annotations"] if a["image_id"] == 2) == 37 * 53

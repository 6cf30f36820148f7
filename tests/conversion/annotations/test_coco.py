"""COCO's files: what is drawn, in which order, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask

from deeplab_tf import json_files
from deeplab_tf.conversion.annotations import coco
from deeplab_tf.conversion.annotations.drawing import NOT_DRAWN, DrawnCoding
from deeplab_tf.messages import UserError

PATH = Path("c.json")
SQUARE = [0, 0, 4, 0, 4, 4, 0, 4]  # 16 pixels
VALUES = (("cat", 1), ("dog", 2))


def read(*annotations, **others):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 8, "height": 6}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 92} | annotation
            for number, annotation in enumerate(annotations)
        ],
        "categories": [{"id": 92, "name": "cat"}, {"id": 5, "name": "dog"}],
    } | others
    return coco.read(PATH, json_files.parse(json.dumps(content), coco.CHECK))


def drawn(*annotations, values=VALUES, **settings):
    (drawing,) = read(*annotations).drawings
    coding = DrawnCoding(num_classes=3, ignore_label=255, values=values, unlabeled=0, **settings)
    return drawing.draw((8, 6), coding)


def test_an_object_is_the_union_of_its_polygons():
    labels = drawn({"segmentation": [SQUARE, [2, 2, 6, 2, 6, 5, 2, 5]]})
    expected = np.zeros([6, 8], np.uint8)
    expected[:4, :4] = expected[2:5, 2:6] = 1
    np.testing.assert_array_equal(labels, expected)


def test_later_objects_cover_earlier_ones():
    cat, dog = {"segmentation": [SQUARE]}, {"segmentation": [SQUARE], "category_id": 5}
    assert (drawn(cat, dog)[:4, :4] == 2).all() and (drawn(dog, cat)[:4, :4] == 1).all()
    assert (drawn(cat, dog, values=(("cat", 1), ("dog", NOT_DRAWN)))[:4, :4] == 1).all()


def test_counts_go_down_the_columns_in_both_forms():
    # 10 outside, 5 inside, 33 outside; in COCO's code 48 + 10, 48 + 5, and 33 = 1 + 1 * 32.
    for counts in ([10, 5, 33], ":5Q1"):
        labels = drawn({"segmentation": {"size": [6, 8], "counts": counts}})
        np.testing.assert_array_equal(np.flatnonzero(labels.T), range(10, 15))


def test_crowds_are_their_class_or_ignored():
    crowd = {"segmentation": {"size": [6, 8], "counts": [0, 48]}, "iscrowd": 1}
    assert (drawn(crowd) == 1).all()
    assert (drawn(crowd, ignores_crowds=True) == 255).all()
    assert (drawn({"segmentation": [SQUARE]}, ignores_crowds=True)[:4, :4] == 1).all()


def test_classes_are_in_the_order_of_their_ids():
    assert [one.name for one in read().classes] == ["dog", "cat"]


def test_objects_that_cover_nothing_are_counted():
    file = read(
        {"segmentation": []},
        {"segmentation": [[1, 1, 5, 5], SQUARE]},
        {"segmentation": [[]]},
        {"segmentation": [SQUARE], "image_id": 8},
    )
    assert [len(drawing.objects) for drawing in file.drawings] == [1]
    assert file.left_out == {
        "without a segmentation": 1,
        "polygon of fewer than 3 points": 2,
        "of an image that the file does not list": 1,
    }


@pytest.mark.parametrize("noise", [[[3, 3], [7, 7], [9, 2]], [[[3, 3]], [[7, 7]], [[9, 2]]]])
def test_contours_of_single_pixels_are_counted_next_to_polygons(noise):
    (drawing,) = (file := read({"segmentation": noise}, {"segmentation": [SQUARE]})).drawings
    assert [one.number for one in drawing.objects] == [1]
    assert file.left_out == {"polygon of fewer than 3 points": 3}
    with pytest.raises(UserError, match=r"annotations\[1\] .* of single points, where COCO has"):
        counts = {"segmentation": {"size": [6, 8], "counts": [48]}}
        read(counts, {"segmentation": noise})


def test_a_polygon_in_one_list_too_many_is_read():
    np.testing.assert_array_equal(
        drawn({"segmentation": [[SQUARE]]}), drawn({"segmentation": [SQUARE]})
    )


def test_whole_numbers_may_be_written_as_fractions_and_crowds_as_truth():
    """As pandas writes columns that have gaps, and programs whose flags are true and false."""
    image = {"id": 7.0, "file_name": "a.jpg", "width": 8.0, "height": 6.0}
    square = {"segmentation": [SQUARE], "image_id": 7.0, "category_id": 5.0, "iscrowd": False}
    counts = {"segmentation": {"size": [6.0, 8.0], "counts": [40.0, 8.0]}, "iscrowd": True}
    categories = [{"id": 92, "name": "cat"}, {"id": 5.0, "name": "dog"}]
    file = read(square, counts, images=[image], categories=categories)
    (drawing,) = file.drawings

    assert drawing.size == (8, 6) and all(type(side) is int for side in drawing.size)
    assert [one.name for one in file.classes] == ["dog", "cat"]
    assert [(one.label, one.is_crowd) for one in drawing.objects] == [("dog", False), ("cat", True)]
    assert drawing.objects[1].size == (6, 8)
    coding = DrawnCoding(num_classes=3, ignore_label=255, values=VALUES, unlabeled=0)
    expected = np.zeros([6, 8], np.uint8)
    expected[:4, :4], expected.T.flat[40:] = 2, 1
    np.testing.assert_array_equal(drawing.draw((8, 6), coding), expected)

    plain = read(
        square | {"image_id": 7, "category_id": 5, "iscrowd": 0},
        counts | {"iscrowd": 1},
        images=[image | {"id": 7, "width": 8, "height": 6}],
    )
    assert plain.drawings[0].digest == drawing.digest  # so records stay up to date


@pytest.mark.parametrize(
    "images",
    [
        [{"id": 7.5, "file_name": "a.jpg"}],
        [{"id": True, "file_name": "a.jpg"}],
        [{"id": 7, "file_name": "a.jpg", "width": 8.5, "height": 6}],
    ],
)
def test_other_fractions_are_refused(images):
    with pytest.raises(ValueError, match="must be a whole number"):
        read(images=images)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            {"segmentation": [[0, 0, 4, 0, 4]]},
            r"annotations\[0\] in c\.json has points that are no",
        ),
        ({"segmentation": [[0, 0, 4, 0, 4, None]]}, "points that are no pairs|no number from"),
        ({"segmentation": [[0, 0, 4, 0, 4, "x"]]}, "points that are no pairs"),
        ({"segmentation": [[0, 0, 4, 0, 4, 1e300]]}, "no number from -1,000,000"),
        ({"segmentation": [[0, 0], [4, 0], [4, 4]]}, "of single points, where COCO has polygons"),
        ({"segmentation": "x"}, "neither polygons nor counts"),
        ({"segmentation": {"size": [6, 8], "counts": [1, 2]}}, "not fit an image of 8x6"),
        ({"segmentation": {"size": [6, 8], "counts": [1, 50]}}, "not fit an image of 8x6"),
        ({"segmentation": {"size": [8, 6], "counts": [40, 8]}}, "not fit an image of 8x6"),
        ({"segmentation": {"size": [6, 8], "counts": [1, -2, 49]}}, "no numbers of pixels"),
        ({"segmentation": {"size": [6, 8], "counts": "X"}}, "no code of COCO's"),
        ({"segmentation": {"counts": [48]}}, "without size or counts"),
        ({"segmentation": [[[0, 0, 9], [4, 0, 9]]]}, "points that are no pairs"),
        ({"segmentation": [[[0, 0, 9, 9], [4, 0, 9, 9]]]}, "points that are no pairs"),
        ({"segmentation": [SQUARE], "category_id": 3}, "category_id 3, which no category has"),
    ],
)
def test_damaged_objects_are_named(annotation, message):
    with pytest.raises(UserError, match=message):
        drawn(annotation)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"annotations": [{"image_id": 7, "segments_info": []}]}, "panoptic .*--masks_dir"),
        ({"annotations": [{"image_id": 7, "caption": "x", "category_id": 5}]}, "no segmentation"),
        ({"images": 2 * [{"id": 1, "file_name": "a.jpg"}]}, "two images with the id 1"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "id 1 to two categories",
        ),
    ],
)
def test_other_files_of_coco_are_refused(others, message):
    with pytest.raises(UserError, match=message):
        read(**others)


def test_objects_equal_those_of_pycocotools():
    """The whole of annToMask, for the three ways to write a region."""
    random = np.random.default_rng(3)
    for _ in range(50):
        polygons = [(random.random(10) * 10 - 1).round(2).tolist() for _ in range(2)]
        code = mask.merge(mask.frPyObjects(polygons, 6, 8))
        labels = drawn({"segmentation": polygons})
        np.testing.assert_array_equal(labels, mask.decode(code))
        text = {"size": [6, 8], "counts": code["counts"].decode()}
        np.testing.assert_array_equal(drawn({"segmentation": text}), labels)

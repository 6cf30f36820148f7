"""labelme's shapes, compared with what labelme's own shapes_to_label drew (golden.py)."""

import base64
import io
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import json_files
from deeplab_tf.conversion.annotations import labelme
from deeplab_tf.conversion.annotations.drawing import NOT_DRAWN, DrawnCoding
from deeplab_tf.messages import UserError
from tests.conversion.annotations import golden

GOLDEN = json.loads(golden.PATH.read_text())
PATH = Path("a.json")


def coding(**values):
    pairs = tuple(values.items())
    return DrawnCoding(num_classes=9, ignore_label=255, values=pairs, unlabeled=0)


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(np.array(mask, np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def drawn(shapes, values=None, size=(60, 50)):
    content = {
        "shapes": shapes,
        "imagePath": "a.jpg",
        "imageWidth": size[0],
        "imageHeight": size[1],
    }
    parsed = json_files.parse(json.dumps(content), labelme.CHECK)
    drawing = labelme.read(PATH, parsed, Counter())
    assert drawing.size == size
    return drawing.draw(size, coding(**(values or {shape["label"]: 1 for shape in shapes})))


def shape(kind, points, label="a", **others):
    return {"label": label, "points": points, "shape_type": kind} | others


def test_shapes_equal_those_of_labelme():
    for shapes, text in zip(golden.shapes(), GOLDEN["shapes"], strict=True):
        given = [one | ({"mask": png(one["mask"])} if "mask" in one else {}) for one in shapes]
        values = {one["label"]: int(one["label"]) for one in shapes}
        np.testing.assert_array_equal(drawn(given, values), golden.unpack(text, 50, 60))


def test_later_shapes_cover_earlier_ones_and_holes_are_background():
    big = shape("rectangle", [[10, 10], [40, 40]], "a")
    hole = shape("rectangle", [[30, 30], [20, 20]], "_background_")
    ignored = shape("rectangle", [[22, 22], [24, 23]], "__ignore__")
    skipped = shape("rectangle", [[0, 0], [59, 49]], "other")
    values = {"a": 3, "_background_": 0, "__ignore__": 255, "other": NOT_DRAWN}
    labels = drawn([big, hole, ignored, skipped], values)
    # Rectangles of labelme hold both corners: 31 x 31, 11 x 11 and 3 x 2 pixels.
    assert np.bincount(labels.ravel())[[0, 3, 255]].tolist() == [3000 - 961 + 121 - 6, 840, 6]


def test_a_rectangle_of_four_corners_and_a_mask_that_sticks_out():
    corners = [[10, 10], [40, 10], [40, 20], [10, 20]]
    assert (drawn([shape("rectangle", corners)])[10:21, 10:41] == 1).all()
    mask = shape("mask", [[-2, -1], [3, 2]], mask=png(np.ones([4, 6])))
    assert drawn([mask]).sum() == 4 * 3 and (drawn([mask])[:3, :4] == 1).all()


def test_shapes_that_enclose_nothing_are_counted():
    left_out = Counter()
    shapes = [shape("polygon", [[1, 1], [5, 5]]), shape(None, [[1, 1], [5, 1], [5, 5]])]
    drawing = labelme.read(PATH, {"shapes": shapes}, left_out)
    assert len(drawing.shapes) == 1 and drawing.size is None
    assert left_out == {"polygon of fewer than 3 points": 1}


def test_sides_may_be_written_as_fractions():
    content = {"shapes": [], "imageWidth": 60.0, "imageHeight": 50.0}
    parsed = json_files.parse(json.dumps(content), labelme.CHECK)
    drawing = labelme.read(PATH, parsed, Counter())
    assert drawing.size == (60, 50) and all(type(side) is int for side in drawing.size)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (shape("sphere", [[1, 1]]), r"shape 1 \('a'\) in a\.json is of the kind 'sphere'"),
        (shape("circle", [[1, 1]]), "is a circle of 1 point, and needs 2"),
        (shape("linestrip", []), "is a linestrip of 0 points, and needs some"),
        (shape("polygon", [[]]), "is a polygon of 0 points, and needs some"),
        (shape("polygon", [[1, 1], [2], [3, 3]]), "points that are no pairs"),
        (
            shape("polygon", [[1, 1, 0], [5, 1, 0], [5, 5, 0], [1, 5, 0]]),
            "points that are no pairs",
        ),
        (shape("rectangle", [[6, 1], [11, 6], [6, 11], [1, 6]]), "turned; draw it again as a poly"),
        (shape("polygon", [[1, "x"], [2, 2], [3, 3]]), "points that are no pairs"),
        (shape("polygon", [[1, 1e7], [2, 2], [3, 3]]), "no number from -1,000,000 to 1,000,000"),
        (shape("polygon", [[1, math.inf], [2, 2], [3, 3]]), "no number from"),
        (shape("mask", [[1, 1], [2, 2]]), "is a mask without a picture"),
        (shape("mask", [[1, 1], [2, 2]], mask="AAAA"), "has a mask that cannot be decoded"),
        (shape("mask", [[1, 1], [2, 2]], mask="A"), "not in base 64"),
        (shape("mask", [[1, 1], [3, 3]], mask=png([[1, 1]])), "2x1 pixels .* are 3x3 apart"),
    ],
)
def test_damaged_shapes_are_named(one, message):
    with pytest.raises(UserError, match=message):
        labelme.read(PATH, {"shapes": [one]}, Counter()).draw((9, 9), coding(a=1))


def test_the_digest_follows_what_is_drawn():
    def digest(*shapes, width=9):
        content = {"shapes": list(shapes), "imageWidth": width, "imageHeight": 9}
        return labelme.read(PATH, content, Counter()).digest

    one, other = shape("line", [[1, 1], [2, 2]]), shape("line", [[1, 1], [2, 2.5]])
    assert digest(one) == digest(one | {"flags": {}})
    different = {digest(one), digest(other), digest(one, other), digest(one, width=8)}
    assert len(different) == 4

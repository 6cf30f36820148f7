"""Supervisely's objects, drawn as its SDK does: with OpenCV's fillPoly, and NumPy for bitmaps."""

import base64
import io
import json
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_tf import json_files
from deeplab_tf.conversion.annotations import supervisely
from deeplab_tf.conversion.annotations.drawing import NOT_DRAWN, DrawnCoding
from deeplab_tf.conversion.annotations.filling import filled
from deeplab_tf.messages import UserError

PATH = Path("ann/a.jpg.json")
# The SDK's own example (Bitmap.to_json); it says that this is a ring of 3x3 pixels.
RING = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44"
    "sKHhISMDuxpTYrr03F6gDIOnq5/LOqeEJgDM5ht6"
)


def each(kind, label="a", **others):
    return {"classTitle": label, "geometryType": kind, "tags": []} | others


def polygon(exterior, *interior, label="a", kind="polygon"):
    return each(kind, label, points={"exterior": exterior, "interior": list(interior)})


def bitmap(data, origin=(0, 0), label="a"):
    return each("bitmap", label, bitmap={"data": data, "origin": list(origin)})


def packed(picture, **settings):
    stream = io.BytesIO()
    picture.save(stream, "PNG", **settings)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def parsed(objects, size=(12, 10)):
    content = {"size": {"width": size[0], "height": size[1]}, "objects": objects, "tags": []}
    left_out = Counter()
    checked = json_files.parse(json.dumps(content), supervisely.CHECK)
    return supervisely.read(PATH, checked, left_out), left_out


def drawn(objects, values=None, size=(12, 10)):
    drawing, _ = parsed(objects, size)
    assert drawing.size == size and drawing.image_name == "a.jpg"
    values = values or {one["classTitle"]: 1 for one in objects}
    coding = DrawnCoding(num_classes=9, ignore_label=255, values=tuple(values.items()), unlabeled=0)
    return drawing.draw(size, coding)


def test_filling_equals_opencv():
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = rng.integers(5, 90, 2).tolist()
        contours = [
            np.stack([rng.integers(0, width, count), rng.integers(0, height, count)], axis=1)
            for count in rng.integers(1, 12, rng.integers(1, 4))
        ]
        expected = np.zeros([height, width], np.uint8)
        cv2.fillPoly(expected, [contour.astype(np.int32) for contour in contours], 1)
        np.testing.assert_array_equal(filled((width, height), contours), expected.astype(bool))


def test_polygons_that_leave_the_image_are_those_of_a_larger_one():
    """OpenCV on the image itself moves the edges that it cuts."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        width, height = rng.integers(20, 90, 2).tolist()
        corners = np.stack([rng.integers(-20, side + 20, 6) for side in (width, height)], axis=1)
        larger = np.zeros([height + 60, width + 60], np.uint8)
        cv2.fillPoly(larger, [(corners + 30).astype(np.int32)], 1)
        expected = larger[30:-30, 30:-30].astype(bool)
        np.testing.assert_array_equal(filled((width, height), [corners]), expected)


def test_what_lies_outside_of_the_image_is_cut_off():
    square = np.array([[-(10**6), -(10**6)], [10**6, -(10**6)], [10**6, 3], [-(10**6), 3]])
    expected = np.zeros([10, 12], bool)
    expected[:4] = True
    np.testing.assert_array_equal(filled((12, 10), [square]), expected)
    assert not filled((12, 10), [square - 10**7]).any()


def test_polygons_equal_those_of_the_sdk():
    """Fractions are cut off; the line of a hole belongs to the hole."""
    outline, hole = [[1.9, 1.2], [10.7, 2], [9, 8.99], [2, 7]], [[4, 3], [7.5, 3], [6, 6]]
    expected = np.zeros([10, 12], np.uint8)
    cv2.fillPoly(expected, [np.array(outline).astype(np.int32)], 1)
    cv2.fillPoly(expected, [np.array(hole).astype(np.int32)], 0)
    np.testing.assert_array_equal(drawn([polygon(outline, hole)]), expected)
    assert expected[3, 4] == 0 and expected[4, 3] == 1


def test_the_bitmap_of_the_documentation_is_a_ring():
    expected = np.zeros([10, 12], np.uint8)
    expected[2:5, 7:10] = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(drawn([bitmap(RING, (7, 2))]), expected)


@pytest.mark.parametrize("kind", ["palette", "RGBA", "LA", "L", "1", "unpacked"])
def test_bitmaps_of_all_kinds(kind):
    inside = np.array([[0, 1], [1, 1], [0, 1]], bool)
    palette = Image.fromarray(inside.astype(np.uint8))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    black = Image.new("RGBA", (2, 3))
    black.putalpha(Image.fromarray(inside.astype(np.uint8) * 255))
    data = {
        "palette": packed(palette, transparency=0, optimize=0),  # as Bitmap.data_2_base64 does
        "RGBA": packed(black),
        "LA": packed(black.convert("LA")),
        "L": packed(Image.fromarray(inside.astype(np.uint8) * 255)),
        "1": packed(Image.fromarray(inside)),
        "unpacked": base64.b64encode(zlib.decompress(base64.b64decode(packed(black)))).decode(),
    }[kind]
    expected = np.zeros([10, 12], np.uint8)
    expected[4:7, 1:3] = inside
    np.testing.assert_array_equal(drawn([bitmap(data, (1, 4))]), expected)


@pytest.mark.parametrize(
    ("origin", "rows", "columns"),
    [((-1, -2), (0, 1), (0, 2)), ((10, 8), (8, 10), (10, 12)), ((12, 0), (0, 0), (0, 0))],
)
def test_a_bitmap_is_cut_at_the_border(origin, rows, columns):
    full = packed(Image.fromarray(np.full([3, 3], 255, np.uint8)))
    expected = np.zeros([10, 12], np.uint8)
    expected[slice(*rows), slice(*columns)] = 1
    np.testing.assert_array_equal(drawn([bitmap(full, origin)]), expected)


def test_rectangles_hold_both_corners():
    """By hand: columns 2 to 5 and rows 1 to 3; corners are rounded, 4.5 to the even 4."""
    expected = np.zeros([10, 12], np.uint8)
    expected[1:4, 2:6] = 1
    shown = drawn([polygon([[5.2, 3.4], [1.6, 0.8]], kind="rectangle")])
    np.testing.assert_array_equal(shown, expected)
    assert drawn([polygon([[4.5, 0], [4.5, 0]], kind="rectangle")])[0].tolist().index(1) == 4
    assert not drawn([polygon([[-9, -9], [-3, -3]], kind="rectangle")]).any()


def test_later_objects_cover_earlier_ones():
    corners = [[0, 0], [11, 0], [11, 9], [0, 9]]
    objects = [polygon(corners, label="a"), bitmap(RING, (0, 0), "b"), polygon(corners, label="c")]
    values = {"a": 1, "b": 2, "c": NOT_DRAWN}
    assert np.bincount(drawn(objects, values).ravel()).tolist() == [0, 112, 8]


def test_what_covers_no_region_is_counted():
    objects = [
        each("point", points={"exterior": [[1, 1]], "interior": []}),
        polygon([[0, 0], [5, 5]], kind="line"),
        # As the SDK's Cuboid.to_json writes it.
        each("cuboid", points=[[1, 1], [5, 1], [5, 5]], faces=[[0, 1, 2, 0]]),
        polygon([[0, 0], [5, 5]]),
        {"classTitle": "b", "shape": "polygon", "points": {"exterior": [[0, 0], [5, 5], [5, 0]]}},
    ]
    drawing, left_out = parsed(objects)
    assert left_out == {"point": 1, "line": 1, "cuboid": 1, "polygon of fewer than 3 points": 1}
    assert drawing.labels() == {"b": 1}


WHERE = r"The object 1 \('a'\) in ann/a.jpg.json "


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (
            each("alpha_mask"),
            "is of the kind 'alpha_mask'; the kinds that are read are bitmap, polygon",
        ),
        ({"classTitle": "a", "points": {"exterior": []}}, "has no geometryType; export"),
        (each("bitmap"), "is a bitmap without a picture"),
        (each("polygon"), "is a polygon without points"),
        (polygon([["x", 2], [1, 2], [1, 3]]), "has points that are no pairs of numbers"),
        (polygon([[0, 0], [0, 1], [1e7, 0]]), "has a coordinate that is no number from"),
        (polygon([[0, 0]], kind="rectangle"), "is a rectangle of 1 corners, not 2"),
        (bitmap("eJz"), "has a bitmap that is not in base 64, or cannot be unpacked"),
        (bitmap(RING[:60]), "has a bitmap that cannot be decoded"),
        (bitmap(packed(Image.new("RGB", (2, 2)))), r"has a bitmap without transparency \(mode RGB"),
    ],
)
def test_damaged_objects_are_named(one, message):
    with pytest.raises(UserError, match=WHERE + message):
        drawn([one])


def test_points_are_pairs():
    with pytest.raises(ValueError, match=r"objects\[0\].points.exterior\[0\] is a list of 3"):
        parsed([polygon([[1, 2, 3], [4, 5, 6]])])


def test_the_classes_of_a_project_are_found(tmp_path):
    folder = tmp_path / "project/ds/ann"
    folder.mkdir(parents=True)
    assert supervisely.classes_of(folder) is None
    classes = [{"title": "cat", "color": "#FF0a00", "shape": "any"}, {"title": "dog"}]
    (tmp_path / "project/meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    for place in ("", "ds", "ds/ann", "ds/ann/a.jpg.json"):
        meta, found = supervisely.classes_of(tmp_path / "project" / place)
        assert meta == (tmp_path / "project/meta.json").resolve()
        assert [(one.name, one.color) for one in found] == [
            ("cat", (255, 10, 0)),
            ("dog", (0,) * 3),
        ]
    (tmp_path / "project/meta.json").write_text("{}")
    with pytest.raises(
        UserError, match="The list of classes .*meta.json is damaged .classes is miss"
    ):
        supervisely.classes_of(folder)

"""CVAT's XML for images: what is drawn, in which order, and what is refused."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.conversion.annotations import columns, cvat
from deeplab_tf.conversion.annotations.drawing import DrawnCoding
from deeplab_tf.messages import UserError

PATH = Path("annotations.xml")
META = """<meta><task><labels>
<label><name>road</name><color>#ff0080</color><type>any</type>
<attributes><attribute><name>wet</name><values>yes</values></attribute></attributes></label>
<label><name>car</name><color>#00ff00</color></label>
<label><name>wheel</name><type>points</type><parent>car</parent></label>
</labels></task></meta>"""


def xml(shapes, image='<image id="0" name="a.jpg" width="12" height="10">'):
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{META}'
        f"{image}{shapes}</image></annotations>\n"
    )


def drawn(shapes):
    (drawing,) = cvat.read(PATH, xml(shapes)).drawings
    values = (("car", 2), ("road", 1))
    coding = DrawnCoding(num_classes=3, ignore_label=255, values=values, unlabeled=0)
    return drawing.draw((12, 10), coding)


def box(label="road", z=0, left=2, rotation=""):
    turned = f' rotation="{rotation}"' if rotation else ""
    return (
        f'<box label="{label}" occluded="0" xtl="{left}.00" ytl="1.00" xbr="6.00" ybr="4.00" '
        f'z_order="{z}"{turned}></box>'
    )


def test_labels_are_those_of_meta_in_their_colours():
    classes = cvat.read(PATH, xml("")).classes
    assert [one.name for one in classes] == ["road", "car"]
    assert [one.color for one in classes] == [(255, 0, 128), (0, 255, 0)]


def test_z_order_comes_before_the_order_of_the_file():
    expected = np.zeros([10, 12], np.uint8)
    expected[1:4, 2:6] = 1
    np.testing.assert_array_equal(drawn(box()), expected)
    assert (drawn(box("car", z=1) + box("road", z=0))[1:4, 2:6] == 2).all()
    assert (drawn(box("car", z=1) + box("road", z=1))[1:4, 2:6] == 1).all()


def test_a_polygon_is_drawn_as_cocos():
    labels = drawn('<polygon label="car" points="1.50,0.20;9.70,3.00;4.00,8.80" z_order="0"/>')
    expected = np.zeros([10, 12], np.uint8, order="F")
    columns.fill_polygon(expected, np.array([[1.5, 0.2], [9.7, 3], [4, 8.8]]), 2, "")
    np.testing.assert_array_equal(labels, expected)


def test_a_box_turns_around_its_middle():
    """A box 4 wide and 3 high at (4, 2.5), turned by 90 degrees: from (2.5, 0.5) to (5.5, 4.5).

    By the arithmetic of pycocotools, in fifths: columns 3 to 5, rows 1 to 4.
    """
    expected = np.zeros([10, 12], np.uint8)
    expected[1:5, 3:6] = 1
    np.testing.assert_array_equal(drawn(box(rotation=90)), expected)


def test_a_mask_runs_along_its_rows_and_is_cut_off():
    """3 wide, 2 high: outside 1, inside 3, outside 2, so the pixels 1, 2 and 3."""
    mask = '<mask label="road" rle="1, 3, 2" left="{}" top="4" width="3" height="2" z_order="0"/>'
    expected = np.zeros([10, 12], np.uint8)
    expected[4, 6:8] = expected[5, 5] = 1
    np.testing.assert_array_equal(drawn(mask.format(5)), expected)
    assert drawn(mask.format(-2)).sum() == 1 and drawn(mask.format(-2))[4, 0] == 1
    assert not drawn(mask.format(-20)).any() and not drawn(mask.format(20)).any()


def test_a_mask_much_larger_than_the_image_takes_no_memory_of_its_size():
    """178 million pixels, all of them outside the first row's last 999,990 inside the mask."""
    tracemalloc.start()
    mask = '<mask label="road" rle="4,177999996" left="{}" top="{}" width="1000000" height="178"/>'
    labels = drawn(mask.format(0, 0))
    assert not labels[0, :4].any() and (labels[0, 4:] == 1).all() and (labels[1:] == 1).all()
    assert (drawn(mask.format(-999_998, -177))[0] == [1, 1, *[0] * 10]).all()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50e6


def test_an_ellipse_is_as_wide_as_its_radii():
    labels = drawn('<ellipse label="car" cx="5.2" cy="4.9" rx="3.1" ry="2" z_order="0"/>')
    rows, cols = np.nonzero(labels == 2)
    assert (cols.min(), cols.max(), rows.min(), rows.max()) == (2, 8, 3, 7)


def test_what_cvat_does_not_export_is_counted():
    others = (
        '<polyline label="road" points="1,1;5,5"/><points label="car" points="1,1"/>'
        '<tag label="car"></tag><skeleton label="car"><points label="wheel" points="1,1"/>'
        '</skeleton><polygon label="car" points="1,1;5,5" z_order="0"/>'
    )
    file = cvat.read(PATH, xml(others))
    assert not file.drawings[0].shapes
    assert file.left_out == {
        "polyline": 1, "points": 1, "tag": 1, "skeleton": 1, "polygon of fewer than 3 points": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image", "is not XML"),
        (
            '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>&b;</annotations>',
            "has a DOCTYPE, which no file of CVAT has",
        ),
        ("<annotation><object/></annotation>", "is not CVAT's: it starts with <annotation>"),
        ('<annotations><track id="0"><box/></track></annotations>', "CVAT for video"),
        (xml(box().replace('"2.00"', '"nan"')), r"box of 'road' in the image 'a\.jpg' .*xtl='nan'"),
        (xml(box().replace('"2.00"', '"1e9"')), "xtl='1e9', which is no place"),
        (xml(box().replace('z_order="0"', 'z_order="x"')), "z_order='x', which is no whole"),
        (xml('<polygon label="car" points="1;2,3;4,5"/>'), "no pairs of numbers"),
        (xml('<polygon label="car" points="1,x;2,3;4,5"/>'), "no pairs of numbers"),
        (xml('<sphere label="car"/>'), "sphere of 'car' .* not one of the shapes"),
        (xml('<mask label="car" rle="1,2" left="0" top="0" width="2" height="2"/>'), "not of 2x2"),
        (
            xml('<mask label="car" rle="a" left="0" top="0" width="2" height="2"/>'),
            "something else",
        ),
        (xml('<mask label="car" rle="4" left="0" top="0" width="-2" height="2"/>'), "width='-2'"),
        (xml("", '<image id="0" name="a.jpg" width="12">'), "height='', which is no whole"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        cvat.read(PATH, text)

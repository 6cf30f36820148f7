"""What is checked for the files of all tools alike: where their shapes lie."""

import json

import pytest

from deeplab_tf.conversion.annotations import reading
from deeplab_tf.messages import UserError


def coco(points):
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    region = [[number for point in points for number in point]]
    annotation = {"image_id": 1, "category_id": 2, "segmentation": region}
    categories = [{"id": 2, "name": "car"}]
    return json.dumps({"images": [image], "annotations": [annotation], "categories": categories})


def labelme(points):
    shape = {"label": "car", "points": points, "shape_type": "polygon"}
    return json.dumps(
        {"shapes": [shape], "imagePath": "a.jpg", "imageWidth": 40, "imageHeight": 30}
    )


def cvat(points):
    pairs = ";".join(f"{x},{y}" for x, y in points)
    return (
        "<annotations><image id='0' name='a.jpg' width='40' height='30'>"
        f"<polygon label='car' points='{pairs}' z_order='0'/></image></annotations>"
    )


@pytest.mark.parametrize("write", [coco, labelme, cvat])
def test_shapes_that_cannot_cover_a_pixel_are_refused_or_told(tmp_path, write):
    def read(*points):
        path = tmp_path / ("a.xml" if write is cvat else "a.json")
        path.write_text(write(points))
        (file,) = reading.read(path)
        return dict(file.left_out)

    with pytest.raises(UserError, match="only coordinates from 0 to 1, .*; export them in pixels"):
        read((0.1, 0.2), (0.9, 0.2), (0.9, 0.7))
    assert read((41, 2), (50, 2), (50, 9)) == {"outside its image": 1}
    assert read((2, -9), (5, -9), (5, -1)) == {"outside its image": 1}
    assert read((-5, -5), (60, -5), (60, 50)) == {}  # around the whole image
    assert read((0, 0), (1, 0), (1.5, 1)) == {}


def test_a_coco_file_may_have_a_key_objects(tmp_path):
    content = json.loads(coco([(1, 2), (30, 2), (30, 20)]))
    (tmp_path / "a.json").write_text(json.dumps(content | {"objects": [1]}))
    (file,) = reading.read(tmp_path / "a.json")
    assert file.tool == "COCO" and len(file.drawings) == 1


SHARES = [[0, 0], [1, 0], [1, 1]]
BOX = [[0, 0], [1, 1]]


def coco_of(*segmentations):
    content = json.loads(coco(SHARES))
    (annotation,) = content["annotations"]
    regions = [annotation | {"segmentation": one} for one in segmentations]
    return json.dumps(content | {"annotations": regions})


def labelme_of(*shapes):
    content = json.loads(labelme(SHARES))
    kinds = [{"label": "car", "shape_type": kind, "points": points} for kind, points in shapes]
    return json.dumps(content | {"shapes": kinds})


def cvat_of(*shapes):
    inside = "".join(f"<{one} label='car' z_order='0'/>" for one in shapes)
    return (
        f"<annotations><image id='0' name='a' width='40' height='30'>{inside}</image></annotations>"
    )


def supervisely_of(*objects):
    size = {"height": 30, "width": 40}
    return json.dumps({"size": size, "objects": [{"classTitle": "car"} | one for one in objects]})


RUNS = {"size": [30, 40], "counts": [1200]}
CVAT_BOX = "box xtl='0' ytl='0' xbr='1' ybr='1'"
POLYGON = {"geometryType": "polygon", "points": {"exterior": SHARES}}
BITMAP = {"geometryType": "bitmap", "bitmap": {"data": "", "origin": [0, 0]}}


@pytest.mark.parametrize(
    "text",
    [
        coco_of(*5 * [RUNS], [[0, 0, 1, 0, 1, 1, 0, 1]]),
        cvat_of("ellipse cx='20' cy='10' rx='1' ry='1'", CVAT_BOX),
        cvat_of("mask left='0' top='0' width='1' height='1' rle='0,1'", CVAT_BOX),
        labelme_of(("circle", [[20, 10], [25, 10]]), ("rectangle", BOX)),
        labelme_of(("rectangle", BOX), ("line", [[0, 0], [9, 9]])),
        supervisely_of(POLYGON, BITMAP),
    ],
)
def test_small_shapes_are_read_next_to_others_in_pixels(tmp_path, text):
    (tmp_path / "a").write_text(text)
    (file,) = reading.read(tmp_path / "a")
    assert not file.left_out and file.drawings[0].polygons()


@pytest.mark.parametrize(
    "text",
    [
        cvat_of("ellipse cx='0.5' cy='0.5' rx='0.1' ry='0.2'"),
        labelme_of(("circle", [[0.5, 0.5], [0.6, 0.6]])),
        labelme_of(("rectangle", BOX), ("linestrip", [[0.1, 0.1], [0.9, 0.2]])),
        supervisely_of(POLYGON),
    ],
)
def test_shapes_of_all_kinds_may_be_shares(tmp_path, text):
    (tmp_path / "a").write_text(text)
    with pytest.raises(UserError, match="only coordinates from 0 to 1"):
        reading.read(tmp_path / "a")


def test_polygons_of_supervisely_outside_their_image_are_counted(tmp_path):
    far = {"geometryType": "rectangle", "points": {"exterior": [[50, 2], [60, 9]]}}
    (tmp_path / "a.jpg.json").write_text(supervisely_of(far, BITMAP))
    (file,) = reading.read(tmp_path / "a.jpg.json")
    assert file.left_out == {"outside its image": 1}


def test_files_without_shapes_are_read(tmp_path):
    (tmp_path / "a").write_text(labelme_of())
    (file,) = reading.read(tmp_path / "a")
    assert not file.left_out

"""Makes golden.json: what the tools themselves draw.

    python -m tests.conversion.annotations.golden

Needs pycocotools, labelme (6.3.1 was used, with Pillow 13) and OpenCV; the tests need none of them.
Regions are stored as COCO's compressed run lengths, label arrays as the bytes of a zlib stream in
base 64. In labelme's pictures, shape number i has the value i + 1.
"""

import base64
import json
import zlib
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("golden.json")


def polygons():
    """Yields height, width and points of 54 polygons: crossing, outside, on half pixels, tiny."""
    random = np.random.default_rng(2026)
    for number in range(54):
        height, width = random.integers(1, 60, 2).tolist()
        points = (random.random((int(random.integers(3, 10)), 2)) * 1.4 - 0.2) * [width, height]
        decimals = (0, 1, 2)[number % 3]
        points = np.round(2 * points, 0) / 2 if number % 4 == 3 else np.round(points, decimals)
        if number % 5 == 0:
            points = np.repeat(points, 2, axis=0)  # corners that are given twice
        yield height, width, points.tolist()


def ellipses():
    """Yields height, width, centre, radii and rotation of 40 ellipses, some partly outside."""
    random = np.random.default_rng(7)
    for number in range(40):
        height, width = random.integers(8, 70, 2).tolist()
        center = np.round((random.random(2) * 1.2 - 0.1) * [width, height], 2).tolist()
        radii = np.round(random.random(2) * (4, 12, 18, 60)[number % 4], 2).tolist()
        rotation = (0.0, round(float(random.random() * 360), 2))[number % 2]
        yield height, width, center, radii, rotation


def shapes():
    """Yields 12 lists of labelme's shapes in pictures of 60 by 50 pixels."""
    random = np.random.default_rng(11)
    counts = {"polygon": 5, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 4, "point": 1}
    kinds = [*counts, "oriented_rectangle", "mask"]
    for number in range(12):
        drawn = []
        for kind in random.permutation(kinds)[:5].tolist():
            num_points = 4 if kind == "oriented_rectangle" else counts.get(kind, 2)
            points = np.round((random.random((num_points, 2)) * 1.3 - 0.15) * [60, 50], number % 4)
            shape = {"label": f"{len(drawn) + 1}", "points": points.tolist(), "shape_type": kind}
            if kind == "mask":
                left, top = random.integers(0, [40, 30]).tolist()
                shape["mask"] = (random.random((12, 15)) < 0.6).astype(int).tolist()
                shape["points"] = [[left + 0.4, top], [left + 14.9, top + 11]]
            drawn.append(shape)
        yield drawn


def pack(labels: np.ndarray) -> str:
    """Returns a label array, uint8, as text."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(labels), 9)).decode()


def unpack(text: str, height: int, width: int) -> np.ndarray:
    """Returns the label array that `pack` made a text of."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return flat.reshape(height, width)


def _draw_polygon(height, width, points):
    from pycocotools import mask  # only to make the file again

    return mask.frPyObjects([np.ravel(points).tolist()], height, width)[0]["counts"].decode()


def _draw_ellipse(height, width, center, radii, rotation):
    import cv2  # only to make the file again

    drawn = np.zeros([height, width], np.uint8)
    center, radii = tuple(map(round, center)), tuple(map(round, radii))
    return pack(cv2.ellipse(drawn, center, radii, rotation, 0, 360, 1, thickness=-1))


def _draw_shapes(drawn):
    from labelme.utils.shape import shapes_to_label  # only to make the file again

    given = [
        shape | ({"mask": np.array(shape["mask"], bool)} if "mask" in shape else {})
        for shape in drawn
    ]
    values = {shape["label"]: int(shape["label"]) for shape in drawn}
    return pack(shapes_to_label((50, 60), given, values)[0].astype(np.uint8))


def main():
    golden = {
        "polygons": [_draw_polygon(*one) for one in polygons()],
        "ellipses": [_draw_ellipse(*one) for one in ellipses()],
        "shapes": [_draw_shapes(one) for one in shapes()],
    }
    PATH.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()

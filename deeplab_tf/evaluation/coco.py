"""Predictions as COCO's JSON, with run-length encoded regions, which are exact.

The format is COCO-Stuff's: one annotation for each class in an image. It is
described at https://cocodataset.org/#format-data, and the encoding in cocoapi's `maskApi.c`.
"""

import json
from collections.abc import Sequence

import numpy as np


class CocoFile:
    """Collects images and their regions.

    Args:
      class_names: of all classes. The id of a category is its class's number plus 1, since COCO's
        ids begin with 1.
    """

    def __init__(self, class_names: Sequence[str]):
        self._categories = [
            {"id": index, "name": name, "supercategory": ""}
            for index, name in enumerate(class_names, 1)
        ]
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add(self, file_name: str, labels: np.ndarray) -> None:
        """Adds an image and its prediction, class numbers [H, W]."""
        height, width = labels.shape
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": file_name, "height": height, "width": width})
        for index in np.unique(labels).tolist():
            mask = labels == index
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": index + 1,
                    "segmentation": {"size": [height, width], "counts": compressed(runs(mask))},
                    "area": int(np.count_nonzero(mask)),
                    "bbox": _box(mask),
                    "iscrowd": 0,
                }
            )

    def text(self) -> str:
        """Returns the content of the file."""
        return json.dumps(
            {
                "images": self._images,
                "categories": self._categories,
                "annotations": self._annotations,
            }
        )


def runs(mask: np.ndarray) -> list[int]:
    """Returns the lengths of the runs of a mask, bool [H, W], down one column after the other.

    The first one is of pixels outside the mask, and may be 0.
    """
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(changes, prepend=0, append=mask.size).tolist()


def compressed(counts: Sequence[int]) -> str:
    """Returns run lengths as COCO's text.

    From the fourth on, the difference from the number two places before is stored. Each number is
    cut into groups of 5 bits, the lowest first, as two's complement; a sixth bit says that more
    follow.
    """
    text = []
    for number, count in enumerate(counts):
        rest = count - counts[number - 2] if number > 2 else count
        while True:
            group, rest = rest & 31, rest >> 5
            # The highest bit of the last group is the sign.
            is_last = rest == (-1 if group & 16 else 0)
            text.append(chr(48 + (group if is_last else group | 32)))
            if is_last:
                break
    return "".join(text)


def _box(mask: np.ndarray) -> list[int]:
    """Returns left, top, width and height of a mask's bounding box, in pixels."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (0, 1))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]

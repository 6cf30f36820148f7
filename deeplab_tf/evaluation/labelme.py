"""Predictions as labelme's JSON files, to be corrected there."""

import json
from collections.abc import Sequence

import numpy as np

from deeplab_tf.evaluation import polygons

_VERSION = "5.5.0"  # of labelme, whose format this is; later ones read it too


def content(labels: np.ndarray, class_names: Sequence[str], image_path: str) -> str:
    """Returns the text of the JSON file of an image.

    Args:
      labels: class numbers, [H, W].
      image_path: from the JSON file's folder to the image, with slashes.
    """
    shapes: list[dict] = [
        {
            "label": class_names[region.class_number],
            "points": [[round(x, 2), round(y, 2)] for x, y in region.corners],
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for region in polygons.regions(labels)
    ]
    height, width = labels.shape
    return json.dumps(
        {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
    )

"""Maps of Cityscapes' label ids by a rule, and how cityscapesscripts scored them.

    pip install cityscapesscripts==2.3.0
    python tests/golden/cityscapes.py tests/golden/cityscapes_scores.json

writes the maps as PNGs, evaluates them with csEvalPixelLevelSemanticLabeling's own functions and
stores its numbers. numpy and Pillow are the rule's only dependencies.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES = 3
# Every id that a mask may hold, with those that are not scored; 31, the train, is nowhere.
_IDS = np.array([*range(31), 32, 33])
# The ids that are scored, as a network predicts them; 28, the bus, is only labelled, and 16, a
# bridge, which is not scored, is never predicted.
_SCORED = np.array([7, 8, 11, 12, 13, 17, *range(19, 28), 32, 33])


def maps(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label and the prediction of an image, label ids, uint8 [64, 128]."""
    y, x = np.mgrid[:64, :128]
    block = (y // 8) * 17 + (x // 8) * 5 + (y // 8) * (x // 8) * 3 + number * 7
    label = _IDS[block % len(_IDS)]
    other = _SCORED[(block // 2 + y // 3 + number) % len(_SCORED)]
    is_right = ((x * 7 + y * 13 + block) % 10 < 7) & np.isin(label, _SCORED)
    return label.astype(np.uint8), np.where(is_right, label, other).astype(np.uint8)


def _evaluate(folder: Path) -> dict:
    """Returns what cityscapesscripts says about the maps: IoU of each class, and their mean."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as program
    from PIL import Image

    listed: tuple[list[str], list[str]] = ([], [])
    for number in range(IMAGES):
        for kind, classes, names in zip(("label", "prediction"), maps(number), listed, strict=True):
            path = folder / f"town_{number:06d}_000000_{kind}.png"
            Image.fromarray(classes).save(path)
            names.append(str(path))
    program.args.evalInstLevelScore = program.args.JSONOutput = False
    program.args.quiet = True
    result = program.evaluateImgLists(listed[1], listed[0], program.args)
    scored = {k: v for k, v in result["classScores"].items() if program.name2label[k].trainId < 19}
    return {
        "classes": {name: None if np.isnan(iou) else iou for name, iou in scored.items()},
        "average": result["averageScoreClasses"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        content = _evaluate(Path(temporary))
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n")

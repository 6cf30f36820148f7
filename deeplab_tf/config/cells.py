"""Dense prediction cells (Chen et al. 2018, arXiv:1809.04184), in the official package's JSON.

The JSON is a list of branches. Each is {"op": "conv", "kernel": 1 or 3, "rate": [height, width],
"input": number} or {"op": "pyramid_pooling", "grid_size": [rows, columns], "input": number}, where
the input is an earlier branch, counted from 0, or the backbone's features at -1 (official
core/dense_prediction_cell.py).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened

# The cell that official DeepLab has as a file (core/), which its command lines name: the best one
# for Cityscapes.
PUBLISHED = "dense_prediction_cell_branch5_top1_cityscapes.json"
_PUBLISHED_CELL = json.dumps(
    [
        {"op": "conv", "kernel": 3, "rate": rate, "input": source}
        for rate, source in (([1, 6], -1), ([18, 15], 0), ([6, 3], 1), ([1, 1], 0), ([6, 21], 0))
    ]
)
_MOST_BRANCHES = 64
_MOST_RATE = 4096  # as ASPP's rates


@dataclass(frozen=True)
class Branch:
    """One branch of a cell.

    Attributes:
      input: number of the branch that it takes; -1 for the backbone's features.
      kernel: 1 or 3 for a convolution, 0 for pyramid pooling.
      rate: dilation of the 3x3 convolution, down and across, at output stride 16.
      grid: for pyramid pooling: number of windows, down and across, that fill the image.
    """

    input: int
    kernel: int = 0
    rate: tuple[int, int] = (1, 1)
    grid: tuple[int, int] = (1, 1)


def canonical(text: str) -> str:
    """Returns a cell's JSON in one line.

    Args:
      text: the JSON itself, or the path of a file with it. A path that ends in the name of the
        published cell stands for that cell even if there is no such file.
    Raises:
      UserError: if there is no such file, or it does not describe a cell.
    """
    content, origin = text, "the text"
    if not text.lstrip().startswith("["):
        origin, path = files.shown(text), Path(os.path.expanduser(text))
        if path.name == PUBLISHED and not path.exists():
            return _PUBLISHED_CELL
        content = files.read_text(path, "The dense prediction cell")

    try:
        cell = json.loads(content)
        return json.dumps([_checked(branch, index) for index, branch in enumerate(_list(cell))])
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--dense_prediction_cell_json: {origin} is not the JSON of a dense prediction cell: "
            f"{shortened(str(error))}."
        ) from None


def branches(text: str) -> list[Branch]:
    """Returns the branches of a cell, given by its canonical JSON."""
    return [
        Branch(
            branch["input"],
            branch.get("kernel", 0),
            tuple(branch.get("rate", (1, 1))),
            tuple(branch.get("grid_size", (1, 1))),
        )
        for branch in json.loads(text)
    ]


def _list(cell: Any) -> list:
    if not isinstance(cell, list) or not 1 <= len(cell) <= _MOST_BRANCHES:
        raise ValueError(f"it must be a list of 1 to {_MOST_BRANCHES} branches")
    return cell


def _checked(branch: Any, index: int) -> dict[str, Any]:
    """Returns what a branch must say; raises ValueError if it does not."""

    def require(is_right: bool, what: str) -> None:
        if not is_right:
            raise ValueError(f"branch {index} must have {what}")

    def pair(name: str) -> list[int]:
        value = branch.get(name)
        is_pair = isinstance(value, list) and len(value) == 2
        is_right = is_pair and all(_is_whole(part, 1, _MOST_RATE) for part in value)
        require(is_right, f"{name}: two whole numbers of at least 1")
        return value

    require(isinstance(branch, dict), "op, input and more")
    require(branch.get("op") in ("conv", "pyramid_pooling"), "op: conv or pyramid_pooling")
    source = branch.get("input")
    require(_is_whole(source, -1, index - 1), f"input: a number from -1 to {index - 1}")
    if branch["op"] == "pyramid_pooling":
        return {"op": branch["op"], "grid_size": pair("grid_size"), "input": source}

    kernels = {1: 1, 3: 3, (1, 1): 1, (3, 3): 3}
    kernel = branch.get("kernel")
    kernel = kernels.get(tuple(kernel) if isinstance(kernel, list) else kernel)
    require(kernel is not None, "kernel: 1 or 3")
    if kernel == 1:
        return {"op": "conv", "kernel": 1, "input": source}
    return {"op": "conv", "kernel": 3, "rate": pair("rate"), "input": source}


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

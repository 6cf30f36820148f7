"""The table of scores in a few lines, for a log that shows it many times."""

import textwrap
from collections.abc import Sequence

import numpy as np

_MOST_CLASSES = 24  # that are all shown; of more, only the ends are


def short_table(iou: np.ndarray, class_names: Sequence[str], *, width: int) -> str:
    """Returns the IoU of each class in percent, several in a line, indented by two spaces.

    With more than 24 classes, only the 8 lowest and the 8 highest are shown. Classes without a
    score, which occur neither in labels nor in predictions, are left out.

    Args:
      iou: float [classes], 0..1 or NaN.
      width: the most letters in a line.
    """
    scored = [number for number in range(len(iou)) if not np.isnan(iou[number])]
    if len(scored) <= _MOST_CLASSES:
        return _line("IoU %", scored, iou, class_names, width)

    ascending = sorted(scored, key=lambda number: iou[number])
    third = _MOST_CLASSES // 3
    return "\n".join(
        [
            _line(f"IoU %, the {third} lowest", ascending[:third], iou, class_names, width),
            _line(f"IoU %, the {third} highest", ascending[-third:], iou, class_names, width),
        ]
    )


def _line(
    title: str, numbers: Sequence[int], iou: np.ndarray, class_names: Sequence[str], width: int
) -> str:
    # Spaces within a name or before its score must not become the end of a line.
    entries = [f"{class_names[n]} {100 * iou[n]:.1f}".replace(" ", "\0") for n in numbers]
    text = textwrap.fill(
        f"{title}:  {',  '.join(entries)}",
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return text.replace("\0", " ")

"""The legend of a picture: which colour is which class."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

_LINE, _BOX, _GAP = 16, 12, 10  # pixels: height of a line, side of a box, space between two entries


def legend(
    class_names: Sequence[str], colors: Sequence[Color], classes: Iterable[int], *, width: int
) -> np.ndarray:
    """Draws a box and a name for each of some classes, in lines on white.

    Args:
      class_names, colors: of all classes.
      classes: numbers of the classes to name; numbers that are no class are left out.
      width: of the picture, in pixels. A name that is longer than that is cut.
    Returns:
      uint8 [height, width, 3], as high as the lines need; height 0 without classes.
    """
    chosen = [number for number in sorted(set(classes)) if 0 <= number < len(class_names)]
    font = ImageFont.load_default()

    places, left, line = [], 0, 0
    for number in chosen:
        length = _BOX + 4 + int(np.ceil(font.getlength(_printable(class_names[number])))) + _GAP
        if left and left + length > width:
            left, line = 0, line + 1
        places.append((number, left, line))
        left += length

    height = (line + 1) * _LINE if places else 0
    picture = Image.new("RGB", (width, max(height, 1)), "white")
    draw = ImageDraw.Draw(picture)
    for number, left, line in places:
        top = line * _LINE + 2
        box = (left, top, left + _BOX - 1, top + _BOX - 1)
        draw.rectangle(box, fill=tuple(colors[number]), outline="black")
        name = _printable(class_names[number])
        draw.text((left + _BOX + 4, top), name, fill="black", font=font)
    return np.asarray(picture)[:height]


def _printable(name: str) -> str:
    """Returns a name in the letters that Pillow's own font has under every version."""
    return name.encode("latin-1", "replace").decode("latin-1")

"""Pictures of a prediction: legend, errors against the label, confidence, and all on one page."""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab_tf import files
from deeplab_tf.data.examples import Color
from deeplab_tf.evaluation import report

WRONG: Color = (230, 0, 0)
IGNORED: Color = (128, 128, 128)
_TEXT_SIZE, _LINE, _PATCH, _GAP = 14, 20, 14, 8  # pixels
_LONGEST_NAME = 40  # characters
_SMALLEST_PANEL, _LARGEST_PANEL = 240, 640  # longer side of a page's panels, in pixels
_PALE = 0.3  # what is left of an image's contrast with white


@functools.cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(_TEXT_SIZE)
    except (ImportError, TypeError):  # Pillow without FreeType, or before 10.1
        return ImageFont.load_default()


def _printable(text: str) -> str:
    """Returns a text as the font can draw it."""
    line = files.shown(text, most=_LONGEST_NAME)
    if isinstance(_font(), ImageFont.FreeTypeFont):
        return line
    return line.encode("latin-1", "replace").decode("latin-1")  # all that the old font has


def legend(entries: Sequence[tuple[str, Color]], *, width: int) -> Image.Image:
    """Draws a patch of colour with its name for each entry, in columns.

    Args:
      width: of the picture, in pixels; it becomes wider if a name needs more.
    """
    texts = [_printable(name) for name, _ in entries]
    longest = max((math.ceil(_font().getlength(text)) for text in texts), default=0)
    cell = _GAP + _PATCH + _GAP + longest + _GAP
    columns = max(1, width // cell)
    rows = -(-len(entries) // columns)
    picture = Image.new("RGB", (max(width, cell), rows * _LINE + _GAP), "white")
    draw = ImageDraw.Draw(picture)

    for number, (text, (_, color)) in enumerate(zip(texts, entries, strict=True)):
        # Down the columns, as one reads a list.
        left, top = number // rows * cell + _GAP, number % rows * _LINE + _GAP // 2
        patch = (left, top + 2, left + _PATCH, top + 2 + _PATCH)
        draw.rectangle(patch, fill=color, outline="black")
        place = (left + _PATCH + _GAP, top + 2 + _PATCH / 2)
        _write(draw, place, text)
    return picture


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str) -> None:
    """Writes a text; `place` is the middle of its left end, or near it with the old font."""
    is_outline = isinstance(_font(), ImageFont.FreeTypeFont)
    x, y = place
    anchor, top = ("lm", y) if is_outline else (None, y - _TEXT_SIZE / 2)
    draw.text((x, top), text, fill="black", font=_font(), anchor=anchor)


def occurring(
    maps: Sequence[np.ndarray], names: Sequence[str], colors: Sequence[Color]
) -> list[tuple[str, Color]]:
    """Returns name and colour of each class that occurs in one of the maps, in their order."""
    present = {int(value) for classes in maps for value in np.unique(classes)}
    return [
        entry for index, entry in enumerate(zip(names, colors, strict=True)) if index in present
    ]


def above(picture: Image.Image, below: Image.Image) -> Image.Image:
    """Returns two pictures, one above the other, on white."""
    size = (max(picture.width, below.width), picture.height + below.height)
    page = Image.new("RGB", size, "white")
    page.paste(picture, (0, 0))
    page.paste(below, (0, picture.height))
    return page


def errors(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    *,
    ignore_label: int | None,
    colors: Sequence[Color] = (),
) -> np.ndarray:
    """Paints where a prediction is wrong, uint8 [H, W, 3].

    Correct pixels show the image, grey and pale; ignored ones are `IGNORED`.

    Args:
      image: uint8 [H, W, 3]. label, prediction: class numbers, [H, W].
      colors: of the classes, in which wrong pixels show their true class; if empty, they are
        `WRONG`.
    """
    grey = image.mean(axis=-1, keepdims=True)
    painted = np.repeat(np.rint(255 - _PALE * (255 - grey)).astype(np.uint8), 3, axis=-1)
    ignored = label == ignore_label
    wrong = (label != prediction) & ~ignored
    painted[wrong] = report.colorize(label, colors)[wrong] if colors else WRONG
    painted[ignored] = IGNORED
    return painted


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Returns the probability of the most probable class, uint8 [H, W], 255 for 1.

    Args:
      probabilities: of each class, [H, W, classes].
    """
    return np.rint(255 * probabilities.max(axis=-1)).astype(np.uint8)


def page(panels: Mapping[str, np.ndarray], entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """Puts pictures of one size side by side, with titles above and a legend below.

    Large pictures are reduced and small ones enlarged, so that titles fit and pages stay handy.

    Args:
      panels: uint8 [H, W, 3], by their titles.
      entries: names and colours for the legend.
    """
    pictures = [_panel(pixels) for pixels in panels.values()]
    titles = [_printable(title) for title in panels]
    widths = [
        max(picture.width, math.ceil(_font().getlength(title)))
        for picture, title in zip(pictures, titles, strict=True)
    ]
    height = _LINE + _GAP + max(picture.height for picture in pictures) + _GAP
    row = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), height), "white")
    draw = ImageDraw.Draw(row)

    left = _GAP
    for picture, title, width in zip(pictures, titles, widths, strict=True):
        place = (left, _GAP // 2 + _LINE / 2)
        _write(draw, place, title)
        row.paste(picture, (left, _LINE + _GAP))
        left += width + _GAP
    return above(row, legend(entries, width=row.width))


def _panel(pixels: np.ndarray) -> Image.Image:
    """Returns a picture reduced to the largest panel, or enlarged by a whole number."""
    picture = Image.fromarray(pixels)
    longer = max(picture.size)
    if longer > _LARGEST_PANEL:
        scale = _LARGEST_PANEL / longer
        size = [max(1, round(side * scale)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.BOX)
    times = -(-_SMALLEST_PANEL // longer)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)

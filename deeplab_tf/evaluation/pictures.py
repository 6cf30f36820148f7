"""Pictures of a prediction: legend, errors against the label, confidence, and all on one page."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.data.examples import Color
from deeplab_tf.evaluation import report

WRONG: Color = (230, 0, 0)
IGNORED: Color = (128, 128, 128)
_TEXT_SIZE, _LINE, _PATCH, _GAP = 14, 20, 14, 8  # pixels
# For ignored pixels where a class is grey, as in CamVid; at a distance that is seen.
_FOR_IGNORED: tuple[Color, ...] = (IGNORED, (0, 0, 0), (255, 255, 255), (255, 0, 255))
_FAR = 64
_SMALLEST_PANEL, _LARGEST_PANEL = 240, 640  # longer side of a page's panels, in pixels
_PALE = 0.3  # what is left of an image's contrast with white


def _font() -> report.Font:
    return report.font(_TEXT_SIZE)


def legend(entries: Sequence[tuple[str, Color]], *, width: int) -> Image.Image:
    """Draws a patch of colour with its name for each entry, in columns.

    Args:
      width: of the picture, in pixels; it becomes wider if a name needs more.
    """
    texts = [report.printable(name, _font()) for name, _ in entries]
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
        report.write(draw, place, text, _font())
    return picture


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
    ignored_color: Color = IGNORED,
) -> np.ndarray:
    """Paints where a prediction is wrong, uint8 [H, W, 3].

    Correct pixels show the image, grey and pale.

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
    painted[ignored] = ignored_color
    return painted


def compared(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[LabelClass],
    *,
    truth: np.ndarray | None = None,
    ignore_label: int | None = None,
    error_map: str = "",
    alpha: float = 0.5,
) -> tuple[dict[str, np.ndarray], list[tuple[str, Color]]]:
    """Paints a prediction and what it is compared with.

    Args:
      image: uint8 [H, W, 3]. labels: predicted class numbers, [H, W]. truth: the label, if there
        is one.
      error_map: how errors are painted: "red", "class" or "", as in `outputs.of_image`.
      alpha: share of the colours in the overlay.
    Returns:
      The pictures, uint8 [H, W, 3], by their titles; names and colours of what occurs in them.
    """
    names = [label_class.name for label_class in classes]
    colors = [label_class.color for label_class in classes]
    panels, maps, ignored = {"image": image}, [labels], []
    if truth is not None:
        painted = panels["label"] = report.colorize(truth, colors)
        maps.append(truth)
        if (truth == ignore_label).any():
            # Black, as in the pictures of labels, may be the colour of a class.
            ignored = [("ignored", color_of_ignored(colors))]
            painted[truth == ignore_label] = ignored[0][1]
    panels["prediction"] = report.colorize(labels, colors)
    panels["overlay"] = report.overlay(image, labels, colors, alpha=alpha)
    if error_map and truth is not None:
        title = "errors in the true class's colour" if error_map == "class" else "errors in red"
        panels[title] = errors(
            image,
            truth,
            labels,
            ignore_label=ignore_label,
            colors=colors if error_map == "class" else (),
            ignored_color=color_of_ignored(colors),
        )
    return panels, occurring(maps, names, colors) + ignored


def color_of_ignored(colors: Sequence[Color]) -> Color:
    """Returns the colour of ignored pixels: grey, unless a class has nearly the same."""

    def distance(one: Color) -> int:
        apart = (sum(abs(a - b) for a, b in zip(one, color, strict=True)) for color in colors)
        return min([_FAR, *apart])

    return max(_FOR_IGNORED, key=distance)  # of equals, the first


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Returns the probability of the most probable class, uint8 [H, W], 255 for 1.

    Args:
      probabilities: of each class, [H, W, classes].
    """
    return np.rint(255 * probabilities.max(axis=-1)).astype(np.uint8)


def page(
    panels: Mapping[str, np.ndarray], entries: Sequence[tuple[str, Color]], *, columns: int = 0
) -> Image.Image:
    """Puts pictures of one size side by side, with titles above and a legend below.

    Large pictures are reduced and small ones enlarged, so that titles fit and pages stay handy.

    Args:
      panels: uint8 [H, W, 3], by their titles.
      entries: names and colours for the legend.
      columns: pictures in a row; 0 puts all into one.
    """
    pictures = [panel(pixels) for pixels in panels.values()]
    titles = [report.printable(title, _font()) for title in panels]
    columns = columns or len(panels)
    width = max(picture.width for picture in pictures)
    width = max([width, *(math.ceil(_font().getlength(title)) for title in titles)])
    height = _LINE + _GAP + pictures[0].height
    rows = -(-len(panels) // columns)
    size = ((width + _GAP) * columns + _GAP, (height + _GAP // 2) * rows + _GAP // 2)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)

    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = _GAP + number % columns * (width + _GAP)
        top = number // columns * (height + _GAP // 2)
        report.write(draw, (left, top + _GAP // 2 + _LINE / 2), title, _font())
        sheet.paste(picture, (left, top + _LINE + _GAP))
    return above(sheet, legend(entries, width=sheet.width))


def panel(pixels: np.ndarray) -> Image.Image:
    """Returns a picture reduced to the largest panel, or enlarged by a whole number."""
    picture = Image.fromarray(pixels)
    longer = max(picture.size)
    if longer > _LARGEST_PANEL:
        scale = _LARGEST_PANEL / longer
        size = [max(1, round(side * scale)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.BOX)
    times = -(-_SMALLEST_PANEL // longer)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)

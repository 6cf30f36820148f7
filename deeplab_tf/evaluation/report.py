"""Tables and pictures of results."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.evaluation.metrics import Scores, mean_of_numbers

Color = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_LONGEST_NAME = 40  # characters of a name in a picture


def table(
    scores: Scores,
    class_names: Sequence[str],
    matrix: np.ndarray,
    *,
    boundary: np.ndarray | None = None,
) -> str:
    """Returns a table of each class's scores and share of pixels, in percent, and of the means.

    A score without a value is n/a.

    Args:
      boundary: boundary F-score of each class, if there is one.
    """
    pixels = matrix.sum(axis=1)
    columns = {
        "IoU %": scores.iou,
        "F1 %": scores.f1,
        "precision %": scores.precision,
        "recall %": scores.recall,
    }
    means = {
        scores.miou_name: scores.miou,
        "pixel accuracy": scores.pixel_accuracy,
        "mean accuracy": scores.mean_accuracy,
        "mean F1": scores.mean_f1,
        "mean precision": scores.mean_precision,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
    }
    if boundary is not None:
        columns["boundary F %"] = boundary
        means["mean boundary F"] = mean_of_numbers(boundary)

    width = max(map(len, [*class_names, *means]))
    heading = f"{'class':<{width}}" + "".join(f"  {name:>7}" for name in columns) + "  pixels %"
    lines = [heading]
    for name, count, *values in zip(class_names, pixels, *columns.values(), strict=True):
        cells = zip(columns, map(percent, values), strict=True)
        scored = "".join(f"  {text:>{max(7, len(column))}}" for column, text in cells)
        lines.append(f"{name:<{width}}{scored}  {100 * count / max(pixels.sum(), 1):8.2f}")

    lines.append("-" * len(heading))
    lines += [f"{name:<{width}}  {percent(value):>7}" for name, value in means.items()]
    return "\n".join(lines)


def class_histogram(
    class_names: Sequence[str], pixels: np.ndarray, images: np.ndarray, weights: Sequence[float]
) -> str:
    """Returns a table of each class: share of pixels, number of images with it, loss weight."""
    width = max(map(len, [*class_names, "class"]))
    lines = [f"{'class':<{width}}  {'pixels %':>8}  {'images':>7}  {'weight':>8}"]
    shares = 100 * pixels / max(pixels.sum(), 1)
    for name, share, count, weight in zip(class_names, shares, images, weights, strict=True):
        lines.append(f"{name:<{width}}  {share:8.3f}  {count:7d}  {weight:8.4g}")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """Returns a score in percent; n/a if it has no value."""
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def colorize(labels: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Paints labels, uint8 [H, W], in the colours of their classes, uint8 [H, W, 3].

    Labels that are no class, such as the ignored one, become black.
    """
    table = np.zeros([256, 3], np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def overlay(
    image: np.ndarray, labels: np.ndarray, colors: Sequence[Color], *, alpha: float = 0.5
) -> np.ndarray:
    """Blends an image, uint8 [H, W, 3], with the colours of its labels; fractions are cut off.

    Args:
      alpha: share of the colours, 0..1.
    """
    painted = colorize(labels, colors).astype(np.float32)
    return (image + np.float32(alpha) * (painted - image)).astype(np.uint8)


def strip(image: np.ndarray, panels: Sequence[np.ndarray]) -> np.ndarray:
    """Puts pictures of one height next to each other, uint8 [H, sum of W, 3]."""
    return np.concatenate([image, *panels], axis=1)


def sample_page(
    samples: Sequence[tuple[str, np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    colors: Sequence[Color],
    ignore_label: int,
) -> Image.Image:
    """Draws each image next to a copy overlaid with its label, and a legend of colours below.

    Args:
      samples: for each image its name, the image, uint8 [H, W, 3], and the label, uint8 [H, W],
        empty if there is none. Ignored pixels are not overlaid.
    """
    cell, line, columns = 320, 16, 2
    pairs = [
        _sample_pair(image, label, colors, ignore_label, cell - 4) for _, image, label in samples
    ]
    row_height = line + 4 + max(picture.height for pair in pairs for picture in pair)
    keys_top = -(-len(samples) // columns) * row_height
    keys_per_line = 2 * columns * cell // 160
    height = keys_top + -(-len(class_names) // keys_per_line) * line
    page = Image.new("RGB", (2 * columns * cell, height), "white")
    draw = ImageDraw.Draw(page)

    for number, (sample, pair) in enumerate(zip(samples, pairs, strict=True)):
        left, top = number % columns * 2 * cell, number // columns * row_height
        draw.text((left + 2, top + 2), sample[0], fill="black")
        page.paste(pair[0], (left + 2, top + line))
        page.paste(pair[1], (left + cell + 2, top + line))

    for number, (name, color) in enumerate(zip(class_names, colors, strict=True)):
        left, top = number % keys_per_line * 160, keys_top + number // keys_per_line * line
        draw.rectangle((left + 2, top + 2, left + 14, top + 13), fill=color, outline="black")
        draw.text((left + 20, top + 2), name, fill="black")
    return page


def _sample_pair(
    image: np.ndarray,
    label: np.ndarray,
    colors: Sequence[Color],
    ignore_label: int,
    side: int,
) -> list[Image.Image]:
    """Returns an image and its copy overlaid with its label, both at most `side` pixels large."""
    painted = image.copy()
    if label.size:
        valid = label != ignore_label
        painted[valid] = overlay(image, label, colors)[valid]

    pictures = [Image.fromarray(picture) for picture in (image, painted)]
    for picture in pictures:
        picture.thumbnail((side, side))
    return pictures


def write_picture(path: Path, picture: Image.Image) -> None:
    """Writes a picture as PNG, completely or not at all, as `files.write` does."""
    # There may be thousands, and they can be made again after a power failure.
    files.write(path, decoding.encode_png(picture), is_lasting=False)


def confusion_picture(matrix: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Draws a confusion matrix, each row (label) divided by its sum; darker is more.

    The row of a class without a labelled pixel is grey.
    """
    cell = max(14, min(48, 960 // len(matrix)))
    text = font(max(10, round(0.42 * cell)))  # TensorBoard shows the picture at half its size
    names = [printable(name, text) for name in class_names]
    margin = 8 + math.ceil(max(map(text.getlength, names)))
    sums = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(sums, 1)
    size = margin + cell * len(matrix)
    picture = Image.new("RGB", (size + 8, size + 8), "white")
    draw = ImageDraw.Draw(picture)

    for row, name in enumerate(names):
        write(draw, (4, margin + (row + 0.5) * cell), name, text)
        # The same name above the column, turned.
        turned = Image.new("RGB", (margin, cell), "white")
        write(ImageDraw.Draw(turned), (4, cell / 2), name, text)
        picture.paste(turned.rotate(90, expand=True), (margin + row * cell, 0))

        for column in range(len(matrix)):
            left, top = margin + column * cell, margin + row * cell
            value = share[row, column]
            tone = int(255 * (1 - value))
            fill = (tone, tone, 255) if sums[row] else (235, 235, 235)
            box = (left, top, left + cell, top + cell)
            draw.rectangle(box, fill=fill, outline=(225, 225, 225))
            if cell >= 24 and sums[row]:
                ink = "white" if value > 0.5 else "black"
                write(draw, (left + 4, top + cell / 2), f"{100 * value:.0f}", text, ink)
    return picture


@functools.cache
def font(size: int) -> Font:
    """Returns Pillow's own font, in pixels; if Pillow has no FreeType, its old one of one size."""
    try:
        return ImageFont.load_default(size)
    except (ImportError, TypeError):  # without FreeType, or before 10.1
        return ImageFont.load_default()


def printable(text: str, font: Font) -> str:
    """Returns a text as a font can draw it in one line, cut if it is long."""
    line = files.shown(text, most=_LONGEST_NAME)
    if isinstance(font, ImageFont.FreeTypeFont):
        return line
    return line.encode("latin-1", "replace").decode("latin-1")  # all that the old font has


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: Font,
    ink: str = "black",
) -> None:
    """Writes a text; `place` is the middle of its left end, or near it with the old font."""
    is_outline = isinstance(font, ImageFont.FreeTypeFont)
    x, y = place
    anchor, top = ("lm", y) if is_outline else (None, y - 6)
    draw.text((x, top), text, fill=ink, font=font, anchor=anchor)

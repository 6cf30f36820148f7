"""Fills polygons of whole coordinates pixel for pixel as OpenCV's fillPoly does.

Source: the behaviour of OpenCV 4.11: the outline by Bresenham's algorithm, a tie to the side of the
start, drawn from left to right; what is inside by the even-odd rule. Polygons that leave the image
are filled as OpenCV fills them in a larger one: on the image itself it moves edges that it cuts, so
that dozens of pixels inside would be wrong.
"""

from collections.abc import Sequence

import numpy as np


def filled(size: tuple[int, int], contours: Sequence[np.ndarray]) -> np.ndarray:
    """Returns which pixels lie in or on closed contours, bool [H, W].

    Args:
      size: width and height.
      contours: int64 [n, 2], x and y, of at least one point each. What lies in two contours
        counts as outside, except on the lines.
    """
    width, height = size
    outline = np.zeros([height, width], bool)
    # A pixel is inside if an odd number of edges pass on its left, or through it.
    crossings = np.zeros([height, width + 1], np.uint8)
    for contour in contours:
        for start, end in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            _draw_line(outline, start.tolist(), end.tolist())
            _count_crossings(crossings, start.tolist(), end.tolist())
    inside = np.bitwise_xor.accumulate(crossings[:, :width], axis=1).astype(bool)
    return inside | outline


def _draw_line(pixels: np.ndarray, start: Sequence[int], end: Sequence[int]) -> None:
    """Sets the pixels of a line, both ends included."""
    (x0, y0), (x1, y1) = sorted([start, end], key=lambda point: point[0])
    along, across = x1 - x0, y1 - y0  # 0 or more; of any sign
    is_flat = along >= abs(across)
    length, rise = (along, abs(across)) if is_flat else (abs(across), along)
    down = -1 if across < 0 else 1

    # Only the steps within the image, since ends may lie far outside.
    height, width = pixels.shape
    if is_flat:
        steps = np.arange(max(0, -x0), min(length, width - 1 - x0) + 1)
    elif down > 0:
        steps = np.arange(max(0, -y0), min(length, height - 1 - y0) + 1)
    else:
        steps = np.arange(max(0, y0 - height + 1), min(length, y0) + 1)
    # rise * step / length, rounded, and halves rounded down.
    aside = -((length - 2 * rise * steps) // (2 * length)) if length else steps

    x, y = (x0 + steps, y0 + down * aside) if is_flat else (x0 + aside, y0 + down * steps)
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels[y[within], x[within]] = True


def _count_crossings(crossings: np.ndarray, start: Sequence[int], end: Sequence[int]) -> None:
    """Changes the parity right of an edge, in each row that it crosses."""
    (x0, y0), (x1, y1) = sorted([start, end], key=lambda point: point[1])
    rows = np.arange(max(y0, 0), min(y1, len(crossings)))  # without the lower end
    if len(rows):
        columns = x0 - ((-(rows - y0) * (x1 - x0)) // (y1 - y0))  # rounded up
        crossings[rows, np.clip(columns, 0, crossings.shape[1] - 1)] ^= 1

"""Outlines of the regions of a label map, exactly on the borders of pixels, as labelme draws them.

A region is all pixels of one class that are connected along their sides. labelme's polygons have no
holes, but it draws later ones over earlier ones (its `shapes_to_label`). So each region is given
only by its outer outline, and larger ones come first: what lies in a hole is drawn over it.

labelme draws a polygon with Pillow, which cuts the fractions off coordinates and draws the pixels
that the outline then runs through as well as those within (`shape_to_mask`). So right and lower
borders, which are whole numbers at the first pixel outside, are drawn in by a hundredth of a pixel:
cut off, they are the last pixel inside.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

_INSET = 0.01  # pixels

# Directions along a border, with the region on the right hand: right, down, left, up.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# From a corner of the grid, looking in each direction: the pixels ahead on the right and left
# hand, as offsets of column and row.
_RIGHT = ((0, 0), (-1, 0), (-1, -1), (0, -1))
_LEFT = ((0, -1), (0, 0), (-1, 0), (-1, -1))


class Region(NamedTuple):
    """A region's class and the corners of its outer outline, (x, y) in pixels, clockwise."""

    class_number: int
    corners: list[tuple[float, float]]


def regions(labels: np.ndarray) -> list[Region]:
    """Returns the regions of a map of class numbers, [H, W], in the order to draw them in."""
    found = [
        Region(int(number), corners)
        for number in np.unique(labels)
        for corners in _outlines(labels == number)
    ]
    return sorted(found, key=lambda region: -_area(region.corners))


def _outlines(mask: np.ndarray) -> Iterator[list[tuple[float, float]]]:
    """Yields the outer outline of each region of a mask, bool [H, W]."""
    numbered, _ = ndimage.label(mask)  # connected along sides
    for number, place in enumerate(ndimage.find_objects(numbered), 1):
        rows, columns = place
        region = np.pad(numbered[place] == number, 1)
        corners = _trace(region)
        yield [(x + columns.start - 1, y + rows.start - 1) for x, y in corners]


def _trace(region: np.ndarray) -> list[tuple[float, float]]:
    """Returns the outer outline of the only region in a mask with an empty frame."""
    width = region.shape[1]
    inside = region.tobytes()  # bytes are read faster than elements of arrays

    # The upper left corner of the first pixel, and along its upper border to the right.
    first = inside.index(1)
    start = (first % width, first // width)
    (x, y), direction = start, 0
    turns: list[tuple[int, int, int]] = []  # corner, and the direction that led there
    while True:
        step = _STEPS[direction]
        x, y = x + step[0], y + step[1]
        right, left = _RIGHT[direction], _LEFT[direction]
        # Where regions touch only at a corner, the outline stays at its own pixel: it turns right.
        if not inside[(y + right[1]) * width + x + right[0]]:
            turn = 1
        elif inside[(y + left[1]) * width + x + left[0]]:
            turn = -1
        else:
            continue
        turns.append((x, y, direction))
        direction = (direction + turn) % 4
        if (x, y) == start and direction == 0:
            return _inset(turns)


def _inset(turns: list[tuple[int, int, int]]) -> list[tuple[float, float]]:
    """Returns the corners with the right and lower borders drawn in."""
    corners = []
    for (x, y, before), (_, _, after) in zip(turns, turns[1:] + turns[:1], strict=True):
        # Of a border that leads down, the region is to its left; of one that leads left, above it.
        sides = {before, after}
        corners.append((x - _INSET if 1 in sides else x, y - _INSET if 2 in sides else y))
    return corners


def _area(corners: list[tuple[float, float]]) -> float:
    """Returns the area of a polygon (the shoelace formula)."""
    x, y = np.array(corners).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

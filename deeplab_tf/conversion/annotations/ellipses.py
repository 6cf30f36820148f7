"""Draws ellipses pixel for pixel as cv2.ellipse fills them, which CVAT's export calls.

OpenCV makes a polygon of the ellipse, every 5 degrees or coarser, with corners in 1/65536 of a
pixel. It draws the polygon's edges as lines, then fills it row by row between its left and right
side, by whole numbers only.

Source: the behaviour of OpenCV 4, modules/imgproc/src/drawing.cpp (ellipse2Poly, FillConvexPoly,
Line2).
"""

import math

import numpy as np

_BITS = 16
_ONE, _HALF = 1 << _BITS, 1 << _BITS >> 1
# OpenCV's table of sines has 7 decimals in single precision.
_SINES = np.round(np.sin(np.radians(np.arange(451))), 7).astype(np.float32).astype(float).tolist()

_Corner = tuple[int, int]


def fill_ellipse(
    labels: np.ndarray, center: np.ndarray, radii: np.ndarray, rotation: float, value: int
) -> None:
    """Fills an ellipse as CVAT does, which rounds all its numbers.

    Args:
      labels: uint8 [H, W]; changed in place.
      center, radii: x and y, in pixels.
      rotation: degrees, clockwise.
    """
    corners = _corners(
        [round(number) for number in center.tolist()],
        [abs(round(number)) for number in radii.tolist()],
        round(rotation),
    )
    for start, end in zip([corners[-1], *corners], corners, strict=False):
        _draw_line(labels, start, end, value)
    if len(corners) > 2:
        _fill_convex(labels, corners, value)


def _corners(center: list[int], radii: list[int], angle: int) -> list[_Corner]:
    """Returns the corners of the polygon, in 1/65536 of a pixel."""
    longest = max(radii)
    step = 90 if longest < 3 else 30 if longest < 10 else 18 if longest < 15 else 5
    angle = angle % 360 if angle < 0 or angle > 360 else angle
    cosine, sine = _SINES[450 - angle], _SINES[angle]

    corners: list[_Corner] = []
    for degrees in range(0, 360 + step, step):
        degrees = min(degrees, 360)
        x = radii[0] * _ONE * _SINES[450 - degrees]
        y = radii[1] * _ONE * _SINES[degrees]
        corner = (
            _rounded(center[0] * _ONE + x * cosine - y * sine),
            _rounded(center[1] * _ONE + x * sine + y * cosine),
        )
        if not corners or corner != corners[-1]:
            corners.append(corner)
    return corners if len(corners) > 1 else 2 * [(center[0] * _ONE, center[1] * _ONE)]


def _rounded(number: float) -> int:
    """Rounds to the pixel first, and then the rest, as OpenCV does; halves to even numbers."""
    pixel = round(number / _ONE) * _ONE
    return pixel + round(number - pixel)


def _draw_line(labels: np.ndarray, start: _Corner, end: _Corner, value: int) -> None:
    """Draws a line one pixel wide, stepping by pixels along its longer axis."""
    clipped = _clipped(start, end, (labels.shape[1] << _BITS) - 1, (labels.shape[0] << _BITS) - 1)
    if clipped is None:
        return
    start, end = clipped

    longer = 0 if abs(end[0] - start[0]) > abs(end[1] - start[1]) else 1
    if end[longer] < start[longer]:
        start, end = end, start
    _put(labels, (end[0] + _HALF) >> _BITS, (end[1] + _HALF) >> _BITS, value)

    length = end[longer] - start[longer]
    step = _divided((end[1 - longer] - start[1 - longer]) * _ONE, length | 1)

    along = (start[longer] + _HALF) >> _BITS
    across = start[1 - longer] + _HALF
    for _ in range((length >> _BITS) + 1):
        place = (along, across >> _BITS)
        _put(labels, place[longer], place[1 - longer], value)
        along, across = along + 1, across + step


def _put(labels: np.ndarray, x: int, y: int, value: int) -> None:
    if 0 <= x < labels.shape[1] and 0 <= y < labels.shape[0]:
        labels[y, x] = value


def _divided(number: int, divisor: int) -> int:
    """Divides as C does, which cuts the fraction off."""
    quotient = abs(number) // abs(divisor)
    return quotient if (number < 0) == (divisor < 0) else -quotient


def _clipped(
    start: _Corner, end: _Corner, right: int, bottom: int
) -> tuple[_Corner, _Corner] | None:
    """Returns the part of a line that lies between 0 and `right`, `bottom`; None if none does."""
    points = [list(start), list(end)]
    sides = [_side(point[0], right) for point in points]
    heights = [_side(point[1], bottom) for point in points]
    if _are_apart(sides) or _are_apart(heights):
        return None

    for axis, limit in ((1, bottom), (0, right)):
        for point in points:
            side = _side(point[axis], limit)
            if side:
                edge = 0 if side < 0 else limit
                run = points[1][axis] - points[0][axis]
                rise = points[1][1 - axis] - points[0][1 - axis]
                point[1 - axis] += math.trunc(float(edge - point[axis]) * rise / run)
                point[axis] = edge
        if axis and _are_apart([_side(point[0], right) for point in points]):
            return None
    if any(_side(x, right) or _side(y, bottom) for x, y in points):
        return None
    return (points[0][0], points[0][1]), (points[1][0], points[1][1])


def _side(number: int, most: int) -> int:
    return -1 if number < 0 else int(number > most)


def _are_apart(sides: list[int]) -> bool:
    """Whether both ends lie beyond the same border."""
    return sides[0] == sides[1] != 0


class _Side:
    """The left or right side of a convex polygon, followed downwards from its highest corner."""

    def __init__(self, corners: list[_Corner], top: int, direction: int):
        self._corners, self._index, self._direction = corners, top, direction
        self._end = (corners[top][1] + _HALF) >> _BITS
        self._slope = 0
        self.x = -_ONE

    def start_edge(self, y: int, budget: list[int]) -> None:
        """Goes on to the edge that reaches below row y, if the current one ends here.

        budget: how many edges both sides may still look at, in a list of one.
        """
        if y < self._end:
            return
        start = self._index
        end = (start + self._direction) % len(self._corners)
        while budget[0] > 0:
            budget[0] -= 1
            row = (self._corners[end][1] + _HALF) >> _BITS
            if row > y:
                self._follow(start, end, y)
                return
            start, end = end, (end + self._direction) % len(self._corners)
        budget[0] = -1

    def _follow(self, start: int, end: int, y: int) -> None:
        """Takes an edge from row y on, which is its first one unless rows were left out."""
        top, row = ((self._corners[one][1] + _HALF) >> _BITS for one in (start, end))
        across = self._corners[end][0] - self._corners[start][0]
        self._slope = _divided(2 * across + (row - top), 2 * (row - top))
        self._end, self._index = row, end
        self.x = self._corners[start][0] + (y - top) * self._slope

    def go_down(self) -> None:
        """Moves on by one row."""
        self.x += self._slope


def _fill_convex(labels: np.ndarray, corners: list[_Corner], value: int) -> None:
    """Fills the rows between the two sides of a polygon."""
    rows = [(y + _HALF) >> _BITS for _, y in corners]
    top = min(range(len(corners)), key=lambda index: corners[index][1])
    sides = [_Side(corners, top, 1), _Side(corners, top, -1)]

    budget = [len(corners)]
    for y in range(max(min(rows), 0), min(max(rows), labels.shape[0] - 1) + 1):
        for side in sides:
            side.start_edge(y, budget)
        if budget[0] < 0:
            return
        left, right = sorted(side.x for side in sides)
        first, last = max((left + _HALF) >> _BITS, 0), (right + _HALF) >> _BITS
        if last >= 0:
            labels[y, first : last + 1] = value
        for side in sides:
            side.go_down()

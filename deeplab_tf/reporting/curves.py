"""Curves as vector graphics in the page: they need neither a library for plots nor a script."""

import math
from collections.abc import Sequence

import numpy as np

from deeplab_tf.reporting.markup import Element, element

Point = tuple[float, float]

_MOST_POINTS = 600  # about as many as the picture has columns
_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 16, 14, 44  # margins
_COLOR = "#2a7ac7"  # visible on white and on black


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Returns at most `most` points: the means of as many neighbours each, in their order."""
    if len(points) <= most:
        return list(points)
    group = math.ceil(len(points) / most)
    values = np.array(points, np.float64)
    parts = (values[start : start + group] for start in range(0, len(values), group))
    return [tuple(part.mean(axis=0).tolist()) for part in parts]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns about `most` round numbers, evenly spaced, between which all values lie.

    Args:
      low, high: the smallest and the largest value.
    """
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-300):  # in effect one value, which gets room around it
        room = size / 2 if size > 1e-300 else 0.5
        low, high = low - room, high + room
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    # Rounded, since 3 * 0.1 is not 0.3.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def curve(name: str, points: Sequence[Point], *, unit: str = "", marked: bool = False) -> Element:
    """Returns a figure with one curve over the steps of training.

    Args:
      name: of what is shown. unit: of its values.
      points: step and value, at least one, by rising steps; all finite.
      marked: whether each point has a mark, as a curve of few points needs.
    """
    drawn = thinned(points)
    across = ticks(min(x for x, _ in points), max(x for x, _ in points))
    up = ticks(min(y for _, y in drawn), max(y for _, y in drawn))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0])
        above = (y - up[0]) / (up[-1] - up[0])
        return (
            round(_LEFT + right * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - above * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    described = _described(name, points, unit)
    drawing = element(
        "svg",
        element("title", described),
        *_axes(across, up, place, f"{name}{f', {unit}' if unit else ''}"),
        role="img",
        aria_label=described,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
        fill="currentColor",
    )
    places = [place(*point) for point in drawn]
    line = " ".join(f"{x},{y}" for x, y in places)
    drawing.append(element("polyline", points=line, fill="none", stroke=_COLOR, stroke_width=1.8))
    if marked or len(places) == 1:
        drawing.extend(element("circle", cx=x, cy=y, r=3, fill=_COLOR) for x, y in places)

    caption = described
    if len(drawn) < len(points):
        caption += f" Each point is the mean of {math.ceil(len(points) / len(drawn))} lines."
    return element("figure", drawing, element("figcaption", caption))


def _axes(across, up, place, title: str) -> list[Element]:
    """Returns lines, numbers and titles of both axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in up:
        _, y = place(across[0], value)
        parts += [
            element("path", d=f"M{_LEFT} {y}H{right}", stroke="currentColor", stroke_opacity=0.2),
            element(
                "text", f"{value:,.12g}", x=_LEFT - 6, y=y + 4, text_anchor="end", font_size=12
            ),
        ]
    for value in across:
        x, _ = place(value, up[0])
        parts += [
            element("path", d=f"M{x} {bottom}v5", stroke="currentColor"),
            element(
                "text", f"{value:,.12g}", x=x, y=bottom + 19, text_anchor="middle", font_size=12
            ),
        ]
    middle = (_LEFT + right) / 2
    half = (_TOP + bottom) / 2
    parts += [
        element("path", d=f"M{_LEFT} {bottom}H{right}", stroke="currentColor"),
        element("text", "step", x=middle, y=_HEIGHT - 6, text_anchor="middle", font_size=13),
        element(
            "text",
            title,
            transform=f"translate(14 {half}) rotate(-90)",
            text_anchor="middle",
            font_size=13,
        ),
    ]
    return parts


def _described(name: str, points: Sequence[Point], unit: str) -> str:
    """Returns what a curve shows, in words."""
    unit = f" {unit}" if unit else ""

    def at(point: Point) -> str:
        return f"{point[1]:.4g}{unit} at step {point[0]:,.0f}"

    if len(points) == 1:
        return f"{name}: {at(points[0])}."
    lowest, highest = (f(points, key=lambda point: point[1]) for f in (min, max))
    return f"{name}: {at(points[0])}, {at(points[-1])}; lowest {at(lowest)}, highest {at(highest)}."

"""Curves as vector graphics in the page, drawn by matplotlib."""

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from deeplab_tf.reporting import markup
from deeplab_tf.reporting.markup import Element

Point = tuple[float, float]

_WIDTH, _HEIGHT = 480, 260  # of a picture, in CSS pixels; texts are legible on a phone's 360
_PER_INCH = 72  # of matplotlib's SVG files
_INK = "#000000"  # matplotlib's black; the page has its own, which may be white
_COLOR = "#2a7ac7"  # visible on white and on black
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.useoffset": False,  # a number in a corner to be added to all is overlooked
    "font.family": ["DejaVu Sans"],  # is part of matplotlib
    "font.size": 13,
    "grid.alpha": 0.2,
    "grid.color": _INK,
    "lines.linewidth": 1.8,
    # Drawn as if no point were left out, to a pixel; 30,000 points take no more room than 3,000.
    "path.simplify_threshold": 1.0,
    "svg.fonttype": "none",  # texts stay texts, which can be searched and read aloud
}


def curve(
    name: str, points: Sequence[Point], *, unit: str = "", of: str = "", marked: bool = False
) -> Element:
    """Returns a figure with one curve over the steps of training.

    Args:
      name: of what is shown, in this package's words. unit: of its values.
      points: step and value by rising steps. A value that is not finite leaves a gap; at least one
        is finite.
      of: what it belongs to, in any words.
      marked: whether each point has a mark, as a curve of few points needs.
    """
    described = _described(f"{name}, {of}" if of else name, points, unit)
    drawing = _inlined(_drawn(name, unit, points, marked, salt=described), described)
    return markup.element("figure", drawing, markup.element("figcaption", described))


def _drawn(name: str, unit: str, points: Sequence[Point], marked: bool, *, salt: str) -> str:
    """Returns the curve as the text of an SVG file, whose ids follow from `salt`."""
    steps, values = zip(*points, strict=True)
    seen = range(len(points)) if marked else _between_gaps(values)
    with _quiet():
        from matplotlib import figure, style, ticker  # here, where it is quiet about its fonts

        # The user's own style would make another page.
        with style.context(["default", _STYLE | {"svg.hashsalt": salt}]):
            size = (_WIDTH / _PER_INCH, _HEIGHT / _PER_INCH)
            page = figure.Figure(size, layout="constrained")
            axes = page.subplots()
            axes.plot(steps, values, color=_COLOR)
            axes.plot([steps[n] for n in seen], [values[n] for n in seen], "o", color=_COLOR)
            axes.set_xlabel("step")
            axes.set_ylabel(f"{name}, {unit}" if unit else name)
            if unit == "%":  # none lies beyond 0 and 100, and a single one is shown between them
                low, high = (
                    axes.get_ylim() if len({*filter(math.isfinite, values)}) > 1 else (0, 100)
                )
                axes.set_ylim(max(low, 0), min(high, 100))
            axes.xaxis.set_major_locator(
                ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
            )
            axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
            file = io.StringIO()
            no_date = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            page.savefig(file, format="svg", transparent=True, metadata=no_date)
    return file.getvalue()


def _between_gaps(values: Sequence[float]) -> list[int]:
    """Returns the places of values without a neighbour, which no line leads to."""
    known = [False, *map(math.isfinite, values), False]
    return [n for n in range(len(values)) if known[n : n + 3] == [False, True, False]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps matplotlib's news to itself: that it looks for fonts, or where it cannot note them."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _inlined(text: str, described: str) -> Element:
    """Returns an SVG file as a part of an HTML page.

    In a page, names have no namespaces, and each id and style counts for the whole page.
    """
    drawing = ElementTree.fromstring(text)
    for part in drawing.iter():
        part.tag = _plain(part.tag)
        attributes = {_plain(name): value for name, value in part.attrib.items()}
        if part.tag == "g":
            attributes.pop("id", None)  # the same ones in each file
        if "style" in attributes:
            attributes["style"] = attributes["style"].replace(_INK, "currentColor")
        part.attrib.clear()
        part.attrib.update(attributes)
    drawing.remove(drawing[0])  # its style, which says what the next line says
    drawing.attrib |= {"stroke-linejoin": "round", "fill": "currentColor"}

    drawing.attrib |= {"width": str(_WIDTH), "height": str(_HEIGHT)}
    drawing.attrib |= {"role": "img", "aria-label": described}
    drawing.insert(0, markup.element("title", described))
    return drawing


def _plain(name: str) -> str:
    """Returns a name without its namespace."""
    return name.rpartition("}")[2]


def _described(name: str, points: Sequence[Point], unit: str) -> str:
    """Returns what a curve shows, in words."""
    unit = f" {unit}" if unit else ""
    known = [point for point in points if math.isfinite(point[1])]

    def at(point: Point) -> str:
        return f"{point[1]:.4g}{unit} at step {point[0]:,.0f}"

    if len(known) == 1:
        return f"{name}: {at(known[0])}."
    lowest, highest = (f(known, key=lambda point: point[1]) for f in (min, max))
    return f"{name}: {at(known[0])}, {at(known[-1])}; lowest {at(lowest)}, highest {at(highest)}."

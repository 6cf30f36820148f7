"""Draws regions column by column, pixel for pixel as pycocotools does: polygons and run lengths.

COCO's run-length codes, and pycocotools' rasteriser, count the pixels of an image down each column,
one column after the other. A region is a list of runs: ranges of such positions. Labels are uint8
[H, W] in Fortran order, so that a run is a piece of their memory.

Source: the behaviour of cocodataset/cocoapi, common/maskApi.c (rleFrPoly, rleFrString).
"""

import numpy as np

from deeplab_tf.messages import UserError

_SCALE = 5  # pycocotools rounds corners to fifths of a pixel
_MOST_CROSSINGS = 1 << 21  # of outline and columns; a jagged outline of a large image has 10^5
_LONGEST_NUMBER = 7  # characters of a compressed count, which hold 35 bits


def fill_polygon(labels: np.ndarray, points: np.ndarray, value: int, where: str) -> None:
    """Fills a polygon, which may cross itself and lie partly outside the image.

    Args:
      labels: uint8 [H, W], in Fortran order; changed in place.
      points: float64 [corners, 2], x and y in pixels; (0, 0) is the corner of the first pixel.
      value: what its pixels become.
      where: what errors call the polygon.
    """
    height, width = labels.shape
    places = np.sort(_crossings(points, height, width, where))
    if len(places) % 2:
        places = np.append(places, labels.size)
    fill_runs(labels, places[::2], places[1::2], value)


def fill_runs(labels: np.ndarray, starts: np.ndarray, stops: np.ndarray, value: int) -> None:
    """Fills ranges of positions, counted down the columns of `labels` (in Fortran order)."""
    flat = labels.reshape(-1, order="F")  # a view, since the memory has this order
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        flat[start:stop] = value


def _crossings(points: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """Returns the positions at which an outline is crossed on the way down each column.

    The outline is a chain of points in a grid of fifths of pixels. It crosses the middle of column
    c where x steps between 5 c + 2 and 5 c + 3 fifths. Only these steps are computed, so that a
    corner far outside costs nothing.
    """
    # The C code converts by cutting the fraction off, as astype does.
    corners = (_SCALE * points + 0.5).astype(np.int64)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    lengths = np.abs(ends - starts)
    is_flat = lengths[:, 0] >= lengths[:, 1]

    # Each edge is walked along its longer axis, towards larger numbers.
    longer = np.where(is_flat, 0, 1)
    edges = np.arange(len(points))
    is_backward = starts[edges, longer] > ends[edges, longer]
    starts, ends = (
        np.where(is_backward[:, None], ends, starts),
        np.where(is_backward[:, None], starts, ends),
    )
    steps = lengths[edges, longer]
    across = (ends - starts)[edges, 1 - longer]
    slopes = across / np.maximum(steps, 1)

    first = np.maximum(-((2 - np.minimum(starts[:, 0], ends[:, 0])) // _SCALE), 0)
    last = np.minimum((np.maximum(starts[:, 0], ends[:, 0]) - 3) // _SCALE, width - 1)
    counts = np.maximum(last - first + 1, 0)
    total = int(counts.sum())
    if total > _MOST_CROSSINGS:
        raise UserError(
            f"{where} has an outline that crosses {total:,} columns of pixels, more than the "
            f"{_MOST_CROSSINGS:,} that any drawing needs; draw it again."
        )

    edge = np.repeat(edges, counts)
    column = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    left = _SCALE * column + 2  # the outline steps from here to left + 1, or back
    x, y = starts[edge].T
    slope, flat = slopes[edge], is_flat[edge]

    y_of_flat = np.minimum(_rounded(y, slope, left - x), _rounded(y, slope, left + 1 - x))
    y_of_steep = y + _last_step_before(x, slope, left)
    fifths = np.where(flat, y_of_flat, y_of_steep)

    rows = np.ceil(np.clip((fifths + 0.5) / _SCALE - 0.5, 0, height)).astype(np.int64)
    return column * height + rows


def _rounded(start: np.ndarray, slope: np.ndarray, step: np.ndarray) -> np.ndarray:
    return (start + slope * step + 0.5).astype(np.int64)


def _last_step_before(x: np.ndarray, slope: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Returns the last step of a steep edge before its x passes from `left` to left + 1, or back.

    x never turns round, so the step that follows is the first one that is beyond.
    """
    rises = slope > 0
    with np.errstate(divide="ignore", invalid="ignore"):  # flat edges, whose result is not used
        guess = np.nan_to_num(np.ceil((left + 0.5 - x) / slope), posinf=0, neginf=0)
    beyond = guess.astype(np.int64) + 1
    for _ in range(3):  # the division may be wrong by a rounding error, so by one step
        before = _rounded(x, slope, beyond - 1)
        beyond -= np.where(rises, before > left, before <= left)
    return beyond - 1


def runs_of_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns starts and ends of the runs in the region, from lengths outside, inside, outside...

    Args:
      counts: int64; the first one may be 0.
    """
    ends = np.cumsum(counts)
    inside = ends[1::2]
    return ends[::2][: len(inside)], inside


def counts_of_text(text: str) -> np.ndarray:
    """Decodes the compressed counts of a COCO region, int64.

    Each character holds 5 bits, the least ones first, and whether the number goes on. From the
    fourth on, a number is the difference from the number two places before it.

    Raises:
      ValueError: if the text is not such a code.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    goes_on = (codes & 0x20) > 0
    if (codes < 0).any() or (codes > 63).any() or goes_on[-1]:
        raise ValueError("its counts are no code of COCO's")

    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() >= _LONGEST_NUMBER:
        raise ValueError("its counts are no code of COCO's")

    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    is_negative = (codes[ends] & 0x10) > 0
    numbers[is_negative] -= 1 << (5 * (ends - starts + 1))[is_negative]
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers

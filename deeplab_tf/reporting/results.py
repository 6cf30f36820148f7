"""Sections of the page on how good a run is: scores of the classes, confusions, images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.examples import Color
from deeplab_tf.evaluation.report import percent
from deeplab_tf.evaluation.result_files import MATRIX, PER_IMAGE
from deeplab_tf.messages import counted
from deeplab_tf.reporting import markup
from deeplab_tf.reporting.markup import Element
from deeplab_tf.reporting.scored import ImageScore, Scored, same_evaluation
from deeplab_tf.runs.run_dir import RunDir

_MOST_WITH_FRACTIONS = 24  # classes in whose matrix there is room for a decimal
_MOST_PAIRS = 30  # confusions that are listed
_JPEG_QUALITY = 88  # colours of classes stay apart

MEAN_NAMES = {
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_f1": "mean F1 (Dice)",
    "mean_precision": "mean precision",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_boundary_f_score": "mean boundary F-score",
}
_COLUMNS = {
    "IoU, %": "per_class",
    "F1, %": "per_class_f1",
    "precision, %": "per_class_precision",
    "recall, %": "per_class_recall",
    "boundary F, %": "per_class_boundary_f_score",
}


def not_scored(scoring: str, validation: dict | None) -> list[Element]:
    """Returns the sections of a run without an evaluation: what is missing, and how to make it.

    Args:
      scoring: the command that scores the run.
      validation: scores of the best validation during training, if there are any.
    """
    sentence = (
        "The run has no evaluation yet, so there is nothing to show here. This command makes one:"
    )
    parts = [
        markup.section(identity, title, markup.missing(sentence, scoring))
        for identity, title in (
            ("classes", "Classes"),
            ("confusion", "Confusion matrix"),
            ("images", "Best and worst images"),
        )
    ]
    if validation:
        parts[0] = classes(validation, "the best validation during training")
    return parts


def classes(results: Mapping, source: str) -> Element:
    """Returns the scores of the split and of each class.

    Args:
      results: the content of results.json, or as much of it as a validation records.
      source: where they come from.
    """
    columns = {title: results[key] for title, key in _COLUMNS.items() if key in results}
    pixels = results["pixels_per_class"]
    total = max(sum(pixels.values()), 1)
    rows = [
        (
            name,
            *(percent(scores[name]) for scores in columns.values()),
            f"{100 * count / total:.2f}",
        )
        for name, count in pixels.items()
    ]
    means = [(title, percent(results[key])) for key, title in MEAN_NAMES.items() if key in results]
    with_score = sum(value is not None for value in results["per_class"].values())
    left_out = len(pixels) - with_score
    return markup.section(
        "classes",
        "Classes",
        markup.paragraph(
            f"{counted(results['images'], 'image')} of the split {results['split']}, step "
            f"{results['step']}; from {source}."
        ),
        markup.table("Scores of the split", ("score", "%"), means),
        markup.paragraph(
            f"{left_out} of {len(pixels)} classes occur neither in the labels nor in the "
            "predictions, and the means leave them out."
        )
        if left_out
        else None,
        markup.table("Scores of the classes", ("class", *columns, "pixels, %"), rows),
    )


def confusion(scored: Scored, info: DatasetInfo, run: RunDir) -> Element:
    """Returns the confusion matrix, and the largest confusions as a list."""
    matrix, names = scored.matrix, info.class_names
    if matrix is None:
        sentence = (
            f"{files.shown(scored.folder)} holds no {MATRIX}, since an earlier version "
            "of eval wrote it. This command writes it:"
        )
        content = [markup.missing(sentence, same_evaluation(run, scored.results, scored.folder))]
    else:
        content = [
            markup.paragraph(
                "How many of the pixels labelled as a class are predicted as each class, in "
                "percent. Perfect predictions have 100 on the diagonal."
            ),
            _matrix(matrix, names),
            _confusions(matrix, names),
        ]
    return markup.section("confusion", "Confusion matrix", *content)


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Returns each row divided by its sum; NaN where a class has no labelled pixel."""
    with np.errstate(invalid="ignore"):
        return matrix / matrix.sum(axis=1, keepdims=True)


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> Element:
    """Returns the matrix as a table; one of many classes has short cells and turned names."""
    is_large = len(names) > _MOST_WITH_FRACTIONS
    digits = 0 if is_large else 1
    rows = []
    for name, shares in zip(names, _shares(matrix), strict=True):
        rows.append((name, *(_cell(share, digits) for share in shares)))
    caption = "Rows: class in the label; columns: class in the prediction; % of the row's pixels"
    if is_large:
        caption += "; shares below 0.5 % are left empty"
    shown = markup.table(caption, ("label \\ prediction", *names), rows)
    shown.set("class", "wide matrix large" if is_large else "wide matrix")
    return shown


def _cell(share: float, digits: int) -> Element | str:
    if np.isnan(share):
        return "n/a" if digits else "-"
    if not digits and share < 0.005:
        return ""
    # At most 0.55 of the colour, so that the page's own ink stays readable, black or white.
    return markup.element(
        "span",
        f"{100 * share:.{digits}f}",
        style=f"background:rgba(42,122,199,{0.55 * share:.2f})",
    )


def _confusions(matrix: np.ndarray, names: Sequence[str]) -> Element:
    others = matrix.copy()
    np.fill_diagonal(others, 0)
    order = np.argsort(-others, axis=None, kind="stable")[:_MOST_PAIRS]
    shares = _shares(matrix)
    wrong = max(int(others.sum()), 1)
    rows = []
    for label, prediction in zip(*np.unravel_index(order, others.shape), strict=True):
        count = int(others[label, prediction])
        if count:
            rows.append(
                (
                    names[label],
                    names[prediction],
                    f"{100 * shares[label, prediction]:.2f}",
                    f"{100 * count / wrong:.2f}",
                    f"{count:,}",
                )
            )
    if not rows:
        return markup.paragraph("No pixel is predicted as another class.")
    heading = ("label", "predicted as", "% of the label's pixels", "% of all errors", "pixels")
    return markup.table(f"The {counted(len(rows), 'largest confusion')}", heading, rows)


class Painted(NamedTuple):
    """Pictures of a prediction, JPEG or PNG files by their titles, and the colours in them."""

    panels: dict[str, bytes]
    legend: list[tuple[str, Color]]


def images(
    scored: Scored,
    painted: Mapping[int, Painted],
    notes: Sequence[str],
    groups: tuple[Sequence[ImageScore], Sequence[ImageScore]],
) -> Element:
    """Returns the images with the lowest and the highest mIoU.

    Args:
      painted: the images that could be painted, by their numbers.
      notes: sentences about what is missing.
      groups: the worst and the best images.
    """
    parts: list[Element] = [markup.missing(note) for note in notes]
    for title, group in zip(("Worst", "Best"), groups, strict=True):
        rows = [
            (image.name, percent(image.miou), f"{image.height} x {image.width}") for image in group
        ]
        if not rows:
            continue
        parts.append(markup.element("h3", f"{title} images"))
        parts += [
            _image(image, painted[image.number]) for image in group if image.number in painted
        ]
        parts.append(markup.table(f"{title} images", ("image", "mIoU, %", "height x width"), rows))
    parts.append(
        markup.paragraph(
            "An image's mIoU is the mean over the classes that its label or its prediction holds. "
            f"All {counted(len(scored.images), 'image')} are in "
            f"{files.shown(Path(scored.folder) / PER_IMAGE)}."
        )
    )
    return markup.section("images", "Best and worst images", *parts)


def _image(image: ImageScore, painted: Painted) -> Element:
    panels = (
        markup.picture(content, f"{image.name}: {title}", title)
        for title, content in painted.panels.items()
    )
    legend = (markup.swatch(name, color) for name, color in painted.legend)
    return markup.element(
        "figure",
        markup.element("figcaption", f"{image.name}, mIoU {percent(image.miou)} %"),
        markup.element("div", *panels, class_="panels"),
        markup.element("p", *legend, class_="legend"),
    )


def compact(picture: Image.Image) -> bytes:
    """Returns a picture as a JPEG or PNG file, whichever is smaller, so that it can be mailed."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return min(buffer.getvalue(), decoding.encode_png(picture), key=len)

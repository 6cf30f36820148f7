"""Sections of the page on how good a run is: scores of the classes, confusions, images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation.report import percent
from deeplab_tf.evaluation.result_files import MATRIX, PER_IMAGE
from deeplab_tf.messages import counted
from deeplab_tf.reporting import markup
from deeplab_tf.reporting.markup import Element
from deeplab_tf.reporting.scored import ImageScore, Scored, same_evaluation
from deeplab_tf.runs.run_dir import RunDir

_MOST_CELLS = 24  # classes whose whole matrix a page can show as a table
_MOST_PAIRS = 30  # confusions that are listed
_JPEG_QUALITY = 88  # class colours stay apart; PNGs of photographs would be ten times as large

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
    """Returns the confusion matrix: as a table, or as a picture if that would be too large.

    Also lists the largest confusions, which can be read whatever the number of classes.
    """
    matrix, names = scored.matrix, info.class_names
    if matrix is None:
        sentence = (
            f"{files.shown(scored.folder)} holds no {MATRIX}, since an earlier version "
            "of eval wrote it. This command writes it:"
        )
        content = [markup.missing(sentence, same_evaluation(run, scored.results, scored.folder))]
    else:
        is_small = len(names) <= _MOST_CELLS
        content = [
            markup.paragraph(
                "How many of the pixels labelled as a class are predicted as each class, in "
                "percent. Perfect predictions have 100 on the diagonal."
            ),
            _matrix_table(matrix, names) if is_small else _matrix_picture(matrix, names),
            _confusions(matrix, names),
        ]
    return markup.section("confusion", "Confusion matrix", *content)


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Returns each row divided by its sum; NaN where a class has no labelled pixel."""
    with np.errstate(invalid="ignore"):
        return matrix / matrix.sum(axis=1, keepdims=True)


def _matrix_table(matrix: np.ndarray, names: Sequence[str]) -> Element:
    rows = []
    for name, shares in zip(names, _shares(matrix), strict=True):
        rows.append((name, *map(_cell, shares)))
    caption = "Rows: class in the label; columns: class in the prediction; % of the row's pixels"
    return markup.table(caption, ("label \\ prediction", *names), rows)


def _cell(share: float) -> Element | str:
    if np.isnan(share):
        return "n/a"
    # At most 0.55 of the colour, so that the page's own ink stays readable, black or white.
    return markup.element(
        "span",
        f"{100 * share:.1f}",
        style=f"display:block;background:rgba(42,122,199,{0.55 * share:.2f})",
    )


def _matrix_picture(matrix: np.ndarray, names: Sequence[str]) -> Element:
    shown = [files.shown(name, most=40) for name in names]
    picture = report.confusion_picture(matrix, shown)
    return markup.picture(
        decoding.encode_png(picture),
        f"Confusion matrix of {len(names)} classes; the largest confusions are in the table below.",
        "Rows: class in the label; columns: class in the prediction; darker is more.",
        is_wide=True,
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
    return markup.table(f"The {len(rows)} largest confusions", heading, rows)


def images(
    scored: Scored,
    pages: dict[int, bytes],
    notes: Sequence[str],
    groups: tuple[Sequence[ImageScore], Sequence[ImageScore]],
) -> Element:
    """Returns the images with the lowest and the highest mIoU.

    Args:
      pages: of the images that could be painted, by their numbers: JPEG or PNG files.
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
            markup.picture(
                pages[image.number],
                f"{image.name}: image, label, prediction, overlay and errors, with a legend",
                f"{image.name}, mIoU {percent(image.miou)} %",
            )
            for image in group
            if image.number in pages
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


def compact(picture: Image.Image) -> bytes:
    """Returns a picture as a JPEG, small enough to be mailed."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()

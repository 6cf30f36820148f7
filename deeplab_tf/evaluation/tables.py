"""Tables as the text of CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from deeplab_tf import files


def as_csv(heading: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()


def parse_csv(text: str) -> list[list[str]]:
    """Returns the lines of a CSV file; raises ValueError if it is none."""
    try:
        return list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns a confusion matrix, int64 [label, prediction], as the text of a CSV file.

    A line for each class in the labels, a column for each class in the predictions, both in the
    order of the classes.
    """
    names = [files.shown(name) for name in class_names]
    rows = ((name, *counts) for name, counts in zip(names, matrix.tolist(), strict=True))
    return as_csv(("label", *names), rows)


def parse_confusion_matrix(text: str, class_names: Sequence[str]) -> np.ndarray:
    """Returns the matrix that `confusion_matrix` wrote, int64 [label, prediction].

    Raises:
      ValueError: saying what is wrong, if it is damaged or of other classes.
    """
    names = [files.shown(name) for name in class_names]
    heading, *lines = parse_csv(text) or [[]]
    if heading != ["label", *names] or [line[:1] for line in lines] != [[name] for name in names]:
        raise ValueError("it lists other classes")
    if any(len(line) != 1 + len(names) for line in lines):
        raise ValueError("a line has too few or too many numbers")
    counts = [[int(cell) for cell in line[1:]] for line in lines]
    if not all(0 <= count < 2**63 for line in counts for count in line):
        raise ValueError("a count is negative or too large")
    return np.array(counts, np.int64)

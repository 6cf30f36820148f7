"""Tables as the text of CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence


def as_csv(heading: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()

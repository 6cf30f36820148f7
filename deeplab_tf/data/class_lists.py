"""Class lists: plain names, CVAT's labelmap.txt, or CSV -> classes with colours and mask values."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.messages import UserError

COLUMNS = ("index", "name", "r", "g", "b", "label_id")
FORMS = (
    "a class list holds names, one a line, or is CVAT's labelmap.txt, or a CSV file whose first "
    f"line names its columns, of {', '.join(COLUMNS)}"
)
# CVAT, "# label:color_rgb:parts:actions"; what is behind the colour says nothing on pixels.
_LABELMAP = re.compile(r"([^:]+):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")
_LABELMAP_HEADING = "label:color_rgb:"  # a comment, unless somebody took the # away


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, its colour (RGB in 0..255), and its values in the data set's own masks.

    label_ids: several values may mean one class; predictions are written with the first. Empty
      where the original masks hold the class's index itself.
    """

    name: str
    color: tuple[int, int, int]
    label_ids: tuple[int, ...] = ()

    def to_json(self) -> dict:
        """Returns the class as dataset.json holds it."""
        ids = list(self.label_ids)
        own = {"label_id": ids if len(ids) > 1 else ids[0]} if ids else {}
        return {"name": self.name, "color": list(self.color)} | own


def from_json(content: dict) -> LabelClass:
    """Builds a class from what `to_json` returned; raises KeyError or TypeError if it did not."""
    ids = content.get("label_id")
    label_ids = () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)
    return LabelClass(content["name"], tuple(content["color"]), label_ids)


@dataclass(frozen=True)
class ClassList:
    """The classes of a list, by train id.

    has_colors: whether the list gives the colours. If not, `default_color` does: they show
      predictions, and no mask is drawn in them.
    """

    classes: tuple[LabelClass, ...]
    has_colors: bool


@dataclass
class _Row:
    """What a line says of a class; None where it does not."""

    where: str
    name: str
    color: tuple[int, int, int] | None = None
    label_ids: tuple[int, ...] = ()


def default_color(index: int) -> tuple[int, int, int]:
    """Returns the colour of a class whose list gives none: distinct up to 255, black for 0.

    It is PASCAL VOC's map (VOCdevkit, VOClabelcolormap): bit 3j + c of the index is bit 7 - j of
    channel c.
    """
    color = [0, 0, 0]
    for bit in range(24):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


def read_class_list(path: Path) -> ClassList:
    """Reads a class list in any of its forms.

    Names only: one a line; labelme's __ignore__, in the first, is no class. CVAT: lines
    name:r,g,b:parts:actions. CSV: separated by commas, semicolons or tabs, with the column name
    and, if wanted, r, g and b (0 to 255), index (it must count up from 0) and label_id (one
    value, or several with blanks or semicolons between them).

    Raises:
      UserError: if the file cannot be read, or a line is wrong, or says something that would not be
        used.
    """
    if not path.exists():
        raise UserError(f"The class list {files.shown(path)} does not exist; {FORMS}.")
    lines = files.read_lines(path, "The class list", is_content=_is_hidden_class)
    for number, text in lines:
        if _is_hidden_class(text):
            raise UserError(
                f"Line {number} of the class list {path}, {text!r}, may be a comment or a class; "
                "put a blank after the # of a comment, and no # before a class."
            )
    # Spreadsheets write separators in empty lines.
    lines = [(number, text) for number, text in lines if text.strip(",;\t ")]
    if lines and lines[0][1].startswith(_LABELMAP_HEADING):
        del lines[0]
    first = lines[0][1] if lines else ""
    if _LABELMAP.fullmatch(first):
        rows = _labelmap_rows(lines, path)
    elif re.search("[,;\t]", first):
        rows = _csv_rows(lines, path)
    else:
        rows = _name_rows(lines, path) if lines else []
    return _checked(rows, path)


# What other programs write above a column of names.
_HEADINGS = re.compile(
    r"labels?|label[ _]?names?|class(es)?|class[ _]?names?|categor(y|ies)|id|index|names:?",
    re.IGNORECASE,
)


def _is_hidden_class(line: str) -> bool:
    """Whether a line may be meant as a class and not as a comment; CVAT's heading is none."""
    return bool(re.match(r"#\w", line)) and not line.startswith("#label:")


def _begins_with_number(line: str) -> bool:
    return bool(re.match(r"\d+([\s:=.)]|$)", line))


def _name_rows(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    first = lines[0][1]
    if path.suffix.lower() in (".json", ".xml", ".yaml", ".yml") or first[0] in "{[<":
        raise UserError(f"{path} is no class list; {FORMS}.")
    numbered = [number for number, text in lines if _begins_with_number(text)]
    if len(numbered) == len(lines):
        raise UserError(
            f"Line {numbered[0]} of the class list {path} begins with a number, as all others do; "
            "write a CSV file with the first line index,name if the numbers count the classes, or "
            "label_id,name if they are the masks' values."
        )
    heads_numbers = len(numbered) == len(lines) - 1 > 1 and not _begins_with_number(first)
    if heads_numbers or _HEADINGS.fullmatch(first):
        raise UserError(
            f"The first line of the class list {path}, {first!r}, reads like a heading; write "
            "'name' in its place and then only the names, one a line. (If it is a class, put a "
            "line 'name' before it.)"
        )
    rows = [_Row(f"Line {number} of the class list {path}", text) for number, text in lines]
    for row in rows:
        if separator := re.search("[,;\t]", row.name):
            raise UserError(
                f"{row.where} has a {separator[0]!r} in {row.name!r}, but the first line has "
                f"none; {FORMS}."
            )
    if first.lower() == "name" or first == "__ignore__":  # a CSV file's header; labelme's labels
        del rows[0]
    return rows


def _labelmap_rows(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    rows = []
    for number, text in lines:
        where = f"Line {number} of the class list {path}"
        match = _LABELMAP.fullmatch(text)
        if not match:
            raise UserError(f"{where} is {text!r}, and not name:r,g,b:: as in CVAT's labelmap.txt.")
        color = (int(match[2]), int(match[3]), int(match[4])) if match[2] else None
        rows.append(_Row(where, match[1].strip(), color))
    return rows


def _csv_rows(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    first = lines[0][1]
    separator = max(",;\t", key=first.count)

    def cells(text: str) -> list[str]:
        row = next(csv.reader([text], delimiter=separator, skipinitialspace=True))
        return [cell.strip() for cell in row]

    columns = [column.lower() for column in cells(first)]
    while columns and not columns[-1]:  # spreadsheets write separators behind the last column
        del columns[-1]
    if "name" not in columns:
        raise UserError(
            f"The first line of the class list {path}, {first!r}, has no column called 'name'; put "
            "a line above the classes that names their columns, such as name,r,g,b or "
            "name,label_id."
        )
    channels = {"r", "g", "b"}
    missing = channels - set(columns) if channels & set(columns) else set()
    unknown = [column for column in columns if column not in COLUMNS or columns.count(column) > 1]
    if missing or unknown:
        problem = (
            f"no column {', '.join(sorted(missing))}"
            if missing
            else f"the column {unknown[0]!r}, which is unknown or there twice"
        )
        raise UserError(f"The class list {path} has {problem} in its first line; {FORMS}.")

    rows: list[_Row] = []
    for number, text in lines[1:]:
        where = f"Line {number} of the class list {path}"
        values = cells(text)
        if any(values[len(columns) :]) or len(values) < len(columns):
            raise UserError(f"{where} has not {len(columns)} columns, as the first has: {text!r}.")
        rows.append(_csv_row(dict(zip(columns, values, strict=False)), len(rows), where))
    return rows


def _csv_row(row: dict[str, str], index: int, where: str) -> _Row:
    def number(column: str, text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text):
            several = ", or several as 7;8" if column == "label_id" else ""
            raise UserError(
                f"{where} has {repr(text) if text else 'nothing'} in the column {column}; allowed "
                f"is a whole number{several}."
            )
        return int(text)

    color = None
    if any(row.get(channel) for channel in "rgb"):
        color = (number("r", row["r"]), number("g", row["g"]), number("b", row["b"]))
    ids = re.split(r"[\s;,]+", row.get("label_id", ""))
    label_ids = tuple(number("label_id", text) for text in ids if text)

    if "index" in row and number("index", row["index"]) != index:
        raise UserError(
            f"{where} has index {row['index']}; indices must count up from 0. If they are the "
            "masks' values, call the column label_id."
        )
    return _Row(where, row["name"], color, label_ids)


def _checked(rows: list[_Row], path: Path) -> ClassList:
    """Builds the classes, if each row can be one and no two contradict each other."""
    name = f"The class list {path}"
    names: set[str] = set()
    class_of: dict[int, str] = {}
    for row in rows:
        if not row.name or not all(0 <= value <= 255 for value in row.color or ()):
            raise UserError(f"{row.where} needs a name, and colours in 0..255.")
        if row.name in names:
            raise UserError(
                f"{name} names {row.name!r} twice; a class has one line, with all of its masks' "
                "values in a column label_id (as 7;8)."
            )
        names.add(row.name)
        for value in row.label_ids:
            if value < 0 or value in class_of:
                problem = (
                    f"is that of {class_of[value]!r} too" if value in class_of else "is below 0"
                )
                raise UserError(f"{row.where} has the label_id {value}, which {problem}.")
            class_of[value] = row.name
    if len(rows) == 1:
        raise UserError(
            f"{name} holds one class, {rows[0].name!r}, and two are the fewest; give what "
            "surrounds it a line too, as background (above it, if the masks are 0 there)."
        )
    if not 1 < len(rows) <= 255:
        raise UserError(f"{name} holds {len(rows)} classes; allowed are 2 to 255.")

    has_colors = _all_or_none([row.color is not None for row in rows], rows, "colour")
    _all_or_none([bool(row.label_ids) for row in rows], rows, "label_id")
    classes = [
        LabelClass(row.name, row.color or default_color(index), row.label_ids)
        for index, row in enumerate(rows)
    ]
    return ClassList(tuple(classes), has_colors)


def _all_or_none(given: list[bool], rows: list[_Row], what: str) -> bool:
    if any(given) and not all(given):
        lacking = rows[given.index(False)]
        raise UserError(
            f"{lacking.where} gives {lacking.name!r} no {what}, and other lines do; give one to "
            "all classes or to none."
        )
    return any(given)

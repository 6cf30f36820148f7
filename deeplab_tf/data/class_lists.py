"""Reads class lists: which classes there are, their colours, and their values in the masks.

A list is plain names, CVAT's labelmap.txt, or a CSV file. People write these by hand, so every
mistake is reported with its line and what to write instead.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.messages import UserError

COLUMNS = ("index", "name", "r", "g", "b", "label_id")
FORMS = (
    "a class list holds names, one per line, or is CVAT's labelmap.txt, or a CSV file whose first "
    f"line names its columns (out of {', '.join(COLUMNS)})"
)
# CVAT, "# label:color_rgb:parts:actions"; parts and actions have nothing to do with pixels.
_LABELMAP = re.compile(r"([^:]+):(?:(\d{1,9}),(\d{1,9}),(\d{1,9}))?:[^:]*:[^:]*")
_LABELMAP_HEADING = "label:color_rgb:"  # a comment, unless somebody took the # away
_LONGEST_LINE = 1000  # characters
_LONGEST_NAME = 400  # so that a line of a CSV file holds it, even if all of it has to be quoted


@dataclass(frozen=True)
class LabelClass:
    """One class.

    color: RGB in 0..255.
    label_ids: the values that mean this class in the original masks; predictions are written with
      the first one. Empty if the masks hold the class's index.
    """

    name: str
    color: tuple[int, int, int]
    label_ids: tuple[int, ...] = ()

    def to_json(self) -> dict:
        """Returns the class as dataset.json holds it."""
        ids = list(self.label_ids)
        label_id = {"label_id": ids if len(ids) > 1 else ids[0]} if ids else {}
        return {"name": self.name, "color": list(self.color)} | label_id


def from_json(content: dict) -> LabelClass:
    """Builds a class from what `to_json` wrote, which the caller has checked."""
    ids = content.get("label_id")
    label_ids = () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)
    return LabelClass(content["name"], tuple(content["color"]), label_ids)


@dataclass(frozen=True)
class ClassList:
    """The classes of a list, in the order of their train ids.

    has_colors: whether the list gives colours. If not, the classes get `default_color`s, which only
      serve to paint predictions: they say nothing about how the masks are drawn.
    """

    classes: tuple[LabelClass, ...]
    has_colors: bool


@dataclass
class _Row:
    """What one line says about a class.

    where: what errors call the line.
    color, label_ids: None and empty if the line does not give them.
    """

    where: str
    name: str
    color: tuple[int, int, int] | None = None
    label_ids: tuple[int, ...] = ()


def default_color(index: int) -> tuple[int, int, int]:
    """Returns the colour of a class whose list gives none: black for 0, distinct up to 255.

    This is PASCAL VOC's map (VOCdevkit, VOClabelcolormap): bit 3j + c of the index becomes bit
    7 - j of channel c.
    """
    color = [0, 0, 0]
    for bit in range(24):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


def read_class_list(path: Path) -> ClassList:
    """Reads a class list in any of its three forms, told apart by the first line.

    Names: one per line, in quotes or not. A line `name` and labelme's __ignore__ above them are
    skipped.
    CVAT: lines name:r,g,b:parts:actions.
    CSV: separated by commas, semicolons or tabs. The column name is required; r, g and b (0 to
    255), index (must count up from 0) and label_id (one value, or several separated by spaces or
    semicolons) are optional.

    Raises:
      UserError: if the file cannot be read, or a line is wrong or would be ignored.
    """
    if not path.exists():
        raise UserError(f"The class list {files.shown(path)} does not exist; {FORMS}.")

    lines = files.read_lines(path, "The class list", is_content=_is_hidden_class)
    for number, text in lines:
        if len(text) > _LONGEST_LINE:
            raise UserError(
                f"Line {number} of the class list {path} has {len(text)} characters, but a "
                f"class takes at most {_LONGEST_LINE}; {FORMS}."
            )
        if _is_hidden_class(text):
            raise UserError(
                f"Line {number} of the class list {path}, {text!r}, may be a comment or a class; "
                "put a space after the # of a comment, and no # before a class (or the class in "
                "double quotes, if the # is part of its name)."
            )

    # Spreadsheets write empty lines as separators only.
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


# What other programs write above a list of names: only such words, one of them of the first kind.
_HEADING = re.compile(
    r"(class|label|category)?(names?|ids?)|labels?|class(es)?|categor(y|ies)|index"
)
_PART_OF_HEADING = re.compile(r"objects?|numbers?|values?|colou?rs?|r|g|b|rgb|red|green|blue")
# Values or colours after the names, as in "road: 7", "road = 7" or "road 128 64 128".
_WITH_VALUES = re.compile(r"(.*?)(\s*(:|=|[-=]>)\s*\d+|(\s+\d+)+)")
_MARKS = re.compile(r"//|/\*|%|--|[-*]\s")  # what starts comments and list items elsewhere


def _is_heading(line: str) -> bool:
    """Whether a line consists of words that stand above lists: "Label Name", "Classes (3):"."""
    line = re.sub(r"(\(\d+\))?\s*(:\s*\d*)?$", "", line.lower())  # how many there are
    words = re.findall(r"[^\W_]+", line)
    are_headings = [bool(_HEADING.fullmatch(word)) for word in words]
    return any(are_headings) and all(
        is_heading or _PART_OF_HEADING.fullmatch(word)
        for word, is_heading in zip(words, are_headings, strict=True)
    )


def _have_values(lines: list[str]) -> bool:
    """Whether each line ends with numbers that are no part of a name, as in "zone 1", "zone 2"."""
    matches = [_WITH_VALUES.fullmatch(line) for line in lines]
    names = {match[1] for match in matches if match and match[1]}
    return len(lines) > 1 and len(names) == len(lines)


def _num_headings(lines: list[str]) -> int:
    """Returns how many lines stand above the names: `name`, labelme's __ignore__, or both.

    `name` heads a CSV file of one column; labelme's lists of labels start with __ignore__.
    """
    texts = [line.strip("'\"") for line in lines[:2]]
    texts = [text.lower() if text.lower() == "name" else text for text in texts]
    if sorted(texts) == ["__ignore__", "name"]:
        return 2
    return int(texts[0] in ("__ignore__", "name"))


def _unquoted(lines: list[str]) -> list[str]:
    """Takes away the quotes around names, as CSV writers or lists in programs have them.

    Single quotes may be part of names, so they are taken away only if all names have them.
    """
    if all(re.fullmatch("'.*'", line) for line in lines):
        return [line[1:-1].strip() for line in lines]
    return [
        line[1:-1].replace('""', '"').strip() if re.fullmatch('"([^"]|"")*"', line) else line
        for line in lines
    ]


def _quoted(name: str) -> str:
    """Returns a name as `_unquoted` reads it, whatever it starts with."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _is_hidden_class(line: str) -> bool:
    """Whether a line that starts with # may be meant as a class, such as "#1 road".

    CVAT's heading starts the same way, but is no class.
    """
    return bool(re.match(r"#\w", line)) and not line.startswith("#label:")


def _begins_with_number(line: str) -> bool:
    return bool(re.match(r"\d+([\s:=.)]|$)", line))


def _name_rows(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    """Reads a list of names, and refuses one that looks like something else."""
    first = lines[0][1]
    if path.suffix.lower() in (".json", ".xml", ".yaml", ".yml") or first[0] in "{[<":
        raise UserError(f"{path} is not a class list; {FORMS}.")

    above = _num_headings([text for _, text in lines])
    has_own_heading = any("name" in text.lower() for _, text in lines[:above])
    lines = lines[above:]
    names = _unquoted([text for _, text in lines])
    if not names:
        return []

    first_line = f"Line {lines[0][0]} of the class list {path}"
    first = lines[0][1]

    # A heading taken for a class would shift the train ids of all classes by one.
    is_above_numbers = all(map(_begins_with_number, names[1:])) and len(names) > 2
    is_heading = _is_heading(names[0]) or (is_above_numbers and not _begins_with_number(names[0]))
    if is_heading and not has_own_heading:
        columns = re.findall(r"\w+", names[0].lower())
        if len(set(columns) & set(COLUMNS)) > 1:
            raise UserError(
                f"{first_line}, {first!r}, names columns, but does not separate them by commas, "
                "semicolons or tabs; do so in all lines."
            )
        raise UserError(
            f"{first_line}, {first!r}, reads like a heading; write 'name' in its place and then "
            "only the names, one per line. (If it is a class, put a line 'name' before it.)"
        )

    # Numbers at all names may count the classes or be mask values: the user has to say which.
    if all(map(_begins_with_number, names)):
        raise UserError(
            f"{first_line} begins with a number, like all others; write a CSV file with the first "
            "line index,name if the numbers count the classes, or label_id,name if they are the "
            "masks' values."
        )
    if not has_own_heading and _have_values(names):
        raise UserError(
            f"{first_line}, {first!r}, ends with a number, like all others; write a CSV file with "
            "the first line name,label_id if the numbers are the masks' values, name,index if they "
            "count the classes, or name,r,g,b if they are colours. (If they belong to the names, "
            "put a line 'name' before them.)"
        )

    rows = []
    for (number, text), name in zip(lines, names, strict=True):
        where = f"Line {number} of the class list {path}"
        if mark := _MARKS.match(text):
            raise UserError(
                f"{where} starts with {mark[0].strip()!r}; start comments with '# ', and write a "
                "class as its name only, in double quotes if the name itself starts so: "
                f"{_quoted(text)}."
            )
        if name == text and (separator := re.search("[,;\t]", text)):
            raise UserError(
                f"{where} has a {separator[0]!r} in {name!r}, but the first line has none; {FORMS}."
            )
        rows.append(_Row(where, name))
    return rows


def _labelmap_rows(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    rows = []
    for number, text in lines:
        where = f"Line {number} of the class list {path}"
        match = _LABELMAP.fullmatch(text)
        if not match:
            raise UserError(f"{where} is {text!r}, not name:r,g,b:: as in CVAT's labelmap.txt.")
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
    while columns and not columns[-1]:  # spreadsheets write separators after the last column
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
            else f"the column {unknown[0]!r}, which is unknown or named twice"
        )
        raise UserError(f"The class list {path} has {problem} in its first line; {FORMS}.")

    rows: list[_Row] = []
    for number, text in lines[1:]:
        where = f"Line {number} of the class list {path}"
        values = cells(text)
        if any(values[len(columns) :]) or len(values) < len(columns):
            raise UserError(
                f"{where} does not have {len(columns)} columns like the first line: {text!r}."
            )
        rows.append(_csv_row(dict(zip(columns, values, strict=False)), len(rows), where))
    return rows


def _csv_row(row: dict[str, str], index: int, where: str) -> _Row:
    """Reads the row of the class `index`; `where` is what errors call its line."""

    def number(column: str, text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,9}", text):
            several = ", or several, such as 7;8" if column == "label_id" else ""
            raise UserError(
                f"{where} has {repr(text) if text else 'nothing'} in the column {column}; it must "
                f"hold a whole number{several}, of at most 9 digits."
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


def name_problem(name: str) -> str:
    """Returns why no class can have a name, such as "is empty"; "" if one can.

    Predictions and exported models come with a list of their classes, which must hold it.
    """
    if not name.strip():
        return "is empty"
    if re.search("[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", name):
        return "holds a line end, another control character or half a character"
    return f"is longer than {_LONGEST_NAME} characters" if len(name) > _LONGEST_NAME else ""


def _checked(rows: list[_Row], path: Path) -> ClassList:
    """Turns rows into classes, after checking each row and that no two contradict each other."""
    name = f"The class list {path}"
    names: set[str] = set()
    class_of: dict[int, str] = {}
    for row in rows:
        if not row.name or not all(0 <= value <= 255 for value in row.color or ()):
            raise UserError(f"{row.where} needs a name, and colours in 0..255.")
        if problem := name_problem(row.name):
            raise UserError(f"{row.where} gives a name that {problem}; write another.")
        if row.name in names:
            raise UserError(
                f"{name} names {row.name!r} twice; give a class one line, with all its mask values "
                "in a column label_id (such as 7;8)."
            )
        names.add(row.name)
        for value in row.label_ids:
            if value < 0 or value in class_of:
                problem = f"{class_of[value]!r} has too" if value in class_of else "is below 0"
                raise UserError(f"{row.where} has the label_id {value}, which {problem}.")
            class_of[value] = row.name

    if len(rows) == 1:
        raise UserError(
            f"{name} holds only one class, {rows[0].name!r}; at least two are needed. Add a line "
            "for what surrounds it, such as background (above it, if the masks are 0 there)."
        )
    if not 1 < len(rows) <= 255:
        raise UserError(f"{name} holds {len(rows)} classes; it must hold 2 to 255.")

    has_colors = _all_or_none([row.color is not None for row in rows], rows, "colour")
    _all_or_none([bool(row.label_ids) for row in rows], rows, "label_id")
    classes = [
        LabelClass(row.name, row.color or default_color(index), row.label_ids)
        for index, row in enumerate(rows)
    ]
    return ClassList(tuple(classes), has_colors)


def _all_or_none(given: list[bool], rows: list[_Row], what: str) -> bool:
    """Returns whether the rows give `what`; refuses a list in which only some of them do."""
    if any(given) and not all(given):
        lacking = rows[given.index(False)]
        raise UserError(
            f"{lacking.where} gives {lacking.name!r} no {what}, but other lines give one; give one "
            "to all classes or to none."
        )
    return any(given)

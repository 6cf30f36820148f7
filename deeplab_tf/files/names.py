"""Names of files and folders: shown to people, made from data, checked for TensorFlow."""

import os
import re
import tempfile
import unicodedata
from pathlib import Path

from deeplab_tf.messages import UserError

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes; limits.h of Linux
_LONGEST_SAFE_NAME = 200  # leaves room for a number and an ending
# TensorFlow adds to a folder's path what it writes there, such as
# variables/variables_temp/part-00000-of-00001.data-00000-of-00001.tempstate1234567890123456789.
_LONGEST_FOLDER = _LONGEST_PATH - 255


def shown(text: object, *, most: int = 0) -> str:
    """Returns a name as one printable line; escapes line ends and bytes that are not UTF-8.

    Args:
      most: about how many letters of a longer name are kept; 0 keeps all.
    """
    name = str(text)
    name = f"{name[:most]}..." if most and len(name) > most else name
    escaped = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in escaped)


def folded(name: str) -> str:
    """Returns a name without differences of case or Unicode form, for comparing."""
    return unicodedata.normalize("NFC", name).casefold()


def path_below(
    folder: Path,
    name: str,
    ending: str = "",
    *,
    advice: str = "rename the image and build the data set again",
) -> Path:
    """Returns the path of a file in a folder, from a name that comes from data.

    The name may have folders of its own; a leading slash counts for nothing.

    Args:
      ending: what is added to the name.
      advice: what the user can do about a name that is refused.
    Raises:
      UserError: if the name leads out of the folder, or no file can have it.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    problem = ""
    if not parts:
        problem = "is empty"
    elif ".." in parts:
        problem = "leads out of the folder"
    elif re.search("[\0-\x1f\x7f]", name):
        problem = "contains a control character"
    else:
        parts[-1] += ending
        longest = max(len(os.fsencode(part)) for part in parts)
        whole = len(os.fsencode(folder.joinpath(*parts)))
        if longest > _LONGEST_NAME or whole > _LONGEST_PATH:
            problem = "is too long"

    if problem:
        raise UserError(
            f"No file in {shown(folder)} can have the name '{shown(name, most=80)}': it {problem}; "
            f"{advice}."
        )
    return folder.joinpath(*parts)


def safe_name(name: str, *, otherwise: str) -> str:
    """Returns the last part of a name that comes from data, if a file can have it.

    Folders in the name count for nothing, so that the file lies where the program wants it.

    Args:
      otherwise: what is returned if no file can have the name: if it is empty or ends in "..", or
        has control characters or more than 200 bytes.
    """
    last = name.rstrip("/").rsplit("/", 1)[-1]
    is_possible = (
        last not in ("", ".", "..")
        and not re.search("[\0-\x1f\x7f\ud800-\udfff]", last)
        and len(last.encode()) <= _LONGEST_SAFE_NAME
    )
    return last if is_possible else otherwise


def require_plain(folder: Path, what: str) -> None:
    """Raises UserError unless TensorFlow can write weights to a folder and read them again.

    Args:
      what: what errors call the folder, such as "The run's folder".
    """
    name = f"{what} {shown(folder)}"
    # TensorFlow would write checkpoints to such a path, and then find none of them.
    pattern = re.search(r"\[.*\]|[\\*?]", str(folder))
    if pattern:
        raise UserError(
            f"{name} has {shown(pattern[0])} in its path, which TensorFlow takes for a pattern "
            "when it reads checkpoints; rename it, or give another path."
        )
    if re.search("[\0-\x1f\x7f\ud800-\udfff]", str(folder)):
        raise UserError(
            f"{name} has control characters, or bytes that are not UTF-8, in its path; rename it, "
            "or give another path."
        )

    full = Path(os.path.abspath(folder))
    longest = max(len(os.fsencode(part)) for part in full.parts)
    if longest > _LONGEST_NAME or len(os.fsencode(full)) > _LONGEST_FOLDER:
        raise UserError(
            f"{what} {shown(folder)[:40]}... has a path that is too long; allowed: "
            f"{_LONGEST_NAME} bytes in each name, {_LONGEST_FOLDER} in all."
        )


def same_place(folder: Path, one: str, other: str) -> bool:
    """Whether two names mean the same file in `folder`, as on file systems that ignore case.

    Finds out by creating one of them, there or in the nearest existing folder above.
    """
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as trial:
        Path(trial, one.replace("/", "_")).touch()
        return Path(trial, other.replace("/", "_")).exists()

"""Reads a command line and the flagfiles that it names: which flag is given what, and where.

The forms are absl's: --name=value, --name value, -name=value, --switch, --noswitch, --flagfile,
--undefok, --. Differs: absl joins flagfiles and command line to one list, of which the last wins.
Here the command line replaces what a flagfile gives, wherever --flagfile stands, and so does a
flagfile with those that it names itself; the later of two flagfiles replaces the earlier. What can
be read in two ways is refused.
"""

import dataclasses
import difflib
import glob
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.settings import UserError

_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # of a file, in bytes; limits.h of Linux
_NUMBER = re.compile(r"-\.?\d")
_TRAILING_COMMENT = re.compile(r"\s(#|//)")


@dataclass(frozen=True)
class Given:
    """A flag as it is given: its name without dashes, its text (None: no `=`), its place."""

    name: str
    text: str | None
    place: str = ""  # of a flagfile: its path and the line; empty: the command line

    def value(self) -> str:
        """Returns the text, which must be there."""
        if self.text is None:
            raise self.error(f"--{self.name} has no value; write --{self.name}=VALUE.")
        return self.text

    def error(self, problem: str) -> UserError:
        """Returns the error that says where the flag stands and what is wrong with it."""
        return UserError(f"{self.place}: {problem}" if self.place else problem)


def read(
    arguments: Sequence[str],
    switches: Mapping[str, bool],
    *,
    instead: Mapping[str, str] | None = None,
) -> list[list[Given]]:
    """Returns the flags given by a command line, in layers; each replaces those before it.

    Args:
      arguments: the command line without the program's name.
      switches: all flags there are; true for switches, which may be given as --name and --noname.
      instead: as in `config_flags.run`.
    Returns:
      Layers of flags of `switches`, all with a text; one layer may hold a flag several times.
    Raises:
      UserError: if a flag is unknown, a value is missing, or a flagfile cannot be read.
    """
    given, others = _split(arguments, switches)
    layers = list(_layers(given, ()))

    undefok = {"undefok"}
    for flag in itertools.chain(*layers):
        if flag.name == "undefok":
            names = [name.strip() for name in flag.value().split(",")]
            undefok |= {*names, *(f"no{name}" for name in names)}
    layers = [
        [
            _resolve(flag, switches, instead or {})
            for flag in layer
            if flag.name in switches or flag.name not in undefok
        ]
        for layer in layers
    ]
    if others:
        raise UserError(f"{others[0]!r} is not a flag; settings are given as --name=value.")
    return layers


def _split(
    arguments: Sequence[str], switches: Mapping[str, bool]
) -> tuple[list[Given], Sequence[str]]:
    """Returns the flags of a command line, and the words from the first that belongs to none."""
    given: list[Given] = []
    words = list(arguments)
    while words and words[0] != "--":
        if not words[0].startswith("-") or words[0] == "-":
            return given, words
        name, equals, text = words.pop(0).removeprefix("-").removeprefix("-").partition("=")
        needs_value = name in ("flagfile", "undefok") or switches.get(name) is False
        # A value may be a negative number; anything else with a dash is the next flag.
        follows = words and (not words[0].startswith("-") or bool(_NUMBER.match(words[0])))
        if not equals and needs_value and follows:
            equals, text = "=", words.pop(0)
        given.append(Given(name, text if equals else None))
    return given, words[1:]


def _layers(given: Sequence[Given], opened: tuple[Path, ...]) -> Iterator[list[Given]]:
    """Yields the layers of the flagfiles among these flags, then the other flags.

    Args:
      opened: the flagfiles that these flags stand in.
    """
    own = []
    for flag in given:
        if flag.name == "flagfile":
            path = _find(Path(os.path.expanduser(flag.value())), flag, opened)
            if path.resolve() in opened:
                raise flag.error(f"--flagfile={path} leads back to itself; remove this line.")
            yield from _layers(_read_flagfile(path, flag), (*opened, path.resolve()))
        else:
            own.append(flag)
    yield own


def _find(path: Path, flag: Given, opened: tuple[Path, ...]) -> Path:
    """Returns the flagfile of that path, in the working directory or next to the one it stands in.

    absl knows the working directory only.
    """
    beside = opened[-1].parent / path if opened else path
    if path.exists() and beside.exists() and not path.samefile(beside):
        raise flag.error(
            f"--flagfile={path} is there twice, in {os.getcwd()} and in {beside.parent}; give the "
            "whole path of the one that is meant."
        )
    return path if path.exists() or not beside.exists() else beside


def _read_flagfile(path: Path, named_by: Given) -> list[Given]:
    """Returns the flags of a flagfile, in which people may have written what it cannot hold."""
    try:
        lines = lines_of(path)
    except UserError as error:
        raise named_by.error(str(error)) from None

    given = []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        flag = flag_of(line, f"{path}, line {number}")
        text = (flag.text or "").strip()
        if not line.startswith("-") or re.search(r"\s", flag.name):
            raise flag.error(f"{line!r} is not a flag; write --name=value, one a line.")
        if _TRAILING_COMMENT.search(text):
            raise flag.error(
                f"{line!r} seems to end in a comment; give comments a line of their own, or a "
                "value that holds ' #' or ' //' on the command line."
            )
        if text.startswith(("'", '"')):
            raise flag.error(f"{line!r} has quotes, which would be part of the value; remove them.")
        given.append(dataclasses.replace(flag, text=flag.text and text))
    return given


def lines_of(path: Path) -> list[str]:
    """Returns the lines of a flagfile, whatever editor wrote it.

    Raises:
      UserError: if it cannot be read, or is no text.
    """
    return files.read_text(path, "The flagfile").split("\n")


def flag_of(line: str, place: str) -> Given:
    """Returns the flag that stands in a flagfile's line."""
    name, equals, text = line.removeprefix("-").removeprefix("-").partition("=")
    return Given(name, text if equals else None, place)


def _resolve(flag: Given, switches: Mapping[str, bool], instead: Mapping[str, str]) -> Given:
    """Returns a flag by its own name, with a text: --noname as name, false."""
    if flag.name in switches:
        if flag.text is None and switches[flag.name]:
            return Given(flag.name, "true", flag.place)
        return Given(flag.name, flag.value(), flag.place)

    positive = flag.name.removeprefix("no")
    if positive != flag.name and switches.get(positive):
        if flag.text is not None:
            raise flag.error(
                f"--{flag.name} takes no value; write --{flag.name} or --{positive}=VALUE."
            )
        return Given(positive, "false", flag.place)

    if flag.name in instead:
        raise flag.error(f"There is no --{flag.name}: {instead[flag.name]}")
    near = difflib.get_close_matches(flag.name, switches, n=3, cutoff=0.75)
    hint = f" Did you mean: {', '.join(near)}?" if near else ""
    raise flag.error(f"Unknown command line flag {flag.name!r}.{hint}")


def join_parts(parts: Sequence[str]) -> str:
    r"""Returns the parts of a list as one text: a comma in a part stands there as `\,`."""
    return ",".join(re.sub(r"([\\,])", r"\\\1", part) for part in parts)


def split_parts(text: str) -> tuple[str, ...]:
    r"""Returns the parts of a list that commas separate; `\,` is a comma in a part.

    The inverse of `join_parts`.
    """
    if not text:
        return ()
    parts = [""]
    for token in re.findall(r"\\[\\,]|.", text, flags=re.DOTALL):
        if token == ",":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return tuple(parts)


def whole_paths(parts: Sequence[str], *, flag: str) -> tuple[str, ...]:
    """Joins parts again that a comma in the name of something on disk has separated.

    Spaces around a part are left out unless the name has them.

    Args:
      parts: files, folders and globs.
      flag: the flag they were given to, for the error.
    Raises:
      UserError: if the parts name something both joined and apart.
    """
    found = []
    left = list(parts)
    while left:
        count = _count_in_name(left)
        joined = ",".join(left[:count])
        if count > 1 and all(map(_on_disk, left[:count])):
            raise UserError(
                f"--{flag}={joined} names what is there both as a whole and in each part; write a "
                f"comma that belongs to a name as '\\,' or give --{flag} once for each part."
            )
        found.append(_on_disk(joined) or joined.strip())
        left = left[count:]
    return tuple(found)


def _count_in_name(parts: Sequence[str]) -> int:
    """Returns how many of the first parts together, as many as may be, name what is on disk."""
    most = 1
    for count in range(2, len(parts) + 1):
        joined = ",".join(parts[:count])
        folder, name = os.path.split(joined)
        # Ends the search where no longer name can exist either: lists may have thousands of parts.
        longest = _LONGEST_NAME if glob.escape(joined) == joined else _LONGEST_PATH
        if len(name) > longest or (folder and not _on_disk(folder)):
            break
        if _on_disk(joined):
            most = count
    return most


def _on_disk(text: str) -> str | None:
    """Returns the path or glob that names what is there: the text, or it without outer spaces."""
    for path in dict.fromkeys((text, text.strip())):
        if os.path.lexists(path):
            return path
        if glob.escape(path) != path and any(glob.iglob(path, recursive=True)):
            return path
    return None


def named_files(parts: Sequence[str]) -> tuple[str, ...]:
    """Joins the parts of NAME=FILE,NAME=FILE again where a comma belongs to a file's name."""
    found: list[str] = []
    for part in parts:
        if found and not re.match(r"[^=/]+=", part):
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    return tuple(found)

"""Reads a command line and its flagfiles: the value of each flag, and where it was given.

The syntax is absl's: --name=value, --name value, -name=value, --switch, --noswitch, --flagfile,
--undefok, --. Differs: in absl the last of all flags wins. Here the command line overrides its
flagfiles wherever --flagfile stands, a flagfile overrides the flagfiles it includes, and of two
flagfiles the later one wins. Input that could be read in two ways is refused.
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
from deeplab_tf.config.official_flags import ACCEPTED, INSTEAD, OfficialFlag
from deeplab_tf.messages import UserError, shortened

# Where the recipes are: next to the package in a clone, inside the package in a wheel.
_RECIPES = (Path(__file__).parents[2] / "configs", Path(__file__).parents[1] / "configs")
_OFFICIAL = "official"  # the folder there with the recipes of Google's published networks
_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # limits of file names, in bytes; limits.h of Linux
_DEEPEST, _MOST_FLAGFILES = 20, 200
_NUMBER = re.compile(r"-\.?\d")
_TRAILING_COMMENT = re.compile(r"\s(#|//)")


@dataclass(frozen=True)
class Given:
    """A flag as it was given.

    name: without dashes. text: its value; None if no value was given.
    place: path and line of the flagfile that has the flag; empty for the command line.
    """

    name: str
    text: str | None
    place: str = ""

    def value(self) -> str:
        """Returns the text; raises UserError if there is none."""
        if self.text is None:
            raise self.error(f"--{self.name} has no value; write --{self.name}=VALUE.")
        return self.text

    def error(self, problem: str) -> UserError:
        """Returns an error that says what is wrong with the flag, and where it was given."""
        return UserError(f"{self.place}: {problem}" if self.place else problem)


def read(
    arguments: Sequence[str],
    switches: Mapping[str, bool],
    *,
    instead: Mapping[str, str] | None = None,
    official: Mapping[str, OfficialFlag] | None = None,
) -> list[list[Given]]:
    """Returns the flags of a command line and its flagfiles, in layers; later layers win.

    Args:
      arguments: the command line without the program's name.
      switches: all known flags by name; true for a switch, which may be given as --name and
        --noname.
      instead: as in `config.flags.run`.
      official: flags of the official program, by name; `official_flags` says what each means.
    Returns:
      Layers of known flags, each with a text; one layer may hold a flag several times.
    Raises:
      UserError: if a flag is unknown, a value is missing, or a flagfile cannot be read.
    """
    official = {name: flag for name, flag in (official or {}).items() if name not in switches}
    switches_there = {name: flag.is_switch for name, flag in official.items()}
    given, others = _split(arguments, {**switches, **switches_there})
    layers = list(_layers(given, (), itertools.count(1)))

    # --undefok=a,b allows --a and --b (and --noa, --nob) although no program here has them.
    undefok = {"undefok"}
    for flag in itertools.chain(*layers):
        if flag.name == "undefok":
            names = [name.strip() for name in flag.value().split(",")]
            undefok |= {*names, *(f"no{name}" for name in names)}

    layers = [
        [
            resolved
            for flag in layer
            if flag.name in switches or flag.name not in undefok
            if (resolved := _resolve(_ours(flag, official), switches, instead or {})) is not None
        ]
        for layer in layers
    ]

    # Only now: an unknown flag is reported first, since it may be why a word is left over.
    if others:
        raise UserError(f"{_quoted(others[0])} is not a flag; settings are given as --name=value.")
    return layers


def _split(
    arguments: Sequence[str], switches: Mapping[str, bool]
) -> tuple[list[Given], Sequence[str]]:
    """Returns the flags of a command line, and all words from the first one that is not a flag."""
    given: list[Given] = []
    words = list(arguments)
    while words and words[0] != "--":
        if not words[0].startswith("-") or words[0] == "-":
            return given, words

        name, equals, text = words.pop(0).removeprefix("-").removeprefix("-").partition("=")
        needs_value = name in ("flagfile", "undefok") or switches.get(name) is False
        # A value may be a negative number; anything else with a dash is the next flag.
        value_follows = words and (not words[0].startswith("-") or bool(_NUMBER.match(words[0])))
        if not equals and needs_value and value_follows:
            equals, text = "=", words.pop(0)
        given.append(Given(name, text if equals else None))
    return given, words[1:]


def _layers(
    given: Sequence[Given], opened: tuple[Path, ...], numbers: Iterator[int]
) -> Iterator[list[Given]]:
    """Yields the layers of the flagfiles that these flags include, then the other flags.

    Args:
      opened: the flagfiles that led to these flags, outermost first; the last one contains them.
        Empty for the command line.
      numbers: counts the flagfiles that are read. Files that each include the next one twice would
        double their number again and again.
    """
    other_flags = []
    for flag in given:
        if flag.name == "flagfile":
            try:
                path = _find(Path(os.path.expanduser(flag.value())), flag, opened)
            except OSError as error:  # such as a name that is too long
                raise flag.error(
                    f"--flagfile={shortened(flag.value())} cannot be read: {error.strerror}."
                ) from None
            # Not with Path.resolve, which fails on a link that leads to itself.
            resolved = Path(os.path.realpath(path))
            if resolved in opened:
                raise flag.error(f"--flagfile={path} leads back to itself; remove this line.")
            if len(opened) >= _DEEPEST or next(numbers) > _MOST_FLAGFILES:
                raise flag.error(
                    f"--flagfile={path} is too much: flagfiles may include each other up to "
                    f"{_DEEPEST} deep, {_MOST_FLAGFILES} in all; write the settings into one file."
                )
            yield from _layers(_read_flagfile(path, flag), (*opened, resolved), numbers)
        else:
            other_flags.append(flag)
    yield other_flags


def _find(path: Path, flag: Given, opened: tuple[Path, ...]) -> Path:
    """Finds a flagfile in the working directory, or next to the flagfile that includes it.

    absl looks only in the working directory. If there is no such file, the name may be a recipe's.

    Args:
      flag: the --flagfile that gave the path, for errors.
      opened: as in `_layers`.
    """
    neighbour = opened[-1].parent / path if opened else path
    if path.exists() and neighbour.exists() and not path.samefile(neighbour):
        raise flag.error(
            f"--flagfile={path} exists twice, in {os.getcwd()} and in {neighbour.parent}; give the "
            "full path of the one you mean."
        )
    existing = path if path.exists() else neighbour
    if existing.is_file():
        return existing

    # A recipe goes by its name below configs/, such as official/voc_xception65_os16.
    is_of_google = path.parent.name == _OFFICIAL
    name = f"{_OFFICIAL}/{path.stem}" if is_of_google else path.stem
    recipe = recipes().get(name)
    is_name = path.parent in (Path(), Path(_OFFICIAL))
    # Even if the path exists: it may be a folder of that name, such as a run of the recipe.
    if is_name and recipe:
        return recipe
    if is_name and not path.exists():
        raise flag.error(
            f"The flagfile {path} does not exist, and no recipe has that name; the recipes are "
            f"{', '.join(recipes())}."
        )
    if recipe and not path.exists():
        raise flag.error(
            f"The flagfile {path} does not exist; the recipe of that name is --flagfile={name}."
        )
    return path


def recipes() -> dict[str, Path]:
    """Returns the flagfiles that come with the package, by name."""
    folder = next(folder for folder in _RECIPES if list(folder.glob("*.flags")))
    paths = [*sorted(folder.glob("*.flags")), *sorted(folder.glob(f"{_OFFICIAL}/*.flags"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _read_flagfile(path: Path, named_by: Given) -> list[Given]:
    """Returns the flags of a flagfile; refuses lines that are probably not meant as they read."""
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
            raise flag.error(f"{_quoted(line)} is not a flag; write --name=value, one per line.")
        if _TRAILING_COMMENT.search(text):
            raise flag.error(
                f"{_quoted(line)} seems to end in a comment; put comments on separate lines, and "
                "values that contain ' #' or ' //' on the command line."
            )
        if text.startswith(("'", '"')):
            raise flag.error(
                f"{_quoted(line)} has quotes, which would become part of the value; remove them."
            )
        given.append(dataclasses.replace(flag, text=flag.text and text))
    return given


def lines_of(path: Path) -> list[str]:
    """Returns the lines of a flagfile, in any text encoding that `files` reads.

    Raises:
      UserError: if it cannot be read, or is not text.
    """
    return files.read_text(path, "The flagfile").split("\n")


def flag_of(line: str, place: str) -> Given:
    """Parses one line of a flagfile; `place` is its path and line number, for errors."""
    name, equals, text = line.removeprefix("-").removeprefix("-").partition("=")
    return Given(name, text if equals else None, place)


def _ours(flag: Given, official: Mapping[str, OfficialFlag]) -> Given | None:
    """Returns what a flag of the official program is here; None if it changes nothing.

    Raises:
      UserError: if there is no such thing here.
    """
    positive = flag.name.removeprefix("no")
    if positive in official and positive != flag.name and official[positive].is_switch:
        flag = Given(positive, "false", flag.place)
    known = official.get(flag.name)
    if known is None:
        return flag
    if known.verdict == INSTEAD:
        if known.is_default(flag.text):
            return None
        raise flag.error(f"There is no --{flag.name}: {known.reason}.")

    if known.is_switch and flag.text is None:
        flag = Given(flag.name, "true", flag.place)
    if known.verdict != ACCEPTED:
        return Given(known.setting, flag.value(), flag.place)
    if known.accepts(flag.value()):
        return None
    raise flag.error(
        f"--{flag.name}={shortened(flag.value())} is not possible here, only "
        f"{known.shown_default()}: {known.reason}."
    )


def _resolve(
    flag: Given | None, switches: Mapping[str, bool], instead: Mapping[str, str]
) -> Given | None:
    """Returns the flag under the name of its setting, with a text: --noname becomes name=false."""
    if flag is None:
        return None
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

    # Of a very long name the start is enough: comparing takes the square of its length.
    near = difflib.get_close_matches(flag.name[:_LONGEST_NAME], switches, n=3, cutoff=0.75)
    hint = f" Did you mean: {', '.join(near)}?" if near else ""
    raise flag.error(f"Unknown command line flag {_quoted(flag.name)}.{hint}")


def _quoted(text: str) -> str:
    return repr(shortened(text))


def join_parts(parts: Sequence[str]) -> str:
    r"""Joins the parts of a list with commas; a comma in a part becomes `\,`."""
    return ",".join(re.sub(r"([\\,])", r"\\\1", part) for part in parts)


def split_parts(text: str) -> tuple[str, ...]:
    r"""Splits a list at its commas; `\,` is a comma within a part.

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
    """Rejoins parts that were split at a comma that belongs to a name on disk.

    Spaces around a part are dropped unless the name on disk has them.

    Args:
      parts: files, folders and globs.
      flag: the flag that they were given to, for the error.
    Raises:
      UserError: if both the rejoined name and each of its parts exist.
    """
    paths = []
    remaining = list(parts)
    while remaining:
        count = _count_in_name(remaining)
        joined = ",".join(remaining[:count])
        if count > 1 and all(map(_on_disk, remaining[:count])):
            raise UserError(
                f"--{flag}={joined} exists as one name, and so does each of its parts; write '\\,' "
                f"for a comma that belongs to a name, or give --{flag} once for each part."
            )
        paths.append(_on_disk(joined) or joined.strip())
        remaining = remaining[count:]
    return tuple(paths)


def _count_in_name(parts: Sequence[str]) -> int:
    """Returns the largest number of leading parts that, joined, name something on disk; else 1."""
    most = 1
    for count in range(2, len(parts) + 1):
        joined = ",".join(parts[:count])
        folder, name = os.path.split(joined)
        # Stop where no longer name can exist either: a list may have thousands of parts, and each
        # look at the disk takes time.
        longest = _LONGEST_NAME if glob.escape(joined) == joined else _LONGEST_PATH
        if len(name) > longest or (folder and not _on_disk(folder)):
            break
        if _on_disk(joined):
            most = count
    return most


def _on_disk(text: str) -> str | None:
    """Returns the text, or the text stripped, if it is an existing path or a glob that matches."""
    for path in dict.fromkeys((text, text.strip())):
        if os.path.lexists(path):
            return path
        if glob.escape(path) != path and any(glob.iglob(path, recursive=True)):
            return path
    return None


def named_files(parts: Sequence[str]) -> tuple[str, ...]:
    """Rejoins parts of NAME=FILE,NAME=FILE that were split at a comma in a file's name."""
    items: list[str] = []
    for part in parts:
        # A part without a NAME= continues the file name before it.
        if items and not re.match(r"[^=/]+=", part):
            items[-1] += f",{part}"
        else:
            items.append(part.strip())
    return tuple(items)

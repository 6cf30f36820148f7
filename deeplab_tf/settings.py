"""What a setting is: a dataclass field with its meaning and limits, checked on construction."""

import dataclasses
import math
import typing
from typing import Any, Literal


class UserError(Exception):
    """A mistake the user can mend; entry points print its one sentence and exit with status 1."""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    least: float | None = None,
    may_change: bool = False,
    names: Literal["", "paths", "named_files"] = "",
) -> Any:
    """Returns a dataclass field that `config_flags` can turn into a flag.

    Args:
      default: default value; its type is the setting's type. A tuple makes a list setting, whose
        flag may be repeated and whose annotation, such as tuple[int, ...], says what it holds.
      help: one sentence for `--help`.
      choices: allowed values; empty allows all.
      least: smallest allowed number.
      may_change: whether a resumed run may use another value: true for what changes neither
        the model nor the sequence of its weights.
      names: what the parts of a list of texts name on disk, where a comma may be part of a name:
        paths (files, folders and globs) or named_files (NAME=FILE); empty: nothing.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "least": least,
        "may_change": may_change,
        "names": names,
    }
    return dataclasses.field(default=default, metadata=metadata)


def is_list(field: dataclasses.Field) -> bool:
    """Returns whether a setting holds several values."""
    return isinstance(field.default, tuple)


def part_type(field: dataclasses.Field) -> type:
    """Returns the type of a list setting's parts: int, float or str."""
    return typing.get_args(field.type)[0]


class Config:
    """Base of the settings groups: checks choices and bounds on construction."""

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if is_list(field):
                # A text would be taken for a tuple of its letters.
                require(isinstance(value, tuple), field.name, value, "a tuple, in Python")
                values = value
            else:
                values = (value,)

            choices, least = field.metadata["choices"], field.metadata["least"]
            if choices and value not in choices:
                require(False, field.name, value, "one of " + ", ".join(map(str, choices)))
            if least is not None:
                require(all(n >= least for n in values), field.name, value, f"{least} or more")

            for part in values:
                if isinstance(part, float):
                    require(math.isfinite(part), field.name, value, "a finite number")
                if isinstance(part, str):
                    # experiment.flags holds one setting a line.
                    require(not {"\n", "\r"} & {*part}, field.name, repr(value), "a single line")
                    proper = bool(part) or not is_list(field)
                    require(proper, field.name, value, "a list without empty parts")


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises UserError naming the setting, what was given and what is allowed."""
    if not condition:
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"--{name}={text} is not possible; allowed: {allowed}.")

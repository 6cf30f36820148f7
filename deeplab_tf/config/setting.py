"""What a setting is: a dataclass field with its meaning and limits, checked on construction."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from deeplab_tf.messages import UserError


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    least: float | None = None,
    may_change: bool = False,
    names: Literal["", "paths", "named_files"] = "",
    only_with: Mapping[str, tuple] | None = None,
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
      only_with: settings of which this one needs one to have an effect: by their names the values
        that give it one, where () stands for any but the default. None: it always has one.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "least": least,
        "may_change": may_change,
        "names": names,
        "only_with": only_with or {},
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


def without_effect(groups: Iterable[Config]) -> dict[str, str]:
    """Returns the settings that were changed without an effect, each with what would give it one.

    Args:
      groups: all groups that the settings' `only_with` name.
    """
    fields: dict[str, dataclasses.Field] = {}
    values: dict[str, Any] = {}
    for group in groups:
        for field in dataclasses.fields(group):  # type: ignore[arg-type]
            fields[field.name] = field
            values[field.name] = getattr(group, field.name)

    def is_met(name: str, wanted: tuple) -> bool:
        return values[name] in wanted if wanted else values[name] != fields[name].default

    def described(name: str, wanted: tuple) -> str:
        if wanted:
            return " or ".join(as_flag(name, value) for value in wanted)
        default = fields[name].default
        return f"--{name} other than {default}" if default else f"--{name}"

    found = {}
    for name, field in fields.items():
        needs = field.metadata["only_with"]
        is_changed = values[name] != field.default
        if needs and is_changed and not any(is_met(*need) for need in needs.items()):
            found[name] = " or ".join(described(*need) for need in needs.items())
    return found


def as_flag(name: str, value: Any) -> str:
    """Returns a setting as people give it on the command line."""
    return f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


def as_argument(name: str, value: Any) -> str:
    """Returns a setting as people give it in Python."""
    return f"{name}={value!r}"


def require(
    condition: bool,
    name: str,
    value: Any,
    allowed: str,
    *,
    written: Callable[[str, Any], str] = as_flag,
) -> None:
    """Raises UserError naming the setting, what was given and what is allowed."""
    if not condition:
        raise UserError(f"{written(name, value)} is not possible; allowed: {allowed}.")


def require_given(name: str, value: Any, what: str) -> None:
    """Raises UserError if a setting that has no default was left out; `what` is what it takes."""
    if not value:
        raise UserError(f"--{name} is missing; give it {what}.")


def require_exactly_one(**values: Any) -> None:
    """Raises UserError unless one of several settings was given, and no other."""
    given = [name for name, value in values.items() if value]
    if len(given) != 1:
        names = " or ".join(f"--{name}" for name in values)
        found = " and ".join(f"--{name}" for name in given) or "none"
        raise UserError(f"Give either {names}, and only that; given: {found}.")

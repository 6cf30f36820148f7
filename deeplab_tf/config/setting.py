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
    """Returns a dataclass field that `config.flags` can turn into a flag.

    Args:
      default: default value; its type is the setting's type. A tuple makes a list setting: its
        flag may be repeated, and its annotation, such as tuple[int, ...], gives the type of a part.
      help: one sentence for `--help`.
      choices: allowed values; empty allows all.
      least: smallest allowed number.
      may_change: whether a resumed run may use another value; true for a setting that changes
        neither the model nor the sequence of its weights.
      names: for a list of names on disk, which may contain commas themselves: "paths" (files,
        folders and globs) or "named_files" (NAME=FILE); empty for all other lists.
      only_with: the settings that give this one an effect, by name, each with the values that do;
        () means any value but the default. One of them is enough. None: it always has an effect.
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


def setting_of(group: Any, name: str, *, help: str = "") -> Any:
    """Returns a setting of another group once more, for a program with only some of its settings.

    Args:
      help: the sentence for `--help`; if empty, the other group's.
    """
    field = group.__dataclass_fields__[name]
    metadata = field.metadata
    return setting(
        field.default,
        help or metadata["help"],
        choices=metadata["choices"],
        least=metadata["least"],
        names=metadata["names"],
    )


def is_list(field: dataclasses.Field) -> bool:
    """Returns whether a setting holds several values."""
    return isinstance(field.default, tuple)


def part_type(field: dataclasses.Field) -> type:
    """Returns the type of a list setting's parts: int, float or str."""
    return typing.get_args(field.type)[0]


class Config:
    """Base class of the settings groups; checks every value on construction."""

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if is_list(field):
                # Python would take a string for a sequence of its letters.
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
                    # experiment.flags holds one setting per line.
                    require(not {"\n", "\r"} & {*part}, field.name, repr(value), "a single line")
                    is_empty_part = is_list(field) and not part
                    require(not is_empty_part, field.name, value, "a list without empty parts")


def without_effect(groups: Iterable[Config]) -> dict[str, str]:
    """Returns the settings that were changed but have no effect, each with what would give it one.

    Args:
      groups: settings groups, including all groups that their `only_with` refer to.
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

    lacking = {}
    for name, field in fields.items():
        needs = field.metadata["only_with"]
        is_changed = values[name] != field.default
        if needs and is_changed and not any(is_met(*need) for need in needs.items()):
            lacking[name] = " or ".join(described(*need) for need in needs.items())
    return lacking


def as_flag(name: str, value: Any) -> str:
    """Returns a setting as one types it on the command line."""
    return f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


def as_argument(name: str, value: Any) -> str:
    """Returns a setting as one writes it in Python."""
    return f"{name}={value!r}"


def require(
    condition: bool,
    name: str,
    value: Any,
    allowed: str,
    *,
    written: Callable[[str, Any], str] = as_flag,
) -> None:
    """Raises UserError with the setting, what was given and what is allowed, unless `condition`.

    Args:
      written: how the error writes the setting: `as_flag` or `as_argument`.
    """
    if not condition:
        raise UserError(f"{written(name, value)} is not possible; allowed: {allowed}.")


def require_given(name: str, value: Any, what: str) -> None:
    """Raises UserError if a required setting was left out; `what` says what to give."""
    if not value:
        raise UserError(f"--{name} is missing; give it {what}.")


def require_exactly_one(**values: Any) -> None:
    """Raises UserError unless exactly one of several settings was given."""
    given = [name for name, value in values.items() if value]
    if len(given) != 1:
        names = " or ".join(f"--{name}" for name in values)
        listed = " and ".join(f"--{name}" for name in given) or "none"
        raise UserError(f"Give either {names}, and only that; given: {listed}.")

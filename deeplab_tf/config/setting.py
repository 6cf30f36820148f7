"""What a setting is: a dataclass field with its meaning and limits, checked on construction.

Every number has a least and a most value, whether it comes from a flag, a flagfile or Python.
"""

import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened

# Limits of numbers whose settings name none. TensorFlow counts in int32, and computes in float32:
# there the square of a larger number may be infinite, and a smaller number becomes 0.
MOST_COUNT = 2**31 - 1
MOST_NUMBER = 1e9
SMALLEST_NUMBER = 1e-37
MOST_PIXELS_OF_A_SIDE = 65535  # of any JPEG
MOST_CHANNELS = 1 << 14  # the widest networks have a few thousand
MOST_SCALE = 16
MOST_SECONDS = 2_000_000  # 23 days; in milliseconds they still fit into int32
MOST_SEED = 2**32 - 1  # of NumPy
_LIMITS = ("least", "most", "above", "below")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    may_change: bool = False,
    names: Literal["", "paths", "named_files"] = "",
    only_with: Mapping[str, tuple] | None = None,
    open: str = "as the model variant has it",
) -> Any:
    """Returns a dataclass field that `config.flags` can turn into a flag.

    Args:
      default: default value. None leaves the setting open: on construction, its group gives it the
        value that follows from another setting. The annotation is the type of finished values. A
        tuple, such as tuple[int, ...], makes a list setting, whose flag may be repeated.
      help: one sentence for `--help`.
      choices: allowed values, in a list setting of each part; empty allows all.
      least, most: smallest and largest allowed number. Without them, the limits above hold, and
        a whole number is not negative.
      above, below: limits that are not allowed themselves, in place of `least` and `most`.
      may_change: whether a resumed run may use another value; true for a setting that changes
        neither the model nor the sequence of its weights.
      names: for a list of names on disk, which may contain commas themselves: "paths" (files,
        folders and globs) or "named_files" (NAME=FILE); empty for all other lists.
      only_with: the settings that give this one an effect, by name, each with the values that do,
        or parts of a list that do; () means any value but the default. One of them is enough.
        None: it always has an effect.
      open: what `--help` shows as the default, if it is None.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "least": least,
        "most": most,
        "above": above,
        "below": below,
        "may_change": may_change,
        "names": names,
        "only_with": only_with or {},
        "open": open,
    }
    return dataclasses.field(default=default, metadata=metadata)


def setting_of(group: Any, name: str, *, default: Any = ..., help: str = "") -> Any:
    """Returns a setting of another group once more, for a program with only some of its settings.

    Args:
      default: its default value; ... takes the other group's.
      help: the sentence for `--help`; if empty, the other group's.
    """
    field = group.__dataclass_fields__[name]
    metadata = field.metadata
    return setting(
        field.default if default is ... else default,
        help or metadata["help"],
        choices=metadata["choices"],
        **{limit: metadata[limit] for limit in _LIMITS},
        names=metadata["names"],
        open=metadata["open"],
    )


def type_of(field: dataclasses.Field) -> Any:
    """Returns the type of a setting's values: bool, int, float, str or tuple."""
    return typing.get_origin(field.type) or field.type


def is_list(field: dataclasses.Field) -> bool:
    """Returns whether a setting holds several values."""
    return type_of(field) is tuple


def part_type(field: dataclasses.Field) -> type:
    """Returns the type of a list setting's parts: int, float or str."""
    return typing.get_args(field.type)[0]


class Config:
    """Base class of the settings groups; converts and checks every value on construction.

    NumPy values, lists and paths are converted to the Python values that a flag would give.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # the groups are frozen


def checked(field: dataclasses.Field, value: Any) -> Any:
    """Returns the value of a setting in the setting's own type.

    Raises:
      UserError: if it has another type, or is not allowed.
    """
    if value is None and field.default is None:
        return None
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        value = value.tolist()

    if is_list(field):
        # Python would take a string for a sequence of its letters.
        is_sequence = isinstance(value, list | tuple)
        require(is_sequence, field.name, value, "a tuple, in Python", written=as_argument)
        value = parts = tuple(_of_type(field, part_type(field), part, value) for part in value)
    else:
        value = _of_type(field, type_of(field), value, value)
        parts = (value,)

    choices = field.metadata["choices"]
    if choices and not set(parts) <= set(choices):
        require(False, field.name, value, allowed_of(choices))
    for part in parts:
        if isinstance(part, str):
            # experiment.flags holds one setting per line.
            is_line = not {"\n", "\r", "\0"} & {*part}
            require(is_line, field.name, value, "a single line")
            is_empty_part = is_list(field) and not part
            require(not is_empty_part, field.name, value, "a list without empty parts")
        elif not isinstance(part, bool) and not choices:
            _require_within_limits(field, part, value)
    return value


def allowed_of(choices: Sequence) -> str:
    """Returns which values are allowed, such as "one of 8, 16" or "empty, red or class"."""
    *names, last = [str(choice) for choice in choices if choice != ""]
    if "" not in choices:
        return f"one of {', '.join([*names, last])}"
    return f"{', '.join(['empty', *names])} or {last}"


_KINDS = {
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str, os.PathLike)),
}


def _of_type(field: dataclasses.Field, kind: type, part: Any, value: Any) -> Any:
    """Returns a value, or a part of a list, as bool, int, float or str; refuses other types.

    Args:
      value: the whole setting, for the error.
    """
    allowed, types = _KINDS[kind]
    is_possible = isinstance(part, types) and (kind is bool or not isinstance(part, bool))
    parts = " in each part" if is_list(field) else ""
    require(is_possible, field.name, value, f"{allowed}{parts}, in Python", written=as_argument)
    if kind is str:
        return os.fsdecode(part)
    try:
        number = float(part)
    except OverflowError:  # more than 308 digits, and Python prints no more than 4300
        return math.inf
    return number if kind is float else part


@dataclasses.dataclass(frozen=True)
class Limits:
    """The range of a setting's numbers.

    above, below: whether `least` and `most` themselves are not allowed.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False

    def hold(self, number: float) -> bool:
        """Whether a number is in the range."""
        is_enough = number > self.least if self.above else number >= self.least
        return is_enough and (number < self.most if self.below else number <= self.most)

    def allowed(self, number: float) -> str:
        """Returns the range in words, or only the end of it that helps with a wrong number."""
        start = f"above {self.least}" if self.above else f"{self.least}"
        if self.most not in (MOST_COUNT, MOST_NUMBER):
            start += "," if self.above else ""
            return f"{start} {'up to, not including,' if self.below else 'to'} {self.most}"
        if number > self.most:
            return f"{self.most} or less"
        return start if self.above else f"{start} or more"


def limits_of(field: dataclasses.Field) -> Limits:
    """Returns the limits of a setting whose values are numbers."""
    kind = part_type(field) if is_list(field) else type_of(field)
    least, most, above, below = (field.metadata[name] for name in _LIMITS)
    defaults = (0, MOST_COUNT) if kind is int else (-MOST_NUMBER, MOST_NUMBER)
    starts = [limit for limit in (above, least, defaults[0]) if limit is not None]
    ends = [limit for limit in (below, most, defaults[1]) if limit is not None]
    return Limits(starts[0], ends[0], above is not None, below is not None)


def _require_within_limits(field: dataclasses.Field, number: float, value: Any) -> None:
    """Checks a number; `value` is the whole setting, which may be a list, for the error."""
    require(math.isfinite(number), field.name, value, "a finite number")

    limits = limits_of(field)
    require(limits.hold(number), field.name, value, limits.allowed(number))

    is_lost = isinstance(number, float) and 0 < abs(number) < SMALLEST_NUMBER
    allowed = f"{SMALLEST_NUMBER} or more, since float32 takes less for 0"
    require(not is_lost, field.name, value, allowed)


def without_effect(groups: Iterable[Config]) -> dict[str, str]:
    """Returns the settings that were changed but have no effect, each with what would give it one.

    Args:
      groups: settings groups. What `only_with` names in other groups, the program does not have.
    """
    fields: dict[str, dataclasses.Field] = {}
    values: dict[str, Any] = {}
    for group in groups:
        for field in dataclasses.fields(group):  # type: ignore[arg-type]
            fields[field.name] = field
            values[field.name] = getattr(group, field.name)

    def is_met(name: str, wanted: tuple) -> bool:
        value = values[name]
        if not wanted:
            return value != fields[name].default
        return not {*value}.isdisjoint(wanted) if is_list(fields[name]) else value in wanted

    def described(name: str, wanted: tuple) -> str:
        if wanted:
            return " or ".join(as_flag(name, value) for value in wanted)
        default = fields[name].default
        return f"--{name} other than {default}" if default else f"--{name}"

    lacking = {}
    for name, field in fields.items():
        needs = {n: w for n, w in field.metadata["only_with"].items() if n in fields}
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
        given = shortened(files.shown(written(name, value)))
        raise UserError(f"{given} is not possible; allowed: {allowed}.")


def require_utf8(**values: Any) -> None:
    """Raises UserError if settings that are written to files hold bytes that are not UTF-8.

    Paths may hold such bytes, which Python reads as lone surrogates.
    """
    for name, value in values.items():
        is_utf8 = not re.search("[\ud800-\udfff]", as_flag(name, value))
        require(is_utf8, name, value, "text in UTF-8")


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

"""Reads JSON files and checks them: one sentence names file, key, what is there and what may be.

A check says what a value must be, such as `whole(0, 255)` or `listed(text())`. Keys that no check
names are let through, since later versions may write more.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened

# Takes a value and its key, such as ".classes[3].color"; raises ValueError.
Check = Callable[[Any, str], None]

_MOST_DIGITS = 300  # Python reads and prints no whole number of more than 4300


def _require(is_right: bool, value: Any, key: str, allowed: str) -> None:
    if is_right:
        return
    if isinstance(value, dict | list):  # it may be long and deep
        there = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    else:
        there = shortened(json.dumps(value), most=60)
    raise ValueError(f"{_name_of(key)} is {there}, but must be {allowed}")


def _name_of(key: str) -> str:
    return shortened(files.shown(key.removeprefix("."))) or "its content"


def string() -> Check:
    """Checks for any string."""
    return lambda value, key: _require(isinstance(value, str), value, key, "a text")


def text() -> Check:
    """Checks for a string of one line that can be written as UTF-8."""

    def check(value, key):
        is_text = isinstance(value, str)
        is_plain = is_text and not any("\ud800" <= c <= "\udfff" or c in "\0\r\n" for c in value)
        _require(is_plain, value, key, "a text of one line, in UTF-8")

    return check


def switch() -> Check:
    """Checks for true or false."""
    return lambda value, key: _require(isinstance(value, bool), value, key, "true or false")


def whole(least: int, most: int, *, or_float: bool = False) -> Check:
    """Checks for a whole number in a range.

    Args:
      or_float: whether 20.0 is allowed, as programs write it that keep whole numbers in tables
        together with gaps. The caller makes it an int.
    """

    def check(value, key):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        is_whole |= or_float and isinstance(value, float) and value.is_integer()
        is_right = is_whole and least <= value <= most
        _require(is_right, value, key, f"a whole number from {least} to {most}")

    return check


def number(least: float, most: float) -> Check:
    """Checks for a number in a range."""

    def check(value, key):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = is_number and least <= value <= most
        _require(is_right, value, key, f"a number from {least} to {most}")

    return check


def or_null(check: Check) -> Check:
    """Checks for null, or for what another check asks for."""
    return lambda value, key: None if value is None else check(value, key)


def or_listed(check: Check) -> Check:
    """Checks for what another check asks for, or a list of that."""
    of_list = listed(check, least=1)
    return lambda value, key: (of_list if isinstance(value, list) else check)(value, key)


def listed(check: Check, *, least: int = 0, most: int | None = None) -> Check:
    """Checks for a list whose parts all pass a check.

    Args:
      least, most: how many parts it may have; None sets no limit.
    """
    end = " or more" if most is None else f" to {most}" if most > least else ""

    def check_parts(value, key):
        is_list = isinstance(value, list)
        is_right = is_list and least <= len(value) and (most is None or len(value) <= most)
        _require(is_right, value, key, f"a list of {least}{end}")
        for index, part in enumerate(value):
            check(part, f"{key}[{index}]")

    return check_parts


def tupled(*checks: Check) -> Check:
    """Checks for a list with one part for each of these checks."""
    check_length = listed(lambda *_: None, least=len(checks), most=len(checks))

    def check_parts(value, key):
        check_length(value, key)
        for index, (part, check) in enumerate(zip(value, checks, strict=True)):
            check(part, f"{key}[{index}]")

    return check_parts


def mapped(check: Check) -> Check:
    """Checks for an object whose values all pass a check, and whose keys are texts."""
    check_key = text()

    def check_values(value, key):
        _require(isinstance(value, dict), value, key, "an object")
        for name, part in value.items():
            check_key(name, f"{key}: the key")
            check(part, f"{key}.{name}")

    return check_values


def keyed(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Checks for an object with these keys, each with its check; it may have others too."""

    def check_keys(value, key):
        _require(isinstance(value, dict), value, key, "an object")
        for name, check in required.items():
            if name not in value:
                raise ValueError(f"{_name_of(f'{key}.{name}')} is missing")
            check(value[name], f"{key}.{name}")
        for name, check in (optional or {}).items():
            if name in value:
                check(value[name], f"{key}.{name}")

    return check_keys


def parse(content: str, check: Check) -> Any:
    """Returns what a JSON text holds, after checking it.

    Raises:
      ValueError: saying what is wrong; also for keys that occur twice, NaN and infinity, which
        Python would read.
    """
    try:
        value = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_distinct_keys,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it has too many brackets within brackets") from None
    check(value, "")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"it holds {shortened(digits, most=40)}, which is too large")
    return float(digits)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds {shortened(digits, most=40)}, which is too large")
    return int(digits)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"it has the key {shortened(json.dumps(name), most=60)} twice")
        content[name] = value
    return content


def read(path: Path, what: str, check: Check, *, advice: str) -> Any:
    """Reads a JSON file in any encoding that `files.read_text` takes, and checks it.

    Args:
      what: what errors call the file, such as "The model card".
      advice: what the user can do if it is damaged.
    Raises:
      UserError: if it cannot be read, or is not what `check` asks for.
    """
    content = files.read_text(path, what)
    try:
        return parse(content, check)
    except ValueError as error:
        raise UserError(f"{what} {files.shown(path)} is damaged ({error}); {advice}.") from None

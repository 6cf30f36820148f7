"""What a setting is: a dataclass field with its meaning and limits, checked on construction."""

import dataclasses
from typing import Any


class UserError(Exception):
    """A mistake the user can mend; entry points print its one sentence and exit with status 1."""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    least: float | None = None,
    may_change: bool = False,
) -> Any:
    """Returns a dataclass field that `config_flags` can turn into a flag.

    Args:
      default: default value; its type is the setting's type.
      help: one sentence for `--help`.
      choices: allowed values; empty allows all.
      least: smallest allowed number.
      may_change: whether a resumed run may use another value: true for what changes neither
        the model nor the sequence of its weights.
    """
    metadata = {"help": help, "choices": choices, "least": least, "may_change": may_change}
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of the settings groups: checks choices and bounds on construction."""

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            choices, least = field.metadata["choices"], field.metadata["least"]
            if choices and value not in choices:
                require(False, field.name, value, "one of " + ", ".join(map(str, choices)))
            if least is not None:
                numbers = value if isinstance(value, tuple) else (value,)
                require(all(n >= least for n in numbers), field.name, value, f"{least} or more")


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises UserError naming the setting, what was given and what is allowed."""
    if not condition:
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"--{name}={text} is not possible; allowed: {allowed}.")

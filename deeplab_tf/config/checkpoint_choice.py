"""Which checkpoint of a run is meant: --checkpoint, or a path that names one.

Does not import TensorFlow, so contradictions are reported at once.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplab_tf.config.setting import as_flag, require, setting
from deeplab_tf.messages import UserError

NEWEST, BEST = "newest", "best"
# Any of a checkpoint's files is accepted, since shells complete their names.
_FILE = re.compile(r"model\.ckpt-(\d+)(\.index|\.data-\d{5}-of-\d{5})?")
_STEP = re.compile(r"(?:model\.ckpt-)?(\d+)")


def checkpoint_setting() -> Any:
    """Returns the setting --checkpoint, the same in every program that reads a run."""
    return setting(
        "",
        "Checkpoint to use: newest, best (in the validations of training) or a step; empty takes "
        "the one that the path names, or a folder's newest.",
    )


def require_one_choice(
    choice: str, path: str, name: str, *, written: Callable[[str, Any], str] = as_flag
) -> None:
    """Raises UserError if `checkpoint` is no choice, or contradicts a path that names a step.

    Args:
      name: the setting that has the path.
      written: how errors write a setting.
    """
    require(
        choice in ("", NEWEST, BEST) or bool(_STEP.fullmatch(choice)),
        "checkpoint",
        choice,
        "newest, best or a step such as 1000",
        written=written,
    )
    folder, step = split(path)
    if choice and step is not None and wanted(path, choice) != step:
        raise UserError(
            f"{written(name, path)} names step {step}, {written('checkpoint', choice)} another; "
            f"give only one of them, or {written(name, str(folder))} and "
            f"{written('checkpoint', choice)}."
        )


def split(path: str | Path) -> tuple[Path, int | None]:
    """Returns a run's folder, and the step if the path names a checkpoint (.../model.ckpt-1000)."""
    path = Path(path)
    named = _FILE.fullmatch(path.name)
    if not named or path.is_dir():
        return path, None
    return path.parent, int(named[1])


def wanted(path: str | Path, choice: str = "") -> str | int:
    """Returns NEWEST, BEST or a step."""
    named = _STEP.fullmatch(choice)
    if named:
        return int(named[1])
    step = split(path)[1]
    return choice or (NEWEST if step is None else step)

"""Which checkpoint of a run is meant: by --checkpoint, or by a path that names one.

This module does not import TensorFlow, so programs report contradictions at once.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplab_tf.config.setting import as_flag, require, setting
from deeplab_tf.messages import UserError

NEWEST, BEST = "newest", "best"
# The name of any of a checkpoint's files is accepted, since tab completion gives those names.
_FILE = re.compile(r"model\.ckpt-(\d+)(\.index|\.data-\d{5}-of-\d{5})?")
_STEP = re.compile(r"(?:model\.ckpt-)?(\d+)")


def checkpoint_setting() -> Any:
    """Returns the setting --checkpoint, the same in every program that reads a run."""
    return setting(
        "",
        "Checkpoint to use: newest, best (of those validated during training) or a step. If empty: "
        "the one that the path names, or the newest in a folder.",
    )


def require_one_choice(
    choice: str, path: str, name: str, *, written: Callable[[str, Any], str] = as_flag
) -> None:
    """Raises UserError if `choice` is not allowed, or contradicts a path that names a step.

    Args:
      choice: value of the setting `checkpoint`.
      path: value of the setting `name`: a run's folder, or one checkpoint in it.
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
            f"{written(name, path)} names step {step}, but {written('checkpoint', choice)} names "
            f"another; give only one of them, or {written(name, str(folder))} and "
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
    """Returns which checkpoint is meant, NEWEST, BEST or a step; `choice` goes before the path."""
    named = _STEP.fullmatch(choice)
    if named:
        return int(named[1])
    step = split(path)[1]
    return choice or (NEWEST if step is None else step)

"""Explains what a path is if it is not a run's folder, and which program takes it."""

import itertools
import re
import shlex
from pathlib import Path

import tensorflow as tf

from deeplab_tf.config import checkpoint_choice
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError

_OURS = "_CHECKPOINTABLE_OBJECT_GRAPH"  # only checkpoints of TensorFlow 2 have it
_WEIGHTS = (".pth", ".pt", ".tar.gz", ".tgz", ".tar", "frozen_inference_graph.pb")
_SHOWN = 6  # largest number of names in an error


def not_a_run(path: Path, missing: str) -> UserError:
    """Returns the error for a path without `missing`, a file that every run has."""
    weights = _weights_of_others(path)
    if weights:
        what = "it" if weights == path else weights
        return UserError(
            f"{path} is not a run's folder: {what} holds weights of another program; import "
            f"them with `python -m deeplab_tf.import_weights --source={shlex.quote(str(weights))} "
            f"--output=DIR`, then give DIR in place of {path}."
        )

    path = checkpoint_choice.split(path)[0]
    start = f"{path} is not a run's folder"
    if not path.is_dir():
        what = "it is a file" if path.exists() else "it does not exist"
        return UserError(
            f"{start}: {what}; give a folder that train or import_weights wrote, or a checkpoint "
            "in it (.../model.ckpt-1000)."
        )

    names = sorted(entry.name for entry in path.iterdir())
    runs = [entry.parent.name for entry in sorted(path.glob(f"*/{missing}"))]
    if runs:
        return UserError(f"{start}, but holds runs; give one of them: {_listed(runs, path)}.")
    if _prefixes(path):
        return UserError(
            f"{start}: it holds checkpoints, but no {missing}; copy {missing} and "
            f"{catalog.MANIFEST} from the folder that they were trained in."
        )
    if "saved_model.pb" in names or list(path.glob("*/saved_model.pb")):
        return UserError(
            f"{start} but an exported model's; predict and convert_model take it as --export_dir, "
            "and other programs need the run that it was exported from."
        )
    if catalog.MANIFEST in names and "splits" in catalog.read_manifest(path):
        return UserError(
            f"{start} but a data set's: give it as --dataset_dir, next to the folder of a run."
        )
    return UserError(
        f"{start}: there is no {missing} in it; it holds: {_listed(names)}. Give a folder that "
        "train or import_weights wrote."
    )


def _weights_of_others(path: Path) -> Path | None:
    """Returns the weights at a path that import_weights takes: a file, or a checkpoint's prefix."""
    prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path)))
    if path.is_file() and path.name.endswith(_WEIGHTS):
        return path
    if not path.is_dir():
        return prefix if prefix in _prefixes(prefix.parent) and _is_foreign(prefix) else None

    foreign = [checkpoint for checkpoint in _prefixes(path) if _is_foreign(checkpoint)]
    if foreign:
        return max(foreign, key=_step_of)

    files = (file for depth in ("*", "*/*") for file in sorted(path.glob(depth)))
    return next((file for file in files if file.name.endswith(_WEIGHTS)), None)


def _prefixes(folder: Path) -> list[Path]:
    """Returns the prefixes of the checkpoints in a folder and one level below it.

    An unpacked archive has its checkpoint in an inner folder.
    """
    files = itertools.chain(folder.glob("*.index"), folder.glob("*/*.index"))
    first_format = (file for file in folder.glob("*.ckpt") if file.is_file())
    return sorted([*(file.with_suffix("") for file in files), *first_format])


def _is_foreign(prefix: Path) -> bool:
    """Returns whether a checkpoint was written by another program than this package."""
    try:
        return not tf.train.load_checkpoint(str(prefix)).has_tensor(_OURS)
    except (tf.errors.OpError, ValueError):  # damaged, or an .index file of another program
        return False


def _step_of(prefix: Path) -> int:
    """Returns the step in a checkpoint's name, -1 if there is none."""
    number = re.search(r"-(\d+)$", prefix.name)
    return int(number[1]) if number else -1


def _listed(names: list[str], folder: Path | None = None) -> str:
    shown = [str(folder / name) if folder else name for name in names[:_SHOWN]]
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join(shown + more) or "nothing"

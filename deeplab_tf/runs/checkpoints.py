"""The checkpoints of a run.

They are named model.ckpt-<step>, as in the official package. The newest one is found by the names
of the files. TensorFlow's own way, the state file `checkpoint`, would silently make a run start
over if that file is damaged (docs/ancestors.md, TensorFlow).
"""

import hashlib
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config.checkpoint_choice import BEST, NEWEST
from deeplab_tf.messages import UserError, warn
from deeplab_tf.runs.metrics_log import MetricsLog

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # what a checkpoint calls its list of objects
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
_DATA = "data-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"
# What reading a damaged checkpoint raises: for bad checksums, cut files, other shapes.
DAMAGE = (tf.errors.OpError, IndexError, ValueError, AssertionError)
# What writing a checkpoint raises if the disk does not take it.
WRITE_FAULTS = (tf.errors.OpError, OSError)


class UnreadableCheckpointError(UserError):
    """The checkpoint that was asked for does not exist or is damaged."""


class Checkpoints:
    """The checkpoints in a run's folder; making the object neither reads nor writes any.

    Args:
      metrics: tells which checkpoint is the best.
    """

    def __init__(self, folder: Path, metrics: MetricsLog):
        self.folder, self._metrics = folder, metrics

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending; some checkpoints may be damaged."""
        if not self.folder.is_dir():
            return []
        matches = (_INDEX.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def choose(self, wanted: str | int) -> int:
        """Returns the step of the checkpoint that is wanted: NEWEST, BEST or a step.

        Raises:
          UserError: if the run has no checkpoint.
          UnreadableCheckpointError: if it does not have the wanted one; the message lists what it
            has.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.folder} holds no whole checkpoint yet; train it first.")
        if wanted == NEWEST:
            return steps[-1]

        kept = f"it has: {', '.join(map(str, steps))}"
        best = self._metrics.best()
        if wanted == BEST and not best:
            raise UnreadableCheckpointError(
                f"{self.folder} has no best checkpoint, since none was validated in training "
                f"(--eval_interval_steps); {kept}."
            )

        step = best["step"] if wanted == BEST else int(wanted)
        if step not in steps:
            what = f"checkpoint of step {step}" + (", its best" if wanted == BEST else "")
            raise UnreadableCheckpointError(f"{self.folder} has no {what}; {kept}.")
        return step

    def last_good(self) -> str:
        """Says from which checkpoint a failed run can continue."""
        steps = self.steps()
        return f"the last good checkpoint is model.ckpt-{steps[-1]}" if steps else "none was saved"

    def prefix(self, step: int) -> str:
        """Returns the path of a step's checkpoint without its endings."""
        return str(self.folder / f"model.ckpt-{step}")

    def digest(self, step: int) -> str | None:
        """Returns a digest of a step's weights; it changes if the step is trained again.

        It is the SHA-256 of the index, which holds a checksum of each variable. None if the
        checkpoint is not there.
        """
        try:
            return hashlib.sha256(Path(f"{self.prefix(step)}.index").read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

    def save(
        self, checkpoint: tf.train.Checkpoint, step: int, *, keep: int, lost: tuple[type, ...] = ()
    ) -> None:
        """Writes a checkpoint, whole or not at all, then deletes old ones except the best.

        Args:
          keep: how many of the newest checkpoints to keep.
          lost: errors that mean that another worker was lost; they are raised as they are, since
            the disk is not at fault.
        Raises:
          UserError: if it cannot be written; earlier checkpoints stay.
        """
        try:
            self.write(checkpoint, step)
        except WRITE_FAULTS as error:
            self._remove_unfinished()
            if isinstance(error, lost):
                raise
            whole = [f"model.ckpt-{old}" for old in self.steps() if old != step]
            last = f"the last whole one is {whole[-1]}" if whole else "there is no whole one"
            raise UserError(
                f"The checkpoint of step {step} could not be written to {self.folder} "
                f"({reason_of(error)}); {last}."
            ) from None
        self.prune(keep=keep, also={step})

    def write(self, checkpoint: tf.train.Checkpoint, step: int) -> None:
        """Writes a checkpoint; raises one of WRITE_FAULTS if it cannot be written or read back."""
        checkpoint.write(self.prefix(step))
        try:
            self._require_written(step)
        except OSError:
            for file in self._files(step):
                file.unlink()
            raise

        # For people who call tf.train.latest_checkpoint in their scripts; this package does not
        # read the file.
        state = f'model_checkpoint_path: "model.ckpt-{step}"\n'
        files.write(self.folder / "checkpoint", state)

    def _require_written(self, step: int) -> None:
        """Raises OSError unless a checkpoint can be opened and its data are all there."""
        try:
            reader = tf.train.load_checkpoint(self.prefix(step))
            types = reader.get_variable_to_dtype_map()
            least = sum(
                math.prod(shape) * types[name].size
                for name, shape in reader.get_variable_to_shape_map().items()
                if types[name] != tf.string
            )
            least += len(reader.get_tensor(_OBJECT_GRAPH))
        except DAMAGE as error:
            raise OSError(f"it was written but cannot be read: {reason_of(error)}") from None

        size = sum(file.stat().st_size for file in self._files(step))
        if size < least:
            raise OSError(f"its files have {size} bytes, but hold {least}")

    def prune(self, *, keep: int, also: Iterable[int] = ()) -> None:
        """Deletes all checkpoints except the newest `keep`, the best, and the steps in `also`.

        Raises:
          UserError: if the files that name the best one are damaged; then nothing is deleted.
        """
        steps = self.steps()
        for old in set(steps) - {*steps[-keep:], *also, *self._metrics.steps_to_keep()}:
            for file in self._files(old):
                file.unlink()

    def restore_newest(self, checkpoint: tf.train.Checkpoint) -> int | None:
        """Restores the newest undamaged checkpoint; returns its step, or None in a new folder.

        Raises:
          UserError: if the run has trained before but no undamaged checkpoint is left.
        """
        self._remove_unfinished()
        steps = self.steps()

        damaged: dict[int, str] = {}
        for step in reversed(steps):
            try:
                status = checkpoint.read(self.prefix(step))
                status.assert_existing_objects_matched()
            except DAMAGE as error:
                damaged[step] = reason_of_damage(error)
                continue

            # Otherwise the damaged checkpoints would count as the newest ones from now on.
            for file in [file for old in damaged for file in self._files(old)]:
                file.rename(file.with_name(f"damaged-{file.name}"))
            self.warn_of_damage(
                damaged,
                f"training continues from step {step}, and the damaged files were renamed to "
                "damaged-*; delete them",
            )
            return step

        if steps or self._metrics.entries():
            raise UserError(
                f"{self.folder} holds a run but no whole checkpoint to continue it from; restore "
                "its model.ckpt-* files, or give another --train_logdir to start over."
            )
        return None

    def restore(self, checkpoint: tf.train.Checkpoint, step: int) -> None:
        """Restores the checkpoint of one step.

        Raises:
          UnreadableCheckpointError: if it does not exist or is damaged.
        """
        try:
            checkpoint.read(self.prefix(step)).assert_existing_objects_matched()
        except DAMAGE as error:
            raise UnreadableCheckpointError(
                f"{self.prefix(step)} cannot be read ({reason_of(error)}); all workers must see "
                "the chief's --train_logdir."
            ) from None

    def _files(self, step: int) -> list[Path]:
        """Returns the files of a step's checkpoint, in the order to delete or rename them in."""
        # The index first: if the process is killed in between, the files that are left no longer
        # count as a checkpoint. Copies that a user made, such as .index.bak, are not the run's.
        name = f"model.ckpt-{step}"
        files_of_step = [
            path for end in ("index", _DATA) for path in self.folder.glob(f"{name}.{end}")
        ]
        return sorted(files_of_step, reverse=True)

    def warn_of_damage(self, damaged: Mapping[int, str], outcome: str) -> None:
        """Warns that the checkpoints of some steps are damaged and were passed over.

        Args:
          damaged: why each of them cannot be read; nothing is said if there are none.
          outcome: what was taken instead, and what the user can do.
        """
        if not damaged:
            return
        named = ", ".join(
            f"{files.shown(self.prefix(step))} ({reason})" for step, reason in damaged.items()
        )
        are = "is" if len(damaged) == 1 else "are"
        warn(f"{named} {are} damaged: {outcome}.")

    def _remove_unfinished(self) -> None:
        for leftover in self.folder.glob("model.ckpt-*_temp"):
            shutil.rmtree(leftover, ignore_errors=True)


class FollowersCheckpoints(Checkpoints):
    """The same for workers other than the chief, which read them and write nothing there.

    All workers must take part in a save, since values are gathered from all of them. So `save`
    writes a checkpoint here too, to a temporary folder, and discards it.
    """

    def save(self, checkpoint, step, *, keep, lost=()):
        try:
            self.write(checkpoint, step)
        except WRITE_FAULTS as error:
            if isinstance(error, lost):
                raise
            raise UserError(
                f"Step {step} cannot be saved: every worker needs room for a copy of the "
                f"checkpoint in {tempfile.gettempdir()} ({reason_of(error)}); make room, or set "
                "TMPDIR."
            ) from None

    def write(self, checkpoint, step):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(f"{folder}/model.ckpt-{step}")

    def prune(self, *, keep, also=()):
        pass


def reason_of_damage(error: Exception) -> str:
    """Returns why a checkpoint cannot be read, and keeps TensorFlow from telling more about it.

    When TensorFlow deletes what it had read, it lists each value that it could not restore: a
    hundred lines and more, often at the program's end, which would hide the warning.
    """
    tf.get_logger().addFilter(_is_no_list_of_values)
    return reason_of(error)


def _is_no_list_of_values(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "unrestored values" not in text and not text.startswith("Value in checkpoint could")


def reason_of(fault: Exception) -> str:
    """Returns the message of one of WRITE_FAULTS, without TensorFlow's internal names."""
    return re.sub(r"^{{.*}} .*; | \[Op:\w+\]$", "", str(fault).splitlines()[0])

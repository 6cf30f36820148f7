"""One run's folder: experiment.flags, dataset.json, checkpoints, metrics.jsonl, environment.json.

Checkpoints are named model.ckpt-<step>, as in the official package. Which one is newest is read
off the files themselves: TensorFlow's `checkpoint` state file, once damaged, would silently make
a run start anew (docs/ancestors.md, TensorFlow).
"""

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from deeplab_tf import __version__, config_flags
from deeplab_tf.config import Experiment, UserError
from deeplab_tf.data import catalog
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.process_state import keras_settings
from deeplab_tf.training import averaging

EXPERIMENT, METRICS, ENVIRONMENT, BEST = (
    "experiment.flags",
    "metrics.jsonl",
    "environment.json",
    "best.json",
)
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
_CHECKPOINT = re.compile(r"model\.ckpt-(\d+)(\.index)?")
# What reading a damaged checkpoint raises: bad checksums, short files, other shapes.
_DAMAGE = (tf.errors.OpError, IndexError, ValueError, AssertionError)
WRITE_FAULTS = (tf.errors.OpError, OSError)

log = logging.getLogger("deeplab_tf")


class UnreadableCheckpointError(UserError):
    """The checkpoint that was asked for does not exist or is damaged."""


class RunDir:
    """The files of a run; creating the object touches nothing."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def of(cls, path: str | Path) -> "RunDir":
        """Returns the run of a folder, or of one checkpoint in it (.../model.ckpt-1000)."""
        folder = Path(path)
        return cls(folder.parent if _CHECKPOINT.fullmatch(folder.name) else folder)

    def open_for_training(self, experiment: Experiment, info: catalog.DatasetInfo) -> None:
        """Writes the run's settings, or checks that they are those of the run to be resumed.

        Raises:
          UserError: if the folder holds a run with other settings or classes.
        """
        flags = self.path / EXPERIMENT
        manifest = self.path / catalog.MANIFEST
        if manifest.is_file() and "splits" in catalog.read_manifest(self.path):
            raise UserError(
                f"--train_logdir={self.path} is the folder of a data set; a run needs its own."
            )
        if flags.is_file():
            changed = config_flags.differences(config_flags.parse_flagfile(flags), experiment)
            if self.dataset().to_json() != info.to_json():
                changed.append("the data set's classes")
            if changed:
                raise UserError(
                    f"{self.path} holds a run with other settings, which can not be resumed with "
                    f"these: {'; '.join(changed)}. Give the old values, or another --train_logdir."
                )
        elif self.checkpoint_steps():
            raise UserError(
                f"{self.path} holds checkpoints but no {EXPERIMENT}; give another --train_logdir."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(manifest, json.dumps(info.to_json(), indent=1) + "\n")
        write_atomically(flags, config_flags.flagfile_text(experiment))
        write_atomically(self.path / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")

    def experiment(self) -> Experiment:
        """Reads the run's settings."""
        path = self.path / EXPERIMENT
        if not path.is_file():
            raise UserError(f"{self.path} is not a run's folder: there is no {EXPERIMENT} in it.")
        return config_flags.parse_flagfile(path)

    def dataset(self) -> catalog.DatasetInfo:
        """Reads what the run's data set consists of."""
        return catalog.from_json(catalog.read_manifest(self.path), self.path / catalog.MANIFEST)

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending; they may turn out to be damaged."""
        if not self.path.is_dir():
            return []
        found = (_INDEX.fullmatch(name) for name in os.listdir(self.path))
        return sorted(int(match[1]) for match in found if match)

    def last_good(self) -> str:
        """Says which checkpoint a failed run can be continued from."""
        steps = self.checkpoint_steps()
        return f"the last good checkpoint is model.ckpt-{steps[-1]}" if steps else "none was saved"

    def prefix(self, step: int) -> str:
        """Returns the path of a step's checkpoint without its endings."""
        return str(self.path / f"model.ckpt-{step}")

    def save(
        self, checkpoint: tf.train.Checkpoint, step: int, *, keep: int, lost: tuple[type, ...] = ()
    ) -> None:
        """Writes a checkpoint, whole or not at all, then deletes old ones but the best.

        Args:
          lost: errors that tell of other workers, not of the disk; they are raised as they are.
        Raises:
          UserError: if it can not be written; earlier checkpoints stay.
        """
        try:
            self.write(checkpoint, step)
        except WRITE_FAULTS as error:
            self._remove_unfinished()
            if isinstance(error, lost):
                raise
            whole = [f"model.ckpt-{old}" for old in self.checkpoint_steps() if old != step]
            last = whole[-1] if whole else "none"
            raise UserError(
                f"The checkpoint of step {step} could not be written to {self.path} "
                f"({reason_of(error)}); the last whole one is {last}."
            ) from None
        self.prune(keep=keep, also={step})

    def write(self, checkpoint: tf.train.Checkpoint, step: int) -> None:
        """Writes a checkpoint; raises one of WRITE_FAULTS if it can not."""
        checkpoint.write(self.prefix(step))
        # For tf.train.latest_checkpoint in people's own scripts; nothing here reads it.
        state = f'model_checkpoint_path: "model.ckpt-{step}"\n'
        write_atomically(self.path / "checkpoint", state)

    def prune(self, *, keep: int, also: Iterable[int] = ()) -> None:
        """Deletes all checkpoints but the newest `keep`, the best, and those of `also`."""
        steps = self.checkpoint_steps()
        for old in set(steps) - {*steps[-keep:], *also, self.best().get("step")}:
            for file in self._files(old):
                file.unlink()

    def _files(self, step: int) -> list[Path]:
        # The index first: without it, files left by a kill do not count as a checkpoint.
        return sorted(self.path.glob(f"model.ckpt-{step}.*"), reverse=True)

    def restore_newest(self, checkpoint: tf.train.Checkpoint) -> int | None:
        """Restores the newest whole checkpoint; returns its step, or None in a new run's folder.

        Raises:
          UserError: if there was progress but no whole checkpoint is left.
        """
        self._remove_unfinished()
        steps = self.checkpoint_steps()
        damaged = []
        for step in reversed(steps):
            try:
                status = checkpoint.read(self.prefix(step))
                status.assert_existing_objects_matched()
            except _DAMAGE as error:
                _warn_of_damage(step, error)
                damaged += self._files(step)
                continue
            for file in damaged:  # else they would count as the newest from now on
                file.rename(file.with_name(f"damaged-{file.name}"))
            return step
        if steps or self._recorded():
            raise UserError(
                f"{self.path} holds a run but no whole checkpoint to continue it from; restore its "
                "model.ckpt-* files, or give another --train_logdir to start anew."
            )
        return None

    def restore(self, checkpoint: tf.train.Checkpoint, step: int) -> None:
        """Restores the checkpoint of one step.

        Raises:
          UnreadableCheckpointError: if it is not there or damaged.
        """
        try:
            checkpoint.read(self.prefix(step)).assert_existing_objects_matched()
        except _DAMAGE as error:
            raise UnreadableCheckpointError(
                f"{self.prefix(step)} can not be read ({reason_of(error)}); all workers must see "
                "the chief's --train_logdir."
            ) from None

    def _remove_unfinished(self) -> None:
        for leftover in self.path.glob("model.ckpt-*_temp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def record(self, entry: dict) -> None:
        """Appends one line to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops what was recorded after `step`, which a resumed run is about to do again."""
        entries = [entry for entry in self._recorded() if entry["step"] <= step]
        write_atomically(self.path / METRICS, "".join(json.dumps(e) + "\n" for e in entries))

    def _recorded(self) -> list[dict]:
        path = self.path / METRICS
        if not path.is_file():
            return []
        entries = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the line a killed run was writing
        return entries

    def was_scored(self, step: int) -> bool:
        """Whether metrics.jsonl has a validation of this step."""
        return bool(self.scores_at(step))

    def scores_at(self, step: int) -> list[dict]:
        """Returns the validations of this step that metrics.jsonl has."""
        return [e for e in self._recorded() if e["step"] == step and "miou" in e]

    def environment(self) -> dict:
        """Reads what the run was last trained with; empty where that was not written."""
        path = self.path / ENVIRONMENT
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def best(self) -> dict:
        """Returns step and miou of the best validated checkpoint; empty before the first."""
        scored = [entry for entry in self._recorded() if entry.get("miou") is not None]
        if not scored:
            return {}
        best = max(scored, key=lambda entry: (entry["miou"], -entry["step"]))
        return {"step": best["step"], "miou": best["miou"]}

    def note_best(self) -> None:
        """Writes best.json, which tells people what `best` tells programs."""
        write_atomically(self.path / BEST, json.dumps(self.best()) + "\n")


class FollowersRunDir(RunDir):
    """A run's folder as the workers beside the chief see it: they read it and write nothing.

    Saving takes part in gathering the values, and throws its own copy away.
    """

    def open_for_training(self, experiment, info):
        pass

    def save(self, checkpoint, step, *, keep, lost=()):
        try:
            self.write(checkpoint, step)
        except WRITE_FAULTS as error:
            if isinstance(error, lost):
                raise
            raise UserError(
                f"Step {step} can not be saved: every worker needs room for a copy of the "
                f"checkpoint in {tempfile.gettempdir()} ({reason_of(error)}); make room, or set "
                "TMPDIR."
            ) from None

    def write(self, checkpoint, step):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(f"{folder}/model.ckpt-{step}")

    def prune(self, *, keep, also=()):
        pass

    def record(self, entry):
        pass

    def forget_after(self, step):
        pass

    def note_best(self):
        pass


@dataclass(frozen=True)
class LoadedRun:
    """A run's settings, data set and restored model."""

    experiment: Experiment
    info: catalog.DatasetInfo
    model: DeepLab
    step: int

    def dataset_at(self, dataset_dir: str) -> catalog.DatasetInfo:
        """Returns the data set to score on, which must have the classes the model was trained for.

        Raises:
          UserError: if its classes differ.
        """
        described = (Path(dataset_dir) / catalog.MANIFEST).is_file()
        known = self.info.name in catalog.KNOWN
        info = self.info
        if described or known:
            info = catalog.load("" if described else self.info.name, dataset_dir)
        if info.class_names != self.info.class_names:
            raise UserError(
                f"The model was trained for the {self.info.num_classes} classes of "
                f"{self.info.name!r}; --dataset_dir={dataset_dir} has {info.num_classes} others."
            )
        return info


def load(path: str | Path, *, output_stride: int | None = None) -> LoadedRun:
    """Restores the model of a run's folder, with averaged weights if the run has them.

    Args:
      path: the folder, whose newest whole checkpoint is restored, or the path of one checkpoint
        in it (.../model.ckpt-1000).
      output_stride: builds the network at another output stride than it was trained at.
    Raises:
      UserError: if the folder, or a whole checkpoint in it, does not exist.
    """
    named = _CHECKPOINT.fullmatch(Path(path).name)
    step = int(named[1]) if named else None
    run = RunDir.of(path)
    folder = run.path
    experiment, info = run.experiment(), run.dataset()
    config = experiment.model
    if output_stride and output_stride != config.output_stride:
        config = config.at_output_stride(output_stride)
    with keras_settings():
        model = build_model(config, num_classes=info.num_classes)
    steps = run.checkpoint_steps()
    if step is not None and step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise UnreadableCheckpointError(
            f"{folder} has no checkpoint of step {step}; it has: {known}."
        )
    parts = [tf.train.Checkpoint(model=model)]
    if experiment.train.ema_decay:
        parts.append(averaging.checkpoint_of_averages(model))
    for candidate in reversed(steps) if step is None else [step]:
        try:
            for part in parts:
                status = part.read(run.prefix(candidate)).expect_partial()
                status.assert_existing_objects_matched()
            return LoadedRun(experiment, info, model, candidate)
        except _DAMAGE as error:
            reason = str(error).splitlines()[0]
            if step is not None:
                raise UnreadableCheckpointError(
                    f"{run.prefix(step)} can not be read: {reason}."
                ) from None
            _warn_of_damage(candidate, error)
    raise UserError(f"{folder} holds no whole checkpoint yet.")


def _warn_of_damage(step: int, error: Exception) -> None:
    reason = str(error).splitlines()[0]
    log.warning("Checkpoint model.ckpt-%d is damaged and passed over (%s).", step, reason)


def reason_of(fault: Exception) -> str:
    """Returns what one of WRITE_FAULTS says, without TensorFlow's names of its own parts."""
    return re.sub(r"^{{.*}} .*; | \[Op:\w+\]$", "", str(fault).splitlines()[0])


def write_atomically(path: Path, text: str) -> None:
    """Replaces a text file in one step."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def environment() -> dict:
    """Returns what a result may depend on besides the settings."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # there is no git
        commit = ""
    return {
        "deeplab_tf": __version__,
        "git_commit": commit.strip() or None,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "command": sys.argv,
    }

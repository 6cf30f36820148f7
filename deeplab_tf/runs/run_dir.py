"""One run's folder: experiment.flags, dataset.json, checkpoints, metrics.jsonl, environment.json.

Checkpoints are named model.ckpt-<step>, as in the official package. The newest one is found by the
names of the files. TensorFlow's own way, the state file `checkpoint`, would silently make a run
start over if that file is damaged (docs/ancestors.md, TensorFlow).
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
from pathlib import Path

import tensorflow as tf

from deeplab_tf import __version__, files
from deeplab_tf.config import Experiment, checkpoint_choice, flags
from deeplab_tf.config.checkpoint_choice import BEST, NEWEST
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError
from deeplab_tf.runs import foreign

EXPERIMENT, METRICS, ENVIRONMENT = "experiment.flags", "metrics.jsonl", "environment.json"
BEST_FILE = "best.json"
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
# What reading a damaged checkpoint raises: for bad checksums, cut files, other shapes.
DAMAGE = (tf.errors.OpError, IndexError, ValueError, AssertionError)
# What writing a checkpoint raises if the disk does not take it.
WRITE_FAULTS = (tf.errors.OpError, OSError)

log = logging.getLogger("deeplab_tf")


class UnreadableCheckpointError(UserError):
    """The checkpoint that was asked for does not exist or is damaged."""


class RunDir:
    """The files of a run; making the object neither reads nor writes any of them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def of(cls, path: str | Path) -> "RunDir":
        """Returns the run of a folder, or of one checkpoint in it (.../model.ckpt-1000)."""
        return cls(checkpoint_choice.split(path)[0])

    def open_for_training(
        self,
        experiment: Experiment,
        info: catalog.DatasetInfo,
        table: records.RecordTable | None = None,
    ) -> None:
        """Writes the settings, the data set and the environment of a new or continued run.

        Files that are there are replaced: `run_checks` has made sure that they are the same run's.

        Args:
          table: the records that the run trains on; None if there are none.
        """
        self.require_plain_path()
        self.path.mkdir(parents=True, exist_ok=True)

        content = info.to_json()
        if table is not None:
            content["trained_on"] = {"images": len(table), "records": table.digest()}
        files.write(self.path / catalog.MANIFEST, json.dumps(content, indent=1) + "\n")

        # The count lets `experiment` notice a file that was cut.
        text = flags.flagfile_text(experiment)
        text_with_count = f"# {_count_of_settings(text)} settings follow.\n{text}"
        files.write(self.path / EXPERIMENT, text_with_count)
        files.write(self.path / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")

    def require_plain_path(self) -> None:
        """Raises UserError if the path is one that TensorFlow cannot read checkpoints from."""
        # TensorFlow would write checkpoints to this path, and then find none of them.
        pattern = re.search(r"\[.*\]|[\\*?]", str(self.path))
        if pattern:
            raise UserError(
                f"The run's folder {self.path} has {pattern[0]} in its path, which TensorFlow "
                "takes for a pattern when it reads checkpoints; rename it, or give another path."
            )

    def experiment(self) -> Experiment:
        """Reads the run's settings.

        Raises:
          UserError: if the folder is not a run's (the message says what the folder holds), or if
            lines are missing: their defaults could make another network of the same weights.
        """
        path = self.path / EXPERIMENT
        if not path.is_file():
            raise foreign.not_a_run(self.path, EXPERIMENT)

        text = path.read_text(encoding="utf-8", errors="replace")
        heading = re.match(r"# (\d+) settings follow", text)  # earlier versions wrote no count
        count = _count_of_settings(text)
        if heading and count != int(heading[1]):
            raise UserError(
                f"{path} has {count} of its {heading[1]} settings; restore it from a copy."
            )
        return flags.parse_flagfile(path)

    def dataset(self) -> catalog.DatasetInfo:
        """Reads the description of the run's data set: its classes and splits."""
        content = catalog.read_manifest(self.path, advice=self._restore_classes())
        origin = self.path / catalog.MANIFEST
        return catalog.from_json(content, origin, advice=self._restore_classes())

    def trained_on(self) -> dict:
        """Reads the number of `images` that the run trains on, and the digest of their `records`.

        Empty for runs of earlier versions, which did not write them.
        """
        content = catalog.read_manifest(self.path, advice=self._restore_classes())
        return content.get("trained_on", {})

    def _restore_classes(self) -> str:
        return f"it names the model's classes: restore it from a copy of {self.path}"

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending; some checkpoints may be damaged."""
        if not self.path.is_dir():
            return []
        matches = (_INDEX.fullmatch(name) for name in os.listdir(self.path))
        return sorted(int(match[1]) for match in matches if match)

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
            whole = [f"model.ckpt-{old}" for old in self.checkpoint_steps() if old != step]
            last = whole[-1] if whole else "none"
            raise UserError(
                f"The checkpoint of step {step} could not be written to {self.path} "
                f"({reason_of(error)}); the last whole one is {last}."
            ) from None
        self.prune(keep=keep, also={step})

    def write(self, checkpoint: tf.train.Checkpoint, step: int) -> None:
        """Writes a checkpoint; raises one of WRITE_FAULTS if it cannot."""
        checkpoint.write(self.prefix(step))
        # For people who call tf.train.latest_checkpoint in their scripts; this package does not
        # read the file.
        state = f'model_checkpoint_path: "model.ckpt-{step}"\n'
        files.write(self.path / "checkpoint", state)

    def prune(self, *, keep: int, also: Iterable[int] = ()) -> None:
        """Deletes all checkpoints except the newest `keep`, the best, and the steps in `also`."""
        steps = self.checkpoint_steps()
        for old in set(steps) - {*steps[-keep:], *also, self.best().get("step")}:
            for file in self._files(old):
                file.unlink()

    def _files(self, step: int) -> list[Path]:
        """Returns the files of a step's checkpoint, in the order to delete or rename them in."""
        # The index first: if the process is killed in between, the files that are left no longer
        # count as a checkpoint.
        return sorted(self.path.glob(f"model.ckpt-{step}.*"), reverse=True)

    def restore_newest(self, checkpoint: tf.train.Checkpoint) -> int | None:
        """Restores the newest undamaged checkpoint; returns its step, or None in a new folder.

        Raises:
          UserError: if the run has trained before but no undamaged checkpoint is left.
        """
        self._remove_unfinished()
        steps = self.checkpoint_steps()

        damaged = []
        for step in reversed(steps):
            try:
                status = checkpoint.read(self.prefix(step))
                status.assert_existing_objects_matched()
            except DAMAGE as error:
                warn_of_damage(step, error)
                damaged += self._files(step)
                continue

            # Otherwise the damaged checkpoints would count as the newest ones from now on.
            for file in damaged:
                file.rename(file.with_name(f"damaged-{file.name}"))
            return step

        if steps or self._recorded():
            raise UserError(
                f"{self.path} holds a run but no whole checkpoint to continue it from; restore its "
                "model.ckpt-* files, or give another --train_logdir to start over."
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

    def _remove_unfinished(self) -> None:
        for leftover in self.path.glob("model.ckpt-*_temp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def record(self, entry: dict) -> None:
        """Appends one line to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def forget_after(self, step: int) -> None:
        """Removes what was recorded after `step`: a resumed run does these steps again."""
        entries = [entry for entry in self._recorded() if entry["step"] <= step]
        files.write(self.path / METRICS, "".join(json.dumps(e) + "\n" for e in entries))

    def _recorded(self) -> list[dict]:
        """Returns the lines of metrics.jsonl; leaves out a last one that a killed run cut off.

        Raises:
          UserError: if any other line is damaged: without it, another checkpoint could be the best.
        """
        path = self.path / METRICS
        if not path.is_file():
            return []

        *lines, unfinished = path.read_bytes().split(b"\n")
        entries = []
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                raise UserError(
                    f"Line {number} of {path} is damaged; restore the file from a copy, or delete "
                    "that line: the run then forgets it."
                )
            entries.append(entry)

        last = _entry(unfinished)
        return entries + ([last] if last else [])

    def was_scored(self, step: int) -> bool:
        """Returns whether metrics.jsonl has a validation of this step."""
        return bool(self.scores_at(step))

    def scores_at(self, step: int) -> list[dict]:
        """Returns the validations of this step in metrics.jsonl."""
        return [e for e in self._recorded() if e["step"] == step and "miou" in e]

    def environment(self) -> dict:
        """Reads the environment that the run was last trained in; empty if none was written."""
        path = self.path / ENVIRONMENT
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def best(self) -> dict:
        """Returns step, miou and split of the best validation; empty before the first one.

        Only scores of the split that was validated last are compared. If metrics.jsonl has no
        scores, as in a copy of only the checkpoints of a run, best.json is read instead.
        """
        scored = [entry for entry in self._recorded() if entry.get("miou") is not None]
        if not scored:
            return self._noted_best()
        scored = [entry for entry in scored if entry.get("split") == scored[-1].get("split")]
        best = max(scored, key=lambda entry: (entry["miou"], -entry["step"]))
        return {"step": best["step"], "miou": best["miou"], "split": best.get("split")}

    def _noted_best(self) -> dict:
        """Reads best.json; empty if there is none or it is damaged."""
        path = self.path / BEST_FILE
        noted = _entry(path.read_bytes()) if path.is_file() else None
        return noted if noted and isinstance(noted.get("miou"), float) else {}

    def note_best(self) -> None:
        """Writes best.json, in which people can read what `best` returns."""
        files.write(self.path / BEST_FILE, json.dumps(self.best()) + "\n")

    def choose(self, wanted: str | int) -> int:
        """Returns the step of the checkpoint that is wanted: NEWEST, BEST or a step.

        Raises:
          UserError: if the run has no checkpoint.
          UnreadableCheckpointError: if it does not have the wanted one; the message lists what it
            has.
        """
        steps = self.checkpoint_steps()
        if not steps:
            raise UserError(f"{self.path} holds no whole checkpoint yet; train it first.")
        if wanted == NEWEST:
            return steps[-1]

        kept = f"it has: {', '.join(map(str, steps))}"
        best = self.best()
        if wanted == BEST and not best:
            raise UnreadableCheckpointError(
                f"{self.path} has no best checkpoint, since none was validated in training "
                f"(--eval_interval_steps); {kept}."
            )

        step = best["step"] if wanted == BEST else int(wanted)
        if step not in steps:
            what = f"checkpoint of step {step}" + (", its best" if wanted == BEST else "")
            raise UnreadableCheckpointError(f"{self.path} has no {what}; {kept}.")
        return step


class FollowersRunDir(RunDir):
    """The run's folder for workers other than the chief, which read it but write nothing to it.

    All workers must take part in a save, since values are gathered from all of them. So `save`
    writes a checkpoint here too, to a temporary folder, and discards it.
    """

    def open_for_training(self, experiment, info, table=None):
        pass

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

    def record(self, entry):
        pass

    def forget_after(self, step):
        pass

    def note_best(self):
        pass


def _count_of_settings(text: str) -> int:
    return len(re.findall("^--", text, re.MULTILINE))


def _entry(line: bytes) -> dict | None:
    """Parses a line of JSON, an object with a step; returns None if it is damaged."""
    try:
        entry = json.loads(line)
    except ValueError:  # the line is not JSON, or not even UTF-8
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def warn_of_damage(step: int, error: Exception) -> None:
    """Logs that a checkpoint is damaged and will not be used."""
    reason = str(error).splitlines()[0]
    log.warning("Checkpoint model.ckpt-%d is damaged and passed over (%s).", step, reason)


def reason_of(fault: Exception) -> str:
    """Returns the message of one of WRITE_FAULTS, without TensorFlow's internal names."""
    return re.sub(r"^{{.*}} .*; | \[Op:\w+\]$", "", str(fault).splitlines()[0])


def environment() -> dict:
    """Returns what results may depend on besides the settings: versions, devices, command line."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # git is not installed
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

"""One run's folder: experiment.flags, dataset.json, checkpoints, metrics.jsonl, environment.json.

Checkpoints are named model.ckpt-<step>, as in the official package. Which one is newest is read
off the files themselves: TensorFlow's `checkpoint` state file, once damaged, would silently make
a run start anew (docs/ancestors.md, TensorFlow).
"""

import dataclasses
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf import __version__, checkpoint_choice, config_flags
from deeplab_tf.checkpoint_choice import BEST, NEWEST
from deeplab_tf.config import Experiment, TrainConfig, UserError
from deeplab_tf.data import catalog
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.process_state import keras_settings
from deeplab_tf.training import averaging, foreign, schedules

EXPERIMENT, METRICS, ENVIRONMENT = "experiment.flags", "metrics.jsonl", "environment.json"
BEST_FILE = "best.json"
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
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
        return cls(checkpoint_choice.split(path)[0])

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
            self._require_same_run(experiment, info)
        elif self.checkpoint_steps():
            raise UserError(
                f"{self.path} holds checkpoints but no {EXPERIMENT}; give another --train_logdir."
            )
        self.require_plain_path()
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(manifest, json.dumps(info.to_json(), indent=1) + "\n")
        text = config_flags.flagfile_text(experiment)
        write_atomically(flags, f"# {_count_of_settings(text)} settings follow.\n{text}")
        write_atomically(self.path / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")

    def require_plain_path(self) -> None:
        """Raises UserError for names that TensorFlow cannot read checkpoints from."""
        # TensorFlow would write checkpoints there, and then find none of them.
        pattern = re.search(r"\[.*\]|[\\*?]", str(self.path))
        if pattern:
            raise UserError(
                f"The run's folder {self.path} has {pattern[0]} in its path, which TensorFlow "
                "takes for a pattern when it reads checkpoints; rename it, or give a path without."
            )

    def _require_same_run(self, experiment: Experiment, info: catalog.DatasetInfo) -> None:
        old = self.experiment()
        changed = config_flags.differences(old, experiment)
        difference = catalog.first_difference(
            self.dataset(), info, places=("in the run", "in the records")
        )
        if difference:
            changed.append(f"the data set's classes ({difference})")
        before = old.train.training_number_of_steps
        now = experiment.train.training_number_of_steps
        if len(changed) == 1 and before != now:
            self._require_continuable(old.train, now)
        elif changed:
            raise UserError(
                f"{self.path} holds a run with other settings, which cannot be resumed with "
                f"these: {'; '.join(changed)}. Give the old values, or another --train_logdir."
            )

    def _require_continuable(self, config: TrainConfig, steps: int) -> None:
        """Checks that the run so far is the beginning of one of `steps` steps.

        Batches depend on the step only, and the rest of the settings are equal: so the learning
        rates decide.
        """
        done = max(self.checkpoint_steps(), default=0)
        before = config.training_number_of_steps
        start_anew = (
            f"train on from its weights in a new folder: --tf_initial_checkpoint={self.path} "
            "--train_logdir=DIR"
        )
        if steps < done:
            raise UserError(
                f"{self.path} is at step {done} already, past --training_number_of_steps={steps}; "
                f"give its own {before}, or {start_anew}."
            )
        longer = dataclasses.replace(config, training_number_of_steps=steps)
        old, new = schedules.build_schedule(config), schedules.build_schedule(longer)
        passed = tf.range(done, dtype=tf.int64)
        if not np.array_equal(old(passed), new(passed)):
            finish = f"give {before} to finish it, or " if done < before else ""
            raise UserError(
                f"{self.path} did {done} of {before} steps at learning rates that a run of "
                f"{steps} steps would not have had (--learning_policy={config.learning_policy} "
                f"falls over the whole run), so it cannot become one; {finish}{start_anew} "
                f"--training_number_of_steps={max(steps - done, 1)}."
            )
        if not np.any(new(tf.range(done, steps, dtype=tf.int64))) and steps > done:
            raise UserError(
                f"{self.path} is at step {done}, where the learning rate has come down to 0 and "
                f"stays there, so {steps - done} further steps would train nothing; {start_anew} "
                f"--training_number_of_steps={steps - done}."
            )

    def experiment(self) -> Experiment:
        """Reads the run's settings.

        Raises:
          UserError: if the folder is not a run's (it says what the folder holds), or lines are
            missing, whose defaults would make another network of the same weights.
        """
        path = self.path / EXPERIMENT
        if not path.is_file():
            raise foreign.not_a_run(self.path, EXPERIMENT)
        text = path.read_text(encoding="utf-8", errors="replace")
        counted = re.match(r"# (\d+) settings follow", text)  # earlier versions wrote no count
        found = _count_of_settings(text)
        if counted and found != int(counted[1]):
            raise UserError(
                f"{path} has {found} of its {counted[1]} settings; restore it from a copy."
            )
        return config_flags.parse_flagfile(path)

    def dataset(self) -> catalog.DatasetInfo:
        """Reads what the run's data set consists of."""
        advice = f"it names the model's classes: restore it from a copy of {self.path}"
        content = catalog.read_manifest(self.path, advice=advice)
        return catalog.from_json(content, self.path / catalog.MANIFEST, advice=advice)

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
        """Drops what was recorded after `step`, which a resumed run is about to do again."""
        entries = [entry for entry in self._recorded() if entry["step"] <= step]
        write_atomically(self.path / METRICS, "".join(json.dumps(e) + "\n" for e in entries))

    def _recorded(self) -> list[dict]:
        """Returns the lines of metrics.jsonl, without the one that a killed run was writing.

        Raises:
          UserError: if another line is damaged: without it the best checkpoint could be another.
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
                    "that line, which then is forgotten."
                )
            entries.append(entry)
        last = _entry(unfinished)
        return entries + ([last] if last else [])

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
        """Returns step and miou of the best validated checkpoint; empty before the first.

        Scores of one split are compared, the last one validated on. Where metrics.jsonl has none,
        as in a copy of a run's checkpoints, best.json tells.
        """
        scored = [entry for entry in self._recorded() if entry.get("miou") is not None]
        if not scored:
            return self._noted_best()
        scored = [entry for entry in scored if entry.get("split") == scored[-1].get("split")]
        best = max(scored, key=lambda entry: (entry["miou"], -entry["step"]))
        return {"step": best["step"], "miou": best["miou"], "split": best.get("split")}

    def _noted_best(self) -> dict:
        path = self.path / BEST_FILE
        noted = _entry(path.read_bytes()) if path.is_file() else None
        return noted if noted and isinstance(noted.get("miou"), float) else {}

    def note_best(self) -> None:
        """Writes best.json, which tells people what `best` tells programs."""
        write_atomically(self.path / BEST_FILE, json.dumps(self.best()) + "\n")

    def choose(self, wanted: str | int) -> int:
        """Returns the step of the checkpoint that is wanted: newest, best or a step.

        Raises:
          UnreadableCheckpointError: if it is not kept; the sentence names those that are.
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

    def standing(
        self, step: int, *, damaged: Collection[int] = (), way: str = ""
    ) -> tuple[str, list[str]]:
        """Says what a step's checkpoint is, and which newer or better ones there are.

        Args:
          damaged: steps whose checkpoints were passed over.
          way: how to get another one, with {} for newest or best; by default its path is named.
        Returns:
          Such as "step 1000 (newest)", and what there is to say of others; mIoU in percent.
        """
        others = set(self.checkpoint_steps()) - {step, *damaged}
        best = self.best()
        scores = [
            entry["miou"]
            for entry in self.scores_at(step)
            if entry["miou"] is not None and entry.get("split") == best.get("split")
        ]
        newest = not others or max(others) < step
        titles = [*["newest"] * newest, *["best"] * (best.get("step") == step)]
        if not others:
            titles = ["the only checkpoint"]
        if step == 0:
            imported = not self.experiment().train.train_logdir
            titles = ["imported weights"] if imported else [*titles, "before any training"]
        titles += [f"mIoU {100 * scores[-1]:.2f} in validation"] if scores else []
        titles += [f"{', '.join(map(str, sorted(damaged)))} damaged"] if damaged else []
        others_say = []

        def reach(name: str, other: int) -> str:
            return way.format(name) + " takes it" if way else f"it is {self.prefix(other)}"

        if not newest:
            others_say += [f"step {max(others)} is newer", reach(NEWEST, max(others))]
        if best and best["step"] != step and not (scores and scores[-1] == best["miou"]):
            against = f"against {100 * scores[-1]:.2f}" if scores else "where this has no score"
            others_say += [f"step {best['step']} scored better: {100 * best['miou']:.2f} {against}"]
            kept = best["step"] in others
            others_say += [reach(BEST, best["step"]) if kept else "it is not kept"]
        return f"step {step} ({', '.join(titles)})" if titles else f"step {step}", others_say


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


@dataclass(frozen=True)
class LoadedRun:
    """A run's settings, data set and restored model.

    title: which checkpoint it is. others: what is to be said of newer or better ones.
    """

    experiment: Experiment
    info: catalog.DatasetInfo
    model: DeepLab
    step: int
    title: str
    others: list[str]

    @property
    def standing(self) -> str:
        """Which checkpoint it is, and which newer or better ones there are, for people."""
        return "; ".join([self.title, *self.others])

    def dataset_at(self, dataset_dir: str) -> catalog.DatasetInfo:
        """Returns the data set to score on, which must have the classes the model was trained for.

        Raises:
          UserError: if its classes differ.
        """
        if not dataset_dir or not (Path(dataset_dir) / catalog.MANIFEST).is_file():
            # The official package's shards describe nothing, but a known data set's size is known.
            return catalog.known_as(self.info) or self.info

        info = catalog.load("", dataset_dir)
        difference = catalog.first_difference(
            self.info, info, places=("in the model", "in the records")
        )
        if difference:
            imported = not self.experiment.train.train_logdir
            raise UserError(
                f"The model's classes are not those of --dataset_dir={dataset_dir}: {difference}; "
                + (
                    "if it was trained for those of the records, import its weights again with the "
                    "--class_list and --ignore_label that these were built with; else give other "
                    "records."
                    if imported
                    else "give records that were built with the class list it was trained with."
                )
            )
        return info


def load(
    path: str | Path, *, checkpoint: str = "", output_stride: int | None = None, way: str = ""
) -> LoadedRun:
    """Restores the model of a run's folder, with averaged weights if the run has them.

    Args:
      path: the folder, or the path of one checkpoint in it (.../model.ckpt-1000).
      checkpoint: as the setting: newest, best or a step; empty takes the one that the path names,
        or the newest whole one.
      output_stride: builds the network at another output stride than it was trained at.
      way: see RunDir.standing; used where the path is a folder.
    Raises:
      UserError: if the folder, or the checkpoint in it, does not exist or is damaged.
    """
    run = RunDir.of(path)
    if not (run.path / EXPERIMENT).is_file():
        raise foreign.not_a_run(Path(path), EXPERIMENT)
    run.require_plain_path()
    wanted = checkpoint_choice.wanted(path, checkpoint)
    way = "" if checkpoint_choice.split(path)[1] is not None else way
    experiment, info = run.experiment(), run.dataset()
    step = run.choose(wanted)
    config = experiment.model
    if output_stride and output_stride != config.output_stride:
        config = config.at_output_stride(output_stride)
    with keras_settings():
        model = build_model(config, num_classes=info.num_classes)
    parts = [tf.train.Checkpoint(model=model)]
    if experiment.train.ema_decay:
        parts.append(averaging.checkpoint_of_averages(model))

    damaged: list[int] = []
    older = [kept for kept in reversed(run.checkpoint_steps()) if kept < step]
    for candidate in [step, *older] if wanted == NEWEST else [step]:
        try:
            for part in parts:
                status = part.read(run.prefix(candidate)).expect_partial()
                status.assert_existing_objects_matched()
            title, others = run.standing(candidate, damaged=damaged, way=way)
            return LoadedRun(experiment, info, model, candidate, title, others)
        except _DAMAGE as error:
            if wanted != NEWEST:
                whole = ", ".join(str(kept) for kept in run.checkpoint_steps() if kept != step)
                raise UnreadableCheckpointError(
                    f"{run.prefix(step)} cannot be read: {str(error).splitlines()[0]}; "
                    f"{run.path} also has: {whole or 'none'}."
                ) from None
            _warn_of_damage(candidate, error)
            damaged.append(candidate)
    steps = ", ".join(map(str, sorted(damaged)))
    raise UserError(
        f"{run.path} holds no whole checkpoint, those of steps {steps} are damaged; restore their "
        "files, or train again."
    )


def _count_of_settings(text: str) -> int:
    return len(re.findall("^--", text, re.MULTILINE))


def _entry(line: bytes) -> dict | None:
    """Returns a line of JSON that has a step; None if it is damaged."""
    try:
        entry = json.loads(line)
    except ValueError:  # of JSON or UTF-8
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


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

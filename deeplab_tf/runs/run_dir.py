"""One run's folder: its settings, data set and environment, its checkpoints and scores."""

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from deeplab_tf import __version__, files
from deeplab_tf.config import Experiment, TrainConfig, checkpoint_choice, flags
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError
from deeplab_tf.runs import foreign, sealed
from deeplab_tf.runs.checkpoints import Checkpoints, FollowersCheckpoints
from deeplab_tf.runs.metrics_log import FollowersMetricsLog, MetricsLog

EXPERIMENT, ENVIRONMENT = "experiment.flags", "environment.json"


class RunDir:
    """The files of a run; making the object neither reads nor writes any of them.

    Attributes:
      path: the folder.
      metrics: what training and validation recorded.
      checkpoints: the saved weights.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics = MetricsLog(self.path)
        self.checkpoints = Checkpoints(self.path, self.metrics)

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

        Existing files are replaced: `run_checks` has made sure that they belong to the same run.

        Args:
          table: the records that the run trains on; None if there are none.
        """
        self.require_plain_path()
        self.path.mkdir(parents=True, exist_ok=True)

        content = info.to_json()
        if table is not None:
            content["trained_on"] = {"images": len(table), "contents": table.digest()}
        files.write(self.path / catalog.MANIFEST, sealed.to_json(content, indent=1) + "\n")
        files.write(self.path / EXPERIMENT, _with_heading(flags.flagfile_text(experiment)))
        files.write(self.path / ENVIRONMENT, sealed.to_json(environment(), indent=1) + "\n")

    @contextlib.contextmanager
    def sole_training(self) -> Iterator[None]:
        """Creates the folder, and keeps other trainings out of it inside the context.

        Raises:
          UserError: if another one writes to it. Programs that only read do not mind.
        """
        busy = (
            f"Another training is writing to {self.path}; wait until it has ended, or give another "
            f"--train_logdir. If its host is lost, remove {self.path / '.lock'}."
        )
        with files.sole_writer(self.path, busy=busy):
            yield

    def require_plain_path(self) -> None:
        """Raises UserError if the path is one that TensorFlow cannot write checkpoints to."""
        files.require_plain(self.path, "The run's folder")

    def may_begin(self) -> bool:
        """Whether the folder is missing, or holds nothing that a training does not write first.

        Other programs may already have made folders for their results in it.
        """
        if not self.path.is_dir():
            is_checkpoint = checkpoint_choice.split(self.path)[1] is not None
            return not is_checkpoint and not os.path.lexists(self.path)
        holds_others = any(self.path.glob(f"*/{EXPERIMENT}")) or any(
            self.path.glob("*/saved_model.pb")
        )
        names = {entry.name for entry in self.path.iterdir() if entry.is_file()}
        return not holds_others and all(
            name == catalog.MANIFEST or name.startswith(".") for name in names
        )

    def experiment(self) -> Experiment:
        """Reads the run's settings.

        Raises:
          UserError: if the folder is not a run's (the message says what the folder holds), or if
            the file is damaged: a changed value, or the default in place of a lost one, could
            silently build another network from the same weights.
        """
        path = self.path / EXPERIMENT
        if not path.is_file():
            raise foreign.not_a_run(self.path, EXPERIMENT)

        damage = _damage(path.read_bytes().decode("utf-8-sig", "replace"))
        if damage:
            raise UserError(
                f"{path} is damaged ({damage}); restore it from a copy, or, if you changed it on "
                "purpose, delete its first line."
            )
        return flags.parse_flagfile(path)

    def dataset(self) -> catalog.DatasetInfo:
        """Reads the description of the run's data set: its classes and splits."""
        origin = self.path / catalog.MANIFEST
        return catalog.from_json(self.manifest(), origin, advice=self._restore_classes())

    def stopped_early(self, settings: TrainConfig | None = None) -> bool:
        """Whether --early_stopping_patience has ended the run at its newest checkpoint.

        It follows from the scores. So it is right for a copy of the folder too, and for a run that
        was killed before it could say so.

        Args:
          settings: used in place of the settings that the run has stored.
        """
        train = settings or self.experiment().train
        newest = max(self.checkpoints.steps(), default=0)
        is_on = train.early_stopping_patience and train.eval_interval_steps
        if not is_on or not self.metrics.scores_at(newest):
            return False
        waited = self.metrics.without_improvement(train.early_stopping_min_delta)
        return waited >= train.early_stopping_patience

    def trained_on(self) -> dict:
        """Reads the number of `images` that the run trains on, and the digest of their `contents`.

        Earlier versions wrote a digest of the `records` in place of `contents`, or neither.
        """
        return self.manifest().get("trained_on", {})

    def is_trained_on(self, table: records.RecordTable) -> bool | None:
        """Returns whether the run trains on these very records; None if it noted nothing."""
        noted = self.trained_on()
        if "contents" in noted:
            return noted["contents"] == table.digest()
        if "records" in noted:
            return noted["records"] == table.digest_of_places()
        return None

    def manifest(self) -> dict:
        """Reads the run's dataset.json.

        Raises:
          UserError: if it is missing or damaged.
        """
        path = self.path / catalog.MANIFEST
        if not path.is_file():
            raise UserError(
                f"There is no {catalog.MANIFEST} in {self.path}; {self._restore_classes()}."
            )
        content = sealed.from_json(path.read_bytes())
        if content is None:
            raise UserError(
                f"{path} is damaged; {self._restore_classes()}, or, if you changed it on purpose, "
                "delete its last key, checksum."
            )
        return content

    def _restore_classes(self) -> str:
        return f"it names the model's classes: restore it from a copy of {self.path}"

    def environment(self) -> dict:
        """Reads the environment that the run was last trained in; empty if none was written.

        Raises:
          UserError: if the file is damaged.
        """
        path = self.path / ENVIRONMENT
        content = sealed.from_json(path.read_bytes()) if path.is_file() else {}
        if content is None:
            raise UserError(
                f"{path} is damaged; restore it from a copy or delete it: only the card of an "
                "exported model and the report on the run quote it."
            )
        return content


class FollowersRunDir(RunDir):
    """The run's folder for workers other than the chief, which read it but write nothing to it."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.metrics = FollowersMetricsLog(self.path)
        self.checkpoints = FollowersCheckpoints(self.path, self.metrics)

    def open_for_training(self, experiment, info, table=None):
        pass

    def sole_training(self):
        return contextlib.nullcontext()


_HEADING = re.compile(r"# (\d+) settings follow(?:, (crc32 \w+))?\.\n")
_OLDEST_HEADING = "# Written by deeplab_tf: the settings of this run.\n"


def _with_heading(text: str) -> str:
    """Puts a line before the text of a flagfile by which `_damage` finds damage."""
    return f"# {_count_of_settings(text)} settings follow, {sealed.checksum(text)}.\n{text}"


def _damage(text: str) -> str:
    """Returns what is wrong with the text of an experiment.flags; "" if it is whole."""
    text = text.replace("\r\n", "\n")
    if text.startswith("--"):
        return ""  # a person has deleted the heading

    heading = _HEADING.match(text)
    if not heading and not text.startswith(_OLDEST_HEADING):
        return "its first line is not one that deeplab_tf writes"
    if not text.endswith("\n"):
        return "its last line is cut"
    if not heading:
        return ""

    written, checksum = heading.groups()
    settings = text[heading.end() :]
    count = _count_of_settings(settings)
    if count != int(written):
        return f"it has {count} of its {written} settings"
    return "" if checksum in (None, sealed.checksum(settings)) else "its checksum is another"


def _count_of_settings(text: str) -> int:
    return len(re.findall("^--", text, re.MULTILINE))


def environment() -> dict:
    """Returns what else than settings may affect results: versions, devices, command line."""
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

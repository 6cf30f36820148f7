"""One run's folder: its settings, data set and environment, its checkpoints and scores."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from deeplab_tf import __version__, files
from deeplab_tf.config import Experiment, checkpoint_choice, flags
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError
from deeplab_tf.runs import foreign
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

    def environment(self) -> dict:
        """Reads the environment that the run was last trained in; empty if none was written."""
        path = self.path / ENVIRONMENT
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class FollowersRunDir(RunDir):
    """The run's folder for workers other than the chief, which read it but write nothing to it."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.metrics = FollowersMetricsLog(self.path)
        self.checkpoints = FollowersCheckpoints(self.path, self.metrics)

    def open_for_training(self, experiment, info, table=None):
        pass


def _count_of_settings(text: str) -> int:
    return len(re.findall("^--", text, re.MULTILINE))


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

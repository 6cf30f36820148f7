"""Weights & Biases and MLflow: programs that collect what many runs record (--tracker).

Their own Keras callbacks are not used. They record what Keras reports, which counts batches since
the process began and knows no validation; here a step goes on counting when a run is resumed, and
the scores come from the confusion matrix of the whole split.
"""

import importlib
import importlib.util
import os
import re
import time
from pathlib import Path
from typing import Any

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened, warn
from deeplab_tf.runs import sealed

TRACKER_FILE = "tracker.json"  # in the run's folder: under which id a tracker knows the run
_SECONDS_OF_REST = 600  # after a failure: clients retry for minutes, and the training waits
_PROJECT = "deeplab_tf"  # unless the tracker's own environment variable names another


def require_installed(name: str) -> None:
    """Raises UserError if the package of --tracker is not installed; "" needs none."""
    spec = importlib.util.find_spec(name) if name else None
    # A folder of that name, such as the one that wandb writes to, is found too, but has no origin.
    if name and (spec is None or spec.origin is None):
        raise UserError(
            f"--tracker={name} needs the package {name}, which is not installed; "
            f"pip install {name} (this package's extra [{name}]), or leave --tracker out."
        )


class Tracker:
    """Takes the settings and the values of a run; this one keeps nothing.

    Args:
      folder: the run's.
      settings: all settings of the run, by name.
    """

    name = ""
    _has_failed = False
    _rests_until = 0.0  # of the monotonic clock, in seconds

    def __init__(self, folder: Path, settings: dict[str, str]):
        self._folder = folder
        if not self.name:
            return
        require_installed(self.name)
        try:
            known_as = self._start(importlib.import_module(self.name), self._noted(), settings)
        except Exception as error:  # of a server, an account, a network or a version
            raise UserError(
                f"--tracker={self.name} could not start ({_reason(error)}); mend that, or leave "
                "--tracker out."
            ) from None
        content = self._ids() | {self.name: known_as}
        files.write(folder / TRACKER_FILE, sealed.to_json(content) + "\n")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Takes the values of a step, by name.

        A failure is told once, and training goes on. What comes in the minutes after it is lost.
        """
        if time.monotonic() < self._rests_until:
            return
        try:
            self._log(step, values)
        except Exception as error:  # a server that is away must not end a run of days
            if not self._has_failed:
                warn(
                    f"--tracker={self.name} did not take step {step} ({_reason(error)}); after a "
                    f"failure it is left alone for {_SECONDS_OF_REST // 60} minutes."
                )
            self._has_failed = True
            self._rests_until = time.monotonic() + _SECONDS_OF_REST

    def finish(self, *, failed: bool) -> None:
        """Says that no more values come.

        Args:
          failed: whether an error ended the run.
        """
        try:
            self._finish(failed)
        except Exception as error:  # as above: the run itself is complete
            warn(f"--tracker={self.name} could not finish ({_reason(error)}).")

    def _start(self, package: Any, known_as: str, settings: dict[str, str]) -> str:
        """Starts or continues the run; returns the id under which it can be continued.

        Args:
          package: the tracker's.
          known_as: the run's id from an earlier start; "" if there is none.
        """
        raise NotImplementedError

    def _log(self, step: int, values: dict[str, float]) -> None:
        pass

    def _finish(self, failed: bool) -> None:
        pass

    def _noted(self) -> str:
        return str(self._ids().get(self.name, ""))

    def _ids(self) -> dict:
        path = self._folder / TRACKER_FILE
        content = sealed.from_json(path.read_bytes()) if path.is_file() else {}
        if content is None:
            raise UserError(f"{path} is damaged; delete it: --tracker then begins a new run.")
        return content


class _WeightsAndBiases(Tracker):
    """https://docs.wandb.ai/ref/python; its environment variables (WANDB_*) say where to."""

    name = "wandb"

    def _start(self, package, known_as, settings):
        self._run = package.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=os.environ.get("WANDB_NAME") or self._folder.name,
            id=known_as or None,
            resume="allow" if known_as else None,
            config=settings,
            dir=os.environ.get("WANDB_DIR") or str(self._folder),
        )
        # A resumed run does some steps again, and W&B's own counter never goes back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def _log(self, step, values):
        self._run.log({"step": step} | values)

    def _finish(self, failed):
        self._run.finish(exit_code=int(failed))


class _MLflow(Tracker):
    """https://mlflow.org/docs/latest/python_api; MLFLOW_* environment variables say where to."""

    name = "mlflow"

    def _start(self, package, known_as, settings):
        self._mlflow = package
        variables = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
        if not any(map(os.environ.get, variables)) and not known_as:
            package.set_experiment(_PROJECT)
        if known_as:
            return package.start_run(run_id=known_as).info.run_id

        run = package.start_run(run_name=self._folder.name)
        # Not again when the run is resumed: MLflow refuses values that have changed.
        package.log_params({name: value[:6000] for name, value in settings.items()})
        return run.info.run_id

    def _log(self, step, values):
        named = {_mlflow_name(name): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)

    def _finish(self, failed):
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


def _mlflow_name(name: str) -> str:
    """Returns the name of a value as MLflow takes it.

    Classes may be called anything, but MLflow takes no other letters, and no path that could be
    shorter. Each refused letter becomes its number in Unicode: with the same sign for all, the
    curves of "a<b" and "a>b" would be one.
    """
    parts = name.split("/", 2)
    return "/".join(re.sub(r"[^\w\- ]", lambda found: f"_{ord(found[0]):x}_", p) for p in parts)


_KINDS = {kind.name: kind for kind in (Tracker, _WeightsAndBiases, _MLflow)}


def open_tracker(name: str, folder: Path, settings: dict[str, str]) -> Tracker:
    """Starts the tracker of --tracker, or continues the run that it knows from the folder.

    Raises:
      UserError: if it is not installed or cannot start.
    """
    return _KINDS[name](folder, settings)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shortened(f"{type(error).__name__}: {lines[0] if lines else ''}")

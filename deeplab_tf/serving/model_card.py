"""Describes what a model is and how it was made, for people who find it on a server."""

import dataclasses
from pathlib import Path

from deeplab_tf import files, json_files
from deeplab_tf.config import Experiment, flags
from deeplab_tf.json_files import keyed, number, or_null, text
from deeplab_tf.messages import UserError, warn
from deeplab_tf.runs import run_dir
from deeplab_tf.runs.loaded_run import LoadedRun
from deeplab_tf.runs.metrics_log import METRICS
from deeplab_tf.runs.run_dir import RunDir

_RESULTS = keyed({"miou": or_null(number(0, 1))}, {"checkpoint_digest": text()})
_VERSIONS = ("deeplab_tf", "git_commit", "tensorflow", "python")


def of_run(run: RunDir, loaded: LoadedRun, used: Experiment) -> dict:
    """Returns what model_card.json says about a checkpoint of a run.

    Args:
      used: the run's settings with the changes of the command line that exports it.
    Returns:
      step: of the checkpoint. dataset: classes of the model. training: settings of the run.
      inference: settings of the export that differ from the run's. metrics: scores of this very
      checkpoint, predicted as the export predicts, each with the file it comes from. versions: of
      the programs that trained and exported.
    """
    built = loaded.model.config
    training = flags.settings_of(loaded.experiment)
    inference = flags.settings_of(dataclasses.replace(used, model=built))
    return {
        "step": loaded.step,
        "dataset": loaded.info.to_json(),
        "training": training,
        "inference": {k: v for k, v in inference.items() if training[k] != v},
        "metrics": metrics_of(
            run,
            loaded.step,
            flags.inference_settings(used, built),
            of_run=flags.inference_settings(loaded.experiment, loaded.experiment.model),
        ),
        "versions": {
            "training": {name: run.environment().get(name) for name in _VERSIONS},
            "export": {name: run_dir.environment()[name] for name in _VERSIONS},
        },
    }


def metrics_of(
    run: RunDir, step: int, inference: dict[str, str], *, of_run: dict[str, str]
) -> list[dict]:
    """Returns the scores of a step in metrics.jsonl and in results.json of the run's subfolders.

    Args:
      inference: inference settings of the export; scores with other or unknown settings are left
        out.
      of_run: inference settings of the run, which scores in metrics.jsonl were made with that do
        not say it themselves.
    """
    scores = [
        {"file": METRICS, **entry}
        for entry in run.metrics.scores_at(step)
        if entry.get("inference", of_run) == inference
    ]

    for path in sorted(run.path.glob("*/results.json")):
        try:
            advice = "the model card leaves them out; score again, or delete the file"
            results = json_files.read(path, "The file of scores", _RESULTS, advice=advice)
        except UserError as error:
            warn(str(error))
            continue
        is_alike = results.get("step") == step and results.get("inference") == inference
        if not is_alike or not _is_of(run, results):
            continue
        if not _is_of_weights(run, results):
            warn(
                f"{files.shown(path)} scores other weights of step {step} than "
                f"{files.shown(run.checkpoints.prefix(step))} holds, since the step was trained "
                "again or its files were replaced: the model card leaves the scores out; score "
                f"step {step} again with eval, or delete the file."
            )
            continue
        scores.append({"file": str(Path(path.parent.name) / path.name), **results})
    return scores


def _is_of(run: RunDir, results: dict) -> bool:
    """Whether scores are of this run, and not of another one that was scored into its folder."""
    checkpoint = results.get("checkpoint")
    if not isinstance(checkpoint, str):
        return True  # an earlier version did not note it
    folder = Path(checkpoint).parent
    return not folder.is_dir() or folder.samefile(run.path)  # a run may have been moved


def _is_of_weights(run: RunDir, results: dict) -> bool:
    """Whether scores are of the weights that the run has at their step, as far as they tell."""
    scored = results.get("checkpoint_digest")  # an earlier version did not note it
    return scored in (None, run.checkpoints.digest(results["step"]))

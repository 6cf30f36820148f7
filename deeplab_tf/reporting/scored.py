"""Reads what `eval` wrote; checks that it belongs to one evaluation of this run."""

import filecmp
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_tf import files, json_files
from deeplab_tf.config import Experiment, flags
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation import metrics, tables
from deeplab_tf.evaluation.evaluator import MEANS
from deeplab_tf.evaluation.result_files import MATRIX, PER_IMAGE, RESULTS
from deeplab_tf.json_files import keyed, mapped, number, or_null, text, whole
from deeplab_tf.messages import UserError
from deeplab_tf.reporting.commands import command
from deeplab_tf.runs.run_dir import EXPERIMENT, RunDir

_RECORDS = "RECORDS"  # in commands, where the user has to give a folder
_GIVE_OWN = "give the folder of this run's results with --eval_logdir"

_MOST = 2**53
_SCORE, _COUNT = or_null(number(0, 1)), whole(0, _MOST)
_COLUMNS = ("name", "miou", "number", "height", "width", "valid_pixels")
_PER_CLASS = ("per_class", "per_class_f1", "per_class_precision", "per_class_recall")
# What a validation in metrics.jsonl and results.json have in common.
_SCORES = {
    "step": _COUNT,
    "split": text(),
    "images": _COUNT,
    **dict.fromkeys(MEANS, _SCORE),
    **dict.fromkeys(_PER_CLASS, mapped(_SCORE)),
    "pixels_per_class": mapped(_COUNT),
}
_CHECK = keyed(
    {
        **_SCORES,
        "checkpoint": text(),
        "dataset_dir": text(),
        "inference": mapped(text()),
    },
    {
        "bad_records": _COUNT,
        "checkpoint_digest": text(),
        "boundary_tolerance": number(0, 1),
        "mean_boundary_f_score": _SCORE,
        "per_class_boundary_f_score": mapped(_SCORE),
    },
)
# Keys by which a results.json of `eval` differs from other programs'.
_MARKS = {"step": _COUNT, "split": text(), "per_class": mapped(_SCORE)}


@dataclass(frozen=True)
class ImageScore:
    """A line of per_image.csv; miou is NaN if all pixels of the image are ignored."""

    number: int
    name: str
    height: int
    width: int
    valid_pixels: int
    miou: float


@dataclass(frozen=True)
class Scored:
    """An evaluation.

    results: the content of results.json. images: of the split, in its order.
    matrix: int64 [label, prediction]; None if an earlier version of `eval` did not write it.
    """

    folder: Path
    results: dict[str, Any]
    images: list[ImageScore]
    matrix: np.ndarray | None

    def extremes(self, count: int) -> tuple[list[ImageScore], list[ImageScore]]:
        """Returns up to `count` images with the lowest mIoU, and as many with the highest.

        The lowest is first in one, the highest in the other; no image is in both: of few images,
        each holds half.
        """
        scored = [image for image in self.images if not math.isnan(image.miou)]
        ranked = sorted(scored, key=lambda image: (image.miou, image.name, image.number))
        worst = ranked[: min(count, (len(ranked) + 1) // 2)]
        return worst, ranked[len(worst) :][::-1][:count]


def find(run: RunDir, eval_logdir: str, *, dataset_dir: str = "") -> Path | None:
    """Returns the folder with the results of `eval`: the one that is asked for, or the run's own.

    Args:
      eval_logdir: the setting; if empty, the run's folder and its subfolders are searched, apart
        from folders of other runs.
      dataset_dir: the setting.
    Returns:
      None if nothing is asked for and the run has none.
    Raises:
      UserError: if the folder that is asked for has no results, or the run has several, or damaged
        ones.
    """
    if eval_logdir:
        folder = Path(eval_logdir)
        if not (folder / RESULTS).is_file():
            raise UserError(
                f"--eval_logdir={files.shown(folder)} holds no {RESULTS}; score the run first: "
                f"`{eval_command(run, eval_logdir, dataset_dir=dataset_dir)}`, or leave "
                "--eval_logdir out."
            )
        return folder

    found = []
    for path in sorted([*run.path.glob(RESULTS), *run.path.glob(f"*/{RESULTS}")]):
        is_other_run = path.parent != run.path and (path.parent / EXPERIMENT).is_file()
        if is_other_run:
            continue
        scoring = eval_command(run, path.parent, dataset_dir=dataset_dir)
        advice = f"score the run again: `{scoring}`, or move the file out of the run"
        content = json_files.read(path, "The file of scores", _check_if_of_eval, advice=advice)
        if _is_of_eval(content):
            found.append((path.parent, content))
    if len(found) > 1:
        listed = ", ".join(
            f"{files.shown(folder)} (step {content['step']}, {content['split']})"
            for folder, content in found
        )
        raise UserError(
            f"{files.shown(run.path)} holds {len(found)} evaluations: {listed}; name the one to "
            "report with --eval_logdir."
        )
    return found[0][0] if found else None


def _is_of_eval(content: Any) -> bool:
    """Returns whether `eval` wrote a results.json, and not another program."""
    return isinstance(content, dict) and content.keys() >= _MARKS.keys()


def _check_if_of_eval(content: Any, key: str) -> None:
    """Checks what `find` tells of a results.json; raises ValueError."""
    if _is_of_eval(content):
        keyed(_MARKS)(content, key)


def best_validation(run: RunDir, info: DatasetInfo) -> dict | None:
    """Returns the scores of the best validation during training, as results.json has them.

    Returns:
      None if there was no validation, or an earlier version recorded it, without all scores.
    """
    best = run.metrics.best()
    for entry in reversed(run.metrics.scores_at(best["step"]) if best else []):
        try:
            keyed(_SCORES)(entry, "")
        except ValueError:
            continue
        is_of_run = all([*entry[kind]] == info.class_names for kind in _PER_CLASS)
        if entry["split"] == best["split"] and is_of_run:
            return entry
    return None


def eval_command(run: RunDir, eval_logdir: object = "", *, dataset_dir: str = "") -> str:
    """Returns the command that scores a run's newest checkpoint.

    Args:
      dataset_dir: of the records, if they are not where the run names them.
    """
    is_named = bool(run.experiment().data.dataset_dir)  # by imported weights it is not
    return command(
        "eval",
        checkpoint_dir=run.path,
        dataset_dir=dataset_dir or ("" if is_named else _RECORDS),
        eval_logdir=eval_logdir or run.path / "eval",
    )


def same_evaluation(run: RunDir, results: dict, folder: Path, *, dataset_dir: str = "") -> str:
    """Returns the command that scores the same checkpoint in the same way, into the same folder.

    Args:
      results: the content of results.json.
      dataset_dir: of the records, if they are not where the results name them.
    """
    experiment = run.experiment()
    of_run = flags.inference_settings(experiment, experiment.model)
    defaults = flags.settings_of(Experiment())
    # A setting that results.json leaves out has no effect, and so has its default.
    names = [name for name in flags.INFERENCE if name in results["inference"] or name in of_run]
    others = {}
    for name in names:
        value = results["inference"].get(name, defaults[name])
        if value != of_run.get(name, defaults[name]):
            others[name] = value
    text = command(
        "eval",
        checkpoint_dir=run.path,
        checkpoint=results["step"],
        dataset_dir=dataset_dir or results["dataset_dir"] or _RECORDS,
        eval_split=results["split"],
        max_bad_records=results.get("bad_records") or None,
        eval_logdir=folder,
        boundary_f_score="true" if "boundary_tolerance" in results else None,
        boundary_tolerance=results.get("boundary_tolerance"),
    )
    return " ".join([text, *(f"--{name}={shlex.quote(value)}" for name, value in others.items())])


def read(run: RunDir, info: DatasetInfo, folder: Path, *, dataset_dir: str = "") -> Scored:
    """Reads an evaluation.

    Args:
      info: of the run.
      dataset_dir: the setting.
    Raises:
      UserError: if a file is damaged, the files are not of one evaluation, or they score another
        run.
    """
    path = folder / RESULTS
    anew = f"score the run again: `{eval_command(run, folder, dataset_dir=dataset_dir)}`"
    results = json_files.read(path, "The file of scores", _CHECK, advice=anew)
    _require_own(run, info, path, results)

    of_same = same_evaluation(run, results, folder, dataset_dir=dataset_dir)
    again = f"score the checkpoint again: `{of_same}`"
    _require_same_weights(run, path, results, again)
    scored = Scored(folder, results, _images(folder, again), _matrix(folder, info, again))
    _require_one_evaluation(scored, again)
    return scored


def _require_own(run: RunDir, info: DatasetInfo, path: Path, results: dict) -> None:
    """Raises UserError if results score another run.

    What lies in the run's own folder is the run's, even if the folder was moved or copied since,
    unless the results name another run that is there.
    """
    for kind in (*_PER_CLASS, "per_class_boundary_f_score", "pixels_per_class"):
        if kind in results and [*results[kind]] != info.class_names:
            raise UserError(
                f"{files.shown(path)} scores another run: the classes of its {kind} differ from "
                f"the classes of {files.shown(run.path)}; {_GIVE_OWN}."
            )

    is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run.path))
    scored = RunDir.of(results["checkpoint"])
    if os.path.realpath(scored.path) == os.path.realpath(run.path):
        return
    says = (
        f"{files.shown(path)} scores {files.shown(results['checkpoint'])}, which is not in "
        f"--train_logdir={files.shown(run.path)}"
    )
    if not is_inside:
        raise UserError(
            f"{says}; {_GIVE_OWN}, or, if only the folder of the run was moved, move the folder "
            f"{files.shown(path.parent)} into {files.shown(run.path)}."
        )
    if (scored.path / EXPERIMENT).is_file() and not _is_copy(run, scored, results["step"]):
        raise UserError(
            f"{says} but in another run; {_GIVE_OWN}, or move the folder "
            f"{files.shown(path.parent)} out of {files.shown(run.path)}."
        )


def _require_same_weights(run: RunDir, path: Path, results: dict, again: str) -> None:
    """Raises UserError if results score other weights than the run still has at their step.

    Earlier versions did not note which weights they scored.
    """
    step = results["step"]
    scored, present = results.get("checkpoint_digest"), run.checkpoints.digest(step)
    if scored and present and scored != present:
        raise UserError(
            f"{files.shown(path)} scores other weights of step {step} than "
            f"{files.shown(run.checkpoints.prefix(step))} holds, since the step was trained again "
            f"or its files were replaced; {again}."
        )


def _is_copy(run: RunDir, other: RunDir, step: int) -> bool:
    """Returns whether two folders hold copies of one run.

    The weights of this step decide, or the training settings if either folder lacks the weights.
    """
    mine, others = _weights(run, step), _weights(other, step)
    if mine and others:
        return len(mine) == len(others) and all(
            filecmp.cmp(*pair, shallow=False) for pair in zip(mine, others, strict=True)
        )
    try:
        return run.experiment().train == other.experiment().train
    except UserError:  # the other one is damaged
        return False


def _weights(run: RunDir, step: int) -> list[Path]:
    prefix = Path(run.checkpoints.prefix(step))
    return sorted(prefix.parent.glob(f"{prefix.name}.data-*"))


def _images(folder: Path, again: str) -> list[ImageScore]:
    path = folder / PER_IMAGE
    content = files.read_text(path, "The table of the images' scores")
    try:
        heading, *lines = tables.parse_csv(content) or [[]]
        columns = [heading.index(name) for name in _COLUMNS]
        return [_image([line[column] for column in columns]) for line in lines]
    except (ValueError, IndexError) as error:
        raise UserError(f"{files.shown(path)} is damaged ({error}); {again}.") from None


def _image(cells: list[str]) -> ImageScore:
    """Returns the image of a line; raises ValueError if a number is none."""
    name, miou, *counts = cells
    score = float(miou) if miou else math.nan
    if score < 0 or score > 1:
        raise ValueError(f"the mIoU of an image is {miou}")
    place, height, width, valid = map(int, counts)
    return ImageScore(place, name, height, width, valid, score)


def _matrix(folder: Path, info: DatasetInfo, again: str) -> np.ndarray | None:
    path = folder / MATRIX
    if not path.is_file():
        return None
    content = files.read_text(path, "The confusion matrix")
    try:
        return tables.parse_confusion_matrix(content, info.class_names)
    except ValueError as error:
        raise UserError(f"{files.shown(path)} is damaged ({error}); {again}.") from None


def _require_one_evaluation(scored: Scored, again: str) -> None:
    """Raises UserError if the files do not belong together, as after an `eval` that was killed."""
    results, images, matrix = scored.results, scored.images, scored.matrix
    pixels = [*results["pixels_per_class"].values()]
    is_one = [image.number for image in images] == list(range(results["images"])) and sum(
        image.valid_pixels for image in images
    ) == sum(pixels)
    other = PER_IMAGE
    if is_one and matrix is not None:
        miou = metrics.scores(matrix).miou
        wanted = math.nan if results["miou"] is None else results["miou"]
        is_one = matrix.sum(axis=1).tolist() == pixels and bool(
            np.isclose(miou, wanted, rtol=0, atol=1e-9, equal_nan=True)
        )
        other = MATRIX
    if not is_one:
        raise UserError(
            f"{RESULTS} and {other} in {files.shown(scored.folder)} are not of one evaluation; "
            f"{again}."
        )

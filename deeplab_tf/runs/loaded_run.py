"""Loads a trained model from a run's folder, and says which checkpoint it comes from."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from deeplab_tf.config import Experiment, as_flag, checkpoint_choice, flags
from deeplab_tf.config.checkpoint_choice import BEST, NEWEST
from deeplab_tf.config.setting import Config
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError, counted
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.runs import averaging, foreign
from deeplab_tf.runs.checkpoints import DAMAGE, UnreadableCheckpointError, reason_of_damage
from deeplab_tf.runs.run_dir import EXPERIMENT, RunDir
from deeplab_tf.startup.process_state import keras_settings


@dataclass(frozen=True)
class LoadedRun:
    """A run's settings, data set and restored model.

    step: of the checkpoint. title, others: which checkpoint it is, and which newer or better ones
    there are, as `standing` says.
    """

    experiment: Experiment
    info: catalog.DatasetInfo
    model: DeepLab
    step: int
    title: str
    others: list[str]

    @property
    def standing(self) -> str:
        """Says which checkpoint it is, and which newer or better ones there are."""
        return "; ".join([self.title, *self.others])

    def dataset_at(self, dataset_dir: str) -> catalog.DatasetInfo:
        """Returns the data set to score on; it must have the classes the model was trained for.

        Raises:
          UserError: if the classes differ.
        """
        if not dataset_dir or not (Path(dataset_dir) / catalog.MANIFEST).is_file():
            # Shards of the official package have no description. If a known data set has the same
            # classes, its entry in the catalog says how to build it.
            info = catalog.known_as(self.info) or self.info
            self._require_convention(info, dataset_dir)
            return info

        info = catalog.load("", dataset_dir)
        of_images = catalog.image_difference(
            self.info, info, places=("of the model", "in the records")
        )
        if of_images:
            raise UserError(
                f"The model does not take the images of --dataset_dir={dataset_dir}: {of_images}; "
                f"build the records with {self.info.image_kind.flags()}, from images of that kind."
            )
        difference = catalog.first_difference(
            self.info, info, places=("in the model", "in the records")
        )
        if difference:
            raise UserError(
                f"The model and --dataset_dir={dataset_dir} differ in their classes: {difference}; "
                f"{self._way_to_same_classes(info)}."
            )
        return info

    def _require_convention(self, info: catalog.DatasetInfo, dataset_dir: str) -> None:
        """Raises UserError if records without description would be read as other classes.

        Their labels would be valid under either convention, so the scores would be wrong without a
        word.
        """
        if not (dataset_dir and Path(dataset_dir).is_dir() and info.name in catalog.KNOWN):
            return
        data = self.experiment.data
        is_same_folder = os.path.realpath(data.dataset_dir) == os.path.realpath(dataset_dir)
        if is_same_folder and data.num_classes == info.num_classes:  # the run was told what it is
            return
        if flags.given("num_classes") == info.num_classes:
            return

        meant = catalog.load(info.name, dataset_dir)
        if catalog.first_difference(info, meant):
            raise UserError(
                f"--dataset_dir={dataset_dir} has no {catalog.MANIFEST}, so it is taken for "
                f"{meant.name} of the official package, with {meant.num_classes} classes, and the "
                f"model has the {info.num_classes} of {info.name}; if the records have those too, "
                f"give --num_classes={info.num_classes}, else build them again with "
                f"`{info.build_command} --output_dir=DIR`."
            )

    def _way_to_same_classes(self, info: catalog.DatasetInfo) -> str:
        """Returns what to do when the classes of the records, `info`, are not the model's."""
        is_imported = not self.experiment.train.train_logdir
        if info.class_names == self.info.class_names:  # the ignored labels differ
            build_again = f"build the records again with --ignore_label={self.info.ignore_label}"
            if not is_imported:
                return f"{build_again}, as the records that it was trained on"
            return (
                "import its weights again with the --class_list of the records and "
                f"--ignore_label={info.ignore_label}, or {build_again}"
            )

        if is_imported:
            return (
                "if it was trained for the classes of the records, import its weights again with "
                "the --class_list and --ignore_label that the records were built with; else give "
                "other records"
            )
        return "give records that were built with the class list it was trained with"


def load(
    path: str | Path,
    *,
    checkpoint: str = "",
    output_stride: int | None = None,
    written: Callable[[str, Any], str] | None = None,
) -> LoadedRun:
    """Restores the model of a run's folder, with averaged weights if the run has them.

    Args:
      path: the folder, or the path of one checkpoint in it (.../model.ckpt-1000).
      checkpoint: newest, best or a step, like the setting; empty takes the one that the path names,
        or the newest undamaged one.
      output_stride: builds the network at another output stride than it was trained at.
      written: how sentences write settings that choose another checkpoint. None if the user has
        no such setting and chooses by another path.
    Raises:
      UserError: if the folder, or the checkpoint in it, does not exist or is damaged.
    """
    run = RunDir.of(path)
    if not (run.path / EXPERIMENT).is_file():
        raise foreign.not_a_run(Path(path), EXPERIMENT)

    run.require_plain_path()
    experiment, info = run.experiment(), run.dataset()
    if info.image_kind.channels != experiment.model.image_channels:
        raise UserError(
            f"{run.path / catalog.MANIFEST} says that images are "
            f"{info.image_kind.described()}, but "
            f"the network takes {counted(experiment.model.image_channels, 'channel')}; restore "
            "the file."
        )
    wanted = checkpoint_choice.wanted(path, checkpoint)
    step = run.checkpoints.choose(wanted)

    config = experiment.model
    if output_stride and output_stride != config.output_stride:
        config = config.at_output_stride(output_stride, written=written or as_flag)
    with keras_settings():
        model = build_model(config, num_classes=info.num_classes)
    parts = [tf.train.Checkpoint(model=model)]
    if experiment.train.ema_decay:
        # Restored after the weights, and in place of them.
        parts.append(averaging.Averages(model))

    restored, damaged = _restore(run, parts, step, passes_damaged=wanted == NEWEST)

    # --checkpoint would contradict a path that names a step.
    names_step = checkpoint_choice.split(path)[1] is not None
    written = None if names_step else written
    title, others = standing(run, restored, damaged=damaged, written=written)
    return LoadedRun(experiment, info, model, restored, title, others)


def load_asked(path: str, checkpoint: str, *jobs: Config) -> tuple[LoadedRun, Experiment]:
    """Loads the checkpoint that a command line asks for, and prints which one it is.

    Args:
      path, checkpoint: values of the program's settings.
      jobs: as in `flags.with_overrides`.
    Returns:
      The run as it is stored, and its settings with the changes of the command line.
    Raises:
      UserError: if the command line gives a setting of the network that is not the run's.
    """
    loaded = load(
        path,
        checkpoint=checkpoint,
        output_stride=flags.given("output_stride"),
        written=as_flag,
    )
    print(f"{path}: {loaded.standing}", flush=True)
    flags.require_equal(loaded.experiment, loaded.model.config, where=path)
    _require_dataset(flags.given("dataset"), loaded)
    _require_num_classes(flags.given("num_classes"), loaded.info)
    return loaded, flags.with_overrides(loaded.experiment, *jobs)


def _require_num_classes(asked: int | None, info: catalog.DatasetInfo) -> None:
    """Raises UserError if --num_classes is given, and is not the run's."""
    if asked not in (None, 0, info.num_classes):
        raise UserError(
            f"--num_classes={asked} is not the run's: it was trained for {info.num_classes} "
            f"classes; give --num_classes={info.num_classes}, or leave it out."
        )


def _require_dataset(asked: str | None, loaded: LoadedRun) -> None:
    """Raises UserError if --dataset is given, and names other classes than the run's."""
    info = loaded.info
    if asked in (None, "", info.name, loaded.experiment.data.dataset):
        return
    if all(catalog.first_difference(known, info) for known in catalog.conventions_of(asked)):
        raise UserError(
            f"--dataset={asked} is not what the run was trained on: it has the classes of "
            f"{info.name}; give --dataset={info.name}, or leave --dataset out."
        )


def tell_departures(
    program: str, loaded: LoadedRun, experiment: Experiment, job: Any, **values: Any
) -> None:
    """Prints where a program that reads a run differs from official DeepLab's.

    Args:
      program: a key of `official_flags.PROGRAMS`.
      experiment: the run's settings with the changes of the command line.
      job: the program's own settings.
      values: settings that have other values than in these groups.
    """
    built = loaded.model.config
    own = [experiment.data, experiment.train, experiment.eval, built, job]
    values = {"dataset": loaded.info.name, "num_classes": loaded.info.num_classes, **values}
    flags.tell_departures(program, built.model_variant, *own, **values)


def _restore(
    run: RunDir, parts: Sequence[tf.train.Checkpoint], step: int, *, passes_damaged: bool
) -> tuple[int, list[int]]:
    """Restores the checkpoint of a step.

    Args:
      parts: what to restore from it, in this order.
      passes_damaged: whether to restore an older checkpoint if this one is damaged.
    Returns:
      The step that was restored, and the steps whose checkpoints are damaged.
    Raises:
      UserError: if no checkpoint could be restored.
    """
    kept = run.checkpoints.steps()
    damaged: dict[int, str] = {}
    for candidate in [older for older in reversed(kept) if older <= step]:
        try:
            for part in parts:
                status = part.read(run.checkpoints.prefix(candidate)).expect_partial()
                status.assert_existing_objects_matched()
        except DAMAGE as error:
            if not passes_damaged:
                others = ", ".join(str(other) for other in kept if other != step)
                raise UnreadableCheckpointError(
                    f"{run.checkpoints.prefix(step)} cannot be read: {str(error).splitlines()[0]}; "
                    f"{run.path} also has: {others or 'none'}."
                ) from None
            damaged[candidate] = reason_of_damage(error)
            continue
        run.checkpoints.warn_of_damage(
            damaged,
            f"step {candidate} is taken instead; restore the damaged files from a copy, or "
            "delete them",
        )
        return candidate, sorted(damaged)

    steps = ", ".join(map(str, sorted(damaged)))
    raise UserError(
        f"{run.path} holds no whole checkpoint: the checkpoints of steps {steps} are damaged; "
        "restore their files, or train again."
    )


def standing(
    run: RunDir,
    step: int,
    *,
    damaged: Collection[int] = (),
    written: Callable[[str, Any], str] | None = None,
) -> tuple[str, list[str]]:
    """Describes the checkpoint of a step, and says which newer or better ones there are.

    Args:
      damaged: steps whose checkpoints are damaged.
      written: as in `load`.
    Returns:
      A title such as "step 1000 (newest)", and sentences about other checkpoints, such as
      "step 2000 is newer". mIoU is in percent.
    """
    others = set(run.checkpoints.steps()) - {step, *damaged}
    is_newest = not others or max(others) < step
    best = run.metrics.best()
    scores = [
        entry["miou"]
        for entry in run.metrics.scores_at(step)
        if entry["miou"] is not None and entry.get("split") == best.get("split")
    ]

    titles = [*["newest"] * is_newest, *["best"] * (best.get("step") == step)]
    if not others:
        titles = ["the only checkpoint"]
    if step == 0:
        is_imported = not run.experiment().train.train_logdir
        titles = ["imported weights"] if is_imported else [*titles, "before any training"]
    if scores:
        titles.append(f"mIoU {100 * scores[-1]:.2f} in validation")
    if damaged:
        titles.append(f"{', '.join(map(str, sorted(damaged)))} damaged")

    def way_to(choice: str, other: int) -> str:
        if written:
            return f"{written('checkpoint', choice)} takes it"
        return f"it is {run.checkpoints.prefix(other)}"

    sentences = []
    if not is_newest:
        sentences += [f"step {max(others)} is newer", way_to(NEWEST, max(others))]
    if best and best["step"] != step and not (scores and scores[-1] == best["miou"]):
        other, score = f"step {best['step']}", f"{100 * best['miou']:.2f}"
        if scores:
            sentences.append(f"{other} scored better: {score} against {100 * scores[-1]:.2f}")
        else:
            sentences.append(f"{other} is the best that has a score, {score}; this one has none")
        is_kept = best["step"] in others
        sentences.append(way_to(BEST, best["step"]) if is_kept else "it is not kept")
    return f"step {step} ({', '.join(titles)})" if titles else f"step {step}", sentences

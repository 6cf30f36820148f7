"""Checks whether a folder can take a new run, or further steps of the run that it holds.

The checks come before the model is built, which takes minutes, and they write nothing.
`require_place` does not look into the folder, and comes before it is locked.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from deeplab_tf.config import Experiment, flags
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError, counted
from deeplab_tf.runs.run_dir import EXPERIMENT, RunDir
from deeplab_tf.training import schedules


def require_place(run: RunDir) -> None:
    """Raises UserError unless a folder can be written at the run's path, and weights in it."""
    run.require_plain_path()
    path = run.path
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"--train_logdir={path}: {existing} is a file; give a folder's path.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--train_logdir={path}: {existing} is not writable; give another folder.")


def fitted_to_images(experiment: Experiment, info: catalog.DatasetInfo) -> Experiment:
    """Returns the settings with a network for the images of the data set.

    Raises:
      UserError: if the mean or the standard deviation is given for other channels, or images are
        to be varied in a way that only 8-bit RGB can be.
    """
    data, kind = experiment.data, info.image_kind
    model = experiment.model.with_channels(kind.channels)
    if model.image_channels != kind.channels:
        raise UserError(
            f"--image_mean and --image_std have {counted(model.image_channels, 'number')}, but the "
            f"images in --dataset_dir={data.dataset_dir} have {kind.described()}; give "
            f"{kind.channels}, or leave them out."
        )
    # Not "leave it out": a --flagfile may have it, such as configs/own_data.flags.
    ways_out = {"photometric_distortion": "false", "hsv_jitter": "", "randaugment_operations": "0"}
    for name, off in ways_out.items():
        if getattr(data, name) and not kind.is_rgb:
            raise UserError(
                f"--{name} changes the colours of 8-bit RGB images, but the images in "
                f"--dataset_dir={data.dataset_dir} have {kind.described()}; give "
                f"--{name}={off or ' (nothing after the =)'}."
            )
    return dataclasses.replace(experiment, model=model)


def require_trainable(
    run: RunDir, experiment: Experiment, info: catalog.DatasetInfo, table: records.RecordTable
) -> str:
    """Checks that the folder's run, or a new run in it, can be trained with these settings.

    Args:
      experiment: the settings, with their epochs turned into steps (`TrainConfig.for_images`).
      info, table: the records to train on.
    Returns:
      A warning to print about a run that is resumed; usually empty.
    Raises:
      UserError: if no run can be written to the folder, or it holds a run with other settings.
    """
    if (run.path / catalog.MANIFEST).is_file() and "splits" in run.manifest():
        raise UserError(
            f"--train_logdir={run.path} is the folder of a data set; a run needs its own."
        )

    if not (run.path / EXPERIMENT).is_file():
        if run.checkpoints.steps():
            raise UserError(
                f"{run.path} holds checkpoints but no {EXPERIMENT}; give another --train_logdir."
            )
        return ""

    run.metrics.best()  # raises if the scores are damaged
    _require_same_settings(run, experiment, info)
    warning = _require_same_images(run, experiment, table)
    # Last: with --train_epochs, another number of images gives another number of steps, and then
    # the images are what the user must hear of.
    _require_continuable(run, experiment.train.training_number_of_steps)
    return warning


def with_first_weights(run: RunDir, experiment: Experiment) -> Experiment:
    """Returns the settings of a resumed run with the --tf_initial_checkpoint that it started from.

    Another one has no effect any more, and must not be noted as where the weights come from.
    """
    first = run.experiment().train.tf_initial_checkpoint
    train = dataclasses.replace(experiment.train, tf_initial_checkpoint=first)
    return dataclasses.replace(experiment, train=train)


def _require_same_settings(run: RunDir, experiment: Experiment, info: catalog.DatasetInfo) -> None:
    """Raises UserError if any setting but the number of steps has changed."""
    old = run.experiment()
    changed = flags.differences(old, experiment)
    difference = catalog.first_difference(
        run.dataset(), info, places=("in the run", "in the records")
    )
    if difference:
        changed.append(f"the data set's classes ({difference})")
    of_images = catalog.image_difference(
        run.dataset(), info, places=("in the run", "in the records")
    )
    if of_images:
        changed.append(of_images)

    before = old.train.training_number_of_steps
    only_steps = len(changed) == 1 and before != experiment.train.training_number_of_steps
    if changed and not only_steps:
        raise UserError(
            f"{run.path} holds a run with other settings, which cannot be resumed with "
            f"these: {'; '.join(changed)}. Give the old values, or another --train_logdir."
        )


def _require_same_images(run: RunDir, experiment: Experiment, table: records.RecordTable) -> str:
    """Refuses another number of images; returns a warning if the records changed, else "".

    The step and the number of images decide which images a batch holds. So another number would
    change the order of all images. Other records of as many images keep the order, and may be the
    same data mended: then a warning is enough.
    """
    done = max(run.checkpoints.steps(), default=0)
    before = run.trained_on()
    if not done or not before:
        return ""

    data = experiment.data
    if before["images"] != len(table):
        raise UserError(
            f"{run.path} did its {counted(done, 'step')} on {counted(before['images'], 'image')}, "
            "but the split "
            f"{data.train_split!r} of --dataset_dir={data.dataset_dir} now has {len(table)}, so "
            "its next steps would not go on in the same order; give the records that it was "
            f"trained on, or {_start_anew(run)}."
        )
    if run.is_trained_on(table) is False:
        return (
            f"Warning: the records of {data.train_split!r} in {data.dataset_dir} are not those "
            f"that the run was trained on up to step {done}; its next steps take the new ones."
        )
    return ""


def _require_continuable(run: RunDir, steps: int) -> None:
    """Checks that a run of `steps` steps would have begun exactly as this run did.

    Batches depend only on the step, and all other settings are equal. So what remains to compare
    is the learning rates of the steps done.
    """
    config = run.experiment().train
    before = config.training_number_of_steps
    if steps == before:
        return

    done = max(run.checkpoints.steps(), default=0)
    if steps < done:
        raise UserError(
            f"{run.path} is at step {done} already, past --training_number_of_steps={steps}; "
            f"give its own {before}, or {_start_anew(run)}."
        )

    longer = dataclasses.replace(config, training_number_of_steps=steps)
    old, new = schedules.build_schedule(config), schedules.build_schedule(longer)
    passed = tf.range(done, dtype=tf.int64)
    if not np.array_equal(old(passed), new(passed)):
        finish = f"give {before} to finish it, or " if done < before else ""
        raise UserError(
            f"{run.path} did {done} of {counted(before, 'step')} at learning rates that a run of "
            f"{counted(steps, 'step')} would not have had "
            f"(--learning_policy={config.learning_policy} "
            f"falls over the whole run), so it cannot become one; {finish}{_start_anew(run)} "
            f"--training_number_of_steps={max(steps - done, 1)}."
        )

    to_come = tf.range(done, steps, dtype=tf.int64)
    if steps > done and not np.any(new(to_come)):
        raise UserError(
            f"{run.path} is at step {done}, where the learning rate has come down to 0 and "
            f"stays there, so {steps - done} further steps would train nothing; "
            f"{_start_anew(run)} --training_number_of_steps={steps - done}."
        )


def _start_anew(run: RunDir) -> str:
    return (
        f"train on from its weights in a new folder: --tf_initial_checkpoint={run.path} "
        "--train_logdir=DIR"
    )

"""Follows a run in training: eval and vis take each of its new checkpoints."""

import time
from collections.abc import Callable

from deeplab_tf.runs.checkpoints import UnreadableCheckpointError
from deeplab_tf.runs.run_dir import RunDir


def follow(
    checkpoint_dir: str, take: Callable[[str], object], *, at_most: int, interval_secs: int
) -> None:
    """Calls `take` with the chosen checkpoint, or with each new one until the end of the run.

    Like the official eval and vis, it may be started before the training.

    Args:
      checkpoint_dir: the run's folder, or one checkpoint in it.
      take: gets `checkpoint_dir` itself if only one is to be taken, else a checkpoint's path.
      at_most: number of checkpoints to take; 0 or less means all until the run's end.
      interval_secs: seconds to wait before looking for a new checkpoint again.
    """
    at_most = max(at_most, 0)
    if at_most == 1:
        take(checkpoint_dir)
        return

    run = RunDir(checkpoint_dir)
    while run.may_begin():
        print(f"Waiting for a run in {run.path}: nothing is there yet.", flush=True)
        time.sleep(interval_secs)

    if not run.experiment().train.train_logdir:  # imported weights, which nothing trains
        take(checkpoint_dir)
        return

    last_tried, taken = 0, 0
    while True:
        # Read each time, since the run may be resumed to train longer.
        last_step = run.experiment().train.training_number_of_steps
        newest = max(run.checkpoints.steps(), default=0)
        if newest > last_tried:
            last_tried = newest
            try:
                take(run.checkpoints.prefix(newest))
                taken += 1
            except UnreadableCheckpointError as error:  # the trainer may just have deleted it
                print(f"{error} Waiting for the next one.", flush=True)

        if taken == (at_most or None) or last_tried >= last_step:
            return
        # Lists them again, since the last checkpoint may have come while `take` ran.
        if run.stopped_early() and max(run.checkpoints.steps()) == last_tried:
            return
        print(f"Waiting for a checkpoint after step {last_tried} in {run.path}.", flush=True)
        time.sleep(interval_secs)

"""Makes a run's folder from published weights, once, in the user's cache."""

from pathlib import Path

from deeplab_tf.messages import UserError
from deeplab_tf.runs import importing
from deeplab_tf.runs.run_dir import EXPERIMENT
from deeplab_tf.weights import published


def folder_of(name: str) -> Path:
    """Returns the folder of published weights; fetches and converts them if it is not there.

    Says what is fetched, from where and under which licence before it fetches.

    Raises:
      UserError: if there are no such weights, or they cannot be fetched or converted.
    """
    weights = published.find(name)
    if (weights.folder / EXPERIMENT).is_file():
        return weights.folder

    print(weights.described(), flush=True)
    by_hand = f"fetch the file elsewhere, then import it with `{weights.command('FILE')}`"
    try:
        importing.import_weights(weights.job(weights.url), advice=by_hand)
    except UserError:
        if (weights.folder / EXPERIMENT).is_file():  # another process was faster
            return weights.folder
        raise
    print(f"{weights.folder}: converted, and kept for the next time.", flush=True)
    return weights.folder

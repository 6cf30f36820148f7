"""What every program of export_parity does; needs only numpy, for other environments too."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import pairs

BATCHES = (1, 8)


def serve(
    predict: Callable[[np.ndarray], np.ndarray],
    images_file: Path,
    labels_file: Path,
    *,
    crop_size: int,
    calls: int,
) -> None:
    """Writes the labels of all images, then times batches of random images on demand.

    Args:
      predict: uint8 [B, H, W, 3] -> labels [B, H, W].
      images_file, labels_file: .npz, of the same names.
      crop_size: height and width of the images timed.
    """
    with np.load(images_file) as images:
        labels = {name: predict(images[name][np.newaxis])[0] for name in images.files}
    np.savez(labels_file, **labels)
    rng = np.random.default_rng(0)
    shapes = [(count, crop_size, crop_size, 3) for count in BATCHES]
    batches = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]

    def measure():
        return {f"batch {len(batch)} ms": _milliseconds(predict, batch, calls) for batch in batches}

    pairs.serve(measure)


def _milliseconds(predict, batch, calls):
    predict(batch)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        predict(batch)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)

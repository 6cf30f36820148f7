"""Checks the answers of a model that another process runs, or another file describes."""

from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.messages import UserError


def checked_labels(
    labels: np.ndarray,
    images: Sequence[int],
    classes: Sequence[LabelClass],
    *,
    who: str,
    way_out: str,
) -> np.ndarray:
    """Returns labels as uint8 [B, H, W] if they are whole numbers of classes, one for each pixel.

    Args:
      images: shape of the images, [B, H, W, 3].
      who: what errors call the model, such as "--server=localhost:8500".
      way_out: what the user can do if they do not fit.
    Raises:
      UserError: if they do not fit the images or the classes.
    """
    is_whole = labels.dtype.kind in "iu"
    fits = is_whole and labels.shape == tuple(images[:3]) and labels.size > 0
    if fits and labels.min() >= 0 and labels.max() < len(classes):
        return labels.astype(np.uint8)

    numbers = f"{labels.min()} to {labels.max()}" if is_whole and labels.size else labels.dtype
    raise UserError(
        f"{who} answered labels ({numbers}) of shape {labels.shape}, which do not fit images of "
        f"shape {tuple(images)} and {len(classes)} classes; {way_out}."
    )

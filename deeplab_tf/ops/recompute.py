"""Computes parts of a network twice, to keep less of them in memory."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recomputed(function: Callable[..., Any]) -> Callable[[tf.Tensor], Any]:
    """Returns `function` of only its inputs; its inner results are not kept for the gradient.

    They are computed again when the gradient needs them.

    Args:
      function: takes the inputs and `update_averages`, which is true in the forward pass and false
        when it is computed again: what moves with each pass must not move twice.
    """
    is_first = True

    def run(inputs):
        nonlocal is_first
        update_averages, is_first = is_first, False
        return function(inputs, update_averages=update_averages)

    return tf.recompute_grad(run)

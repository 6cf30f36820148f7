"""How one forward pass of the network runs."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from deeplab_tf.ops import seeds


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """How one forward pass runs; without arguments, as in prediction.

    Attributes:
      training: whether dropout is active.
      norm_training: whether batch normalisation uses the statistics of the batch.
      seed: int64 [2], the seed of dropout. None draws new numbers each time.
      part: (index, number) if the images are one of several equal parts of a replica's batch.
      for_xla: as in `resize_bilinear`.
    """

    training: bool = False
    norm_training: bool = False
    seed: tf.Tensor | None = None
    part: tuple[int | tf.Tensor, int] = (0, 1)
    for_xla: bool = False

    def of_scale(self, index: int) -> "ForwardPass":
        """Returns the pass at a scale of the image pyramid; each scale draws its own dropout."""
        if self.seed is None or not index:
            return self
        return dataclasses.replace(self, seed=seeds.stream(self.seed, f"scale {index}"))

    def dropout(self, head: str) -> dict[str, Any]:
        """Returns what a head needs for its dropout."""
        # Each head draws from a stream of its own, or their draws would depend on each other.
        stream = None if self.seed is None else seeds.stream(self.seed, f"dropout of {head}")
        return {"seed": stream, "part": self.part}

"""Reads the weights of Google's official DeepLab (TensorFlow 1, research/deeplab).

The names of its variables, and their shapes, tell nearly all about the network: `backbones` and
`heads` say which one it is and how its variables are called, and `variables` reads them.
"""

import logging
import re

from deeplab_tf.config import ModelConfig
from deeplab_tf.weights.mapping import Collector, Source
from deeplab_tf.weights.official import backbones, heads
from deeplab_tf.weights.official.variables import open_file
from deeplab_tf.weights.untold import Untold

KIND = "official DeepLab"
# Variables that only training needs, and the ranges of numbers that tf.contrib.quantize learns.
_OF_TRAINING = (
    r"(.*/)?(Momentum|Adam(_1)?|RMSProp(_1)?|ExponentialMovingAverage|global_step|beta[12]_power)"
)
_RANGES = r".*_quant/.*"

log = logging.getLogger("deeplab_tf")


def read(path: str, untold: Untold | None = None, *, backbone_only: bool = False) -> Source:
    """Reads a checkpoint or a frozen graph.

    Args:
      path: of a frozen graph, which ends in .pb, or of a checkpoint without its endings.
      untold: what the file does not tell.
      backbone_only: whether to leave out the head.
    Raises:
      UserError: if the file belongs to another network or lacks a variable, or if an answer in
        `untold` is missing or does not fit.
    """
    file = open_file(path)
    untold = untold or Untold()
    collector = Collector(file, path)

    scope = backbones.scope_in(file, path)
    settings = backbones.settings_in(file, collector, scope, path)
    variant = settings["model_variant"]
    has_head = not backbone_only and heads.are_in(file, path)
    usual = {"output_stride": 32 if variant.startswith("mobilenet_v3") else 16}
    settings |= usual | untold.settings()
    if has_head:
        settings |= heads.settings_in(file, collector, (variant, scope), untold, path)
    # Strides, padding and normalisation follow from the variant.
    config = ModelConfig(**settings)

    for ours, theirs in backbones.pairs(variant, scope):
        collector.take(ours, theirs)
    num_classes = 0
    known = backbones.known_names(scope, has_head=has_head)
    if has_head:
        num_classes = heads.num_classes(collector, config)
        known += f"|{heads.KNOWN_NAMES}"
        for ours, theirs in heads.pairs(config):
            collector.take(ours, theirs)

        changed = heads.reordered(config, collector.arrays)
        collector.arrays |= changed
        collector.converted |= set(changed)

    if any(re.fullmatch(_RANGES, name) for name in file):
        log.warning(
            "%s was trained for 8 bits; the ranges of its numbers are left out, so the imported "
            "network does not round.",
            path,
        )
    ignored = f"{_OF_TRAINING}|{_RANGES}"
    return collector.source(KIND, config, num_classes, known=known, ignored=ignored)

"""The settings of an experiment: each is written once, with its default, meaning and limits.

A flag has the name that Google's official DeepLab gives it, if that has a flag for the same thing.
`config.flags` turns these dataclasses into command-line flags and into flagfiles.
"""

from deeplab_tf.config.data import DataConfig
from deeplab_tf.config.evaluation import EvalConfig
from deeplab_tf.config.experiment import Experiment, groups
from deeplab_tf.config.loss import LossConfig
from deeplab_tf.config.model import ModelConfig
from deeplab_tf.config.serving import ServingConfig
from deeplab_tf.config.setting import (
    Config,
    as_argument,
    as_flag,
    require,
    require_exactly_one,
    require_given,
    setting,
    setting_of,
)
from deeplab_tf.config.step import StepConfig
from deeplab_tf.config.training import TrainConfig
from deeplab_tf.messages import UserError

__all__ = [
    "Config",
    "DataConfig",
    "EvalConfig",
    "Experiment",
    "ModelConfig",
    "LossConfig",
    "ServingConfig",
    "StepConfig",
    "TrainConfig",
    "UserError",
    "as_argument",
    "as_flag",
    "groups",
    "require",
    "require_exactly_one",
    "require_given",
    "setting",
    "setting_of",
]

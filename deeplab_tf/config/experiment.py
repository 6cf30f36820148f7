"""All settings of a run."""

import dataclasses
from dataclasses import dataclass

from deeplab_tf.config.data import DataConfig
from deeplab_tf.config.evaluation import EvalConfig
from deeplab_tf.config.model import ModelConfig
from deeplab_tf.config.setting import Config
from deeplab_tf.config.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All settings of a run; stored as <train_logdir>/experiment.flags."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


def groups(experiment: Experiment) -> list[Config]:
    """Returns the experiment's settings groups, in the order of the fields."""
    return [getattr(experiment, field.name) for field in dataclasses.fields(experiment)]

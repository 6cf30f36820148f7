"""All settings of a run."""

import dataclasses
import re
from dataclasses import dataclass

from deeplab_tf import files
from deeplab_tf.config.data import DataConfig
from deeplab_tf.config.evaluation import EvalConfig
from deeplab_tf.config.model import ModelConfig
from deeplab_tf.config.setting import Config, require
from deeplab_tf.config.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All settings of a run; stored as <train_logdir>/experiment.flags."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self):
        # Names of files may have other bytes, but experiment.flags and TensorFlow do not take them.
        for group in groups(self):
            for name, value in vars(group).items():
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                is_text = not re.search("[\ud800-\udfff]", str(text))
                require(is_text, name, files.shown(text), "UTF-8 text; rename what it names")


def groups(experiment: Experiment) -> list[Config]:
    """Returns the experiment's settings groups, in the order of the fields."""
    return [getattr(experiment, field.name) for field in dataclasses.fields(experiment)]

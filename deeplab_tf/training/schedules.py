"""Learning rate as a function of the step, counted from 0.

Both ancestors compute it in double precision, and so do these schedules. Keras' schedules of the
same names compute in float32.
"""

import math

import tensorflow as tf

from deeplab_tf.config import TrainConfig

_register = tf.keras.utils.register_keras_serializable("deeplab_tf")


@_register
class PolynomialDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """(base - end) * (1 - step / total)^power + end.

    (SSSegmentation, PolyScheduler; Liu et al. 2015, arXiv:1506.04579, sec. 3.)
    """

    def __init__(self, base: float, *, total_steps: int, end: float = 0.0, power: float = 0.9):
        self.base, self.end = base, end
        self.total_steps, self.power = total_steps, power

    def __call__(self, step):
        remaining = 1.0 - tf.cast(step, tf.float64) / self.total_steps
        decay = tf.pow(tf.maximum(remaining, 0.0), self.power)
        return tf.cast((self.base - self.end) * decay + self.end, tf.float32)

    def get_config(self):
        return {
            "base": self.base,
            "end": self.end,
            "total_steps": self.total_steps,
            "power": self.power,
        }


@_register
class CosineDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """(base - end) * (1 + cos(pi * step / total)) / 2 + end (Loshchilov and Hutter 2017)."""

    def __init__(self, base: float, *, total_steps: int, end: float = 0.0):
        self.base, self.end, self.total_steps = base, end, total_steps

    def __call__(self, step):
        done = tf.minimum(tf.cast(step, tf.float64) / self.total_steps, 1.0)
        decay = 0.5 * (1.0 + tf.cos(math.pi * done))
        return tf.cast((self.base - self.end) * decay + self.end, tf.float32)

    def get_config(self):
        return {"base": self.base, "end": self.end, "total_steps": self.total_steps}


@_register
class StepDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """base * factor^floor(step / every)."""

    def __init__(self, base: float, *, factor: float, every: int):
        self.base, self.factor, self.every = base, factor, every

    def __call__(self, step):
        times = tf.floor(tf.cast(step, tf.float64) / self.every)
        return tf.cast(self.base * tf.pow(tf.constant(self.factor, tf.float64), times), tf.float32)

    def get_config(self):
        return {"base": self.base, "factor": self.factor, "every": self.every}


@_register
class SlowStart(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A low rate for the first steps, constant or rising, and then another schedule.

    (Official DeepLab, utils/train_utils.py, get_model_learning_rate.)

    Args:
      schedule: the schedule after the slow start, which begins with its step 0.
      steps: number of steps of the slow start.
      rate: learning rate of the first step.
      target: the rate rises linearly to this one; None keeps it constant.
    """

    def __init__(self, schedule, *, steps: int, rate: float, target: float | None = None):
        self.schedule, self.steps, self.rate, self.target = schedule, steps, rate, target

    def __call__(self, step):
        done = tf.cast(step, tf.float64)
        rise = 0.0 if self.target is None else self.target - self.rate
        slow = tf.cast(self.rate + rise * done / self.steps, tf.float32)
        later = self.schedule(tf.maximum(done - self.steps, 0.0))
        return tf.where(done < self.steps, slow, later)

    def get_config(self):
        schedule = tf.keras.optimizers.schedules.serialize(self.schedule)
        config = {"schedule": schedule, "steps": self.steps}
        return config | {"rate": self.rate, "target": self.target}

    @classmethod
    def from_config(cls, config):
        schedule = tf.keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(**config | {"schedule": schedule})


@_register
class Multiple(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule multiplied by a factor."""

    def __init__(self, schedule, factor: float):
        self.schedule, self.factor = schedule, factor

    def __call__(self, step):
        return self.schedule(step) * self.factor

    def get_config(self):
        schedule = tf.keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config):
        schedule = tf.keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["factor"])


def build_schedule(config: TrainConfig) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule of --learning_policy and --slow_start_step."""
    slow, base, end = config.slow_start_step, config.learning_rate(), config.end_learning_rate
    steps = config.decay_steps or config.training_number_of_steps - slow

    schedule: tf.keras.optimizers.schedules.LearningRateSchedule
    if config.learning_policy == "poly":
        schedule = PolynomialDecay(base, total_steps=steps, end=end, power=config.learning_power)
    elif config.learning_policy == "cosine":
        schedule = CosineDecay(base, total_steps=steps, end=end)
    else:
        schedule = StepDecay(
            base,
            factor=config.learning_rate_decay_factor,
            every=config.learning_rate_decay_step,
        )
    if not slow:
        return schedule

    target = base if config.slow_start_burnin_type == "linear" else None
    return SlowStart(schedule, steps=slow, rate=config.slow_start_learning_rate, target=target)

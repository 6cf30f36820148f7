"""Learning rate as a function of the step."""

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("deeplab_tf")
class PolynomialDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """(base - end) * (1 - step / total)^power + end, for steps counted from 0.

    (SSSegmentation, PolyScheduler; Liu et al. 2015, arXiv:1506.04579, sec. 3.) Computed in
    double precision, as both ancestors' Python did.
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

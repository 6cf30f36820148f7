"""Moving averages of the weights (--ema_decay), which Keras' optimizers keep.

A checkpoint holds weights and averages. Training continues from the weights; scores, pictures and
exports use the averages. Batch normalisation's moving averages are not averaged again.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def _averages(model: tf.keras.Model) -> list[tf.Variable]:
    """Returns the averages, in the order of the trainable variables; empty if there are none."""
    optimizer = model.optimizer
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return getattr(optimizer, "_model_variables_moving_average", [])


def start(model: tf.keras.Model) -> None:
    """Restarts the averages, if there are any, from the model's present weights."""
    for average, variable in zip(_averages(model), model.trainable_variables, strict=False):
        average.assign(variable.numpy())


@contextlib.contextmanager
def averaged(model: tf.keras.Model) -> Iterator[None]:
    """Inside the context, the model has its averages, if there are any; then its weights again."""
    averages = _averages(model)
    variables = model.trainable_variables if averages else []
    weights = [variable.numpy() for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average.numpy())

    try:
        yield
    finally:
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)


def checkpoint_of_averages(model: tf.keras.Model) -> tf.train.Checkpoint:
    """Returns an object whose `read` puts a checkpoint's averages into the model's weights."""
    # The name under which Keras' optimizers save the averages.
    optimizer = tf.train.Checkpoint(_model_variables_moving_average=model.trainable_variables)
    return tf.train.Checkpoint(optimizer=optimizer)

"""Moving averages of what a model has learnt (--ema_decay).

A checkpoint holds the weights and their averages. Training continues from the weights; scores,
pictures and exports use the averages. Batch normalisation's statistics are averaged in the same
way, as in timm's ModelEma: the weights' statistics do not fit their averages, and a model that
mixes the two can score like an untrained one.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from deeplab_tf.messages import warn

_STATISTICS = "averages_of_statistics/0/.ATTRIBUTES/VARIABLE_VALUE"
_WITHOUT_STATISTICS = (
    "was written by an earlier version, which did not average the statistics of batch "
    "normalisation with the weights"
)


def _optimizer_of(model: tf.keras.Model) -> tf.keras.optimizers.Optimizer:
    optimizer = model.optimizer
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _statistics_and_averages(model: tf.keras.Model) -> list[tuple[tf.Variable, tf.Variable]]:
    return getattr(_optimizer_of(model), "statistics", None) or []


def _variables_and_averages(model: tf.keras.Model) -> list[tuple[tf.Variable, tf.Variable]]:
    """Returns each averaged variable with its average; empty if nothing is averaged."""
    averages = getattr(_optimizer_of(model), "_model_variables_moving_average", [])
    if not averages:
        return []
    pairs = zip(model.trainable_variables, averages, strict=True)
    return [*pairs, *_statistics_and_averages(model)]


def _of_replicas(variable: tf.Variable) -> Sequence[tf.Variable]:
    """Returns the variable's part on each replica of this host.

    Statistics differ between replicas. Read as one variable, they would be gathered from all
    hosts, and wait for ever if only the chief reads them.
    """
    return getattr(variable, "values", (variable,))


def _copy(source: tf.Variable, target: tf.Variable) -> None:
    for part, into in zip(_of_replicas(source), _of_replicas(target), strict=True):
        into.assign(part.numpy())


def start(model: tf.keras.Model) -> None:
    """Restarts the averages, if there are any, from the model's present weights."""
    for variable, average in _variables_and_averages(model):
        _copy(variable, average)


@contextlib.contextmanager
def averaged(model: tf.keras.Model) -> Iterator[None]:
    """Inside the context, the model has its averages, if there are any; then its weights again."""
    pairs = _variables_and_averages(model)
    weights = [[part.numpy() for part in _of_replicas(variable)] for variable, _ in pairs]
    for variable, average in pairs:
        _copy(average, variable)

    try:
        yield
    finally:
        for (variable, _), values in zip(pairs, weights, strict=True):
            for part, value in zip(_of_replicas(variable), values, strict=True):
                part.assign(value)


class RunState(tf.train.Checkpoint):
    """All that a run continues from: the weights, what the optimizer keeps, and the averages."""

    def __init__(self, model: tf.keras.Model):
        averages = [average for _, average in _statistics_and_averages(model)]
        also = {"averages_of_statistics": averages} if averages else {}
        super().__init__(model=model, optimizer=model.optimizer, **also)

    def read(self, save_path, options=None):
        """Restores a checkpoint; if it has no averages of statistics, all averages start again."""
        if not _lacks_statistics(self, save_path):
            return super().read(save_path, options)

        rest = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
        status = rest.read(save_path, options)
        # The old averages of the weights would not fit the new ones of the statistics.
        start(self.model)
        warn(f"{save_path} {_WITHOUT_STATISTICS}: the averages start again from its weights.")
        return status


class Averages(tf.train.Checkpoint):
    """Reads the averages of a checkpoint in place of a model's weights."""

    def __init__(self, model: tf.keras.Model):
        # The name under which Keras' optimizers save the averages.
        optimizer = tf.train.Checkpoint(_model_variables_moving_average=model.trainable_variables)
        super().__init__(
            optimizer=optimizer, averages_of_statistics=list(model.non_trainable_variables)
        )

    def read(self, save_path, options=None):
        """Restores the averages; warns if the statistics are those of the weights."""
        if not _lacks_statistics(self, save_path):
            return super().read(save_path, options)

        warn(
            f"{save_path} {_WITHOUT_STATISTICS}: this model may score far too low; train it "
            "further, which averages them from now on."
        )
        return tf.train.Checkpoint(optimizer=self.optimizer).read(save_path, options)


def _lacks_statistics(state: tf.train.Checkpoint, path: str) -> bool:
    """Whether there are averages of statistics, but not in the checkpoint of an earlier version."""
    wanted = getattr(state, "averages_of_statistics", [])
    return bool(wanted) and not tf.train.load_checkpoint(path).has_tensor(_STATISTICS)

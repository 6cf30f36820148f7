"""The optimizers of --optimizer, with exactly the gradient descent of the two ancestors.

Keras' own SGD is another rule: it multiplies gradients by the learning rate before they enter the
momentum, and keeps weight decay out of the momentum. If the rate falls, both lead to other weights:
with a gradient of 0, a weight of 1 ends at 0.948 instead of PyTorch's 0.604 (docs/ancestors.md,
SSSegmentation, Optimizer).
"""

import warnings

import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.training import decoupled
from deeplab_tf.training.schedules import Multiple


class _KeepsWeights(tf.keras.optimizers.Optimizer):
    """Keeps the averages of use_ema apart from the weights, and knows each variable's kind.

    statistics: pairs of a variable that is no weight, and its average.
    """

    statistics: list[tuple[tf.Variable, tf.Variable]] | None = None

    def average_statistics(self, variables: list[tf.Variable]) -> None:
        """Also averages variables without gradients: batch normalisation's statistics."""
        pairs = []
        for variable in variables:
            # Each replica averages what its own batches gave, as it does with the statistics.
            average = tf.Variable(
                tf.zeros(variable.shape, variable.dtype),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
                name="average",
            )
            pairs.append((variable, average))

        # TensorFlow would save both with the optimizer; the run's checkpoint saves the averages.
        self.statistics = self._no_dependency(pairs)

    def _update_model_variables_moving_average(self, var_list):
        """Moves the averages towards the variables, faster in the first steps.

        The decay is that of tf.train.ExponentialMovingAverage with `num_updates`. Otherwise, the
        averages of a short training would mostly be its initial weights.
        """
        steps = tf.cast(self.iterations, tf.float32)
        decay = tf.minimum(tf.cast(self.ema_momentum, tf.float32), (1.0 + steps) / (10.0 + steps))

        def move(average, variable):
            share = tf.cast(decay, variable.dtype)
            average.assign(share * average + (1.0 - share) * variable)

        weights = [
            (v, self._model_variables_moving_average[self._index_dict[self._var_key(v)]])
            for v in var_list
        ]
        for variable, average in [*weights, *(self.statistics or [])]:
            self._distribution_strategy.extended.update(
                average, move, args=(variable,), group=False
            )

    def finalize_variable_values(self, var_list):
        """Does nothing. Keras would replace the weights by the averages before the last save."""

    def build(self, var_list):
        """Creates the slots; notes whether each variable is a kernel, a bias or something else."""
        # Noted now, since in a step a replica sees its own part of a variable, whose name differs.
        self._kinds = [v.name.rsplit("/", 1)[-1].split(":")[0] for v in var_list]
        super().build(var_list)


def _decay(l2, variable, gradient):
    """Returns the gradient of L2 on a variable, computed only after the gradient of the loss.

    TensorFlow would compute it when the step begins, and so hold a copy of all weights until it
    ends.
    """
    with tf.control_dependencies([gradient]):
        return l2 * variable


@tf.keras.utils.register_keras_serializable("deeplab_tf")
class MomentumSGD(_KeepsWeights):
    """v = momentum * v + (g + weight_decay * p);  p -= learning_rate * v.

    Args:
      learning_rate: number or schedule.
      momentum: 0 up to, not including, 1.
      weight_decay: L2 coefficient, added to the gradient.
      style: "sgd" decays all parameters (PyTorch; SSSegmentation); "momentum" decays convolution
        kernels only and doubles the gradients of convolution biases (official DeepLab,
        train.py and utils/train_utils.py).
    """

    def __init__(
        self,
        learning_rate=0.01,
        *,
        momentum=0.9,
        weight_decay=0.0,
        style="sgd",
        name="MomentumSGD",
        **kwargs,
    ):
        # Only None turns Keras' own weight decay off; 0 would rewrite all weights at each step.
        super().__init__(name=name, weight_decay=None, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.l2 = weight_decay
        self.style = style

    def build(self, var_list):
        """Creates the momentum of each variable; does nothing the second time."""
        if getattr(self, "_built", False):
            return

        super().build(var_list)
        self._built = True
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in var_list]

    def update_step(self, gradient, variable):
        """Moves one variable by its gradient."""
        rate = tf.cast(self.learning_rate, variable.dtype)
        index = self._index_dict[self._var_key(variable)]
        slot, kind = self._momentums[index], self._kinds[index]

        if self.style == "momentum" and kind == "bias":
            gradient = 2.0 * gradient
        if self.l2 and (self.style == "sgd" or kind == "kernel"):
            gradient += _decay(self.l2, variable, gradient)

        # One operation for both, so that the parameters are read and written only once:
        # accum = momentum * accum + grad; var -= lr * accum.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slot.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
        )

    def get_config(self):
        return super().get_config() | {
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "momentum": self.momentum,
            "weight_decay": self.l2,
            "style": self.style,
        }


@tf.keras.utils.register_keras_serializable("deeplab_tf")
class L2Adam(_KeepsWeights, tf.keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with L2 in the gradients of convolution kernels.

    This is what official DeepLab computes, whose L2 is a part of the loss.

    Args:
      l2: coefficient of L2.
    """

    def __init__(self, learning_rate=0.001, *, l2=0.0, name="L2Adam", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        self.l2 = l2

    def build(self, var_list):
        """Creates Adam's slots; does nothing the second time."""
        if not getattr(self, "_built", False):
            super().build(var_list)

    def update_step(self, gradient, variable):
        """Moves one variable by its gradient."""
        kind = self._kinds[self._index_dict[self._var_key(variable)]]
        if self.l2 and kind == "kernel":
            gradient += _decay(self.l2, variable, gradient)
        super().update_step(gradient, variable)

    def get_config(self):
        return super().get_config() | {"l2": self.l2}


def build_optimizer(config: TrainConfig, schedule) -> tf.keras.optimizers.Optimizer:
    """Returns the optimizer of --optimizer, without its slots.

    sgdw, adamw and lamb come from TensorFlow Addons if it is installed, otherwise from
    `deeplab_tf.training.decoupled`, which computes the same.
    """
    if config.optimizer in ("sgd", "momentum", "adam"):
        averaging = {"use_ema": config.ema_decay > 0, "ema_momentum": config.ema_decay}
        if config.optimizer == "adam":
            return L2Adam(
                schedule, l2=config.weight_decay, epsilon=config.adam_epsilon, **averaging
            )
        return MomentumSGD(
            schedule,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            style=config.optimizer,
            **averaging,
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its end-of-life notice
            from tensorflow_addons import optimizers as library  # not on every platform
    except ImportError:
        library = decoupled

    if config.optimizer == "lamb":
        return library.LAMB(schedule, epsilon=config.adam_epsilon, weight_decay=config.weight_decay)

    # These two subtract the decay as it is. PyTorch multiplies it by the learning rate, and so do
    # we, since --weight_decay mostly comes from a recipe for PyTorch.
    decay = Multiple(schedule, config.weight_decay)
    if config.optimizer == "sgdw":
        return library.SGDW(decay, schedule, momentum=config.momentum)
    return library.AdamW(decay, schedule, epsilon=config.adam_epsilon)


def build_slots(optimizer: tf.keras.optimizers.Optimizer, variables: list[tf.Variable]) -> None:
    """Creates the optimizer's variables, which must exist before a checkpoint is restored."""
    legacy = isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer)
    (optimizer._create_all_weights if legacy else optimizer.build)(variables)

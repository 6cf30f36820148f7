"""SGDW, AdamW and LAMB that compute what TensorFlow Addons computes, for systems without it.

TensorFlow Addons ended with TensorFlow 2.15. This module keeps the order of its operations, so that
weights are equal bit for bit. It also keeps the names of its slots and hyperparameters, so that
each can read the checkpoints and Keras files of the other.
"""

import tensorflow as tf

_register = tf.keras.utils.register_keras_serializable("Addons")


class _Compatible(tf.keras.optimizers.legacy.Optimizer):
    """Reads the configurations that TensorFlow Addons writes."""

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the optimizer; leaves out the options that this module does not have."""
        config = {k: v for k, v in config.items() if not k.startswith("exclude_from_")}
        for name in ("learning_rate", "weight_decay"):
            if isinstance(config.get(name), dict):
                schedules = tf.keras.optimizers.schedules
                config[name] = schedules.deserialize(config[name], custom_objects)
        return cls(**config)

    def get_config(self):
        return super().get_config() | {
            "weight_decay": self._serialize_hyperparameter("weight_decay")
        }


class _DecoupledDecay(_Compatible):
    """Subtracts weight_decay * weight from a weight before its step (arXiv:1711.05101).

    Args:
      weight_decay: number or schedule; it is not multiplied by the learning rate.
    """

    def __init__(self, weight_decay, *args, **kwargs):
        super().__init__(*args, **{"name": type(self).__name__, **kwargs})
        self._set_hyper("weight_decay", weight_decay)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        decay = self._get_hyper("weight_decay", var_dtype)
        if callable(decay):
            decay = tf.cast(decay(self.iterations), var_dtype)
        apply_state[var_device, var_dtype]["weight_decay"] = tf.identity(decay)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        decay = apply_state[var.device, var.dtype.base_dtype]["weight_decay"]
        with tf.control_dependencies([var.assign_sub(decay * var, self._use_locking)]):
            return super()._resource_apply_dense(grad, var, apply_state=apply_state)


@_register
class SGDW(_DecoupledDecay, tf.keras.optimizers.legacy.SGD):
    """Stochastic gradient descent with momentum and decoupled weight decay."""


@_register
class AdamW(_DecoupledDecay, tf.keras.optimizers.legacy.Adam):
    """Adam with decoupled weight decay."""


@_register
class LAMB(_Compatible):
    """LAMB (You et al. 2020, arXiv:1904.00962).

    Each tensor moves in Adam's direction, by the learning rate times the norm of the tensor.

    Args:
      learning_rate: number or schedule.
      beta_1, beta_2: decay of the averages of the gradient and of its square.
      epsilon: added to the root of the averaged square.
      weight_decay: this times the weight is added to the direction.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        name="LAMB",
        **kwargs,
    ):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self._set_hyper("weight_decay", weight_decay)
        self.epsilon = epsilon

    def _create_slots(self, var_list):
        for slot in ("m", "v"):
            for variable in var_list:
                self.add_slot(variable, slot)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        step = tf.cast(self.iterations + 1, var_dtype)
        values = {
            name: tf.identity(self._get_hyper(name, var_dtype))
            for name in ("beta_1", "beta_2", "weight_decay")
        }
        # The averages start at 0, so in early steps they are too small, by these factors.
        values["correction_1"] = 1.0 - tf.pow(values["beta_1"], step)
        values["correction_2"] = 1.0 - tf.pow(values["beta_2"], step)
        apply_state[var_device, var_dtype].update(values)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        values = apply_state[var.device, var.dtype.base_dtype]
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        mean = m.assign(m * values["beta_1"] + grad * (1 - values["beta_1"]))
        square = v.assign(v * values["beta_2"] + grad * grad * (1 - values["beta_2"]))

        root = tf.sqrt(square / values["correction_2"])
        direction = mean / values["correction_1"] / (root + tf.cast(self.epsilon, var.dtype))
        direction += values["weight_decay"] * var

        size, length = tf.norm(var), tf.norm(direction)
        trust = tf.where((size > 0) & (length > 0), size / length, 1.0)
        return var.assign(var - trust * values["lr_t"] * direction, use_locking=self._use_locking)

    def get_config(self):
        numbers = ("learning_rate", "decay", "beta_1", "beta_2")
        return super().get_config() | {
            **{name: self._serialize_hyperparameter(name) for name in numbers},
            "epsilon": self.epsilon,
        }

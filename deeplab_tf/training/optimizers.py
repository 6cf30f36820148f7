"""The two ancestors' stochastic gradient descent, exactly.

Keras' own SGD keeps the learning rate inside the momentum buffer and decouples weight decay from
it; under a decaying rate both lead to other weights (a weight of 1 with zero gradient ends at 0.948
instead of PyTorch's 0.604, `reference/ssseg_deeplabv3.md` sec. 0.5).
"""

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("deeplab_tf")
class MomentumSGD(tf.keras.optimizers.Optimizer):
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
        super().__init__(name=name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.l2 = weight_decay
        self.style = style

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_momentums", None):
            return
        # By name: a replica's own part of a distributed variable has another one.
        self._kinds = [v.name.rsplit("/", 1)[-1].split(":")[0] for v in var_list]
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in var_list]

    def update_step(self, gradient, variable):
        rate = tf.cast(self.learning_rate, variable.dtype)
        index = self._index_dict[self._var_key(variable)]
        slot, kind = self._momentums[index], self._kinds[index]
        if self.style == "momentum" and kind == "bias":
            gradient = 2.0 * gradient
        if self.l2 and (self.style == "sgd" or kind == "kernel"):
            gradient = gradient + self.l2 * variable
        # One fused pass over the parameters: accum = momentum * accum + grad; var -= lr * accum.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slot.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def get_config(self):
        return super().get_config() | {
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "momentum": self.momentum,
            "weight_decay": self.l2,
            "style": self.style,
        }

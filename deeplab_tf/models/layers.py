"""The convolutions, normalisation and dropout that all parts of the network are made of.

This module decides how to pad. A convolution or pooling with a stride pads (kernel - 1) * rate / 2
cells on both sides, as PyTorch and so SSSegmentation does. TensorFlow's SAME pads even-sized inputs
less at the front, which shifts every feature map (docs/ancestors.md, Network). Without a stride,
both rules agree.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.models import initializers
from deeplab_tf.ops import convolution, replicas, winograd
from deeplab_tf.ops.convolution import NAMESPACE


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class AtrousConv2D(tf.keras.layers.Conv2D):
    """A convolution with symmetric padding: [B, H, W, C] -> [B, ceil(H / s), ceil(W / s), filters].

    It calls tf.nn.conv2d(dilations=...). Keras' Conv2D(dilation_rate=...) goes through
    space-to-batch instead, with which a training step on a CPU takes 1.6 times as long.
    """

    def convolution_op(self, inputs, kernel, differentiable=True):
        """Convolves; `differentiable` as in `convolution.conv2d`."""
        if max(self.strides) == 1:
            kernel, rate = tf.convert_to_tensor(kernel), self.dilation_rate[0]
            return convolution.conv2d(inputs, kernel, rate=rate, differentiable=differentiable)

        inputs = pad_symmetric(inputs, [(k - 1) // 2 for k in self.kernel_size])
        return tf.nn.conv2d(inputs, kernel, self.strides, "VALID")

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = tf.TensorShape(input_shape).as_list()
        sizes = [
            None if n is None else -(-n // stride)
            for n, stride in zip((height, width), self.strides, strict=True)
        ]
        return tf.TensorShape([batch, *sizes, self.filters])


def pad_symmetric(inputs: tf.Tensor, cells: list[int]) -> tf.Tensor:
    """Pads [B, H, W, C] with zeros: cells[0] rows and cells[1] columns on each side."""
    if not any(cells):
        return inputs
    return tf.pad(inputs, [[0, 0], [cells[0], cells[0]], [cells[1], cells[1]], [0, 0]])


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class BatchNormalization(tf.keras.layers.BatchNormalization):
    """Keras' batch normalisation, with a switch that leaves the moving averages as they are.

    A backward pass that computes a layer again must not update them a second time.
    """

    def call(self, inputs, training=False, update_averages=True):
        """Normalises; in training, by the statistics of the batch."""
        momentum = self.momentum  # type: ignore[has-type]
        if not update_averages:
            self.momentum = 1.0
        try:
            return super().call(inputs, training=training)
        finally:
            self.momentum = momentum


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SyncBatchNormalization(BatchNormalization):
    """Batch normalisation by the statistics of all replicas' batches together.

    The moving variance averages the unbiased variance of the batches, as in PyTorch and in Keras
    without synchronisation. Keras' synchronized=True would average the biased one.
    """

    def call(self, inputs, training=False, update_averages=True):
        """Normalises; in training, by the statistics of the global batch."""
        context = tf.distribute.get_replica_context()
        if not training or not self.trainable or context is None:
            return super().call(inputs, training=training, update_averages=update_averages)

        def average(values):  # over the images and cells of all replicas
            local = tf.reduce_sum(values, axis=[0, 1, 2])
            return context.all_reduce(tf.distribute.ReduceOp.SUM, local) / count

        values = tf.cast(inputs, tf.float32)
        cells = tf.cast(tf.reduce_prod(tf.shape(values)[:3]), tf.float32)
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, cells)
        mean = average(values)
        variance = average(tf.square(values - mean))

        if update_averages:
            unbiased = variance * count / tf.maximum(count - 1, 1)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
                value = tf.stop_gradient(value)
                moving.assign(self.momentum * moving + (1 - self.momentum) * value)

        outputs = tf.nn.batch_normalization(
            values, mean, variance, self.beta, self.gamma, self.epsilon
        )
        return tf.cast(outputs, inputs.dtype)


class Foldable:
    """A layer whose weights can be fixed for inference.

    Attributes:
      folded: variables that inference uses instead of the layer's own; None outside
        `DeepLab.folded`.
    """

    folded: tuple[tf.Variable, ...] | None = None

    def use_in_inference(self, *weights: tf.Variable) -> None:
        """Makes inference use these variables."""
        # Not by an attribute, since Keras would take them for weights of the layer from then on,
        # and a model that is saved later could not be loaded.
        self.__dict__["folded"] = weights

    def use_own_weights(self) -> None:
        """Makes inference use the layer's own variables again."""
        self.__dict__.pop("folded", None)


def folded_weights(
    kernel: tf.Variable, norm: tf.keras.layers.BatchNormalization
) -> tuple[tf.Variable, tf.Variable]:
    """Folds the batch normalisation of inference into the convolution before it.

    Only one addition is left of it, which TensorFlow fuses with the convolution.

    Args:
      kernel: [h, w, C, D]; of a depthwise convolution, [h, w, C, 1].
      norm: the batch normalisation after it.
    Returns:
      The new kernel and a bias, computed in float64 and rounded to float32.
    """
    gamma, beta, mean, variance = (
        value.numpy().astype(np.float64)
        for value in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    is_depthwise = "depthwise" in kernel.name.rsplit("/", 1)[-1]
    new_kernel = kernel.numpy() * (scale[:, np.newaxis] if is_depthwise else scale)
    return fixed(new_kernel), fixed(beta - mean * scale)


def fixed(values: np.ndarray) -> tf.Variable:
    """Returns a variable that is not trained, float32.

    The weights of an export must not be constants of its graph. Loading makes many copies of the
    graph, and each would hold the weights again, for ResNet-50 5 GB in all.
    """
    return tf.Variable(values, trainable=False, dtype=tf.float32)


def batch_norm(decay: float, *, epsilon: float = 1e-5, name: str) -> BatchNormalization:
    """Returns batch normalisation over all replicas of the strategy in force."""
    has_several_replicas = tf.distribute.get_strategy().num_replicas_in_sync > 1
    layer = SyncBatchNormalization if has_several_replicas else BatchNormalization
    return layer(momentum=decay, epsilon=epsilon, name=name)


def _hard_swish(inputs):
    """x * ReLU6(x + 3) / 6 (Howard et al. 2019, arXiv:1905.02244, sec. 5.2)."""
    return inputs * (tf.nn.relu6(inputs + 3) * tf.cast(1 / 6, inputs.dtype))


def hard_sigmoid(inputs: tf.Tensor) -> tf.Tensor:
    """ReLU6(x + 3) / 6, with the sixth as official DeepLab and slim round it.

    (core/utils.py, q_sigmoid, and mobilenet_v3.py.) What the weights learned depends on it.
    """
    return tf.nn.relu6(inputs + 3) * tf.cast(0.16667, inputs.dtype)


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "": tf.identity,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "clip6": lambda inputs: tf.clip_by_value(inputs, -6, 6),
    "hard_swish": _hard_swish,
}


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ConvNorm(Foldable, tf.keras.layers.Layer):
    """A convolution without bias, batch normalisation and an activation.

    [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters].

    Args:
      rate: dilation of the kernel; without effect if there is a stride.
      activation: a key of ACTIVATIONS; "" for none.
      symmetric: whether a stride pads both sides equally; false pads by TensorFlow's SAME.
      batch_norm_decay: momentum of the moving averages. The statistics of a batch are taken over
        all replicas of the tf.distribute strategy in which the layer is made.
      epsilon: added to the variance by batch normalisation.
      initializer, part: as in `initializers.kernel_initializer`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        rate: int = 1,
        activation: str = "relu",
        symmetric: bool = True,
        batch_norm_decay: float = 0.9,
        epsilon: float = 1e-5,
        initializer: str = "pytorch",
        part: str = "head",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "kernel_size": kernel_size,
            "strides": strides,
            "rate": rate,
            "activation": activation,
            "symmetric": symmetric,
            "batch_norm_decay": batch_norm_decay,
            "epsilon": epsilon,
            "initializer": initializer,
            "part": part,
        }

        self.activation = ACTIVATIONS[activation]
        layer = AtrousConv2D if symmetric else tf.keras.layers.Conv2D
        self.conv = layer(
            filters,
            kernel_size,
            strides=strides,
            dilation_rate=1 if strides > 1 else rate,
            padding="same",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer=initializers.kernel_initializer(initializer, part),
            name="conv",
        )
        self.norm = batch_norm(batch_norm_decay, epsilon=epsilon, name="norm")

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference.

        Args:
          map_size: height and width of the layer's feature map. If given, the weights take the
            form that is fastest on CPUs for such maps.
        """
        kernel, bias = folded_weights(self.conv.kernel, self.norm)

        rate = self.conv.dilation_rate[0]
        can_tile = map_size and max(self.conv.strides) == 1 and self.compute_dtype == "float32"
        if can_tile and winograd.pays(kernel.shape, rate=rate, map_size=map_size):
            matrices = winograd.kernel_matrices(kernel.numpy().astype(np.float64))
            self.use_in_inference(*map(fixed, matrices), bias)
        else:
            self.use_in_inference(kernel, bias)

    def call(self, inputs, training=False, update_averages=True):
        """Returns the features; `training` and `update_averages` as in `BatchNormalization`."""
        if self.folded and not training:
            *kernels, bias = (tf.cast(weights, inputs.dtype) for weights in self.folded)
            if len(kernels) > 1:
                outputs = winograd.conv2d(inputs, kernels, rate=self.conv.dilation_rate[0])
            elif isinstance(self.conv, AtrousConv2D):
                outputs = self.conv.convolution_op(inputs, kernels[0], differentiable=False)
            else:
                outputs = self.conv.convolution_op(inputs, kernels[0])

            outputs = tf.nn.bias_add(outputs, bias)
        else:
            outputs = self.norm(
                self.conv(inputs), training=training, update_averages=update_averages
            )
        return self.activation(outputs)

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class BiasedConv2D(Foldable, tf.keras.layers.Conv2D):
    """A convolution with bias and without normalisation: [B, H, W, C] -> [B, H, W, filters].

    Args:
      initializer: as in `initializers.kernel_initializer`, for a kernel of the heads.
    """

    def __init__(self, filters: int, kernel_size: int, *, initializer: str = "pytorch", **kwargs):
        super().__init__(
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            kernel_initializer=initializers.kernel_initializer(initializer, "head"),
            **kwargs,
        )
        self._settings: dict[str, Any] = {
            "filters": filters,
            "kernel_size": kernel_size,
            "initializer": initializer,
        }

    def build(self, input_shape):
        # Here and not in __init__, since the bias starts within a bound that depends on the inputs.
        inputs = math.prod(self.kernel_size) * input_shape[-1]
        initializer = self._settings["initializer"]
        self.bias_initializer = initializers.bias_initializer(initializer, inputs)
        super().build(input_shape)

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference; they have only one form for every size."""
        self.use_in_inference(fixed(self.kernel.numpy()), fixed(self.bias.numpy()))

    def call(self, inputs, training=False):
        if not self.folded or training:
            return super().call(inputs)
        kernel, bias = (tf.cast(weights, inputs.dtype) for weights in self.folded)
        return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, 1, "SAME"), bias)

    def get_config(self):
        common = ("name", "trainable", "dtype")
        return {name: super().get_config()[name] for name in common} | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DepthwiseConvNorm(Foldable, tf.keras.layers.Layer):
    """A depthwise convolution without bias, batch normalisation and an activation.

    [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C].

    Args:
      rate: dilation of the kernel, one number or (down, across); without effect with a stride.
      strides, activation, symmetric, batch_norm_decay, epsilon, initializer, part: as in
        `ConvNorm`.
    """

    def __init__(
        self,
        kernel_size: int = 3,
        *,
        strides: int = 1,
        rate: int | Sequence[int] = 1,
        activation: str = "relu",
        symmetric: bool = True,
        batch_norm_decay: float = 0.9,
        epsilon: float = 1e-5,
        initializer: str = "pytorch",
        part: str = "depthwise",
        **kwargs,
    ):
        super().__init__(**kwargs)
        rates = [rate, rate] if isinstance(rate, int) else list(rate)
        self._settings: dict[str, Any] = {
            "kernel_size": kernel_size,
            "strides": strides,
            "rate": rates if strides == 1 else [1, 1],
            "activation": activation,
            "symmetric": symmetric,
            "batch_norm_decay": batch_norm_decay,
            "epsilon": epsilon,
            "initializer": initializer,
            "part": part,
        }

        self.activation = ACTIVATIONS[activation]
        # Only holds the kernel: `_convolve` reads it, since Keras cannot pad symmetrically, and
        # refuses rates that differ.
        self.depthwise = tf.keras.layers.DepthwiseConv2D(
            kernel_size,
            data_format="channels_last",
            use_bias=False,
            depthwise_initializer=initializers.kernel_initializer(initializer, part),
            name="depthwise",
        )
        self.norm = batch_norm(batch_norm_decay, epsilon=epsilon, name="depthwise_norm")

    def build(self, input_shape):
        with tf.name_scope("depthwise"):
            self.depthwise.build(input_shape)
        super().build(input_shape)

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the depthwise weights for inference; they have only one form for every size."""
        self.use_in_inference(*folded_weights(self.depthwise.depthwise_kernel, self.norm))

    def _convolve(self, inputs, kernel):
        strides, rates = self._settings["strides"], self._settings["rate"]
        padding = "SAME"
        if strides > 1 and self._settings["symmetric"]:
            cells = (self._settings["kernel_size"] - 1) // 2
            inputs, padding = pad_symmetric(inputs, [cells, cells]), "VALID"
        steps = [1, strides, strides, 1]
        return tf.nn.depthwise_conv2d(inputs, kernel, steps, padding, dilations=rates)

    def convolve(self, inputs, training=False, update_averages=True):
        """Returns the result of the depthwise convolution, with normalisation and activation."""
        if self.folded and not training:
            kernel, bias = (tf.cast(weights, inputs.dtype) for weights in self.folded)
            outputs = tf.nn.bias_add(self._convolve(inputs, kernel), bias)
        else:
            kernel = tf.cast(self.depthwise.depthwise_kernel, inputs.dtype)
            outputs = self.norm(
                self._convolve(inputs, kernel), training=training, update_averages=update_averages
            )
        return self.activation(outputs)

    def call(self, inputs, training=False, update_averages=True):
        """Returns the features; `training` and `update_averages` as in `BatchNormalization`."""
        return self.convolve(inputs, training=training, update_averages=update_averages)

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SeparableConvNorm(DepthwiseConvNorm):
    """A depthwise and a pointwise convolution, each with batch normalisation and activation.

    (Chen et al. 2018, arXiv:1802.02611, sec. 3.1; official model.py, split_separable_conv2d.)
    [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters].

    Args:
      filters: channels of the result.
      pointwise_part: the `part` of the pointwise convolution.
      others: as in `DepthwiseConvNorm`, for both convolutions; `part` for the depthwise one.
    """

    def __init__(
        self,
        filters: int,
        *,
        activation: str = "relu",
        pointwise_part: str = "pointwise",
        **others,
    ):
        super().__init__(activation=activation, **others)
        self._settings["filters"] = filters
        self._settings["pointwise_part"] = pointwise_part
        shared = ("batch_norm_decay", "epsilon", "initializer")
        self.pointwise = ConvNorm(
            filters,
            1,
            activation=activation,
            part=pointwise_part,
            name="pointwise",
            **{name: self._settings[name] for name in shared},
        )

    def call(self, inputs, training=False, update_averages=True):
        """Returns the features; `training` and `update_averages` as in `BatchNormalization`."""
        norm = {"training": training, "update_averages": update_averages}
        return self.pointwise(self.convolve(inputs, **norm), **norm)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ChannelDropout(tf.keras.layers.Layer):
    """Drops whole channels of an image in training, and scales the others up.

    Which channels are dropped depends only on the seed of the call and on an image's place in the
    global batch. So it does not depend on how many replicas and parts share the batch, and a
    resumed run drops the same channels.

    Args:
      rate: share of the channels to drop, 0 up to, not including, 1.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs, training=False, seed=None, part=(0, 1)):
        """Returns inputs of the same shape, [B, H, W, C].

        Args:
          seed: int64 [2]; None draws new numbers each time.
          part: (index, number) if the inputs are one of several equal parts of a replica's images.
        """
        if not training or not self.rate:
            return inputs

        if seed is None:
            seed = tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)

        # Draw for the whole global batch, and take the rows of these images.
        index, parts = part
        batch, channels = tf.shape(inputs)[0], inputs.shape[-1]
        shape = [batch * (replicas.number() * parts), 1, 1, channels]
        draws = tf.random.stateless_uniform(shape, seed)
        first = (replicas.index() * parts + index) * batch
        draws = tf.slice(draws, [first, 0, 0, 0], [batch, 1, 1, channels])

        kept = tf.cast(draws >= self.rate, inputs.dtype) / tf.cast(1 - self.rate, inputs.dtype)
        return inputs * kept

    def get_config(self):
        return super().get_config() | {"rate": self.rate}

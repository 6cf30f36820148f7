"""The convolutions, normalisation and dropout that all parts of the network are made of.

This module decides how to pad. A convolution or pooling with a stride pads (kernel - 1) * rate / 2
cells on both sides, as PyTorch and so SSSegmentation does. TensorFlow's SAME pads even-sized inputs
less at the front, which shifts every feature map (docs/ancestors.md, Network). Without a stride,
both rules agree.
"""

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


def batch_norm(decay: float, *, name: str) -> BatchNormalization:
    """Returns batch normalisation over all replicas of the strategy in force."""
    has_several_replicas = tf.distribute.get_strategy().num_replicas_in_sync > 1
    layer = SyncBatchNormalization if has_several_replicas else BatchNormalization
    return layer(momentum=decay, epsilon=1e-5, name=name)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ConvNorm(tf.keras.layers.Layer):
    """A convolution without bias, batch normalisation and, by default, ReLU.

    [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters].

    Args:
      rate: dilation of the kernel; without effect if there is a stride.
      symmetric: whether a stride pads both sides equally; false pads by TensorFlow's SAME.
      batch_norm_decay: momentum of the moving averages. The statistics of a batch are taken over
        all replicas of the tf.distribute strategy in which the layer is made.
      initializer, part: as in `initializers.kernel_initializer`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        rate: int = 1,
        relu: bool = True,
        symmetric: bool = True,
        batch_norm_decay: float = 0.9,
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
            "relu": relu,
            "symmetric": symmetric,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
            "part": part,
        }

        self.relu = relu
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
        self.norm = batch_norm(batch_norm_decay, name="norm")
        self.folded: tuple[tf.Variable, ...] | None = None  # if set, used instead of the variables

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
            self.folded = (*map(fixed, matrices), bias)
        else:
            self.folded = (kernel, bias)

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
        return tf.nn.relu(outputs) if self.relu else outputs

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SeparableConvNorm(tf.keras.layers.Layer):
    """A depthwise 3x3 and a pointwise convolution, each with batch normalisation and ReLU.

    (Chen et al. 2018, arXiv:1802.02611, sec. 3.1; official model.py, split_separable_conv2d.)
    [B, H, W, C] -> [B, H, W, filters]. The arguments are as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: int,
        *,
        rate: int = 1,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "rate": rate,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        self.depthwise = tf.keras.layers.DepthwiseConv2D(
            3,
            dilation_rate=rate,
            padding="same",
            data_format="channels_last",
            use_bias=False,
            depthwise_initializer=initializers.kernel_initializer(initializer, "depthwise"),
            name="depthwise",
        )
        self.norm = batch_norm(batch_norm_decay, name="depthwise_norm")

        self.pointwise = ConvNorm(
            filters,
            1,
            batch_norm_decay=batch_norm_decay,
            initializer=initializer,
            part="pointwise",
            name="pointwise",
        )
        self.folded: tuple[tf.Variable, tf.Variable] | None = None

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the depthwise weights for inference; they have only one form for every size."""
        self.folded = folded_weights(self.depthwise.depthwise_kernel, self.norm)

    def call(self, inputs, training=False):
        if self.folded and not training:
            kernel, bias = (tf.cast(weights, inputs.dtype) for weights in self.folded)
            rates = self.depthwise.dilation_rate
            hidden = tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME", dilations=rates)
            hidden = tf.nn.bias_add(hidden, bias)
        else:
            hidden = self.norm(self.depthwise(inputs), training=training)
        return self.pointwise(tf.nn.relu(hidden), training=training)

    def get_config(self):
        return super().get_config() | self._settings


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

"""The convolutions, normalisation and resizing that all parts of the network are made of.

Padding is decided here and nowhere else: a convolution or pooling with a stride pads (kernel - 1)
* rate / 2 cells on both sides, as the PyTorch ancestor does; TensorFlow's SAME would pad less in
front of even-sized inputs and shift every feature map. Without a stride both rules agree.
"""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.models import convolution, initializers, winograd
from deeplab_tf.models.convolution import NAMESPACE

# State of this thread's tracing: recomputes (within `recomputed`), compiles (for XLA), and part
# (of a replica's images: its number and how many there are).
_thread = threading.local()


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class AtrousConv2D(tf.keras.layers.Conv2D):
    """A convolution with symmetric padding, computed by tf.nn.conv2d(dilations=...) directly.

    Keras' own Conv2D(dilation_rate) goes through space-to-batch, which makes a training step on
    CPU 1.6 times slower. Output size is ceil(input / strides).
    """

    def convolution_op(self, inputs, kernel, differentiable=True):
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
class SyncBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch normalisation by the statistics of all replicas' batches.

    Keras' own synchronized=True averages the biased batch variance into the moving variance,
    but without synchronisation the unbiased one, as PyTorch does; here both are the same.
    """

    def call(self, inputs, training=False):
        context = tf.distribute.get_replica_context()
        if not training or not self.trainable or context is None:
            return super().call(inputs, training=training)

        def average(values):  # over the images and cells of all replicas
            local = tf.reduce_sum(values, axis=[0, 1, 2])
            return context.all_reduce(tf.distribute.ReduceOp.SUM, local) / count

        values = tf.cast(inputs, tf.float32)
        cells = tf.cast(tf.reduce_prod(tf.shape(values)[:3]), tf.float32)
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, cells)
        mean = average(values)
        variance = average(tf.square(values - mean))
        unbiased = variance * count / tf.maximum(count - 1, 1)
        moments = [(self.moving_mean, mean), (self.moving_variance, unbiased)]
        for moving, value in [] if getattr(_thread, "recomputes", False) else moments:
            moving.assign(self.momentum * moving + (1 - self.momentum) * tf.stop_gradient(value))
        outputs = tf.nn.batch_normalization(
            values, mean, variance, self.beta, self.gamma, self.epsilon
        )
        return tf.cast(outputs, inputs.dtype)


def folded_weights(
    kernel: tf.Variable, norm: tf.keras.layers.BatchNormalization
) -> tuple[tf.Variable, tf.Variable]:
    """Multiplies a batch normalisation's inference into the convolution before it.

    Nothing is left of the normalisation but an addition, which fuses with the convolution.

    Args:
      kernel: [h, w, C, D], or of a depthwise convolution [h, w, C, 1].
    Returns:
      The new kernel and a bias.
    """
    gamma, beta, mean, variance = (
        value.numpy().astype(np.float64)
        for value in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    depthwise = "depthwise" in kernel.name.rsplit("/", 1)[-1]
    new_kernel = kernel.numpy() * (scale[:, np.newaxis] if depthwise else scale)
    return fixed(new_kernel), fixed(beta - mean * scale)


def fixed(values: np.ndarray) -> tf.Variable:
    """Returns a variable that is not trained, float32.

    Weights are no constants of the graph: each of the many copies of a graph that loading makes
    would hold them again, 5 GB for ResNet-50.
    """
    return tf.Variable(values, trainable=False, dtype=tf.float32)


def batch_norm(decay: float, *, name: str) -> tf.keras.layers.BatchNormalization:
    """Returns batch normalisation over all replicas of the strategy in force."""
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    layer = SyncBatchNormalization if several else tf.keras.layers.BatchNormalization
    return layer(momentum=decay, epsilon=1e-5, name=name)


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class ConvNorm(tf.keras.layers.Layer):
    """Convolution without bias, batch normalisation and, by default, ReLU.

    Batch statistics are taken over all replicas of the tf.distribute strategy in force when the
    layer is made. With `symmetric` false a stride pads by TensorFlow's own rule SAME. `initializer`
    and `part` are those of `initializers.kernel_initializer`.
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
        self.folded: tuple[tf.Variable, ...] | None = None  # in place of the variables

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference.

        Args:
          map_size: cells of the feature map of this layer; with it the weights take the form that
            is fastest on CPUs for such a map.
        """
        kernel, bias = folded_weights(self.conv.kernel, self.norm)
        rate = self.conv.dilation_rate[0]
        tiled = map_size and max(self.conv.strides) == 1 and self.compute_dtype == "float32"
        if tiled and winograd.pays(kernel.shape, rate=rate, map_size=map_size):
            matrices = winograd.kernel_matrices(kernel.numpy().astype(np.float64))
            self.folded = (*map(fixed, matrices), bias)
        else:
            self.folded = (kernel, bias)

    def call(self, inputs, training=False):
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
            outputs = self.norm(self.conv(inputs), training=training)
        return tf.nn.relu(outputs) if self.relu else outputs

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class SeparableConvNorm(tf.keras.layers.Layer):
    """A depthwise 3x3 and a pointwise convolution, each with batch normalisation and ReLU.

    (Chen et al. 2018, arXiv:1802.02611, sec. 3.1; official model.py, split_separable_conv2d.)
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
        """Fixes the weights of the depthwise part for inference; it has one form only."""
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
    """Drops whole channels of an image while training, and scales the others up.

    The mask follows from a seed given with the call, and belongs to an image's place in the
    global batch: it is the same however many replicas and parts share the batch, and after a
    resume.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs, training=False, seed=None):
        if not training or not self.rate:
            return inputs
        if seed is None:
            seed = tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync if context else 1
        replica = context.replica_id_in_sync_group if context else 0
        part, parts = getattr(_thread, "part", (0, 1))
        batch, channels = tf.shape(inputs)[0], inputs.shape[-1]
        draws = tf.random.stateless_uniform([batch * (replicas * parts), 1, 1, channels], seed)
        first = (replica * parts + part) * batch
        own = tf.slice(draws, [first, 0, 0, 0], [batch, 1, 1, channels])
        kept = tf.cast(own >= self.rate, inputs.dtype) / tf.cast(1 - self.rate, inputs.dtype)
        return inputs * kept

    def get_config(self):
        return super().get_config() | {"rate": self.rate}


def resize_bilinear(
    inputs: tf.Tensor, size: tf.Tensor, *, align_corners: bool = False
) -> tf.Tensor:
    """Resizes [B, h, w, C] to [B, size[0], size[1], C], float32, without antialiasing.

    Args:
      align_corners: whether corner pixel centres coincide (official DeepLab) or image borders do.
    """
    inputs = tf.cast(inputs, tf.float32)
    if getattr(_thread, "compiles", False):
        for axis, equation in enumerate(("bhwc,Hh->bHwc", "bhwc,Ww->bhWc")):
            cells = tf.shape(inputs)[axis + 1]
            matrix = interpolation_matrix(cells, size[axis], align_corners=align_corners)
            inputs = tf.einsum(equation, inputs, matrix)
        return inputs
    if align_corners:
        return tf.raw_ops.ResizeBilinear(images=inputs, size=size, align_corners=True)
    return tf.image.resize(inputs, size, method="bilinear", antialias=False)


def interpolation_matrix(
    cells: int | tf.Tensor, size: int | tf.Tensor, *, align_corners: bool = False
) -> tf.Tensor:
    """Returns `resize_bilinear` along one axis as a matrix, float32 [size, cells]."""
    whole, count = tf.cast(size, tf.float64), tf.cast(cells, tf.float64)
    places = tf.cast(tf.range(size), tf.float64)
    if align_corners:
        places *= (count - 1) / tf.maximum(whole - 1, 1)
    else:
        places = tf.clip_by_value((places + 0.5) * (count / whole) - 0.5, 0, count - 1)
    distances = tf.abs(places[:, tf.newaxis] - tf.cast(tf.range(cells), tf.float64))
    return tf.cast(tf.maximum(1 - distances, 0), tf.float32)


@contextlib.contextmanager
def compiled(by_xla: bool) -> Iterator[None]:
    """Makes what is traced inside resize by matrix products if `by_xla`.

    XLA's own bilinear resizing is wrong for most sizes (github.com/tensorflow/tensorflow/issues
    120242): up to the whole range of the values off.
    """
    before = getattr(_thread, "compiles", False)
    _thread.compiles = by_xla
    try:
        yield
    finally:
        _thread.compiles = before


@contextlib.contextmanager
def part_of_batch(part: int | tf.Tensor, parts: int) -> Iterator[None]:
    """What is traced inside sees one of the equal parts of a replica's images."""
    before = getattr(_thread, "part", (0, 1))
    _thread.part = (part, parts)
    try:
        yield
    finally:
        _thread.part = before


def recomputed(function, layers: list[tf.keras.layers.Layer]):
    """Returns `function`, with its inner results computed again for the gradient.

    The moving averages of the layers' batch normalisation are updated the first time only.
    """
    norms = [
        part
        for layer in layers
        for part in layer._flatten_layers()
        if type(part) is tf.keras.layers.BatchNormalization
    ]  # those of several replicas use _thread: each replica is traced in its own thread
    called = False

    def run(inputs):
        nonlocal called
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0 if called else norm.momentum
        _thread.recomputes, called = called, True
        outputs = function(inputs)
        _thread.recomputes = False
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return outputs

    return tf.recompute_grad(run)

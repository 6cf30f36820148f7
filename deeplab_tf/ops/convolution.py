"""CPU convolutions: picks the fastest algorithm for the forward pass and for each gradient.

Training a convolution without stride takes three products: the outputs, the gradient of the inputs
and the gradient of the kernel. There are three algorithms for them, equal but for rounding:
"direct", one call of the library; "taps", one matrix product for each cell of the kernel, which
skips the padding (61 % of the work at rate 18 on a 32x32 map); and "winograd".

Which one is used follows measurements on three x86-64 machines with two cores and oneDNN:

- Winograd's is 1.2 to 2.2 times as fast for all three products where a kernel of 512 or more
  channels is undilated or mildly dilated. But it consists of many operations, which take time at
  every start; so only the widest layers use it, ASPP's projection and the auxiliary head.
- Taps are 1.1 to 3 times as fast for the gradient of the kernel from rate 2 on, 1.1 to 1.4 times
  for undilated kernels of 2,048 or more input channels, and 0.9 to 1.6 times for the outputs from
  rate 6 on.
- Everything else is direct, and everything on GPUs, for sizes that are unknown when the graph is
  made, and where oneDNN is off.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf.ops import winograd

NAMESPACE = "deeplab_tf"
_OUTPUT_TAPS_FROM_RATE = 6
_KERNEL_TAPS_FROM_RATE = 2
_KERNEL_TAPS_FROM_CHANNELS = 2048
_WINOGRAD_FROM_CHANNELS = (1024, 512)  # of the inputs and the outputs


@dataclasses.dataclass(frozen=True)
class Forms:
    """How each product is computed: "direct", "taps" or "winograd"."""

    outputs: str = "direct"
    input_gradient: str = "direct"
    kernel_gradient: str = "direct"


def conv2d(
    inputs: tf.Tensor, kernel: tf.Tensor, *, rate: int = 1, differentiable: bool = True
) -> tf.Tensor:
    """Convolves [B, H, W, C] with [k, k, C, D] to [B, H, W, D], padded with zeros; k is odd.

    Args:
      differentiable: false where no gradient is needed, as in exported models. The direct form then
        works on every machine.
    """
    if rate > 1 and differentiable and not direct_atrous_gradient_works(inputs.dtype):
        return tf.nn.convolution(inputs, kernel, padding="SAME", dilations=rate)
    forms = choose_forms(inputs, kernel, rate)
    if forms == Forms():
        return tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=rate)

    @tf.custom_gradient
    def product(inputs, kernel):
        def gradients(upstream):
            # The order matters: the kernel must be free before the optimizer changes it, and the
            # memory of these products before the next layer's products begin.
            with tf.control_dependencies([upstream]):
                by_inputs = _input_gradient(forms, inputs, kernel, upstream, rate)
            with tf.control_dependencies([by_inputs]):
                by_kernel = _kernel_gradient(forms, inputs, kernel, upstream, rate)
            with tf.control_dependencies([by_kernel]):
                return tf.identity(by_inputs), by_kernel

        return _outputs(forms, inputs, kernel, rate), gradients

    return product(inputs, kernel)


def choose_forms(inputs: tf.Tensor, kernel: tf.Tensor, rate: int) -> Forms:
    """Returns the form of each product, by the rules above."""
    known = None not in inputs.shape[1:3]
    if not known or kernel.shape[0] == 1 or tf.config.list_logical_devices("GPU"):
        return Forms()

    if (
        inputs.dtype == tf.float32
        and rate < _OUTPUT_TAPS_FROM_RATE
        and all(
            n >= least for n, least in zip(kernel.shape[2:], _WINOGRAD_FROM_CHANNELS, strict=True)
        )
        and winograd.pays(kernel.shape, rate=rate, map_size=inputs.shape[1:3])
    ):
        return Forms("winograd", "winograd", "winograd")

    wide = kernel.shape[2] >= _KERNEL_TAPS_FROM_CHANNELS
    return Forms(
        outputs="taps" if rate >= _OUTPUT_TAPS_FROM_RATE else "direct",
        kernel_gradient="taps" if rate >= _KERNEL_TAPS_FROM_RATE or wide else "direct",
    )


def _outputs(forms, inputs, kernel, rate):
    if forms.outputs == "winograd":
        return winograd.outputs(inputs, kernel, rate=rate)
    if forms.outputs == "taps":
        return outputs_by_taps(inputs, kernel, rate)
    return tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=rate)


def _input_gradient(forms, inputs, kernel, upstream, rate):
    if forms.input_gradient == "winograd":
        return winograd.input_gradient(kernel, upstream, rate=rate)
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, **_direct(rate)
    )


def _kernel_gradient(forms, inputs, kernel, upstream, rate):
    if forms.kernel_gradient == "winograd":
        return winograd.kernel_gradient(inputs, upstream, rate=rate)
    if forms.kernel_gradient == "taps":
        return kernel_gradient_by_taps(inputs, kernel, upstream, rate)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=inputs, filter_sizes=tf.shape(kernel), out_backprop=upstream, **_direct(rate)
    )


def _direct(rate: int) -> dict:
    return {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, rate, rate, 1]}


def outputs_by_taps(inputs: tf.Tensor, kernel: tf.Tensor, rate: int) -> tf.Tensor:
    """Computes `conv2d` as a sum of matrix products; height and width must be known."""
    _, height, width, channels = inputs.shape
    with tf.control_dependencies([inputs]):  # otherwise each step begins by copying all kernels
        kernel = tf.identity(kernel)

    terms = []
    for tap, (top, bottom, down), (left, right, across) in _taps(inputs, kernel, rate):
        window = inputs[:, top + down : bottom + down, left + across : right + across]
        flat = tf.matmul(tf.reshape(window, [-1, channels]), kernel[tap])
        term = tf.reshape(flat, [-1, bottom - top, right - left, kernel.shape[3]])
        around = [[0, 0], [top, height - bottom], [left, width - right], [0, 0]]
        terms.append(tf.pad(term, around))
    return tf.add_n(terms)


def kernel_gradient_by_taps(
    inputs: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, rate: int
) -> tf.Tensor:
    """Computes the gradient of `conv2d` by its kernel; height and width must be known."""
    size, _, channels, filters = kernel.shape
    terms = dict.fromkeys(
        ((i, j) for i in range(size) for j in range(size)),
        tf.zeros([channels, filters], kernel.dtype),
    )
    for tap, (top, bottom, down), (left, right, across) in _taps(inputs, kernel, rate):
        window = inputs[:, top + down : bottom + down, left + across : right + across]
        outputs = upstream[:, top:bottom, left:right]
        terms[tap] = tf.matmul(
            tf.reshape(window, [-1, channels]), tf.reshape(outputs, [-1, filters]), transpose_a=True
        )
    return tf.reshape(tf.stack(list(terms.values())), kernel.shape)


def _taps(
    inputs: tf.Tensor, kernel: tf.Tensor, rate: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int, int], tuple[int, int, int]]]:
    """Yields each cell of the kernel (a tap) with the part of the map that it is multiplied with.

    That part is given for rows and for columns as (start, stop, offset): outputs start to stop
    (exclusive) use the inputs at that offset. Taps that only meet padding are left out.
    """
    spans = []
    for cells, size in zip(inputs.shape[1:3], kernel.shape[:2], strict=True):
        offsets = [(place - size // 2) * rate for place in range(size)]
        spans.append([(max(0, -d), min(cells, cells - d), d) for d in offsets])
    for i, rows in enumerate(spans[0]):
        for j, columns in enumerate(spans[1]):
            if rows[0] < rows[1] and columns[0] < columns[1]:
                yield (i, j), rows, columns


@functools.cache
def direct_atrous_gradient_works(dtype: tf.DType = tf.float32) -> bool:
    """Whether tf.nn.conv2d can differentiate by its kernel at rates above 1 on this machine.

    False on CPUs for float16, and without oneDNN (or with TF_ENABLE_ONEDNN_OPTS=0). Atrous
    convolutions then take the slower form through space-to-batch. Each process tries it once.
    """
    with tf.init_scope():
        try:
            tf.raw_ops.Conv2DBackpropFilter(  # a tape would not record inside of init_scope
                input=tf.ones([1, 5, 5, 1], dtype),
                filter_sizes=[3, 3, 1, 1],
                out_backprop=tf.ones([1, 5, 5, 1], dtype),
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except tf.errors.InvalidArgumentError:
            logging.getLogger(NAMESPACE).warning(
                "Direct atrous convolutions cannot be trained here in %s; the slower form through "
                "space-to-batch is used. On CPUs set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is "
                "imported.",
                dtype.name,
            )
            return False
    return True

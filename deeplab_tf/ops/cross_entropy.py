"""Cross-entropy of logits that are enlarged to their labels, in little memory."""

import tensorflow as tf

from deeplab_tf.ops.resize import interpolation_matrix, resize_bilinear

_BAND_BYTES = 32 << 20  # of enlarged scores held at once on a CPU


def pixel_losses(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    label_smoothing: float = 0.0,
    align_corners: bool = False,
    for_xla: bool = False,
) -> tf.Tensor:
    """Returns each pixel's cross-entropy in nats, float32 [B, H, W].

    On CPUs the logits are enlarged one band of rows at a time, once for the loss and again for its
    gradient. For 150 classes on 512x512 pixels that saves about a gigabyte per image.

    Args:
      logits: [B, h, w, classes], of any precision.
      labels: int32 [B, H, W], every one a class.
      label_smoothing: share of each label that is spread evenly over all classes (Szegedy et al.
        2016, arXiv:1512.00567, sec. 7).
      align_corners, for_xla: as in `resize_bilinear`.
    """
    logits = tf.cast(logits, tf.float32)
    known = None not in (*logits.shape[1:], *labels.shape[1:])
    if not known or tf.config.list_logical_devices("GPU"):
        size = tf.shape(labels)[1:3]
        enlarged = enlarge(logits, size, align_corners=align_corners, for_xla=for_xla)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=enlarged)
        return _smoothed(losses, enlarged, label_smoothing) if label_smoothing else losses
    bands = _Bands(logits.shape[1:], labels.shape[1:], align_corners, label_smoothing)

    @tf.custom_gradient
    def losses_of(logits):
        log_sums, losses = _for_each(bands.losses, (logits, labels), (tf.float32, tf.float32))

        def gradient(upstream):
            return _for_each(bands.gradient, (logits, labels, log_sums, upstream), tf.float32)

        return losses, gradient

    return losses_of(logits)


def enlarge(
    logits: tf.Tensor, size: tf.Tensor, *, align_corners: bool = False, for_xla: bool = False
) -> tf.Tensor:
    """`resize_bilinear`, with a gradient computed by one matrix product along each axis."""
    height, width = tf.unstack(size)

    @tf.custom_gradient
    def enlarged(logits):
        def gradient(upstream):
            batch, rows, columns, classes = tf.unstack(tf.shape(logits))
            down = interpolation_matrix(rows, height, align_corners=align_corners)
            across = interpolation_matrix(columns, width, align_corners=align_corners)
            upstream = tf.reshape(upstream, [batch, height, width * classes])
            upstream = tf.matmul(down, upstream, transpose_a=True)
            upstream = tf.reshape(upstream, [batch * rows, width, classes])
            upstream = tf.matmul(across, upstream, transpose_a=True)
            return tf.reshape(upstream, [batch, rows, columns, classes])

        resized = resize_bilinear(logits, size, align_corners=align_corners, for_xla=for_xla)
        return resized, gradient

    result = enlarged(tf.cast(logits, tf.float32))
    result.set_shape([None, None, None, logits.shape[-1]])
    return result


def _smoothed(losses, logits, share):
    """Returns the losses of labels that are spread over all classes by `share`."""
    even = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)
    return (1 - share) * losses + share * even


def _for_each(function, images, kinds):
    return tf.map_fn(
        lambda image: function(*image), images, fn_output_signature=kinds, parallel_iterations=1
    )


class _Bands:
    """The loss of one image and its gradient, one band of rows after the other.

    Bilinear enlarging is a matrix product along each axis, and so is its gradient. All columns are
    enlarged at once, rows band by band. Scores are [classes, rows, W], so that a reduction over
    classes adds up whole rows of memory.
    """

    def __init__(
        self,
        cells: tf.TensorShape,
        pixels: tf.TensorShape,
        align_corners: bool,
        label_smoothing: float,
    ):
        """Takes the shapes [h, w, classes] of logits and [H, W] of labels."""
        self.smoothing = label_smoothing
        (height, width), (*self.cells, self.classes) = pixels, cells
        self.row_weights, self.column_weights = (
            interpolation_matrix(cells, size, align_corners=align_corners)
            for cells, size in zip(self.cells, pixels, strict=True)
        )
        count = -(-4 * self.classes * width * height // _BAND_BYTES)
        rows = -(-height // count)
        self.bands = [(first, min(first + rows, height)) for first in range(0, height, rows)]

    def _scores(self, wide, first, last):
        return tf.matmul(self.row_weights[first:last], wide)

    def _widen(self, logits):
        return tf.einsum("hwc,Ww->chW", logits, self.column_weights)

    def losses(self, logits, labels):
        """Returns the logarithms of the sums of exponentials, and the losses, both [H, W]."""
        wide = self._widen(logits)
        log_sums: list[tf.Tensor] = []
        losses: list[tf.Tensor] = []
        for first, last in self.bands:
            with tf.control_dependencies(losses[-1:]):
                scores = self._scores(wide, first, last)
            highest = tf.reduce_max(scores, axis=0)
            log_sum = tf.math.log(tf.reduce_sum(tf.exp(scores - highest), axis=0)) + highest
            pixels = tf.size(log_sum)
            places = tf.reshape(labels[first:last], [-1]) * pixels + tf.range(pixels)
            own = tf.reshape(tf.gather(tf.reshape(scores, [-1]), places), tf.shape(log_sum))
            if self.smoothing:
                even = tf.reduce_mean(scores, axis=0)
                own = (1 - self.smoothing) * own + self.smoothing * even
            log_sums.append(log_sum)
            losses.append(log_sum - own)
        return tf.concat(log_sums, axis=0), tf.concat(losses, axis=0)

    def gradient(self, logits, labels, log_sums, upstream):
        """Returns the gradient of one image's logits, given that of its losses, [H, W]."""
        wide = self._widen(logits)
        total = tf.zeros_like(wide)
        for first, last in self.bands:
            with tf.control_dependencies([total]):
                scores = self._scores(wide, first, last)
            with tf.control_dependencies([scores]):
                own = tf.one_hot(
                    labels[first:last],
                    self.classes,
                    on_value=1 - self.smoothing + self.smoothing / self.classes,
                    off_value=self.smoothing / self.classes,
                    axis=0,
                    dtype=scores.dtype,
                )
            errors = (tf.exp(scores - log_sums[first:last]) - own) * upstream[first:last]
            total += tf.matmul(self.row_weights[first:last], errors, transpose_a=True)
        return tf.einsum("chW,Ww->hwc", total, self.column_weights)

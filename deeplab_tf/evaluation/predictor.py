"""Images of any size -> class probabilities and labels at that size.

Shared by evaluation, pictures, prediction and export: what was scored is what is served.
"""

import tensorflow as tf

from deeplab_tf.config import DataConfig, EvalConfig
from deeplab_tf.data import transforms
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.ops.resize import resize_bilinear


class Predictor(tf.Module):
    """Predicts images at one or several scales, mirrored too if configured, at once or in windows.

    A view is the image at one scale, mirrored or not; it is resized by the recipe's rule. When the
    view is predicted at once, its logits are enlarged from the output stride to the image's size
    in one step. When it is predicted in windows, the logits of each window are enlarged to the
    window, the probabilities of overlapping windows are averaged, and the result is resized to the
    image's size. The probabilities of several views are averaged (docs/ancestors.md,
    SSSegmentation, Scoring).
    """

    def __init__(
        self,
        model: DeepLab,
        *,
        min_resize_value: int = 0,
        max_resize_value: int = 0,
        scales: tuple[float, ...] = (1.0,),
        add_flipped_images: bool = False,
        window_size: tuple[int, ...] = (),
        window_stride: tuple[int, ...] = (),
    ):
        """Takes the settings of EvalConfig and DataConfig.

        Args:
          window_size, window_stride: height and width in pixels; empty to predict at once.
        """
        super().__init__()
        self.model = model
        self.num_classes = model.num_classes
        self._resizing = {
            "min_resize_value": min_resize_value,
            "max_resize_value": max_resize_value,
        }
        self._window_size, self._window_stride = window_size, window_stride
        flips = (False, True) if add_flipped_images else (False,)
        self._views = [(scale, flip) for scale in scales for flip in flips]

        # Traced once for images of any size, so that a new size does not cost a new trace.
        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        self.labels = tf.function(lambda images: self.predict(images)[0], signature)
        self.probabilities = tf.function(lambda images: self.predict(images)[1], signature)

    def predict(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Predicts images of one size, both labels and probabilities.

        The compiled functions `labels` and `probabilities` compute only one of the two.

        Args:
          images: uint8 [B, H, W, 3], RGB.
        Returns:
          Labels, [B, H, W] of `label_dtype`, and probabilities, float32 [B, H, W, classes], which
          add up to 1.
        """
        scores = self.scores(images)
        return self.labels_of(scores), self.probabilities_of(scores)

    def scores(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the scores that labels and probabilities follow from, [B, H, W, classes].

        They are float32: logits if the images are predicted at once in a single view, else averaged
        probabilities.
        """
        first, *others = self._views
        total = self._view(images, *first)
        if not others:
            return total

        total = self._to_average(total)
        for view in others:
            # One view after the other: at the same time, each would need memory of its own.
            with tf.control_dependencies([total]):
                images_then = tf.identity(images)
            total += self._to_average(self._view(images_then, *view))
        return total / len(self._views)

    def labels_of(self, scores: tf.Tensor) -> tf.Tensor:
        """Returns the labels that follow from `scores`, [B, H, W] of `label_dtype`."""
        dtype = label_dtype(self.num_classes)
        return tf.cast(tf.argmax(scores, axis=-1, output_type=tf.int32), dtype)

    def probabilities_of(self, scores: tf.Tensor) -> tf.Tensor:
        """Returns the probabilities that follow from `scores`, float32 [B, H, W, classes]."""
        are_probabilities = self._window_size or len(self._views) > 1
        return scores if are_probabilities else tf.nn.softmax(scores)

    def most_pixels(self, size: tf.Tensor) -> tf.Tensor:
        """Returns the number of pixels of an image or of its largest view, whichever is larger.

        Args:
          size: int [2], height and width.
        Returns:
          int64 scalar.
        """
        sizes = [tf.cast(size, tf.int64)]
        for scale in sorted({scale for scale, _ in self._views}):
            if self._resizes(scale):
                resized = transforms.resized_size(size, scale=scale, **self._resizing)
                sizes.append(tf.cast(resized, tf.int64))
        return tf.reduce_max([tf.reduce_prod(size) for size in sizes])

    def _to_average(self, scores):
        """Returns one view's probabilities, which are averaged; windows give them already."""
        return scores if self._window_size else tf.nn.softmax(scores)

    def _resizes(self, scale):
        return any(self._resizing.values()) or scale != 1.0

    def _view(self, images, scale, flip):
        """Returns one view's scores at the images' size: logits, or probabilities from windows."""
        size = tf.shape(images)[1:3]
        images = tf.cast(images, tf.float32)  # ONNX and TensorFlow Lite do not resize uint8
        if self._resizes(scale):
            resized = transforms.resized_size(size, scale=scale, **self._resizing)
            images = transforms.resize_image(images, resized)
            images = tf.cast(images, tf.float32)
        if flip:
            images = tf.reverse(images, [2])

        scores = self._slide(images) if self._window_size else self.model.infer(images)

        if flip:
            scores = tf.reverse(scores, [2])
        return self._resize(scores, size)

    def _slide(self, images):
        """Averages the probabilities of windows: float32 [B, H, W, 3] -> [B, H, W, classes].

        The last window along each axis ends at the border. No window is larger than the image.
        """
        size = tf.shape(images)[1:3]
        window = tf.minimum(size, self._window_size)
        # Per axis: ceil((size - window) / stride) + 1 windows.
        rows, columns = tf.unstack(
            (tf.maximum(size - self._window_size, 0) + self._window_stride - 1)
            // self._window_stride
            + 1
        )

        # The channel after the classes counts the windows over each pixel.
        shape = [None, None, None, self.num_classes + 1]

        def add_window(number, sums):
            place = tf.stack([number // columns, number % columns]) * self._window_stride
            first = tf.minimum(place, size - window)
            last = first + window
            part = images[:, first[0] : last[0], first[1] : last[1]]
            probabilities = tf.nn.softmax(self._resize(self.model.infer(part), window))
            counted = tf.concat([probabilities, tf.ones_like(probabilities[..., :1])], axis=-1)
            around = tf.pad(tf.stack([first, size - last], axis=1), [[1, 1], [0, 0]])
            return number + 1, tf.ensure_shape(sums + tf.pad(counted, around), shape)

        zeros = tf.zeros([tf.shape(images)[0], size[0], size[1], self.num_classes + 1])
        _, sums = tf.while_loop(
            lambda number, _: number < rows * columns,
            add_window,
            (0, zeros),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape(shape)),
            parallel_iterations=1,  # at the same time, windows would each need memory of their own
        )
        return sums[..., :-1] / sums[..., -1:]

    def _resize(self, scores, size):
        return resize_bilinear(scores, size, align_corners=self.model.config.align_corners)


def label_dtype(num_classes: int) -> tf.DType:
    """Returns the smallest integer type that holds the classes and that all programs can read.

    Not uint16: TensorFlow Serving's REST interface cannot write it (its `json_tensor.cc`).
    """
    if num_classes <= 256:
        return tf.uint8
    return tf.int16 if num_classes <= 32768 else tf.int32


def build_predictor(model: DeepLab, data: DataConfig, evaluation: EvalConfig) -> Predictor:
    """Returns the predictor that a recipe's settings describe."""
    slide = evaluation.inference_mode == "slide"
    return Predictor(
        model,
        min_resize_value=data.min_resize_value,
        max_resize_value=data.max_resize_value,
        scales=evaluation.eval_scales,
        add_flipped_images=evaluation.add_flipped_images,
        window_size=evaluation.eval_crop_size if slide else (),
        window_stride=evaluation.eval_crop_stride if slide else (),
    )

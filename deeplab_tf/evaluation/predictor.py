"""Images of any size -> class probabilities and labels at that size.

Shared by evaluation, pictures, prediction and export: what was scored is what is served.
"""

import math

import tensorflow as tf

from deeplab_tf.config import DataConfig, EvalConfig
from deeplab_tf.data import transforms
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.ops.resize import resize_bilinear


class RefusedImage(UserError):
    """The model does not take this image, for example because of its size."""


class Predictor(tf.Module):
    """Predicts images at one or several scales, mirrored too if configured, at once or in windows.

    A view is the image at one scale, mirrored or not; it is resized by the recipe's rule. When the
    view is predicted at once, its logits are enlarged from the output stride to the image's size
    in one step. When it is predicted in windows, the logits of each window are enlarged to the
    window, the probabilities of overlapping windows are averaged, and the result is resized to the
    image's size. With blending, a window counts less towards its border, where it sees less. The
    probabilities of several views are averaged (docs/ancestors.md, SSSegmentation, Scoring).

    With a size divisor, a view, or each window of it, is padded with the mean colour below and on
    the right, and what belongs to the padding is cut off the enlarged logits. A size that is no
    multiple of the output stride has a cell that reaches beyond the image; without padding, all
    cells are squeezed into the image, and labels move up and to the left, by nearly a cell at the
    end.

    With a padded size, the views are made as in official DeepLab (eval.py, model.py): the image,
    resized by the recipe's rule, is padded with the mean colour below and on the right; then it is
    scaled and mirrored as one image, and the padding is cut off the scores.
    """

    def __init__(
        self,
        model: DeepLab,
        *,
        min_resize_value: int = 0,
        max_resize_value: int = 0,
        resize_factor: int = 0,
        scales: tuple[float, ...] = (1.0,),
        add_flipped_images: bool = False,
        window_size: tuple[int, ...] = (),
        window_stride: tuple[int, ...] = (),
        window_blending: str = "none",
        padded_size: tuple[int, ...] = (),
        size_divisor: int = 0,
        image_kind: ImageKind = RGB,
    ):
        """Takes the settings of EvalConfig and DataConfig.

        Args:
          window_size, window_stride: height and width in pixels; empty to predict at once.
          window_blending: none, or hann for weights that fall towards a window's border.
          padded_size: height and width that images are padded to; empty pads nothing. Not together
            with windows.
          size_divisor: number that height and width are padded to a multiple of, plus 1 if the
            model aligns corners; 0 pads nothing. Not together with a padded size.
          image_kind: the kind of images that the model was trained on.
        """
        super().__init__()
        # Users cannot cause this: `runs` and `training` refuse models of other images.
        assert image_kind.channels == model.config.image_channels
        self.image_kind = image_kind
        self.model = model
        self.num_classes = model.num_classes
        self._resizing = {
            "min_resize_value": min_resize_value,
            "max_resize_value": max_resize_value,
            "resize_factor": resize_factor,
        }
        self._padded_size, self._size_divisor = padded_size, size_divisor
        self._window_size, self._window_stride = window_size, window_stride
        self._blends = window_blending == "hann"
        # As in official DeepLab (model.py): other scales of evaluation take the place of those that
        # the network was trained to look at.
        pyramid = model.config.image_pyramid if tuple(scales) == (1.0,) else ()
        self._passes_over_pyramid = len(pyramid) < len(model.config.image_pyramid)
        largest = max(pyramid, default=1.0)
        self._pixels_per_pixel = math.ceil(max(largest, 1.0) ** 2)
        flips = (False, True) if add_flipped_images else (False,)
        self._views = [(scale, flip) for scale in scales for flip in flips]

        # Traced once for images of any size, so that a new size does not cost a new trace.
        signature = [self.images_spec()]
        self._labels = tf.function(lambda images: self.predict(images)[0], signature)
        self._probabilities = tf.function(lambda images: self.predict(images)[1], signature)
        self._both = tf.function(self.predict, signature)

    def images_spec(self, batch: int | None = None) -> tf.TensorSpec:
        """Returns type and shape of the images that it takes, as they are before scaling."""
        kind = self.image_kind
        return tf.TensorSpec([batch, None, None, kind.channels], tf.as_dtype(kind.dtype))

    def labels(self, images: tf.Tensor) -> tf.Tensor:
        """Returns only the labels of `predict`, compiled.

        Raises:
          RefusedImage: if the images are larger than the padded size.
        """
        self.require_fitting(images)
        return self._labels(images)

    def probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """Returns only the probabilities of `predict`, compiled; raises what `labels` does."""
        self.require_fitting(images)
        return self._probabilities(images)

    def labels_and_probabilities(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `predict` does, compiled; raises what `labels` does."""
        self.require_fitting(images)
        return self._both(images)

    def require_fitting(self, images: tf.Tensor) -> None:
        """Raises RefusedImage if images, [B, H, W, 3], are larger than the padded size."""
        if not self._padded_size:
            return
        size = self._prepared_size(tuple(images.shape[1:3]))
        if any(side > most for side, most in zip(size, self._padded_size, strict=True)):
            height, width = (int(side) for side in size)
            resized = " when resized" if self._has_rule else ""
            raise RefusedImage(
                f"An image has {height}x{width} pixels{resized}, more than --eval_crop_size="
                f"{','.join(map(str, self._padded_size))}; give an --eval_crop_size of at least "
                "the largest image's height and width, or --eval_crop_size= to pad nothing."
            )

    def predict(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Predicts images of one size, both labels and probabilities.

        The compiled functions `labels` and `probabilities` compute only one of the two.

        Args:
          images: [B, H, W, C], as `image_kind` says; by default uint8, RGB.
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
        size = tf.convert_to_tensor(size)
        sizes = [tf.cast(size, tf.int64)]
        for scale in sorted({scale for scale, _ in self._views}):
            if self._padded_size:
                view = tf.constant(scaled_size(self._padded_size, scale), tf.int64)
                sizes += [view, tf.constant(self._padded_size, tf.int64)]
                continue
            resized = size
            if self._resizes(scale):
                resized = transforms.resized_size(size, scale=scale, **self._resizing)
            if self._size_divisor:
                resized = self._divisible_size(resized)
            sizes.append(tf.cast(resized, tf.int64))
        most = tf.reduce_max([tf.reduce_prod(size) for size in sizes])
        return most * self._pixels_per_pixel

    def _infer(self, images):
        """Returns the logits of images as they are, float32 [B, h, w, classes]."""
        if self._passes_over_pyramid:
            return self.model.infer(images, with_pyramid=False)
        return self.model.infer(images)

    def _to_average(self, scores):
        """Returns one view's probabilities, which are averaged; windows give them already."""
        return scores if self._window_size else tf.nn.softmax(scores)

    @property
    def _has_rule(self):
        """Whether images are resized before anything else."""
        return any(self._resizing.values())

    def _resizes(self, scale):
        return self._has_rule or scale != 1.0

    def _prepared_size(self, size):
        """Returns height and width of an image that the recipe's rule has resized."""
        return transforms.resized_size(size, **self._resizing) if self._has_rule else size

    def _view(self, images, scale, flip):
        """Returns one view's scores at the images' size: logits, or probabilities from windows."""
        size = tf.shape(images)[1:3]
        images = tf.cast(images, tf.float32)  # ONNX and TensorFlow Lite do not resize uint8
        if not self.image_kind.is_rgb:  # before they are resized, as images of records are
            images = tf.clip_by_value(images, 0.0, float(self.image_kind.max_value))
        if self._padded_size:
            return self._padded_view(images, scale, flip)

        if self._resizes(scale):
            resized = transforms.resized_size(size, scale=scale, **self._resizing)
            images = self._resized(images, resized)
        images = transforms.scaled(images, self.image_kind.max_value)
        if flip:
            images = tf.reverse(images, [2])

        if self._window_size:
            scores = self._slide(images)
        elif self._size_divisor:
            scores = self._enlarged(images)
        else:
            scores = self._infer(images)

        if flip:
            scores = tf.reverse(scores, [2])
        if self._size_divisor and not self._resizes(scale):
            return scores
        return self._resize(scores, size)

    def _resized(self, images, size):
        """Resizes whole numbers, float32 [B, H, W, C], as training does."""
        resized = transforms.resize_image(images, size, dtype=self.image_kind.dtype)
        return tf.cast(resized, tf.float32)

    def _enlarged(self, images):
        """Returns the logits of images at their size, predicted at a multiple of the divisor."""
        size = tf.shape(images)[1:3]
        if not self._size_divisor:
            return self._resize(self._infer(images), size)
        padded = self._divisible_size(size)
        below, right = tf.unstack(padded - size)
        around = [[0, 0], [0, below], [0, right], [0, 0]]
        images = _pad_with_color(images, around, self.model.config.image_mean)
        return self._resize(self._infer(images), padded)[:, : size[0], : size[1]]

    def _divisible_size(self, size):
        """Returns the size that an image is padded to with a size divisor."""
        beyond = 1 if self.model.config.align_corners else 0
        # No remainder of a negative number, which has another sign in ONNX.
        return size + (self._size_divisor - (size - beyond) % self._size_divisor) % (
            self._size_divisor
        )

    def _padded_view(self, images, scale, flip):
        """Returns the logits of one view of padded images: float32 [B, H, W, 3] -> [B, H, W, C]."""
        size = tf.shape(images)[1:3]
        if self._has_rule:
            images = self._resized(images, self._prepared_size(size))
        images = transforms.scaled(images, self.image_kind.max_value)

        inner = tf.shape(images)[1:3]
        fits = tf.debugging.Assert(
            tf.reduce_all(inner <= self._padded_size),
            ["an image is larger than", list(self._padded_size), "; height, width:", inner],
        )
        with tf.control_dependencies([fits]):
            below, right = tf.unstack(self._padded_size - inner)
        around = [[0, 0], [0, below], [0, right], [0, 0]]
        images = _pad_with_color(images, around, self.model.config.image_mean)
        images = tf.ensure_shape(images, [None, *self._padded_size, self.image_kind.channels])

        if scale != 1.0:
            images = self._resize(images, scaled_size(self._padded_size, scale))
        if flip:
            images = tf.reverse(images, [2])
        scores = self._infer(images)
        if flip:
            scores = tf.reverse(scores, [2])

        if scale < 1:
            # Official DeepLab enlarges the logits of small views in two steps. The first leads to
            # the size that they have at scale 1 (model.py, multi_scale_logits).
            stride = self.model.config.logits_stride()
            scores = self._resize(scores, [(side - 1) // stride + 1 for side in self._padded_size])
        scores = self._resize(scores, self._padded_size)[:, : inner[0], : inner[1]]
        return self._resize(scores, size) if self._has_rule else scores

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

        # The channel after the classes adds up the weights of the windows over each pixel.
        shape = [None, None, None, self.num_classes + 1]

        def add_window(number, sums):
            place = tf.stack([number // columns, number % columns]) * self._window_stride
            first = tf.minimum(place, size - window)
            last = first + window
            part = images[:, first[0] : last[0], first[1] : last[1]]
            probabilities = tf.nn.softmax(self._enlarged(part))
            counted = tf.concat([probabilities, tf.ones_like(probabilities[..., :1])], axis=-1)
            if self._blends:
                counted *= hann(window)
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


def hann(size: tf.Tensor) -> tf.Tensor:
    """Returns the weights of a window's pixels, float32 [H, W, 1], above 0 and up to 1.

    The product of a Hann window down and one across, taken at the centres of the pixels: so a
    window counts next to nothing at its border, but never nothing, since the border of an image has
    no other window.

    Args:
      size: int [2], height and width.
    """

    def along(length):
        centres = (tf.range(length, dtype=tf.float32) + 0.5) / tf.cast(length, tf.float32)
        return tf.square(tf.sin(math.pi * centres))

    down, across = along(size[0]), along(size[1])
    return down[:, tf.newaxis, tf.newaxis] * across[tf.newaxis, :, tf.newaxis]


def _pad_with_color(images, around, color):
    """Pads images, [B, H, W, C], with a colour; `around` as `tf.pad` takes it.

    No map of the padding is added or multiplied: for images of one size it would be a constant as
    large as the image, and in a converted model of a narrow network larger than all weights.
    """
    if len(set(color)) == 1:
        return tf.pad(images, around, constant_values=color[0])
    channels = tf.split(images, len(color), axis=-1)
    padded = [
        tf.pad(channel, around, constant_values=value)
        for channel, value in zip(channels, color, strict=True)
    ]
    return tf.concat(padded, axis=-1)


def scaled_size(size: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """Returns the size of a padded image at a scale (official DeepLab, `scale_dimension`).

    A multiple of the output stride plus 1 stays one at scales such as 0.5 and 1.25.
    """
    return tuple(int((side - 1) * scale + 1) for side in size)


def label_dtype(num_classes: int) -> tf.DType:
    """Returns the smallest integer type that holds the classes and that all programs can read.

    Not uint16: TensorFlow Serving's REST interface cannot write it (its `json_tensor.cc`).
    """
    if num_classes <= 256:
        return tf.uint8
    return tf.int16 if num_classes <= 32768 else tf.int32


def build_predictor(
    model: DeepLab, data: DataConfig, evaluation: EvalConfig, image_kind: ImageKind = RGB
) -> Predictor:
    """Returns the predictor that a recipe's settings describe, for images of a kind."""
    slide = evaluation.inference_mode == "slide"
    return Predictor(
        model,
        min_resize_value=data.min_resize_value,
        max_resize_value=data.max_resize_value,
        resize_factor=data.resize_factor,
        scales=evaluation.eval_scales,
        add_flipped_images=evaluation.add_flipped_images,
        window_size=evaluation.eval_crop_size if slide else (),
        window_stride=evaluation.eval_crop_stride if slide else (),
        window_blending=evaluation.window_blending,
        padded_size=() if slide else evaluation.eval_crop_size,
        size_divisor=evaluation.eval_size_divisor,
        image_kind=image_kind,
    )

"""Images of any size -> class probabilities and labels at that size.

Shared by evaluation, pictures, prediction and export: what was scored is what is served.
"""

import tensorflow as tf

from deeplab_tf.config import DataConfig, EvalConfig
from deeplab_tf.data import transforms
from deeplab_tf.models.deeplab import DeepLab
from deeplab_tf.models.layers import resize_bilinear


class Predictor(tf.Module):
    """Predicts whole images, at one or several scales, mirrored too if wished.

    Each view is resized by the recipe's rule, its logits are enlarged once from the output
    stride to the image's own size; with several views their probabilities are averaged
    (`reference/ssseg_deeplabv3.md` sec. 5).
    """

    def __init__(
        self,
        model: DeepLab,
        *,
        min_resize_value: int = 0,
        max_resize_value: int = 0,
        scales: tuple[float, ...] = (1.0,),
        add_flipped_images: bool = False,
    ):
        super().__init__()
        self.model = model
        self.num_classes = model.num_classes
        self._resizing = {
            "min_resize_value": min_resize_value,
            "max_resize_value": max_resize_value,
        }
        flips = (False, True) if add_flipped_images else (False,)
        self._views = [(scale, flip) for scale in scales for flip in flips]
        # Traced once for all sizes: a new size must not cost a new trace.
        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        self.labels = tf.function(lambda images: self.predict(images)[0], signature)
        self.probabilities = tf.function(lambda images: self.predict(images)[1], signature)

    def predict(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Predicts images of one size; `labels` and `probabilities` compute one of the two alone.

        Args:
          images: uint8 [B, H, W, 3], RGB.
        Returns:
          labels: uint8 [B, H, W] (int32 above 256 classes); probabilities: float32
          [B, H, W, classes], adding up to 1.
        """
        logits = [self._logits(images, *view) for view in self._views]
        probabilities = tf.add_n([tf.nn.softmax(view) for view in logits]) / len(logits)
        scores = logits[0] if len(logits) == 1 else probabilities
        dtype = tf.uint8 if self.num_classes <= 256 else tf.int32
        labels = tf.cast(tf.argmax(scores, axis=-1, output_type=tf.int32), dtype)
        return labels, probabilities

    def _logits(self, images, scale, flip):
        size = tf.shape(images)[1:3]
        if any(self._resizing.values()) or scale != 1.0:
            resized = transforms.resized_size(size, scale=scale, **self._resizing)
            images = transforms.resize_image(images, resized)
        if flip:
            images = tf.reverse(images, [2])
        logits = self.model.infer(tf.cast(images, tf.float32))
        if flip:
            logits = tf.reverse(logits, [2])
        return resize_bilinear(logits, size, align_corners=self.model.config.align_corners)


def build_predictor(model: DeepLab, data: DataConfig, evaluation: EvalConfig) -> Predictor:
    """Returns the predictor that a recipe's results are measured with."""
    return Predictor(
        model,
        min_resize_value=data.min_resize_value,
        max_resize_value=data.max_resize_value,
        scales=evaluation.eval_scales,
        add_flipped_images=evaluation.add_flipped_images,
    )

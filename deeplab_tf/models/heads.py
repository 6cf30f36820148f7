"""What turns features into class scores: decoder, classifier and the auxiliary FCN head."""

import functools
from typing import Any

import tensorflow as tf

from deeplab_tf.models import initializers
from deeplab_tf.models.layers import NAMESPACE, ChannelDropout, ConvNorm, SeparableConvNorm
from deeplab_tf.ops.resize import resize_bilinear

# How the names of the variables begin that belong to a data set's classes,
CLASSIFIERS = ("classifier/", "auxiliary_head/classifier/")
# and of those that do not belong to the backbone.
HEADS = ("aspp/", "decoder/", "classifier/", "auxiliary_head/")


def last_layers(*, logits_only: bool) -> tuple[str, ...]:
    """Returns the prefixes of the names that --last_layers_contain_logits_only applies to."""
    return CLASSIFIERS if logits_only else HEADS


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Decoder(tf.keras.layers.Layer):
    """Joins the context from ASPP with the detail of an earlier stage and refines both.

    (DeepLabV3+, Chen et al. 2018, arXiv:1802.02611, sec. 3.2 and 4.1.) The context
    [B, h, w, C] and the detail [B, H, W, D], reduced to a few channels, give [B, H, W, filters].
    """

    def __init__(
        self,
        filters: int,
        *,
        reduction_filters: int = 48,
        separable: bool = True,
        align_corners: bool = False,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "filters": filters,
            "reduction_filters": reduction_filters,
            "separable": separable,
            "align_corners": align_corners,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }
        common: dict[str, Any] = {"batch_norm_decay": batch_norm_decay, "initializer": initializer}
        self.reduction = ConvNorm(reduction_filters, 1, name="reduction", **common)
        conv = SeparableConvNorm if separable else functools.partial(ConvNorm, kernel_size=3)
        self.refinement = [conv(filters, name=f"refinement{index}", **common) for index in (1, 2)]

    def call(self, context, detail=None, training=False, for_xla=False):
        """`for_xla` is that of `resize_bilinear`."""
        detail = self.reduction(detail, training=training)
        context = resize_bilinear(
            context,
            tf.shape(detail)[1:3],
            align_corners=self._settings["align_corners"],
            for_xla=for_xla,
        )
        outputs = tf.concat([tf.cast(context, detail.dtype), detail], axis=-1)
        for conv in self.refinement:
            outputs = conv(outputs, training=training)
        return outputs

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Classifier(tf.keras.layers.Layer):
    """Channel dropout and a 1x1 convolution with bias: [B, h, w, C] -> logits, float32."""

    def __init__(
        self,
        num_classes: int,
        *,
        dropout_rate: float = 0.1,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings: dict[str, Any] = {
            "num_classes": num_classes,
            "dropout_rate": dropout_rate,
            "initializer": initializer,
        }
        self.dropout = ChannelDropout(dropout_rate, name="dropout")
        self.conv = tf.keras.layers.Conv2D(
            num_classes,
            1,
            kernel_initializer=initializers.kernel_initializer(initializer, "classifier"),
            dtype=tf.float32,  # whatever the precision of the features
            data_format="channels_last",
            name="conv",
        )
        self.folded: tuple | None = None

    def build(self, input_shape):
        initializer = self._settings["initializer"]
        self.conv.bias_initializer = initializers.bias_initializer(initializer, input_shape[-1])
        super().build(input_shape)

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference; they have one form only."""
        self.folded = (self.conv.kernel, self.conv.bias)

    def call(self, inputs, training=False, seed=None, part=(0, 1)):
        """`seed` and `part` are those of `ChannelDropout`."""
        if self.folded and not training:
            kernel, bias = map(tf.convert_to_tensor, self.folded)
            inputs = tf.cast(inputs, tf.float32)
            return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, 1, "VALID"), bias)
        return self.conv(self.dropout(inputs, training=training, seed=seed, part=part))

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class AuxiliaryHead(tf.keras.layers.Layer):
    """A 3x3 convolution and a classifier on an earlier stage, used only for its loss in training.

    (Zhao et al. 2017, arXiv:1612.01105, sec. 3.3; an FCN head in SSSegmentation.)
    """

    def __init__(
        self,
        filters: int,
        num_classes: int,
        *,
        dropout_rate: float = 0.1,
        batch_norm_decay: float = 0.9,
        initializer: str = "pytorch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "num_classes": num_classes,
            "dropout_rate": dropout_rate,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }
        self.conv = ConvNorm(
            filters, 3, batch_norm_decay=batch_norm_decay, initializer=initializer, name="conv"
        )
        self.classifier = Classifier(
            num_classes, dropout_rate=dropout_rate, initializer=initializer, name="classifier"
        )

    def call(self, inputs, training=False, norm_training=None, seed=None, part=(0, 1)):
        """`norm_training` is `training` of batch normalisation, where it differs."""
        norm_training = training if norm_training is None else norm_training
        hidden = self.conv(inputs, training=norm_training)
        return self.classifier(hidden, training=training, seed=seed, part=part)

    def get_config(self):
        return super().get_config() | self._settings

"""The layers that turn features into class scores: decoder, classifier and auxiliary head."""

import functools
from typing import Any

import tensorflow as tf

from deeplab_tf.models import initializers
from deeplab_tf.models.layers import NAMESPACE, ChannelDropout, ConvNorm, SeparableConvNorm
from deeplab_tf.ops.resize import resize_bilinear

# Prefixes of the names of variables whose shape depends on the number of classes.
CLASSIFIERS = ("classifier/", "auxiliary_head/classifier/")
# Prefixes of the names of all variables outside the backbone.
HEADS = ("aspp/", "decoder/", "classifier/", "auxiliary_head/")


def last_layers(*, logits_only: bool) -> tuple[str, ...]:
    """Returns how the names of the last layers' variables begin.

    Args:
      logits_only: the setting `last_layers_contain_logits_only`.
    """
    return CLASSIFIERS if logits_only else HEADS


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Decoder(tf.keras.layers.Layer):
    """The decoder of DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611, sec. 3.2 and 4.1).

    It enlarges the context from ASPP, [B, h, w, C], to the size of an earlier stage's detail,
    [B, H, W, D], joins both and refines them: [B, H, W, filters].

    Args:
      filters: channels of the result.
      reduction_filters: channels that the detail is reduced to first.
      separable: whether the refining convolutions are depthwise separable.
      align_corners: as in `resize_bilinear`.
      batch_norm_decay, initializer: as in `ConvNorm`.
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
        """Returns the refined features; `for_xla` as in `resize_bilinear`."""
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
            dtype=tf.float32,  # logits are float32 even if the features are in half precision
            data_format="channels_last",
            name="conv",
        )
        self.folded: tuple | None = None

    def build(self, input_shape):
        # Here and not in __init__, since the bias starts within a bound that depends on the inputs.
        initializer = self._settings["initializer"]
        self.conv.bias_initializer = initializers.bias_initializer(initializer, input_shape[-1])
        super().build(input_shape)

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference; a 1x1 convolution has only one form for every size."""
        self.folded = (self.conv.kernel, self.conv.bias)

    def call(self, inputs, training=False, seed=None, part=(0, 1)):
        """Returns the logits; `seed` and `part` as in `ChannelDropout`."""
        if self.folded and not training:
            kernel, bias = map(tf.convert_to_tensor, self.folded)
            inputs = tf.cast(inputs, tf.float32)
            return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, 1, "VALID"), bias)

        return self.conv(self.dropout(inputs, training=training, seed=seed, part=part))

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class AuxiliaryHead(tf.keras.layers.Layer):
    """A 3x3 convolution and a classifier on an earlier stage; only its loss in training is used.

    (Zhao et al. 2017, arXiv:1612.01105, sec. 3.3; an FCN head in SSSegmentation.)
    [B, h, w, C] -> logits, float32 [B, h, w, num_classes].
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
        """Returns the logits.

        Args:
          training: whether dropout is active.
          norm_training: whether batch normalisation uses batch statistics; None as `training`.
          seed, part: as in `ChannelDropout`.
        """
        norm_training = training if norm_training is None else norm_training
        hidden = self.conv(inputs, training=norm_training)
        return self.classifier(hidden, training=training, seed=seed, part=part)

    def get_config(self):
        return super().get_config() | self._settings

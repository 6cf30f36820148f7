"""The layers that turn features into class scores: decoder, classifier and auxiliary head."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from deeplab_tf.models import initializers
from deeplab_tf.models.layers import (
    NAMESPACE,
    BiasedConv2D,
    ChannelDropout,
    ConvNorm,
    Foldable,
    SeparableConvNorm,
)
from deeplab_tf.ops.resize import resize_bilinear

# Prefixes of the names of all variables outside the backbone. A decoder of several steps is
# "decoder/", "decoder_1/" and so on.
HEADS = ("aspp/", "cell/", "decoder/", "decoder_", "classifier/", "auxiliary_head/")


def classifiers(*, decoder_output_is_logits: bool) -> tuple[str, ...]:
    """Returns the prefixes of variables whose shapes depend on the number of classes."""
    if decoder_output_is_logits:
        return ("decoder/", "decoder_", "auxiliary_head/classifier/")
    return ("classifier/", "auxiliary_head/classifier/")


def last_layers(*, logits_only: bool, decoder_output_is_logits: bool) -> tuple[str, ...]:
    """Returns the prefixes of the last layers' variables.

    Args:
      logits_only: the setting `last_layers_contain_logits_only`.
      decoder_output_is_logits: the setting of that name.
    """
    if logits_only:
        return classifiers(decoder_output_is_logits=decoder_output_is_logits)
    return HEADS


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Decoder(tf.keras.layers.Layer):
    """The decoder of DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611, sec. 3.2 and 4.1).

    It enlarges the context, [B, h, w, C], to the size of an earlier stage's detail, [B, H, W, D],
    and joins both: [B, H, W, filters]. The context comes from ASPP, or from the decoder before.

    Args:
      filters: channels of the result.
      reduction_filters: channels that the detail is reduced to first; with a sum it is `filters`.
      separable: whether the refining convolutions are depthwise separable; logits never are.
      sum_merge: whether one convolution refines the context, and the reduced detail is added.
        Otherwise the detail is appended, and two convolutions refine both (official model.py,
        _decoder_with_sum_merge and _decoder_with_concat_merge).
      output_is_logits: whether the result is logits, float32. Then the convolutions have a bias,
        but no normalisation or activation, and in a sum they are 1x1.
      bounded: whether activations are limited to 6.
      align_corners: as in `resize_bilinear`.
      batch_norm_decay, initializer: as in `ConvNorm`.
    """

    def __init__(
        self,
        filters: int,
        *,
        reduction_filters: int = 48,
        separable: bool = True,
        sum_merge: bool = False,
        output_is_logits: bool = False,
        bounded: bool = False,
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
            "sum_merge": sum_merge,
            "output_is_logits": output_is_logits,
            "bounded": bounded,
            "align_corners": align_corners,
            "batch_norm_decay": batch_norm_decay,
            "initializer": initializer,
        }

        plain, refining = self._kinds_of_convolution()
        self.reduction = plain(
            filters if sum_merge else reduction_filters, kernel_size=1, name="reduction"
        )
        indices = (1,) if sum_merge else (1, 2)
        self.refinement = [refining(filters, name=f"refinement{index}") for index in indices]

    def _kinds_of_convolution(self) -> tuple[Callable, Callable]:
        """Returns what makes the reducing convolution, and what makes the refining ones."""
        settings = self._settings
        if settings["output_is_logits"]:
            logits = functools.partial(
                BiasedConv2D, initializer=settings["initializer"], dtype=tf.float32
            )
            kernel_size = 1 if settings["sum_merge"] else 3
            return logits, functools.partial(logits, kernel_size=kernel_size)

        common = {
            "activation": "relu6" if settings["bounded"] else "relu",
            "batch_norm_decay": settings["batch_norm_decay"],
            "initializer": settings["initializer"],
        }
        plain = functools.partial(ConvNorm, **common)
        if settings["separable"]:
            return plain, functools.partial(SeparableConvNorm, **common)
        return plain, functools.partial(plain, kernel_size=3)

    def call(self, context, detail=None, training=False, for_xla=False):
        """Returns the refined features; `for_xla` as in `resize_bilinear`."""
        detail = self.reduction(detail, training=training)
        context = resize_bilinear(
            context,
            tf.shape(detail)[1:3],
            align_corners=self._settings["align_corners"],
            for_xla=for_xla,
        )
        context = tf.cast(context, detail.dtype)

        outputs = context if self._settings["sum_merge"] else tf.concat([context, detail], axis=-1)
        for conv in self.refinement:
            outputs = conv(outputs, training=training)
        return outputs + detail if self._settings["sum_merge"] else outputs

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Classifier(Foldable, tf.keras.layers.Layer):
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

    def build(self, input_shape):
        # Here and not in __init__, since the bias starts within a bound that depends on the inputs.
        initializer = self._settings["initializer"]
        self.conv.bias_initializer = initializers.bias_initializer(initializer, input_shape[-1])
        super().build(input_shape)

    def fold(self, map_size: tuple[int, ...] = ()):
        """Fixes the weights for inference; a 1x1 convolution has only one form for every size."""
        self.use_in_inference(self.conv.kernel, self.conv.bias)

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

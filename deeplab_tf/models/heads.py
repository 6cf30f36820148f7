"""What turns features into class scores: the classifier and the auxiliary FCN head."""

import tensorflow as tf

from deeplab_tf.models.layers import NAMESPACE, ChannelDropout, ConvNorm


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class Classifier(tf.keras.layers.Layer):
    """Channel dropout and a 1x1 convolution with bias: [B, h, w, C] -> logits, float32."""

    def __init__(self, num_classes: int, *, dropout_rate: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self._settings = {"num_classes": num_classes, "dropout_rate": dropout_rate}
        self.dropout = ChannelDropout(dropout_rate, name="dropout")
        self.conv = tf.keras.layers.Conv2D(
            num_classes,
            1,
            kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            name="conv",
        )

    def call(self, inputs, training=False, seed=None):
        return tf.cast(self.conv(self.dropout(inputs, training=training, seed=seed)), tf.float32)

    def get_config(self):
        return super().get_config() | self._settings


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class AuxiliaryHead(tf.keras.layers.Layer):
    """A 3x3 convolution and a classifier on an earlier stage, for its loss in training alone.

    (Zhao et al. 2017, arXiv:1612.01105, sec. 3.3; an FCN head in SSSegmentation.)
    """

    def __init__(
        self,
        filters: int,
        num_classes: int,
        *,
        dropout_rate: float = 0.1,
        batch_norm_decay: float = 0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "filters": filters,
            "num_classes": num_classes,
            "dropout_rate": dropout_rate,
            "batch_norm_decay": batch_norm_decay,
        }
        self.conv = ConvNorm(filters, 3, batch_norm_decay=batch_norm_decay, name="conv")
        self.classifier = Classifier(num_classes, dropout_rate=dropout_rate, name="classifier")

    def call(self, inputs, training=False, norm_training=None, seed=None):
        """`norm_training` is `training` of batch normalisation, where it differs."""
        norm_training = training if norm_training is None else norm_training
        hidden = self.conv(inputs, training=norm_training)
        return self.classifier(hidden, training=training, seed=seed)

    def get_config(self):
        return super().get_config() | self._settings

"""DeepLab: backbone, ASPP and classifier as one Keras model that knows its own loss."""

import contextlib
import dataclasses
from typing import Any

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.aspp import ASPP
from deeplab_tf.models.heads import AuxiliaryHead, Classifier, Decoder
from deeplab_tf.models.layers import NAMESPACE, compiled
from deeplab_tf.models.resnet import ResNet
from deeplab_tf.training import losses

# Converting Python control flow, of which tensors decide none here, costs seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DeepLab(tf.keras.Model):
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587).

    Called on images, float32 [B, H, W, 3], RGB in 0..255 (any H and W), it returns a dict:
    `logits`, float32 [B, ceil(H / output_stride), ceil(W / output_stride), classes] (with a
    decoder: its output stride), and, where the configuration has an auxiliary head, `aux_logits`
    of the third stage.

    In a notebook, `compile(optimizer=...)` and `fit` on (images, labels) train it: the loss is
    its own. `fit` under a tf.distribute strategy averages over the global batch's valid pixels.
    """

    def __init__(self, config: ModelConfig, *, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.num_classes = num_classes
        norm: dict[str, Any] = {"batch_norm_decay": config.batch_norm_decay}
        self.backbone = ResNet(**config.backbone(), name="backbone", **norm)
        self.aspp = ASPP(
            config.aspp_convs_filters,
            rates=config.aspp_rates(),
            separable=config.aspp_with_separable_conv,
            image_pooling=config.add_image_level_feature,
            pooling_window=[
                (side - 1) // config.output_stride + 1 for side in config.image_pooling_crop_size
            ],
            align_corners=config.align_corners,
            projection_kernel_size=config.aspp_projection_kernel_size,
            name="aspp",
            **norm,
        )
        self.decoder = None
        if config.decoder_output_stride:
            self.decoder = Decoder(
                config.decoder_filters,
                reduction_filters=config.decoder_reduction_filters,
                separable=config.decoder_use_separable_conv,
                align_corners=config.align_corners,
                name="decoder",
                **norm,
            )
        self.classifier = Classifier(
            num_classes, dropout_rate=config.dropout_rate, name="classifier"
        )
        self.auxiliary_head = None
        if config.auxiliary_filters:
            self.auxiliary_head = AuxiliaryHead(
                config.auxiliary_filters,
                num_classes,
                dropout_rate=config.dropout_rate,
                name="auxiliary_head",
                **norm,
            )
        self.loss_tracker = tf.keras.metrics.Mean(name="loss")
        self.distribute_reduction_method = "first"  # what a step returns is equal on all replicas
        self._ignore_label = 255
        self._auxiliary_loss_weight = 0.4
        self._fine_tune_batch_norm = True
        self._seed = 0
        self._recompute_stages = 0

    def call(self, images, training=False, seed=None, update_batch_norm=True):
        """Returns the logits.

        Args:
          training: whether dropout is active and batch normalisation uses batch statistics.
          seed: int64 [2], what dropout draws from; None draws anew.
          update_batch_norm: false keeps batch normalisation at its moving averages in training.
        """
        norm_training = training and update_batch_norm
        features = self._features(images, norm_training)
        context = self._context(features, norm_training)
        outputs = {"logits": self.classifier(context, training=training, seed=seed)}
        if self.auxiliary_head:
            outputs["aux_logits"] = self.auxiliary_head(
                features["stage3"], training=training, norm_training=norm_training, seed=seed
            )
        return outputs

    @_plain_python
    def infer(self, images):
        """Returns the logits of `call` alone, without computing the auxiliary head."""
        return self.classifier(self._context(self._features(images, False), False))

    @contextlib.contextmanager
    def folded(self):
        """Inference that is traced inside has no normalisation; yields its variables."""
        layers = [layer for layer in self.submodules if hasattr(layer, "fold")]
        for layer in layers:
            layer.fold()
        try:
            yield [variable for layer in layers for variable in layer.folded]
        finally:
            for layer in layers:
                layer.folded = None

    def _context(self, features, training):
        context = self.aspp(features["stage4"], training=training)
        if self.decoder is None:
            return context
        detail = {4: "stage1", 8: "stage2", 16: "stage3"}[self.config.decoder_output_stride]
        if self.config.backbone()["stride_placement"] == "last_3x3":
            detail += "_branch"  # the stage itself ends at twice the stride
        return self.decoder(context, detail=features[detail], training=training)

    def _features(self, images, training):
        images = tf.cast(images, tf.float32)
        normalized = (images - self.config.image_mean) / self.config.image_std
        normalized = tf.cast(normalized, self.compute_dtype)
        return self.backbone(normalized, training=training, recompute_stages=self._recompute_stages)

    def compile(
        self,
        optimizer="sgd",
        *,
        ignore_label: int = 255,
        auxiliary_loss_weight: float = 0.4,
        fine_tune_batch_norm: bool = True,
        seed: int = 0,
        recompute_stages: int = 0,
        **kwargs,
    ):
        """Sets how `fit` trains.

        Args:
          optimizer: a Keras optimizer.
          ignore_label: label of pixels that do not count.
          auxiliary_loss_weight: weight of the auxiliary head's loss.
          fine_tune_batch_norm: whether batch normalisation uses and updates batch statistics.
          seed: seed of dropout.
          recompute_stages: as of `ResNet.call`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        self._ignore_label = ignore_label
        self._auxiliary_loss_weight = auxiliary_loss_weight
        self._fine_tune_batch_norm = fine_tune_batch_norm
        self._seed = seed
        self._recompute_stages = recompute_stages

    @property
    def metrics(self):
        return [self.loss_tracker]

    @_plain_python
    def train_step(self, data):
        images, labels = data
        step = tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(self._seed, tf.int64), step])
        with compiled(self.jit_compile):
            with tf.GradientTape() as tape:
                outputs = self(
                    images, training=True, seed=seed, update_batch_norm=self._fine_tune_batch_norm
                )
                loss = self.segmentation_loss(outputs, labels)
            self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self._track(loss) | {"learning_rate": self.optimizer.learning_rate}

    def test_step(self, data):
        images, labels = data
        with compiled(self.jit_compile):
            loss = self.segmentation_loss(self(images, training=False), labels)
        return self._track(loss)

    def predict_step(self, data):
        with compiled(self.jit_compile):
            return super().predict_step(data)

    def segmentation_loss(self, outputs: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """Returns this replica's part of the loss; the parts of all replicas add up to it.

        Args:
          outputs: what `call` returned.
          labels: int32 [B, H, W, 1].
        """
        settings: dict[str, Any] = {
            "ignore_label": self._ignore_label,
            "align_corners": self.config.align_corners,
        }
        total, count = losses.cross_entropy(outputs["logits"], labels, **settings)
        if "aux_logits" in outputs:
            auxiliary, _ = losses.cross_entropy(outputs["aux_logits"], labels, **settings)
            total += self._auxiliary_loss_weight * auxiliary
        context = tf.distribute.get_replica_context()
        if context and context.num_replicas_in_sync > 1:
            count = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
        return tf.math.divide_no_nan(total, count)

    def _track(self, loss):
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync if context else 1
        self.loss_tracker.update_state(loss * replicas)
        return {"loss": self.loss_tracker.result()}

    def get_config(self):
        config = dataclasses.asdict(self.config) | {"num_classes": self.num_classes}
        return config | {"name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        fields = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
        values = {name: config[name] for name in fields}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(ModelConfig(**values), num_classes=config["num_classes"], name=config["name"])


@_plain_python
def build_model(config: ModelConfig | None = None, *, num_classes: int) -> DeepLab:
    """Builds DeepLab with its variables created.

    Args:
      config: the network; the default configuration if None.
      num_classes: channels of the logits.
    """
    model = DeepLab(config or ModelConfig(), num_classes=num_classes, name="deeplab")
    model.build([None, None, None, 3])
    return model

"""DeepLab: backbone, ASPP and classifier as one Keras model that knows its own loss."""

import contextlib
import dataclasses
from typing import Any

import tensorflow as tf

from deeplab_tf import process_state, seeds
from deeplab_tf.config import ModelConfig
from deeplab_tf.models.aspp import ASPP
from deeplab_tf.models.heads import AuxiliaryHead, Classifier, Decoder
from deeplab_tf.models.layers import NAMESPACE, compiled, part_of_batch
from deeplab_tf.models.resnet import ResNet
from deeplab_tf.training import gradients, losses
from deeplab_tf.weights import mapping

# Converting Python control flow, of which tensors decide none here, costs seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How `DeepLab.fit` trains; settings of the same names are explained in TrainConfig.

    ignore_label: label of pixels that do not count. seed: seed of dropout.
    """

    ignore_label: int = 255
    seed: int = 0
    auxiliary_loss_weight: float = 0.4
    fine_tune_batch_norm: bool = True
    label_weights: tuple[float, ...] = ()
    top_k_percent_pixels: float = 1.0
    hard_example_mining_step: int = 0
    gradient_accumulation_steps: int = 1
    clip_gradient_norm: float = 0.0
    last_layer_gradient_multiplier: float = 1.0
    last_layers_contain_logits_only: bool = False


def _sum_of_replicas(value):
    context = tf.distribute.get_replica_context()
    if context and context.num_replicas_in_sync > 1:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
    return value


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
        process_state.require_changing_weights()
        super().__init__(**kwargs)
        self.config = config
        self.num_classes = num_classes
        common: dict[str, Any] = {
            "batch_norm_decay": config.batch_norm_decay,
            "initializer": config.initializer_style(),
        }
        self.backbone = ResNet(**config.backbone(), name="backbone", **common)
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
            **common,
        )
        self.decoder = None
        if config.decoder_output_stride:
            self.decoder = Decoder(
                config.decoder_filters,
                reduction_filters=config.decoder_reduction_filters,
                separable=config.decoder_use_separable_conv,
                align_corners=config.align_corners,
                name="decoder",
                **common,
            )
        self.classifier = Classifier(
            num_classes,
            dropout_rate=config.dropout_rate,
            initializer=config.initializer_style(),
            name="classifier",
        )
        self.auxiliary_head = None
        if config.auxiliary_filters:
            self.auxiliary_head = AuxiliaryHead(
                config.auxiliary_filters,
                num_classes,
                dropout_rate=config.dropout_rate,
                name="auxiliary_head",
                **common,
            )
        self.loss_tracker = tf.keras.metrics.Mean(name="loss")
        self.distribute_reduction_method = "first"  # what a step returns is equal on all replicas
        self._recompute_stages = 0
        self._training = Training()

    def call(self, images, training=False, seed=None, update_batch_norm=True):
        """Returns the logits.

        Args:
          training: whether dropout is active and batch normalisation uses batch statistics.
          seed: int64 [2], what dropout draws from, each head independently; None draws anew.
          update_batch_norm: false keeps batch normalisation at its moving averages in training.
        """

        def dropout_of(head):
            return None if seed is None else seeds.stream(seed, f"dropout of {head}")

        norm_training = training and update_batch_norm
        features = self._features(images, norm_training)
        context = self._context(features, norm_training)
        dropout = dropout_of("classifier")
        outputs = {"logits": self.classifier(context, training=training, seed=dropout)}
        if self.auxiliary_head:
            outputs["aux_logits"] = self.auxiliary_head(
                features["stage3"],
                training=training,
                norm_training=norm_training,
                seed=dropout_of("auxiliary_head"),
            )
        return outputs

    @_plain_python
    def infer(self, images):
        """Returns the logits of `call` alone, without computing the auxiliary head."""
        return self.classifier(self._context(self._features(images, False), False))

    @contextlib.contextmanager
    def folded(self, image_size: tuple[int, ...] = ()):
        """Inference that is traced inside has no normalisation; yields its variables.

        Args:
          image_size: height and width; with it convolutions take the form that is fastest on CPUs
            for such images. They are right for all.
        """
        stride = self.config.output_stride
        map_size = tuple(-(-side // stride) for side in image_size)
        unused = set(self.auxiliary_head.submodules) if self.auxiliary_head else set()
        layers = [part for part in self.submodules if hasattr(part, "fold") and part not in unused]
        for layer in layers:
            layer.fold(map_size)
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

    def compile(self, optimizer="sgd", *, recompute_stages: int = 0, **kwargs):
        """Sets how `fit` trains.

        Args:
          optimizer: a Keras optimizer.
          recompute_stages: as of `ResNet.call`.
          **kwargs: the fields of `Training`, and what Keras' own `compile` takes.
        """
        names = {field.name for field in dataclasses.fields(Training)} & set(kwargs)
        self._training = Training(**{name: kwargs.pop(name) for name in names})
        self._recompute_stages = recompute_stages
        super().compile(optimizer=optimizer, **kwargs)

    @property
    def metrics(self):
        return [self.loss_tracker]

    @_plain_python
    def train_step(self, data):
        images, labels = data
        settings, optimizer = self._training, self.optimizer
        step = tf.cast(optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(settings.seed, tf.int64), step])
        with compiled(self.jit_compile):
            loss, found = self._gradients(images, labels, seed)
        variables = self.trainable_variables
        multiplier = settings.last_layer_gradient_multiplier
        summed = settings.clip_gradient_norm > 0
        if summed:
            found = gradients.clip(_sum_of_replicas(found), settings.clip_gradient_norm)
        if multiplier != 1.0:
            scopes = mapping.last_layers(logits_only=settings.last_layers_contain_logits_only)
            found = gradients.multiply(found, variables, scopes=scopes, factor=multiplier)
        pairs = zip(found, variables, strict=True)
        # Sums over replicas wait for all gradients; without them each is applied as it comes.
        sums = not summed and tf.distribute.get_strategy().num_replicas_in_sync > 1
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=sums)
        rate = optimizer.learning_rate
        if isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)  # TensorFlow Addons' optimizers keep the schedule itself
        return self._track(loss) | {"learning_rate": rate}

    def _gradients(self, images, labels, seed):
        """Returns this replica's part of the loss, and the gradients of that part."""
        settings, variables = self._training, self.trainable_variables
        parts = settings.gradient_accumulation_steps
        scaled = isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        mines = settings.top_k_percent_pixels != 1.0
        count = None
        if parts > 1 and not mines:
            count = _sum_of_replicas(losses.count_valid(labels, settings.ignore_label))

        def gradients_of(part):
            own = (images, labels)
            if parts > 1:
                own = tuple(gradients.slice_of(values, part, parts) for values in own)
            with part_of_batch(part, parts), tf.GradientTape() as tape:
                outputs = self(
                    own[0],
                    training=True,
                    seed=seed,
                    update_batch_norm=settings.fine_tune_batch_norm,
                )
                loss = self.segmentation_loss(outputs, own[1], count=count)
                if mines and parts > 1:
                    loss /= parts  # each is a batch of its own
                target = self.optimizer.get_scaled_loss(loss) if scaled else loss
            return loss, tape.gradient(target, variables)

        if parts == 1:
            loss, found = gradients_of(0)
        else:
            context = tf.distribute.get_replica_context()
            waits = context.num_replicas_in_sync > 1 and (settings.fine_tune_batch_norm or mines)
            loss, found = gradients.in_parts(gradients_of, variables, parts=parts, looped=not waits)
        return loss, self.optimizer.get_unscaled_gradients(found) if scaled else found

    def test_step(self, data):
        images, labels = data
        with compiled(self.jit_compile):
            loss = self.segmentation_loss(self(images, training=False), labels)
        return self._track(loss)

    def predict_step(self, data):
        with compiled(self.jit_compile):
            return super().predict_step(data)

    def segmentation_loss(
        self, outputs: dict[str, tf.Tensor], labels: tf.Tensor, *, count: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns this replica's part of the loss; the parts of all replicas add up to it.

        Args:
          outputs: what `call` returned.
          labels: int32 [B, H, W, 1].
          count: pixels that count in the global batch; None counts those of `labels`.
        """
        settings: dict[str, Any] = {
            "ignore_label": self._training.ignore_label,
            "align_corners": self.config.align_corners,
            "label_weights": self._training.label_weights,
        }
        mines = self._training.top_k_percent_pixels != 1.0
        if mines:
            settings["hardest"] = losses.hardest_share(
                self._training.top_k_percent_pixels,
                step=self.optimizer.iterations,
                ramp_steps=self._training.hard_example_mining_step,
            )
        total, own_count = losses.cross_entropy(outputs["logits"], labels, **settings)
        if mines:
            total = tf.math.divide_no_nan(total, _sum_of_replicas(own_count))
        if "aux_logits" in outputs:
            auxiliary, hard = losses.cross_entropy(outputs["aux_logits"], labels, **settings)
            if mines:
                auxiliary = tf.math.divide_no_nan(auxiliary, _sum_of_replicas(hard))
            total += self._training.auxiliary_loss_weight * auxiliary
        if mines:
            return total
        count = _sum_of_replicas(own_count) if count is None else count
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
        # A setting that is younger than what was saved has its default.
        values = {name: config.get(name, default) for name, default in fields.items()}
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

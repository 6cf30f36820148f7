"""DeepLab: backbone, ASPP and classifier as one Keras model, and how it takes a training step."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from deeplab_tf.config import LossConfig, ModelConfig, StepConfig
from deeplab_tf.models import heads, inputs, keras_metrics
from deeplab_tf.models.aspp import ASPP
from deeplab_tf.models.backbones import build_backbone
from deeplab_tf.models.inputs import InputError
from deeplab_tf.models.layers import NAMESPACE
from deeplab_tf.models.losses import SegmentationLoss
from deeplab_tf.ops import cross_entropy, gradients, replicas, seeds
from deeplab_tf.startup import process_state

# AutoGraph has nothing to convert here, since no tensor decides control flow; looking for it costs
# seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert


def _explained(method: Callable) -> Callable:
    """Wraps a method of tf.keras.Model so that a mistake in its inputs is told in one sentence."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(*args, **kwargs):
        if signature.bind(*args, **kwargs).arguments.get("class_weight") is not None:
            raise InputError(
                "class_weight is not taken; give compile(label_weights=...), one number for each "
                "class, which is the same factor on the loss of its pixels."
            )
        with inputs.one_sentence():
            return method(*args, **kwargs)

    return run


def _require_precision(policy: tf.keras.mixed_precision.Policy) -> None:
    """Refuses to keep weights and metrics in half precision, in which they do not train."""
    half = ("float16", "bfloat16")
    if policy.variable_dtype in half or tf.keras.backend.floatx() in half:
        raise InputError(
            f"Keras keeps weights in {policy.variable_dtype} and metrics in "
            f"{tf.keras.backend.floatx()}, too coarse to train with; call "
            "tf.keras.backend.set_floatx('float32') and, to compute in half precision, "
            "tf.keras.mixed_precision.set_global_policy('mixed_float16')."
        )


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DeepLab(tf.keras.Model):
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587).

    Called on images, float32 [B, H, W, 3], RGB in 0..255 (any H and W), it returns a dict:
    `logits`, float32 [B, ceil(H / output_stride), ceil(W / output_stride), classes] (with a
    decoder: its output stride), and, where the configuration has an auxiliary head, `aux_logits`
    of the third stage.

    In a notebook, `compile(optimizer=...)` and `fit` on (images, labels) train it, with its own
    loss or the one you give. Labels are class numbers, [B, H, W, 1] or [B, H, W]. The loss is the
    mean over the valid pixels of the global batch, under a tf.distribute strategy too;
    `sample_weight`, [B] or [B, H, W], multiplies the losses of pixels but not their number.
    """

    def __init__(self, config: ModelConfig, *, num_classes: int, **kwargs):
        process_state.require_changing_weights()
        super().__init__(**kwargs)
        _require_precision(self.dtype_policy)
        self.config = config
        self.num_classes = num_classes
        common: dict[str, Any] = {
            "batch_norm_decay": config.batch_norm_decay,
            "initializer": config.initializer_style(),
        }
        self.backbone = build_backbone(config, name="backbone")
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
            self.decoder = heads.Decoder(
                config.decoder_filters,
                reduction_filters=config.decoder_reduction_filters,
                separable=config.decoder_use_separable_conv,
                align_corners=config.align_corners,
                name="decoder",
                **common,
            )
        self.classifier = heads.Classifier(
            num_classes,
            dropout_rate=config.dropout_rate,
            initializer=config.initializer_style(),
            name="classifier",
        )
        self.auxiliary_head = None
        if config.auxiliary_filters:
            self.auxiliary_head = heads.AuxiliaryHead(
                config.auxiliary_filters,
                num_classes,
                dropout_rate=config.dropout_rate,
                name="auxiliary_head",
                **common,
            )
        self.loss_tracker = tf.keras.metrics.Mean(name="loss")

        self.distribute_reduction_method = "first"  # all replicas return the same from a step
        self._recompute_stages = 0
        self._step = StepConfig()
        self._check_values = True
        self._loss = SegmentationLoss()
        self._metric_functions: tuple[Callable, ...] = ()
        self._scale_warning = inputs.ScaleWarning()

    def __call__(self, images, *args, **kwargs):
        inputs.check_images(images)
        return super().__call__(images, *args, **kwargs)

    def call(
        self,
        images,
        training=False,
        seed=None,
        part=(0, 1),
        update_batch_norm=True,
        for_xla=False,
    ):
        """Returns the logits.

        Args:
          training: whether dropout is active and batch normalisation uses batch statistics.
          seed: int64 [2], the seed of dropout; each head draws from its own stream. None draws
            new numbers each time.
          part: (index, number) if the images are one of several equal parts of a replica's batch.
            Dropout then drops the same channels as in the whole batch.
          update_batch_norm: false makes batch normalisation use its moving averages in training.
          for_xla: as in `resize_bilinear`.
        """

        def dropout_of(head):
            stream = None if seed is None else seeds.stream(seed, f"dropout of {head}")
            return {"seed": stream, "part": part}

        norm_training = training and update_batch_norm
        features = self._features(images, norm_training)
        context = self._context(features, norm_training, for_xla)
        outputs = {
            "logits": self.classifier(context, training=training, **dropout_of("classifier"))
        }
        if self.auxiliary_head:
            outputs["aux_logits"] = self.auxiliary_head(
                features[self.backbone.auxiliary_end_point],
                training=training,
                norm_training=norm_training,
                **dropout_of("auxiliary_head"),
            )
        return outputs

    @_plain_python
    def infer(self, images):
        """Returns only the logits of `call`, without computing the auxiliary head."""
        return self.classifier(self._context(self._features(images, False), False))

    @contextlib.contextmanager
    def folded(self, image_size: tuple[int, ...] = ()):
        """Within this context `infer` has batch normalisation folded into its convolutions.

        For exports: trace `infer` inside. Yields the variables that it then uses.

        Args:
          image_size: height and width of most images; each convolution then takes the algorithm
            that is fastest on CPUs for them. Images of other sizes get the same results.
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

    def _context(self, features, training, for_xla=False):
        context = features[self.backbone.context_end_point]
        context = self.aspp(context, training=training, for_xla=for_xla)
        if self.decoder is None:
            return context
        end_point = self.backbone.decoder_end_point(self.config.decoder_output_stride)
        return self.decoder(context, detail=features[end_point], training=training, for_xla=for_xla)

    def _features(self, images, training):
        images = tf.cast(images, tf.float32)
        normalized = (images - self.config.image_mean) / self.config.image_std
        normalized = tf.cast(normalized, self.compute_dtype)
        return self.backbone(normalized, training=training, recompute_stages=self._recompute_stages)

    def compile(
        self,
        optimizer="sgd",
        loss=None,
        metrics=None,
        loss_weights=None,
        weighted_metrics=None,
        *,
        recompute_stages: int = 0,
        check_values: bool = True,
        from_serialized: bool = False,
        **kwargs,
    ):
        """Sets how `fit` trains.

        Args:
          optimizer: a Keras optimizer, or the name of one.
          loss: None for cross-entropy, a `SegmentationLoss`, or what that takes as `pixel_loss`.
            It is applied to `logits` and, with `auxiliary_loss_weight`, to `aux_logits`.
          metrics, weighted_metrics: as in `keras_metrics`; scored on `logits`.
          recompute_stages: as in `ResNet.call`.
          check_values: whether each step looks at its labels and at the scale of its images, which
            costs well below 1 % of a step.
          from_serialized: whether Keras calls this for a model that it loads.
          **kwargs: the settings of `StepConfig`, those of `LossConfig` with `ignore_label`, and
            what Keras' own `compile` takes.
        Raises:
          InputError: if one of them is not possible.
        """
        _require_precision(self.dtype_policy)
        if loss_weights is not None:
            raise InputError(
                "loss_weights is not taken; auxiliary_loss_weight weighs the auxiliary head's loss "
                "against the other, label_weights the classes."
            )
        if not from_serialized:  # a loaded model keeps the settings it was saved with
            self._step = inputs.make_settings(StepConfig, _taken(StepConfig, kwargs))
            self._check_values = check_values
            self._recompute_stages = recompute_stages
        self._loss = self._build_loss(loss, kwargs)
        metrics, weighted_metrics = map(keras_metrics.checked, (metrics, weighted_metrics))
        self._metric_functions = keras_metrics.functions([metrics, weighted_metrics])
        super().compile(
            optimizer,
            self._loss,
            metrics,
            weighted_metrics=weighted_metrics,
            from_serialized=from_serialized,
            **kwargs,
        )

    def _build_loss(self, loss: Any, kwargs: dict[str, Any]) -> SegmentationLoss:
        """Returns the loss that `compile` was given; takes its settings out of `kwargs`."""
        settings = _taken(LossConfig, kwargs)
        if "ignore_label" in kwargs:
            settings["ignore_label"] = kwargs.pop("ignore_label")
        if not isinstance(loss, SegmentationLoss):
            loss = SegmentationLoss(loss, align_corners=self.config.align_corners, **settings)
        elif settings:
            raise InputError(
                f"{', '.join(sorted(settings))} stand next to a SegmentationLoss; give them to it."
            )
        weights = loss.settings.label_weights
        if len(weights) not in (0, self.num_classes):
            raise InputError(
                f"label_weights are {len(weights)} numbers; allowed: none, or {self.num_classes}, "
                "one for each class."
            )
        return loss

    @property
    def metrics(self):
        others = [metric for metric in super().metrics if metric is not self.loss_tracker]
        return [self.loss_tracker, *others]

    fit = _explained(tf.keras.Model.fit)
    evaluate = _explained(tf.keras.Model.evaluate)
    predict = _explained(tf.keras.Model.predict)
    train_on_batch = _explained(tf.keras.Model.train_on_batch)
    test_on_batch = _explained(tf.keras.Model.test_on_batch)
    predict_on_batch = _explained(tf.keras.Model.predict_on_batch)

    def _checked(self, data):
        """Returns images, labels int32 [B, H, W, 1], and the pixels' weights or None."""
        images, labels, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        inputs.check_images(images)
        labels = inputs.class_labels(labels, images, self.num_classes)
        if self._check_values:
            images, labels, good = inputs.check_values(
                images,
                labels,
                num_classes=self.num_classes,
                ignore_label=self._loss.ignore_label,
            )
            if self.jit_compile:  # XLA leaves assertions out: the loss becomes NaN instead
                images = tf.cast(images, tf.float32) * tf.where(good, 1.0, float("nan"))
            else:
                self._scale_warning.look_at(images)
        if weights is not None:
            weights = inputs.pixel_weights(weights, labels)
        return images, tf.cast(labels, tf.int32), weights

    @_plain_python
    def train_step(self, data):
        """Takes one step: forward, loss, gradients, update.

        Each replica computes a share of the loss and of the gradients; the shares of all replicas
        add up to those of the global batch.
        """
        images, labels, weights = self._checked(data)
        step = tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(self._step.seed, tf.int64), step])

        loss, grads = self._loss_and_gradients(images, labels, weights, seed)
        self._update(grads)

        self.loss_tracker.update_state(loss * replicas.number())
        rate = self.optimizer.learning_rate
        if isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)  # TensorFlow Addons' optimizers keep the schedule itself
        return self.get_metrics_result() | {"learning_rate": tf.convert_to_tensor(rate)}

    def _loss_and_gradients(self, images, labels, weights, seed):
        """Returns this replica's share of the loss, and its gradients."""
        variables = self.trainable_variables
        batch = (images, labels) if weights is None else (images, labels, weights)
        parts = self._step.gradient_accumulation_steps
        num_pixels = self._pixels_of_global_batch(labels)
        scales_loss = isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

        def of_part(part):
            of_batch = batch if parts == 1 else [gradients.slice_of(v, part, parts) for v in batch]
            images, labels, *weights = of_batch
            with tf.GradientTape() as tape:
                outputs = self(
                    images,
                    training=True,
                    seed=seed,
                    part=(part, parts),
                    update_batch_norm=self._step.fine_tune_batch_norm,
                    for_xla=self.jit_compile,
                )
                loss = self.segmentation_loss(
                    outputs,
                    labels,
                    weights=weights[0] if weights else None,
                    num_pixels=num_pixels,
                    parts=parts,
                )
                target = self.optimizer.get_scaled_loss(loss) if scales_loss else loss
            self._update_metrics(outputs, labels, *weights)
            return loss, tape.gradient(target, variables)

        if parts == 1:
            loss, grads = of_part(0)
        else:
            # Replicas cannot wait for each other inside a loop of the graph, and they have to where
            # they exchange batch statistics, or how many pixels they selected.
            exchange = self._step.fine_tune_batch_norm or self._loss.selects_pixels
            looped = not exchange or replicas.number() == 1
            loss, grads = gradients.in_parts(of_part, variables, parts=parts, looped=looped)
        return loss, self.optimizer.get_unscaled_gradients(grads) if scales_loss else grads

    def _update(self, grads):
        """Applies this replica's gradients, clipped and multiplied as the settings say."""
        settings, variables = self._step, self.trainable_variables

        # Clipping needs the norm of the whole gradients. Otherwise the optimizer adds up the
        # replicas' shares, and applies each gradient as soon as it is there.
        is_clipped = settings.clip_gradient_norm > 0
        if is_clipped:
            grads = gradients.clip(replicas.total(grads), settings.clip_gradient_norm)

        if settings.last_layer_gradient_multiplier != 1.0:
            grads = gradients.multiply(
                grads,
                variables,
                scopes=heads.last_layers(logits_only=settings.last_layers_contain_logits_only),
                factor=settings.last_layer_gradient_multiplier,
            )

        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.optimizer.apply_gradients(
            zip(grads, variables, strict=True),
            experimental_aggregate_gradients=several and not is_clipped,
        )

    def test_step(self, data):
        images, labels, weights = self._checked(data)
        outputs = self(images, training=False, for_xla=self.jit_compile)
        loss, num_pixels = self._loss_of(outputs, labels, weights=weights)
        self._update_metrics(outputs, labels, weights)
        # Weighted by pixels: the mean over a data set must not depend on its batches.
        self.loss_tracker.update_state(loss * replicas.number(), sample_weight=num_pixels)
        return self.get_metrics_result()

    def predict_step(self, data):
        images, _, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        inputs.check_images(images)
        if self._check_values and not self.jit_compile:
            self._scale_warning.look_at(images)
        return self(images, training=False, for_xla=self.jit_compile)

    def _update_metrics(self, outputs, labels, weights=None):
        """Updates the metrics of `compile` with the enlarged logits."""
        containers = self.compiled_metrics
        if not (containers._user_metrics or containers._user_weighted_metrics):
            return
        logits = tf.stop_gradient(outputs["logits"])
        logits = cross_entropy.enlarge(
            logits,
            tf.shape(labels)[1:3],
            align_corners=self.config.align_corners,
            for_xla=self.jit_compile,
        )
        valid = inputs.is_valid(labels, self._loss.ignore_label)
        labels = tf.where(valid, labels, 0)
        for function in self._metric_functions:
            keras_metrics.check_function(function, labels, logits)
        if weights is not None:
            weights = tf.broadcast_to(weights, tf.shape(labels)[:3])
        logits._keras_mask = valid[..., 0]  # which Keras makes sample weights of
        containers.update_state(labels, logits, weights)

    def segmentation_loss(
        self,
        outputs: dict[str, tf.Tensor],
        labels: tf.Tensor,
        *,
        weights: tf.Tensor | None = None,
        num_pixels: tf.Tensor | None = None,
        parts: int = 1,
    ) -> tf.Tensor:
        """Returns this replica's share of the loss; the shares of all replicas add up to it.

        Args:
          outputs: what `call` returned.
          labels: int32 [B, H, W, 1].
          weights: factors on the pixels' losses, float32, broadcast to [B, H, W].
          num_pixels: how many pixels of the global batch count; None counts those of `labels`.
          parts: how many equal parts the batch is computed in, of which this is one.
        """
        loss, _ = self._loss_of(
            outputs, labels, weights=weights, num_pixels=num_pixels, parts=parts
        )
        return loss

    def _pixels_of_global_batch(self, labels):
        """Returns how many pixels of all replicas count; None if only the loss can tell."""
        if self._loss.selects_pixels:
            return None
        return replicas.total(self._loss.count(labels))

    def _loss_of(self, outputs, labels, *, weights=None, num_pixels=None, parts=1):
        """Returns `segmentation_loss`, and how many pixels it averages over all replicas.

        The number is of images if the loss averages pixels itself.
        """
        if num_pixels is None:
            num_pixels = self._pixels_of_global_batch(labels)

        def mean_of(logits):
            total, counted = self._loss.sums(
                logits,
                labels,
                weights=weights,
                step=self.optimizer.iterations,
                align_corners=self.config.align_corners,
                for_xla=self.jit_compile,
            )
            if counted is None:  # the loss has averaged its pixels: replicas weigh the same
                images = tf.cast(tf.shape(labels)[0] * replicas.number(), tf.float32)
                return total / (replicas.number() * parts), images
            if num_pixels is not None:
                return tf.math.divide_no_nan(total, num_pixels), num_pixels
            selected = replicas.total(counted)
            return tf.math.divide_no_nan(total, selected) / parts, selected

        loss, averaged = mean_of(outputs["logits"])
        if "aux_logits" in outputs:
            auxiliary, _ = mean_of(outputs["aux_logits"])
            loss += self._loss.settings.auxiliary_loss_weight * auxiliary
        return loss, averaged

    def get_config(self):
        training = dataclasses.asdict(self._step) | {
            "recompute_stages": self._recompute_stages,
            "check_values": self._check_values,
        }
        return dataclasses.asdict(self.config) | {
            "num_classes": self.num_classes,
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "training": training,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        fields = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
        # Settings that are newer than the saved model get their defaults.
        values = {name: config.get(name, default) for name, default in fields.items()}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        policy = config.get("dtype") or tf.keras.mixed_precision.global_policy().name
        with process_state.keras_settings(policy):
            model = cls(
                ModelConfig(**values), num_classes=config["num_classes"], name=config["name"]
            )
        training = dict(config.get("training", {}))
        model._recompute_stages = training.pop("recompute_stages", 0)
        model._check_values = training.pop("check_values", True)
        model._step = StepConfig(**training)
        model.make_variables()  # a clone is ready for weights
        return model

    def make_variables(self) -> None:
        """Builds the model for images of any size, ready to be saved before it is called."""
        self.build([None, None, None, 3])
        self._set_save_spec(tf.TensorSpec([None, None, None, 3], tf.float32, name="images"))

    def build_from_config(self, config):
        """Does nothing: `from_config` has made the variables."""

    def compile_from_config(self, config):
        """Compiles as the saved model was, and makes the optimizer's variables to restore."""
        config = tf.keras.saving.deserialize_keras_object(config)
        self.compile(
            **config,
            **dataclasses.asdict(self._step),
            recompute_stages=self._recompute_stages,
            check_values=self._check_values,
        )
        if self.built and isinstance(self.optimizer, tf.keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)


def _taken(kind: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes the settings of a group out of keyword arguments."""
    names = {field.name for field in dataclasses.fields(kind)} & set(kwargs)  # type: ignore[arg-type]
    return {name: kwargs.pop(name) for name in names}


@_plain_python
def build_model(config: ModelConfig | None = None, *, num_classes: int) -> DeepLab:
    """Builds DeepLab with its variables created.

    Args:
      config: the network; the default configuration if None.
      num_classes: channels of the logits.
    """
    model = DeepLab(config or ModelConfig(), num_classes=num_classes, name="deeplab")
    model.make_variables()
    return model

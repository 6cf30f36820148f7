"""DeepLab: backbone, ASPP and classifier as one Keras model, with its loss."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from deeplab_tf import process_state, seeds
from deeplab_tf.config import ModelConfig
from deeplab_tf.models import cross_entropy, inputs, keras_metrics, losses
from deeplab_tf.models.aspp import ASPP
from deeplab_tf.models.heads import AuxiliaryHead, Classifier, Decoder
from deeplab_tf.models.inputs import InputError
from deeplab_tf.models.layers import NAMESPACE, compiled, part_of_batch
from deeplab_tf.models.losses import LossSettings, SegmentationLoss
from deeplab_tf.models.resnet import ResNet
from deeplab_tf.training import gradients
from deeplab_tf.weights import mapping

# No tensor decides control flow here, and converting Python costs seconds at each start.
_plain_python = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How `DeepLab.fit` trains; settings of the same names are explained in TrainConfig.

    seed: seed of dropout. check_values: whether each step looks at its labels and at the scale of
    its images, which costs well below 1 % of a step.
    """

    seed: int = 0
    fine_tune_batch_norm: bool = True
    gradient_accumulation_steps: int = 1
    clip_gradient_norm: float = 0.0
    last_layer_gradient_multiplier: float = 1.0
    last_layers_contain_logits_only: bool = False
    check_values: bool = True


def _sum_of_replicas(value):
    context = tf.distribute.get_replica_context()
    if context and context.num_replicas_in_sync > 1:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
    return value


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _explained(method: Callable) -> Callable:
    """Wraps a method of tf.keras.Model: mistakes in its inputs end in one sentence."""
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
    """Refuses weights and metrics of half precision, which do not train."""
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

    In a notebook, `compile(optimizer=...)` and `fit` on (images, labels) train it: the loss is
    its own, or any that is given. `fit` under a tf.distribute strategy averages over the global
    batch's valid pixels. Labels are class numbers [B, H, W, 1] or [B, H, W]; `sample_weight`, [B]
    or [B, H, W], multiplies the losses of pixels and leaves the divisor, their number.
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
        self._loss = SegmentationLoss()
        self._metric_functions: tuple[Callable, ...] = ()
        self._scale_warning = inputs.ScaleWarning()

    def __call__(self, images, *args, **kwargs):
        inputs.check_images(images)
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=False, seed=None, update_batch_norm=True):
        """Returns the logits.

        Args:
          training: whether dropout is active and batch normalisation uses batch statistics.
          seed: int64 [2], what dropout draws from, each head independently; None draws
            new numbers each time.
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
        """Returns only the logits of `call`, without computing the auxiliary head."""
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

    def compile(
        self,
        optimizer="sgd",
        loss=None,
        metrics=None,
        loss_weights=None,
        weighted_metrics=None,
        *,
        recompute_stages: int = 0,
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
          from_serialized: whether Keras calls this for a model that it loads.
          **kwargs: the fields of `Training` and `LossSettings`, and what Keras' own `compile`
            takes.
        Raises:
          InputError: if one of them is not possible.
        """
        _require_precision(self.dtype_policy)
        if loss_weights is not None:
            raise InputError(
                "loss_weights is not taken; auxiliary_loss_weight weighs the auxiliary head's loss "
                "against the other, label_weights the classes."
            )
        if not from_serialized:  # else as saved
            names = {field.name for field in dataclasses.fields(Training)} & set(kwargs)
            self._training = Training(**{name: kwargs.pop(name) for name in names})
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
        names = {field.name for field in dataclasses.fields(LossSettings)} & set(kwargs)
        settings = {name: kwargs.pop(name) for name in names}
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
        if self._training.check_values:
            images, labels, good = inputs.check_values(
                images,
                labels,
                num_classes=self.num_classes,
                ignore_label=self._loss.settings.ignore_label,
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
        images, labels, weights = self._checked(data)
        settings, optimizer = self._training, self.optimizer
        step = tf.cast(optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(settings.seed, tf.int64), step])
        with compiled(self.jit_compile):
            loss, found = self._gradients(images, labels, weights, seed)
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
        self.loss_tracker.update_state(loss * _replicas())
        return self.get_metrics_result() | {"learning_rate": tf.convert_to_tensor(rate)}

    def _gradients(self, images, labels, weights, seed):
        """Returns this replica's part of the loss, and the gradients of that part."""
        settings, variables = self._training, self.trainable_variables
        parts = settings.gradient_accumulation_steps
        scaled = isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        mines = self._loss.mines
        count = None
        if parts > 1 and not mines:
            ignore_label = self._loss.settings.ignore_label
            count = _sum_of_replicas(losses.count_valid(labels, ignore_label))
        weights = () if weights is None else (weights,)

        def gradients_of(part):
            own = (images, labels, *weights)
            if parts > 1:
                own = tuple(gradients.slice_of(values, part, parts) for values in own)
            with part_of_batch(part, parts), tf.GradientTape() as tape:
                outputs = self(
                    own[0],
                    training=True,
                    seed=seed,
                    update_batch_norm=settings.fine_tune_batch_norm,
                )
                loss = self.segmentation_loss(
                    outputs, own[1], weights=own[2] if weights else None, count=count, parts=parts
                )
                target = self.optimizer.get_scaled_loss(loss) if scaled else loss
            self._update_metrics(outputs, *own[1:])
            return loss, tape.gradient(target, variables)

        if parts == 1:
            loss, found = gradients_of(0)
        else:
            context = tf.distribute.get_replica_context()
            waits = context.num_replicas_in_sync > 1 and (settings.fine_tune_batch_norm or mines)
            loss, found = gradients.in_parts(gradients_of, variables, parts=parts, looped=not waits)
        return loss, self.optimizer.get_unscaled_gradients(found) if scaled else found

    def test_step(self, data):
        images, labels, weights = self._checked(data)
        with compiled(self.jit_compile):
            outputs = self(images, training=False)
            loss, pixels = self._loss_of(outputs, labels, weights=weights)
            self._update_metrics(outputs, labels, *([] if weights is None else [weights]))
        # Weighted by pixels: the mean over a data set must not depend on its batches.
        self.loss_tracker.update_state(loss * _replicas(), sample_weight=pixels)
        return self.get_metrics_result()

    def predict_step(self, data):
        images, _, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        inputs.check_images(images)
        if self._training.check_values and not self.jit_compile:
            self._scale_warning.look_at(images)
        with compiled(self.jit_compile):
            return super().predict_step(data)

    def _update_metrics(self, outputs, labels, weights=None):
        """Updates the metrics of `compile` with the enlarged logits."""
        containers = self.compiled_metrics
        if not (containers._user_metrics or containers._user_weighted_metrics):
            return
        logits = tf.stop_gradient(outputs["logits"])
        size, corners = tf.shape(labels)[1:3], self.config.align_corners
        logits = cross_entropy.enlarge(logits, size, align_corners=corners)
        valid = inputs.is_valid(labels, self._loss.settings.ignore_label)
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
        count: tf.Tensor | None = None,
        parts: int = 1,
    ) -> tf.Tensor:
        """Returns this replica's part of the loss; the parts of all replicas add up to it.

        Args:
          outputs: what `call` returned.
          labels: int32 [B, H, W, 1].
          weights: factors on the pixels' losses, float32, broadcast to [B, H, W].
          count: pixels that count in the global batch; None counts those of `labels`.
          parts: how many parts the batch is computed in, of which this is one.
        """
        return self._loss_of(outputs, labels, weights=weights, count=count, parts=parts)[0]

    def _loss_of(self, outputs, labels, *, weights=None, count=None, parts=1):
        """Returns `segmentation_loss`, and the number of pixels in the global batch it averages.

        The number is of images if the loss averages over pixels itself.
        """
        loss = self._loss
        settings: dict[str, Any] = {
            "weights": weights,
            "align_corners": self.config.align_corners,
            "step": self.optimizer.iterations,
        }
        total, own_count = loss.sums(outputs["logits"], labels, **settings)
        # If only the loss knows how many pixels it averages, each part counts as a whole batch.
        is_mean = loss.mines or own_count is None
        if own_count is None:
            pixels = tf.cast(tf.shape(labels)[0] * _replicas(), tf.float32)
            total /= _replicas()
        elif loss.mines:
            pixels = _sum_of_replicas(own_count)
            total = tf.math.divide_no_nan(total, pixels)
        if "aux_logits" in outputs:
            auxiliary, hard = loss.sums(outputs["aux_logits"], labels, **settings)
            if hard is None:
                auxiliary /= _replicas()
            elif loss.mines:
                auxiliary = tf.math.divide_no_nan(auxiliary, _sum_of_replicas(hard))
            total += loss.settings.auxiliary_loss_weight * auxiliary
        if is_mean:
            return (total / parts if parts > 1 else total), pixels
        pixels = _sum_of_replicas(own_count) if count is None else count
        return tf.math.divide_no_nan(total, pixels), pixels

    def get_config(self):
        training = {"recompute_stages": self._recompute_stages}
        return dataclasses.asdict(self.config) | {
            "num_classes": self.num_classes,
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "training": dataclasses.asdict(self._training) | training,
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
        model._training = Training(**training)
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
        settings = dataclasses.asdict(self._training)
        config = tf.keras.saving.deserialize_keras_object(config)
        self.compile(**config, **settings, recompute_stages=self._recompute_stages)
        if self.built and isinstance(self.optimizer, tf.keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)


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

"""DeepLab as one Keras model: backbone and heads, and its training step."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from deeplab_tf.config import LossConfig, ModelConfig, StepConfig, earlier_versions
from deeplab_tf.models import assembly, heads, image_pyramid, inputs, keras_metrics
from deeplab_tf.models.backbones import build_backbone
from deeplab_tf.models.forward_pass import ForwardPass
from deeplab_tf.models.inputs import InputError
from deeplab_tf.models.layers import NAMESPACE
from deeplab_tf.models.losses import SegmentationLoss
from deeplab_tf.ops import cross_entropy, gradients, replicas
from deeplab_tf.startup import process_state

# AutoGraph would turn `if tensor:` into graph operations. No function here has one, and looking for
# it would cost seconds each time that a program starts.
_plain_python = tf.autograph.experimental.do_not_convert


@tf.keras.utils.register_keras_serializable(NAMESPACE)
class DeepLab(tf.keras.Model):
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), with a decoder V3+ (arXiv:1802.02611).

    Call it on images, float32 [B, H, W, 3], RGB in 0..255, of any H and W; with more or fewer
    numbers in `image_mean`, on images of as many channels. It returns a dict:
    `logits`, float32 [B, ceil(H / stride), ceil(W / stride), classes], where the stride is
    `output_stride`, or with a decoder its last `decoder_output_stride`; and `aux_logits` of the
    third stage, if the configuration has an auxiliary head. With several scales in `image_pyramid`,
    `logits` are merged, have the size of the largest scale, and come with `scales`: such a dict of
    each scale.

    To train it in a notebook, call `compile(optimizer=...)` and then `fit` on (images, labels).
    Labels are class numbers, [B, H, W, 1] or [B, H, W]. The loss is the mean over the valid pixels
    of the global batch, also under a tf.distribute strategy. `sample_weight`, [B] or [B, H, W],
    multiplies the losses of pixels; the sum is still divided by the number of pixels. What
    `add_loss` is given is added to it.

    Raises:
      InputError: if Keras is set to keep weights or metrics in half precision.
      UserError: if this process cannot train (see `process_state.require_changing_weights`).
    """

    def __init__(self, config: ModelConfig, *, num_classes: int, **kwargs):
        process_state.require_changing_weights()
        super().__init__(**kwargs)
        inputs.require_full_precision(self.dtype_policy)
        self.config = config
        self.num_classes = num_classes

        self.backbone = build_backbone(config, name="backbone")
        context = assembly.build_context(config)
        self.aspp = None if config.dense_prediction_cell_json else context
        self.cell = context if config.dense_prediction_cell_json else None

        # The first step has a name of its own, under which checkpoints keep it.
        decoders = assembly.build_decoders(config, num_classes=num_classes)
        self.decoder = decoders[0] if decoders else None
        self.later_decoders = decoders[1:]
        self.classifier = assembly.build_classifier(config, num_classes=num_classes)
        self.auxiliary_head = assembly.build_auxiliary_head(config, num_classes=num_classes)

        # All replicas return the same numbers from a step, so Keras need not combine them.
        self.distribute_reduction_method = "first"
        self.loss_tracker = tf.keras.metrics.Mean(name="loss")

        # `compile` replaces these.
        self._recompute_stages = 0
        self._step = StepConfig()
        self._check_values = True
        self._detailed_logs = False
        self._loss = SegmentationLoss()
        self._metric_functions: tuple[Callable, ...] = ()
        self._scale_warning = inputs.ScaleWarning()

    def __call__(self, images, *args, **kwargs):
        inputs.check_images(images, self.config.image_channels)
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
        """Returns the logits, as the class describes them.

        Args:
          training: whether dropout is active and batch normalisation uses batch statistics.
          seed: int64 [2], the seed of dropout. None draws new numbers each time.
          part: (index, number) if the images are one of several equal parts of a replica's batch.
            Dropout then drops the same as in the whole batch.
          update_batch_norm: false makes batch normalisation use its moving averages in training.
          for_xla: as in `resize_bilinear`.
        """
        run = ForwardPass(
            training=training,
            norm_training=training and update_batch_norm,
            seed=seed,
            part=part,
            for_xla=for_xla,
        )
        return self._over_scales(self.at_one_scale, images, run)

    @_plain_python
    def infer(self, images, *, with_pyramid: bool = True):
        """Returns only the logits of `call`, without computing the auxiliary head.

        Args:
          with_pyramid: whether to look at the images at each scale of `image_pyramid`.
        """

        def outputs_of(images, run):
            return {"logits": self._logits(self._features(images, run), run)}

        if not with_pyramid:
            return outputs_of(images, ForwardPass())["logits"]
        return self._over_scales(outputs_of, images, ForwardPass())["logits"]

    def _over_scales(self, outputs_of, images, run):
        """Returns the outputs for the images, seen at each scale of the image pyramid."""
        config = self.config
        if not config.image_pyramid:
            return outputs_of(images, run)
        return image_pyramid.over_scales(
            lambda scaled, index: outputs_of(scaled, run.of_scale(index)),
            tf.cast(images, tf.float32),
            scales=config.image_pyramid,
            merge_method=config.merge_method,
            stride=config.logits_stride(),
            align_corners=config.align_corners,
            for_xla=run.for_xla,
        )

    @contextlib.contextmanager
    def folded(self, image_size: tuple[int, ...] = ()):
        """Inside this context, `infer` has batch normalisation folded into its convolutions.

        An export traces `infer` inside it. Yields the variables that `infer` then uses instead of
        the model's.

        Args:
          image_size: height and width of most images. Each convolution then takes the algorithm
            that is fastest on CPUs for this size; other sizes get the same results.
        """
        stride = self.config.output_stride
        map_size = tuple(-(-side // stride) for side in image_size)

        # `infer` leaves the auxiliary head out, so an export needs no weights of it.
        unused = set(self.auxiliary_head.submodules) if self.auxiliary_head else set()
        layers = [layer for layer in self.submodules if hasattr(layer, "fold")]
        layers = [layer for layer in layers if layer not in unused]

        for layer in layers:
            layer.fold(map_size)
        try:
            yield [variable for layer in layers for variable in layer.folded]
        finally:
            for layer in layers:
                layer.use_own_weights()

    def at_one_scale(self, images: tf.Tensor, run: ForwardPass) -> dict[str, tf.Tensor]:
        """Returns what `call` does without an image pyramid: logits, and the auxiliary head's."""
        features = self._features(images, run)
        outputs = {"logits": self._logits(features, run)}

        if self.auxiliary_head:
            outputs["aux_logits"] = self.auxiliary_head(
                features[self.backbone.auxiliary_end_point],
                training=run.training,
                norm_training=run.norm_training,
                **run.dropout("auxiliary_head"),
            )
        return outputs

    def _features(self, images, run):
        """Returns the backbone's feature maps of images in 0..255, by name."""
        # Normalised in float32 under every policy; only the result may be in half precision.
        images = tf.cast(images, tf.float32)
        normalized = (images - self.config.image_mean) / self.config.image_std
        normalized = tf.cast(normalized, self.compute_dtype)
        return self.backbone(
            normalized, training=run.norm_training, recompute_stages=self._recompute_stages
        )

    def _logits(self, features, run):
        """Returns the logits that the heads make of the backbone's feature maps."""
        context_head: Any = self.aspp or self.cell
        outputs = context_head(
            features[self.backbone.context_end_point],
            training=run.training,
            norm_training=run.norm_training,
            for_xla=run.for_xla,
            **run.dropout(context_head.name),
        )

        decoders = [self.decoder, *self.later_decoders] if self.decoder else []
        strides = self.config.decoder_output_stride
        for decoder, stride in zip(decoders, strides, strict=True):
            detail = features[self.backbone.decoder_end_point(stride)]
            outputs = decoder(
                outputs, detail=detail, training=run.norm_training, for_xla=run.for_xla
            )

        if self.classifier is None:
            return outputs
        return self.classifier(outputs, training=run.training, **run.dropout("classifier"))

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
        detailed_logs: bool = False,
        from_serialized: bool = False,
        **kwargs,
    ):
        """Sets how `fit` trains and what `evaluate` scores.

        Args:
          optimizer: a Keras optimizer, or the name of one.
          loss: None for cross-entropy, a `SegmentationLoss`, or anything that `SegmentationLoss`
            takes as `pixel_loss`, such as "dice" or ["cross_entropy", DiceLoss()]. It is applied to
            `logits` and, times `auxiliary_loss_weight`, to `aux_logits`.
          loss_weights: factors on several losses, one for each.
          metrics, weighted_metrics: as in `keras_metrics`; they score `logits`.
          recompute_stages: as in `ResNet.call`.
          check_values: whether each step checks its labels and the scale of its images. This costs
            well below 1 % of a step.
          detailed_logs: whether a training step also returns what `_details` does, only of this
            step.
          from_serialized: true if Keras calls this for a model that it loads.
          **kwargs: the settings of `StepConfig` and `LossConfig`, `ignore_label`, and what Keras'
            own `compile` takes.
        Raises:
          InputError: if a value is not possible.
        """
        inputs.require_full_precision(self.dtype_policy)
        if not from_serialized:  # a loaded model keeps the settings that it was saved with
            self._step = inputs.make_settings(StepConfig, _pop_settings(StepConfig, kwargs))
            self._check_values = check_values
            self._recompute_stages = recompute_stages
            self._detailed_logs = detailed_logs

        if loss_weights is not None:
            kwargs["loss_weights"] = loss_weights
        self._loss = self._build_loss(loss, kwargs)
        metrics, weighted_metrics = (
            keras_metrics.checked(given, num_classes=self.num_classes)
            for given in (metrics, weighted_metrics)
        )
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
        """Makes a SegmentationLoss of the loss that `compile` was given.

        Removes the settings of the loss from `kwargs`, since Keras' `compile` does not know them.
        """
        settings = _pop_settings(LossConfig, kwargs)
        if "ignore_label" in kwargs:
            settings["ignore_label"] = kwargs.pop("ignore_label")

        if not isinstance(loss, SegmentationLoss):
            loss = SegmentationLoss(loss, align_corners=self.config.align_corners, **settings)
        elif settings:
            raise InputError(
                f"{', '.join(sorted(settings))} cannot be given to compile together with a "
                "SegmentationLoss; give SegmentationLoss(...) these values."
            )

        weights = loss.settings.label_weights
        if len(weights) not in (0, self.num_classes):
            raise InputError(
                f"label_weights holds {len(weights)}; allowed: none, or {self.num_classes} "
                "numbers, one for each class."
            )
        return loss

    @property
    def metrics(self):
        """All metrics, the loss first; `fit` and `evaluate` report them in this order."""
        others = [metric for metric in super().metrics if metric is not self.loss_tracker]
        return [self.loss_tracker, *others]

    fit = inputs.explained(tf.keras.Model.fit)
    evaluate = inputs.explained(tf.keras.Model.evaluate)
    predict = inputs.explained(tf.keras.Model.predict)
    train_on_batch = inputs.explained(tf.keras.Model.train_on_batch)
    test_on_batch = inputs.explained(tf.keras.Model.test_on_batch)
    predict_on_batch = inputs.explained(tf.keras.Model.predict_on_batch)

    def _checked(self, data):
        """Returns images, labels int32 [B, H, W, 1], and the pixels' weights or None.

        Raises:
          InputError: if they do not fit the model or each other.
        """
        images, labels, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        inputs.check_images(images, self.config.image_channels)
        labels = inputs.class_labels(labels, images, self.num_classes)

        if self._check_values:
            images, labels, good = inputs.check_values(
                images,
                labels,
                num_classes=self.num_classes,
                ignore_label=self._loss.ignore_label,
            )
            if self.jit_compile:
                # XLA removes assertions. So bad values must make the loss NaN, or the step would
                # train on them unnoticed.
                images = tf.cast(images, tf.float32) * tf.where(good, 1.0, float("nan"))
            else:
                self._scale_warning.look_at(images)

        if weights is not None:
            weights = inputs.pixel_weights(weights, labels)
        return images, tf.cast(labels, tf.int32), weights

    @_plain_python
    def train_step(self, data):
        """Runs one training step: forward pass, loss, gradients, update of the weights.

        Each replica computes a share of the loss and of the gradients. The shares of all replicas
        add up to the loss and the gradients of the global batch.
        """
        images, labels, weights = self._checked(data)

        # Dropout depends only on the run's seed and the step, so a resumed run draws the same.
        step = tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(self._step.seed, tf.int64), step])

        losses, grads = self._losses_and_gradients(images, labels, weights, seed)
        norm = self._update(grads)

        # The tracker averages over replicas, and the loss is the sum of the shares.
        self.loss_tracker.update_state(losses[0] * replicas.number())

        rate = self.optimizer.learning_rate
        if isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)  # TensorFlow Addons' optimizers return the schedule itself
        logs = self.get_metrics_result() | {"learning_rate": tf.convert_to_tensor(rate)}
        return logs | self._details(images, losses, norm) if self._detailed_logs else logs

    def _details(self, images, losses, norm):
        """Returns more about a step, by name.

        `main_loss` and `auxiliary_loss`, which add up to the loss, if there is an auxiliary head.
        `gradient_norm`, the norm of all gradients before they are clipped, if no replica has to
        wait for it. `input_ready`, the time at which the step had its images, in seconds since
        1970, float64, unless XLA compiles the step.
        """
        details: dict[str, tf.Tensor] = {}
        if self.auxiliary_head:
            total, auxiliary = tf.unstack(replicas.total(losses))
            details |= {"main_loss": total - auxiliary, "auxiliary_loss": auxiliary}
        if norm is not None:
            details["gradient_norm"] = norm
        if not self.jit_compile:
            # GPUs have no such operation.
            with tf.device("CPU:0"), tf.control_dependencies([images]):
                details["input_ready"] = tf.timestamp()
        return details

    def _losses_and_gradients(self, images, labels, weights, seed):
        """Returns this replica's share of the loss and of its auxiliary part [2]; its gradients."""
        variables = self.trainable_variables
        batch = (images, labels) if weights is None else (images, labels, weights)
        parts = self._step.gradient_accumulation_steps

        # Counted once for all parts: the loss of each part is divided by the pixels of all.
        compute = functools.partial(
            self._part_losses_and_gradients,
            num_pixels=self._pixels_of_global_batch(labels),
            seed=seed,
            parts=parts,
        )

        if parts == 1:
            losses, grads = compute(batch, part=0)
        else:
            # Replicas cannot wait for each other inside a loop of the graph. They have to if they
            # exchange batch statistics, or numbers of the loss.
            exchanges = self._step.fine_tune_batch_norm or self._loss.exchanges_in_parts
            losses, grads = gradients.in_parts(
                lambda part: compute(
                    [gradients.slice_of(values, part, parts) for values in batch], part=part
                ),
                variables,
                parts=parts,
                looped=not exchanges or replicas.number() == 1,
                loss_shape=(2,),
            )

        return losses, self.optimizer.get_unscaled_gradients(grads) if self._scales_loss else grads

    def _part_losses_and_gradients(self, batch, *, num_pixels, seed, part, parts):
        """Returns what `_losses_and_gradients` does, for one part of a replica's batch.

        The gradients are still multiplied by the loss scale, if the optimizer has one.
        """
        images, labels, *weights = batch
        with tf.GradientTape() as tape:
            outputs = self(
                images,
                training=True,
                seed=seed,
                part=(part, parts),
                update_batch_norm=self._step.fine_tune_batch_norm,
                for_xla=self.jit_compile,
            )

            loss, auxiliary, _ = self._losses_and_pixels(
                outputs,
                labels,
                weights=weights[0] if weights else None,
                num_pixels=num_pixels,
                parts=parts,
            )
            loss = self._with_added_losses(loss, parts)
            target = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss

        self._update_metrics(outputs, labels, *weights)
        return tf.stack([loss, auxiliary]), tape.gradient(target, self.trainable_variables)

    @property
    def _scales_loss(self) -> bool:
        """Whether the optimizer scales the loss up, so that float16 can hold small gradients."""
        return isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

    def _update(self, grads):
        """Clips and multiplies this replica's gradients by the settings, then applies them.

        Returns the norm of the global batch's gradients as they came; None if only the optimizer
        adds up the replicas' shares.
        """
        settings, variables = self._step, self.trainable_variables

        # Clipping needs the norm of the global batch's gradients, so the replicas' shares are added
        # up here. Otherwise the optimizer does that, for each gradient as soon as it is computed.
        is_clipped = settings.clip_gradient_norm > 0
        if is_clipped:
            grads = replicas.total(grads)
        is_whole = is_clipped or replicas.number() == 1
        norm = tf.linalg.global_norm(grads) if is_whole and self._detailed_logs else None
        if is_clipped:
            grads = gradients.clip(grads, settings.clip_gradient_norm)

        if settings.last_layer_gradient_multiplier != 1.0:
            grads = gradients.multiply(
                grads,
                variables,
                scopes=heads.last_layers(
                    logits_only=settings.last_layers_contain_logits_only,
                    decoder_output_is_logits=assembly.has_logits_decoder(self.config),
                ),
                factor=settings.last_layer_gradient_multiplier,
            )

        has_several_replicas = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.optimizer.apply_gradients(
            zip(grads, variables, strict=True),
            experimental_aggregate_gradients=has_several_replicas and not is_clipped,
        )
        return norm

    def test_step(self, data):
        """Scores one batch: the loss and the metrics of `compile`."""
        images, labels, weights = self._checked(data)
        outputs = self(images, training=False, for_xla=self.jit_compile)
        loss, _, num_pixels = self._losses_and_pixels(outputs, labels, weights=weights)
        loss = self._with_added_losses(loss)
        self._update_metrics(outputs, labels, weights)

        # Weighted by pixels, so that the mean over a data set does not depend on its batches.
        self.loss_tracker.update_state(loss * replicas.number(), sample_weight=num_pixels)
        return self.get_metrics_result()

    def predict_step(self, data):
        """Returns the output of `call` for one batch; labels, if there are any, are not used."""
        images, _, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        inputs.check_images(images, self.config.image_channels)
        if self._check_values and not self.jit_compile:
            self._scale_warning.look_at(images)
        return self(images, training=False, for_xla=self.jit_compile)

    def _update_metrics(self, outputs, labels, weights=None):
        """Updates the metrics of `compile` with the logits, enlarged to the labels' size."""
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

        # Ignored pixels get a class that exists, since a metric looks at every label; the mask
        # below then leaves them out.
        valid = inputs.is_valid(labels, self._loss.ignore_label)
        labels = tf.where(valid, labels, 0)
        for function in self._metric_functions:
            keras_metrics.check_function(function, labels, logits)
        if weights is not None:
            weights = tf.broadcast_to(weights, tf.shape(labels)[:3])

        logits._keras_mask = valid[..., 0]  # Keras turns it into sample weights
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
          num_pixels: number of pixels that count in the global batch; None counts them in
            `labels`.
          parts: number of equal parts that the batch is computed in; `labels` are one of them.
        """
        loss, _, _ = self._losses_and_pixels(
            outputs, labels, weights=weights, num_pixels=num_pixels, parts=parts
        )
        return loss

    def _pixels_of_global_batch(self, labels):
        """Returns the number of pixels that count on all replicas.

        It is None if only the hardest pixels count, since only their losses tell which they are.
        """
        if self._loss.selects_pixels:
            return None
        return replicas.total(self._loss.count(labels))

    def _losses_and_pixels(self, outputs, labels, *, weights=None, num_pixels=None, parts=1):
        """Returns `segmentation_loss`, and what the auxiliary head has in it.

        Also returns the number of pixels on all replicas that it averages over. If the loss
        averages the pixels itself, that is the number of images instead.
        """
        if num_pixels is None:
            num_pixels = self._pixels_of_global_batch(labels)
        how = {"weights": weights, "num_pixels": num_pixels, "parts": parts}

        def share_of(head):
            return self._loss.share(
                outputs[head],
                labels,
                **how,
                step=self.optimizer.iterations,
                align_corners=self.config.align_corners,
                for_xla=self.jit_compile,
            )

        loss, averaged = share_of("logits")
        auxiliary = tf.zeros([])
        if "aux_logits" in outputs:
            mean, _ = share_of("aux_logits")
            auxiliary = self._loss.settings.auxiliary_loss_weight * mean
            loss += auxiliary

        # Each scale of an image pyramid is trained as if it were alone, and the merged logits too.
        for scale in outputs.get("scales", ()):
            of_scale, auxiliary_of_scale, _ = self._losses_and_pixels(scale, labels, **how)
            loss += of_scale
            auxiliary += auxiliary_of_scale
        return loss, auxiliary, averaged

    def _with_added_losses(self, loss, parts=1):
        """Adds to a loss its share, in one of several parts, of what `add_loss` was given."""
        given = self.losses  # once: each time, Keras calls the functions that `add_loss` was given
        if not given:
            return loss
        added = tf.add_n([tf.cast(tf.reduce_sum(one), loss.dtype) for one in given])
        return loss + added / tf.cast(replicas.number() * parts, loss.dtype)

    def get_config(self):
        """Returns all that `from_config` needs to make this model again, ready for its weights."""
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
        """Makes the model of `get_config`, with its variables created.

        A setting that is newer than the saved model gets its default.
        """
        names = [field.name for field in dataclasses.fields(ModelConfig) if field.name in config]
        values = {name: config[name] for name in names}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        values = earlier_versions.upgraded(values)

        # The policy of the saved model, not the one in force, or the precision would change.
        policy = config.get("dtype") or tf.keras.mixed_precision.global_policy().name
        with process_state.keras_settings(policy):
            model = cls(
                ModelConfig(**values), num_classes=config["num_classes"], name=config["name"]
            )

        training = dict(config.get("training", {}))
        model._recompute_stages = training.pop("recompute_stages", 0)
        model._check_values = training.pop("check_values", True)
        model._step = StepConfig(**training)

        # tf.keras.models.clone_model is followed by set_weights, which needs the variables.
        model.make_variables()
        return model

    def make_variables(self) -> None:
        """Creates the variables, for images of any size, so that it can be saved before a call."""
        shape = [None, None, None, self.config.image_channels]
        self.build(shape)
        self._set_save_spec(tf.TensorSpec(shape, tf.float32, name="images"))

    def build_from_config(self, config):
        """Does nothing, since `from_config` has created the variables."""

    def compile_from_config(self, config):
        """Compiles the model as it was when saved, and creates the optimizer's variables.

        Keras restores them next.
        """
        config = tf.keras.saving.deserialize_keras_object(config)
        self.compile(
            **config,
            **dataclasses.asdict(self._step),
            recompute_stages=self._recompute_stages,
            check_values=self._check_values,
        )
        if self.built and isinstance(self.optimizer, tf.keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)


def _pop_settings(kind: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Removes the settings of a group from keyword arguments, and returns them."""
    names = {field.name for field in dataclasses.fields(kind)} & set(kwargs)  # type: ignore[arg-type]
    return {name: kwargs.pop(name) for name in names}


@_plain_python
def build_model(config: ModelConfig | None = None, *, num_classes: int) -> DeepLab:
    """Builds DeepLab with its variables created.

    Args:
      config: the network's settings; the defaults if None.
      num_classes: number of classes, and so of channels of the logits.
    """
    model = DeepLab(config or ModelConfig(), num_classes=num_classes, name="deeplab")
    model.make_variables()
    return model

"""The model of a run with all that its training step needs."""

import dataclasses

import tensorflow as tf

from deeplab_tf.config import LossConfig, ModelConfig, StepConfig, TrainConfig, require
from deeplab_tf.data import catalog
from deeplab_tf.distribution import on_gpus, require_even_batch, require_gpus
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.startup.process_state import keras_settings
from deeplab_tf.training.optimizers import build_optimizer, build_slots
from deeplab_tf.training.schedules import build_schedule


def compiled_model(
    model_config: ModelConfig, config: TrainConfig, info: catalog.DatasetInfo
) -> DeepLab:
    """Builds the model and compiles it for training; the optimizer's variables exist too.

    Call it in the strategy's scope.

    Raises:
      UserError: if the replicas cannot share the batch equally, --jit_compile is given for
        replicas that are not GPUs, or --label_weights is not one number for each class.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    require_even_batch(config.train_batch_size, replicas, parts=config.gradient_accumulation_steps)
    if config.jit_compile and replicas > 1:
        require_gpus("--jit_compile")
    require(
        len(config.label_weights) in (0, info.num_classes),
        "label_weights",
        config.label_weights,
        f"empty, or {info.num_classes} numbers, one for each class",
    )

    with keras_settings(config.dtype_policy):
        model = build_model(model_config, num_classes=info.num_classes)

        # A checkpoint is restored into the optimizer's variables, so they must exist before.
        optimizer = build_optimizer(config, build_schedule(config))
        build_slots(optimizer, model.trainable_variables)
        if config.ema_decay:
            optimizer.average_statistics(model.non_trainable_variables)

        fields = [*dataclasses.fields(StepConfig), *dataclasses.fields(LossConfig)]
        settings = {field.name: getattr(config, field.name) for field in fields}
        model.compile(
            optimizer,
            ignore_label=info.ignore_label,
            check_values=False,  # the records are checked when they are read
            detailed_logs=True,
            recompute_stages=_recompute_stages(config),
            jit_compile=config.jit_compile,
            steps_per_execution=config.steps_per_execution,
            **settings,
        )
    return model


def _recompute_stages(config: TrainConfig) -> int:
    """Returns --recompute_stages, or the default for the device: it costs GPUs more speed."""
    if config.recompute_stages >= 0:
        return config.recompute_stages
    return 0 if on_gpus() else 3

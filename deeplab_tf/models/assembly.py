"""Builds the heads that the settings of a network describe."""

from typing import Any

import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.aspp import ASPP
from deeplab_tf.models.dense_prediction_cell import DensePredictionCell
from deeplab_tf.models.heads import AuxiliaryHead, Classifier, Decoder
from deeplab_tf.models.inputs import InputError


def build_context(config: ModelConfig) -> tf.keras.layers.Layer:
    """Builds what follows on the backbone: the dense prediction cell if there is one, or ASPP."""
    if config.dense_prediction_cell_json:
        return DensePredictionCell(
            config.dense_prediction_cell_json,
            filters=config.aspp_convs_filters,
            output_stride=config.output_stride,
            pooling_crop_size=config.image_pooling_crop_size,
            dropout_rate=config.aspp_dropout_rate,
            align_corners=config.align_corners,
            name="cell",
            **_common(config),
        )

    gate = ""
    if config.aspp_with_squeeze_and_excitation:
        gate = "hard_sigmoid" if config.image_se_uses_qsigmoid else "sigmoid"
    return ASPP(
        config.aspp_convs_filters,
        rates=config.atrous_rates,
        separable=config.aspp_with_separable_conv,
        image_pooling=config.add_image_level_feature,
        pooling_window=[  # from pixels to cells of the feature map
            (side - 1) // config.output_stride + 1 for side in config.image_pooling_crop_size
        ],
        pooling_stride=config.image_pooling_stride,
        gate=gate,
        projection=config.aspp_with_concat_projection,
        projection_kernel_size=config.aspp_projection_kernel_size,
        dropout_rate=config.aspp_dropout_rate,
        bounded=config.use_bounded_activation,
        align_corners=config.align_corners,
        name="aspp",
        **_common(config),
    )


def build_decoders(config: ModelConfig, *, num_classes: int) -> list[Decoder]:
    """Builds the decoder's steps, one for each of its strides.

    Raises:
      InputError: if they are to return logits of another number of classes.
    """
    if has_logits_decoder(config) and config.decoder_filters != num_classes:
        raise InputError(
            f"--decoder_filters={config.decoder_filters} is not possible with "
            f"--decoder_output_is_logits and {num_classes} classes; give "
            f"--decoder_filters={num_classes}, the number of classes."
        )
    return [
        Decoder(
            config.decoder_filters,
            reduction_filters=config.decoder_reduction_filters,
            separable=config.decoder_use_separable_conv,
            sum_merge=config.decoder_use_sum_merge,
            output_is_logits=config.decoder_output_is_logits,
            bounded=config.use_bounded_activation,
            align_corners=config.align_corners,
            name=f"decoder_{step}" if step else "decoder",
            **_common(config),
        )
        for step in range(len(config.decoder_output_stride))
    ]


def has_logits_decoder(config: ModelConfig) -> bool:
    """Whether the decoder's output is the logits, so that there is no classifier."""
    return bool(config.decoder_output_stride) and config.decoder_output_is_logits


def build_classifier(config: ModelConfig, *, num_classes: int) -> Classifier | None:
    """Builds the classifier; None if the decoder's output is the logits."""
    if has_logits_decoder(config):
        return None
    return Classifier(
        num_classes,
        dropout_rate=config.dropout_rate,
        initializer=config.initializer,
        name="classifier",
    )


def build_auxiliary_head(config: ModelConfig, *, num_classes: int) -> AuxiliaryHead | None:
    """Builds the auxiliary head, if there is one."""
    if not config.auxiliary_filters:
        return None
    return AuxiliaryHead(
        config.auxiliary_filters,
        num_classes,
        dropout_rate=config.dropout_rate,
        name="auxiliary_head",
        **_common(config),
    )


def _common(config: ModelConfig) -> dict[str, Any]:
    return {
        "batch_norm_decay": config.head_batch_norm_decay,
        "initializer": config.initializer,
    }

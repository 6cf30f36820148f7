"""Reads the settings that earlier versions stored, so that a run means the same as then.

Networks of earlier versions have no head_batch_norm_decay, by which they are known. They do not say
what they meant by settings that were left empty, and their `resnet_v1_50` is torchvision's ResNet.
"""

from collections.abc import Mapping
from typing import Any

# A setting that earlier versions did not have.
_MARK = "head_batch_norm_decay"
_OFFICIAL = ("resnet_v1_50_beta", "resnet_v1_101_beta")


def upgraded_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a stored training as `TrainConfig` takes them now."""
    settings = {"optimizer": "sgd", **settings}
    if settings["optimizer"] == "adam" and "base_learning_rate" in settings:
        # Adam had the learning rate of the others then.
        settings.setdefault("adam_learning_rate", settings["base_learning_rate"])
    return settings


def upgraded_evaluation(settings: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the stored settings of scoring as `EvalConfig` takes them now.

    Args:
      model: the stored settings of the network, before they are upgraded.
    """
    settings = dict(settings)
    if _MARK not in model and settings.get("inference_mode", "whole") == "whole":
        settings.pop("eval_crop_size", None)  # it had an effect on windows only
    return settings


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a stored network, by name, as `ModelConfig` takes them now.

    Args:
      settings: as they were stored; settings that this version stored come back unchanged.
    """
    if _MARK in settings:
        return dict(settings)

    variant = settings.get("model_variant", "resnet_v1c_50")
    is_official = variant in _OFFICIAL
    placement = settings.get("stride_placement") or ("last_3x3" if is_official else "first_3x3")
    decay = settings.get("batch_norm_decay", 0.9)
    stride = settings.get("output_stride", 16)
    rates = tuple(settings.get("atrous_rates", ())) or tuple(r * 16 // stride for r in (6, 12, 18))

    # resnet_v1_50 was torchvision's then, unless it was imported from the official package.
    was_imported = placement == "last_3x3" and variant in ("resnet_v1_50", "resnet_v1_101")
    if not is_official and not was_imported:
        variant = variant.replace("resnet_v1_", "resnet_v1b_")

    decoder = settings.get("decoder_output_stride", 0)
    return {
        "image_mean": (123.675, 116.28, 103.53),
        "image_std": (58.395, 57.12, 57.375),
        "align_corners": False,
        "aspp_with_separable_conv": False,
        "dropout_rate": 0.1,
        **settings,
        "model_variant": variant,
        "stride_placement": placement,
        "stem_padding": settings.get("stem_padding")
        or ("same_pool" if placement == "last_3x3" else "symmetric"),
        "initializer": settings.get("initializer") or ("official" if is_official else "pytorch"),
        "atrous_rates": rates,
        "aspp_dropout_rate": 0.0,
        "decoder_output_stride": tuple(
            part for part in (decoder if isinstance(decoder, tuple) else (decoder,)) if part
        ),
        "batch_norm_decay": decay,
        _MARK: decay,
    }

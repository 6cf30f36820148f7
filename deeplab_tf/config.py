"""The settings of an experiment: each is written once, with its default, meaning and limits.

Flag names are those of Google's official DeepLab wherever it has one for the same thing.
`config_flags` turns these dataclasses into command-line flags and into flagfiles.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_tf.settings import (
    Config,
    UserError,
    as_flag,
    require,
    require_exactly_one,
    require_given,
    setting,
)
from deeplab_tf.train_config import TrainConfig

# All settings are here; the helpers are for programs that define settings of their own.
__all__ = [
    "Config",
    "TrainConfig",
    "UserError",
    "require",
    "require_exactly_one",
    "require_given",
    "setting",
]

OUTPUT_STRIDES = (8, 16, 32)
RESNET_DEPTHS = (18, 34, 50, 101, 152)
_BASIC = ("_18", "_34")  # variants whose blocks have no 1x1 convolutions
MODEL_VARIANTS = (
    *(f"resnet_{stem}_{depth}" for stem in ("v1", "v1c") for depth in RESNET_DEPTHS),
    "resnet_v1_50_beta",
    "resnet_v1_101_beta",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The network, and how its input is normalised; imported weights depend on all of it."""

    model_variant: str = setting(
        "resnet_v1c_50",
        "Backbone: v1 has a 7x7 stem, v1c three 3x3 convolutions (32, 32, 64 channels), beta "
        "too (64, 64, 128; official DeepLab).",
        choices=MODEL_VARIANTS,
    )
    stride_placement: str = setting(
        "",
        "Which convolution halves a stage's size: one in its first block (PyTorch; He et al. 2016 "
        "and Keras: first_1x1) or its last (official DeepLab); empty: last_3x3 for beta variants, "
        "first_3x3 for others.",
        choices=("", "first_3x3", "first_1x1", "last_3x3"),
    )
    stem_padding: str = setting(
        "",
        "Padding of the stem where the size is even: symmetric (PyTorch), same_pool "
        "(TensorFlow's SAME for the max pool: official DeepLab) or same (for the convolution too: "
        "keras-cv); empty: same_pool with last_3x3, else symmetric.",
        choices=("", "symmetric", "same_pool", "same"),
    )
    output_stride: int = setting(
        16, "Input pixels per cell of the encoder's output.", choices=OUTPUT_STRIDES
    )
    multi_grid: tuple[int, ...] = setting(
        (),
        "Factors on the rates of the last stage's blocks; empty leaves them as they are.",
        least=1,
    )
    multi_grid_replaces_rates: bool = setting(
        False,
        "Whether multi_grid's numbers are the rates themselves, as in mmsegmentation.",
        only_with={"multi_grid": ()},
    )
    atrous_rates: tuple[int, ...] = setting(
        (), "ASPP rates; empty means 6,12,18 at output stride 16, scaled for others.", least=1
    )
    aspp_convs_filters: int = setting(
        256, "Channels of every ASPP branch and its projection.", least=1
    )
    aspp_projection_kernel_size: int = setting(
        1, "Kernel of the convolution after the ASPP branches.", choices=(1, 3)
    )
    aspp_with_separable_conv: bool = setting(
        False, "Whether ASPP's 3x3 convolutions are depthwise, then pointwise."
    )
    add_image_level_feature: bool = setting(True, "Whether ASPP has the image pooling branch.")
    image_pooling_crop_size: tuple[int, ...] = setting(
        (),
        "Window of the image pooling, pixels: height,width; empty pools the whole image.",
        least=1,
        only_with={"add_image_level_feature": (True,)},
    )
    decoder_output_stride: int = setting(
        0,
        "Input pixels per cell of the decoder's output (DeepLabV3+); 0 means no decoder.",
        choices=(0, 4, 8, 16),
    )
    decoder_reduction_filters: int = setting(
        48,
        "Channels that the decoder reduces the earlier stage to.",
        least=1,
        only_with={"decoder_output_stride": ()},
    )
    decoder_filters: int = setting(
        256,
        "Channels of the decoder's convolutions.",
        least=1,
        only_with={"decoder_output_stride": ()},
    )
    decoder_use_separable_conv: bool = setting(
        True,
        "Whether the decoder's 3x3 convolutions are depthwise, then pointwise.",
        only_with={"decoder_output_stride": ()},
    )
    dropout_rate: float = setting(
        0.1, "Share of channels dropped before the classifier while training.", least=0
    )
    auxiliary_filters: int = setting(
        0, "Channels of the auxiliary head on the third stage; 0 means no such head.", least=0
    )
    initializer: str = setting(
        "",
        "Initial weights of new layers: pytorch (uniform within 1 / sqrt(inputs) of zero, the "
        "classifiers' biases too: SSSegmentation), official (official DeepLab's) or he_normal (He "
        "et al. 2015, classifiers near zero); empty: official for beta variants, else pytorch.",
        choices=("", "pytorch", "official", "he_normal"),
        may_change=True,
    )
    align_corners: bool = setting(
        False,
        "Whether bilinear resizing aligns corner pixel centres, as the official package does.",
    )
    batch_norm_decay: float = setting(
        0.9, "Decay of batch normalisation's moving averages.", least=0
    )
    image_mean: tuple[float, ...] = setting(
        (123.675, 116.28, 103.53),
        "RGB mean subtracted from images in 0..255; also the padding colour.",
    )
    image_std: tuple[float, ...] = setting(
        (58.395, 57.12, 57.375), "RGB standard deviation that images are divided by."
    )

    def __post_init__(self):
        super().__post_init__()
        require(
            self.dropout_rate < 1, "dropout_rate", self.dropout_rate, "0 up to, not including, 1"
        )
        require(self.batch_norm_decay < 1, "batch_norm_decay", self.batch_norm_decay, "less than 1")
        require(len(self.image_mean) == 3, "image_mean", self.image_mean, "three numbers, R,G,B")
        require(
            len(self.image_std) == 3 and min(self.image_std) > 0,
            "image_std",
            self.image_std,
            "three positive numbers, R,G,B",
        )
        last_stage = 2 if self.model_variant.endswith("_18") else 3
        require(
            len(self.multi_grid) in (0, last_stage),
            "multi_grid",
            self.multi_grid,
            f"empty, or {last_stage} factors, one for each block of the last stage",
        )
        pooling = self.image_pooling_crop_size
        require(len(pooling) in (0, 2), "image_pooling_crop_size", pooling, "height,width")
        require(
            self.decoder_output_stride < self.output_stride,
            "decoder_output_stride",
            self.decoder_output_stride,
            f"less than output_stride ({self.output_stride})",
        )
        if self.model_variant.endswith((*_BASIC, "_beta")):
            allowed = "first_3x3" if self.model_variant.endswith(_BASIC) else "last_3x3"
            require(
                self.stride_placement in ("", allowed),
                "stride_placement",
                self.stride_placement,
                f"{allowed} for {self.model_variant}",
            )

    def backbone(self) -> dict[str, Any]:
        """Returns the backbone's settings, with those that follow from the variant filled in."""
        _, stem, depth, *beta = self.model_variant.split("_")
        placement = self.stride_placement or ("last_3x3" if beta else "first_3x3")
        padding = "same_pool" if placement == "last_3x3" else "symmetric"
        return {
            "depth": int(depth),
            "stem": beta[0] if beta else stem,
            "output_stride": self.output_stride,
            "multi_grid": self.multi_grid,
            "multi_grid_replaces_rates": self.multi_grid_replaces_rates,
            "stride_placement": placement,
            "stem_padding": self.stem_padding or padding,
        }

    def initializer_style(self) -> str:
        """Returns the initializer in force: the one given, or that of the variant's own program."""
        return self.initializer or (
            "official" if self.model_variant.endswith("_beta") else "pytorch"
        )

    def aspp_rates(self) -> tuple[int, ...]:
        """Returns the rates in force: those given, or 6, 12, 18 scaled to the output stride."""
        return self.atrous_rates or tuple(rate * 16 // self.output_stride for rate in (6, 12, 18))

    def at_output_stride(
        self, output_stride: int, *, written: Callable[[str, Any], str] = as_flag
    ) -> "ModelConfig":
        """Returns the same network at another output stride, its ASPP rates scaled alike.

        Args:
          written: how errors write a setting.
        """

        def require_stride(condition: bool, allowed: str) -> None:
            require(condition, "output_stride", output_stride, allowed, written=written)

        require_stride(
            output_stride in OUTPUT_STRIDES, f"one of {', '.join(map(str, OUTPUT_STRIDES))}"
        )
        decoder = self.decoder_output_stride
        require_stride(output_stride > decoder, f"more than the decoder's stride ({decoder})")
        rates = tuple(rate * self.output_stride // output_stride for rate in self.aspp_rates())
        require_stride(
            all(rates), f"a stride at which the rates {self.aspp_rates()} stay 1 or more"
        )
        return dataclasses.replace(self, output_stride=output_stride, atrous_rates=rates)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which records are read, and how training examples are augmented."""

    dataset: str = setting(
        "",
        "Data set's name; empty takes it from <dataset_dir>/dataset.json. A known name's classes "
        "must be those of the records.",
        may_change=True,
    )
    dataset_dir: str = setting(
        "", "Folder with the TFRecord shards and dataset.json.", may_change=True
    )
    train_split: str = setting("train", "Split to train on.")
    train_crop_size: tuple[int, ...] = setting(
        (513, 513), "Height and width of training crops, pixels.", least=1
    )
    min_resize_value: int = setting(
        0, "Length the shorter side is resized to; 0 keeps the image's own size.", least=0
    )
    max_resize_value: int = setting(
        0, "Limit of the longer side when resizing; 0 sets none.", least=0
    )
    min_scale_factor: float = setting(0.5, "Smallest random scale in training.", least=0.01)
    max_scale_factor: float = setting(2.0, "Largest random scale in training.", least=0.01)
    scale_factor_step_size: float = setting(
        0.25, "Distance between the random scales; 0 draws from the whole range.", least=0
    )
    one_category_max_ratio: float = setting(
        1.0,
        "Crops in which one class has this share of the pixels, or is the only one, are drawn "
        "again, up to 9 times; 1 keeps all crops.",
        least=0.01,
    )
    photometric_distortion: bool = setting(
        False, "Whether brightness, contrast, saturation and hue vary in training."
    )

    def __post_init__(self):
        super().__post_init__()
        size = self.train_crop_size
        require(len(size) == 2, "train_crop_size", size, "two numbers, height,width")
        require(
            self.min_scale_factor <= self.max_scale_factor,
            "min_scale_factor",
            self.min_scale_factor,
            f"at most max_scale_factor ({self.max_scale_factor})",
        )
        require(
            self.min_resize_value > 0 or self.max_resize_value == 0,
            "max_resize_value",
            self.max_resize_value,
            "0 unless min_resize_value is set too",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """How images are scored."""

    eval_split: str = setting("val", "Split to score.", may_change=True)
    eval_batch_size: int = setting(
        1, "Images predicted together, where they share a size.", least=1, may_change=True
    )
    eval_scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales at which each image is predicted; probabilities are averaged.",
        least=0.01,
        may_change=True,
    )
    add_flipped_images: bool = setting(
        False, "Whether mirrored images are predicted and averaged too.", may_change=True
    )
    inference_mode: str = setting(
        "whole",
        "whole predicts each image at once; slide predicts windows and averages probabilities.",
        choices=("whole", "slide"),
        may_change=True,
    )
    eval_crop_size: tuple[int, ...] = setting(
        (),
        "Height and width of the windows of inference_mode=slide; whole images are never padded.",
        least=1,
        may_change=True,
        only_with={"inference_mode": ("slide",)},
    )
    eval_crop_stride: tuple[int, ...] = setting(
        (),
        "Distances, down and across, between windows of inference_mode=slide, pixels.",
        least=1,
        may_change=True,
        only_with={"inference_mode": ("slide",)},
    )

    def __post_init__(self):
        super().__post_init__()
        require(len(self.eval_scales) > 0, "eval_scales", "", "at least one scale")
        size, stride = self.eval_crop_size, self.eval_crop_stride
        lengths = (2,) if self.inference_mode == "slide" else (0, 2)
        require(len(size) in lengths, "eval_crop_size", size, "two numbers, height,width")
        require(len(stride) in lengths, "eval_crop_stride", stride, "two numbers, height,width")
        if size and stride:
            fits = stride[0] <= size[0] and stride[1] <= size[1]
            require(fits, "eval_crop_stride", stride, f"at most eval_crop_size {size}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run is made of; stored as <train_logdir>/experiment.flags."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


def groups(experiment: Experiment) -> list[Config]:
    """Returns the experiment's settings groups in their order."""
    return [getattr(experiment, field.name) for field in dataclasses.fields(experiment)]

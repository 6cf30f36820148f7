"""Settings of the network."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.config.setting import (
    MOST_CHANNELS,
    MOST_PIXELS_OF_A_SIDE,
    Config,
    as_flag,
    require,
    setting,
)

OUTPUT_STRIDES = (8, 16, 32)
_MOST_RATE = 4096  # cells of the encoder's output along a side of the largest image


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The network and how it normalises images; imported weights depend on all of these."""

    model_variant: str = setting(
        "resnet_v1c_50",
        "Backbone. Its stem is one 7x7 convolution for v1, and three 3x3 convolutions for v1c "
        "(32, 32, 64 channels) and beta (64, 64, 128 channels; official DeepLab).",
        choices=tuple(BACKBONES),
    )
    stride_placement: str = setting(
        "",
        "Which convolution of a stage halves the size: in the first block its 3x3 (first_3x3: "
        "PyTorch) or its 1x1 (first_1x1: He et al. 2016, Keras), or the 3x3 of the last block "
        "(last_3x3: official DeepLab). If empty: last_3x3 for beta variants, else first_3x3.",
        choices=("", "first_3x3", "first_1x1", "last_3x3"),
    )
    stem_padding: str = setting(
        "",
        "Padding of the stem where the size is even: symmetric (PyTorch), same_pool (TensorFlow's "
        "SAME for the max pool: official DeepLab) or same (SAME for the convolution too: "
        "keras-cv). If empty: same_pool with stride_placement=last_3x3, else symmetric.",
        choices=("", "symmetric", "same_pool", "same"),
    )
    output_stride: int = setting(
        16,
        "Input pixels, along each side, per cell of the encoder's output; 8 is finer and slower.",
        choices=OUTPUT_STRIDES,
    )
    multi_grid: tuple[int, ...] = setting(
        (),
        "Factors on the atrous rates of the last stage, one for each block; empty means 1.",
        least=1,
        most=_MOST_RATE,
    )
    multi_grid_replaces_rates: bool = setting(
        False,
        "Whether the numbers of multi_grid are the rates themselves, as in mmsegmentation.",
        only_with={"multi_grid": ()},
    )
    atrous_rates: tuple[int, ...] = setting(
        (),
        "ASPP rates; empty means 6,12,18 at output stride 16, scaled for other strides.",
        least=1,
        most=_MOST_RATE,
    )
    aspp_convs_filters: int = setting(
        256,
        "Channels of each ASPP branch and of the projection after them.",
        least=1,
        most=MOST_CHANNELS,
    )
    aspp_projection_kernel_size: int = setting(
        1, "Kernel size of the projection after the ASPP branches.", choices=(1, 3)
    )
    aspp_with_separable_conv: bool = setting(
        False, "Whether ASPP's 3x3 convolutions are separable: depthwise, then pointwise."
    )
    add_image_level_feature: bool = setting(True, "Whether ASPP has the image pooling branch.")
    image_pooling_crop_size: tuple[int, ...] = setting(
        (),
        "Window of the image pooling, height,width in pixels; empty pools the whole image.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
        only_with={"add_image_level_feature": (True,)},
    )
    decoder_output_stride: int = setting(
        0,
        "Input pixels, along each side, per cell of the output of DeepLabV3+'s decoder; 0 means no "
        "decoder.",
        choices=(0, 4, 8, 16),
    )
    decoder_reduction_filters: int = setting(
        48,
        "Channels that the decoder reduces the features of the earlier stage to.",
        least=1,
        most=MOST_CHANNELS,
        only_with={"decoder_output_stride": ()},
    )
    decoder_filters: int = setting(
        256,
        "Channels of the decoder's convolutions.",
        least=1,
        most=MOST_CHANNELS,
        only_with={"decoder_output_stride": ()},
    )
    decoder_use_separable_conv: bool = setting(
        True,
        "Whether the decoder's 3x3 convolutions are separable: depthwise, then pointwise.",
        only_with={"decoder_output_stride": ()},
    )
    dropout_rate: float = setting(
        0.1, "Share of channels that training drops before the classifier.", least=0, below=1
    )
    auxiliary_filters: int = setting(
        0,
        "Channels of the auxiliary head on the third stage; 0 means no auxiliary head.",
        least=0,
        most=MOST_CHANNELS,
    )
    initializer: str = setting(
        "",
        "Initial weights of new layers: pytorch (uniform within 1 / sqrt(inputs) of zero, and so "
        "are the biases of the classifiers; SSSegmentation), official (as in official DeepLab) or "
        "he_normal (He et al. 2015, classifiers near zero). If empty: official for beta variants, "
        "else pytorch.",
        choices=("", "pytorch", "official", "he_normal"),
        may_change=True,
    )
    align_corners: bool = setting(
        False,
        "Whether bilinear resizing aligns the centres of corner pixels, as official DeepLab does.",
    )
    batch_norm_decay: float = setting(
        0.9, "Decay of batch normalisation's moving averages.", least=0, below=1
    )
    image_mean: tuple[float, ...] = setting(
        (123.675, 116.28, 103.53),
        "RGB mean that is subtracted from images in 0..255; also the colour of padding.",
        least=0,
        most=255,
    )
    image_std: tuple[float, ...] = setting(
        (58.395, 57.12, 57.375),
        "RGB standard deviation that images are then divided by.",
        least=0.001,
    )

    def __post_init__(self):
        super().__post_init__()

        require(len(self.image_mean) == 3, "image_mean", self.image_mean, "three numbers, R,G,B")
        require(len(self.image_std) == 3, "image_std", self.image_std, "three numbers, R,G,B")

        variant = BACKBONES[self.model_variant]
        blocks, placements = variant.last_stage_blocks, variant.stride_placements
        factors = f"empty, or {blocks} factors, one for each block of the last stage"
        require(
            len(self.multi_grid) in (0, blocks),
            "multi_grid",
            self.multi_grid,
            factors if blocks else f"empty for {self.model_variant}",
        )
        require(
            self.stride_placement in ("", *placements),
            "stride_placement",
            self.stride_placement,
            f"{' or '.join(placements) or 'empty'} for {self.model_variant}",
        )

        pooling = self.image_pooling_crop_size
        require(len(pooling) in (0, 2), "image_pooling_crop_size", pooling, "height,width")
        require(
            self.decoder_output_stride < self.output_stride,
            "decoder_output_stride",
            self.decoder_output_stride,
            f"less than output_stride ({self.output_stride})",
        )

    def initializer_style(self) -> str:
        """Returns the initializer in force: the one given, or the default of the variant."""
        return self.initializer or BACKBONES[self.model_variant].initializer

    def aspp_rates(self) -> tuple[int, ...]:
        """Returns the rates in force: the given ones, or 6, 12, 18 scaled to the output stride."""
        return self.atrous_rates or tuple(rate * 16 // self.output_stride for rate in (6, 12, 18))

    def at_output_stride(
        self, output_stride: int, *, written: Callable[[str, Any], str] = as_flag
    ) -> "ModelConfig":
        """Returns the same network at another output stride, with ASPP rates scaled to match.

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

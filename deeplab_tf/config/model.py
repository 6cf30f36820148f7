"""Settings of the network."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_tf.config.backbones import BACKBONES, MOBILENETS
from deeplab_tf.config.cells import canonical
from deeplab_tf.config.setting import (
    MOST_CHANNELS,
    MOST_PIXELS_OF_A_SIDE,
    MOST_SCALE,
    Config,
    as_flag,
    require,
    setting,
)

OUTPUT_STRIDES = (8, 16, 32)
DECODER_STRIDES = (4, 8, 16)
_RGB = 3  # channels
_MOST_RATE = 4096  # cells of the encoder's output along a side of the largest image


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The network and how it normalises images; imported weights depend on all of these.

    Settings that are left open (None, or an empty text) get the values that the model variant has
    when the object is made. So a finished ModelConfig says everything about its network, and
    `dataclasses.replace` with another model variant keeps the values of the former one.
    """

    model_variant: str = setting(
        "mobilenet_v2",
        "Backbone. mobilenet_*, xception_* and resnet_v1_* are the networks of Google's DeepLab "
        "and follow its conventions; resnet_v1b_* (one 7x7 convolution as stem: torchvision) and "
        "resnet_v1c_* (three 3x3 convolutions: SSSegmentation, mmsegmentation) follow the "
        "PyTorch programs' conventions: the settings whose default is `as the model variant has "
        "it`.",
        choices=tuple(BACKBONES),
    )
    depth_multiplier: float = setting(
        1.0,
        "Factor on the widths of a MobileNet.",
        above=0,
        most=4,
        only_with={"model_variant": MOBILENETS},
    )
    divisible_by: int = setting(
        0,
        "Number that the widths of MobileNetV2 are multiples of; 0 means 8 with "
        "depth_multiplier=1, and 1 with any other.",
        least=0,
        most=MOST_CHANNELS,
        only_with={"model_variant": ("mobilenet_v2",)},
    )
    stride_placement: str = setting(
        "",
        "Which convolution of a ResNet's stage halves the size: in the first block its 3x3 "
        "(first_3x3: PyTorch) or its 1x1 (first_1x1: He et al. 2016, Keras), or the 3x3 of the "
        "last block (last_3x3: official DeepLab). If empty: as the model variant has it.",
        choices=("", "first_3x3", "first_1x1", "last_3x3"),
    )
    stem_padding: str = setting(
        "",
        "Padding of a ResNet's stem where the size is even: symmetric (PyTorch), same_pool "
        "(TensorFlow's SAME for the max pool: official DeepLab) or same (SAME for the convolution "
        "too: keras-cv). If empty: as the model variant has it.",
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
    use_bounded_activation: bool = setting(
        False,
        "Whether activations are limited to 6, as quantisation needs it, in Xception, ASPP and "
        "decoder.",
    )
    atrous_rates: tuple[int, ...] = setting(
        None,
        "Rates of ASPP's atrous branches; empty (--atrous_rates=) means no such branches. If left "
        "out: none for the networks of official DeepLab, else 6,12,18 at output stride 16, scaled "
        "for other strides.",
        least=1,
        most=_MOST_RATE,
    )
    aspp_convs_filters: int = setting(
        256,
        "Channels of each ASPP branch and of the projection after them.",
        least=1,
        most=MOST_CHANNELS,
    )
    aspp_with_concat_projection: bool = setting(
        True, "Whether the ASPP branches are projected, and not only concatenated."
    )
    aspp_projection_kernel_size: int = setting(
        1,
        "Kernel size of the projection after the ASPP branches.",
        choices=(1, 3),
        only_with={"aspp_with_concat_projection": (True,)},
    )
    aspp_with_separable_conv: bool = setting(
        None, "Whether ASPP's 3x3 convolutions are separable: depthwise, then pointwise."
    )
    aspp_with_squeeze_and_excitation: bool = setting(
        False,
        "Whether image pooling multiplies the output of ASPP as a gate, and is not a branch of it "
        "(Lite R-ASPP, arXiv:1905.02244).",
        only_with={"add_image_level_feature": (True,)},
    )
    image_se_uses_qsigmoid: bool = setting(
        False,
        "Whether that gate is the piecewise linear ReLU6(x + 3) / 6, and not a sigmoid.",
        only_with={"aspp_with_squeeze_and_excitation": (True,)},
    )
    add_image_level_feature: bool = setting(True, "Whether ASPP has the image pooling branch.")
    image_pooling_crop_size: tuple[int, ...] = setting(
        (),
        "Window of the image pooling, height,width in pixels; empty pools the whole image.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
        only_with={"add_image_level_feature": (True,)},
    )
    image_pooling_stride: tuple[int, ...] = setting(
        (1, 1),
        "Stride of that window, down,across in cells of the encoder's output.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
        only_with={"image_pooling_crop_size": ()},
    )
    dense_prediction_cell_json: str = setting(
        "",
        "Dense prediction cell (arXiv:1809.04184) in place of ASPP: its JSON, or the path of a "
        "file with it. The run keeps the JSON.",
    )
    aspp_dropout_rate: float = setting(
        None,
        "Share of the numbers that training drops from the output of ASPP, or from the branches of "
        "a dense prediction cell.",
        least=0,
        below=1,
    )
    decoder_output_stride: tuple[int, ...] = setting(
        (),
        "Input pixels, along each side, per cell of the output of DeepLabV3+'s decoder: 4, 8 or "
        "16. Several, such as 8,4, make a decoder of several steps; empty means no decoder.",
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
    decoder_use_sum_merge: bool = setting(
        False,
        "Whether the decoder adds the features of the earlier stage, and does not append them.",
        only_with={"decoder_output_stride": ()},
    )
    decoder_output_is_logits: bool = setting(
        False,
        "Whether the decoder's output is the logits, so that no classifier follows; "
        "decoder_filters must then be the number of classes.",
        only_with={"decoder_output_stride": ()},
    )
    image_pyramid: tuple[float, ...] = setting(
        (),
        "Scales at which the network looks at each image in training and in prediction; empty "
        "means only its own size.",
        least=0.01,
        most=MOST_SCALE,
    )
    merge_method: str = setting(
        "max",
        "How the logits of the image pyramid's scales are merged: their maximum or their mean.",
        choices=("max", "avg"),
        only_with={"image_pyramid": ()},
    )
    dropout_rate: float = setting(
        None, "Share of channels that training drops before the classifier.", least=0, below=1
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
        "he_normal (He et al. 2015, classifiers near zero). If empty: as the model variant has it.",
        choices=("", "pytorch", "official", "he_normal"),
        may_change=True,
    )
    align_corners: bool = setting(
        None,
        "Whether bilinear resizing aligns the centres of corner pixels, as official DeepLab does.",
    )
    batch_norm_decay: float = setting(
        None,
        "Decay of batch normalisation's moving averages, in backbone and head.",
        least=0,
        below=1,
    )
    head_batch_norm_decay: float = setting(
        None,
        "Decay of batch normalisation's moving averages in the head, if it is another than in the "
        "backbone. If left out: batch_norm_decay if given, else as the model variant has it.",
        least=0,
        below=1,
    )
    image_mean: tuple[float, ...] = setting(
        None,
        "RGB mean that is subtracted from images in 0..255; also the colour of padding. For images "
        "of other channels, one number for each. If left out, as the model variant has it: each "
        "further channel gets the mean of the three, and so do all if there are fewer.",
        least=0,
        most=255,
    )
    image_std: tuple[float, ...] = setting(
        None,
        "RGB standard deviation that images are then divided by; for other channels as image_mean.",
        least=0.001,
    )

    def __post_init__(self):
        self._refuse_former_names()
        super().__post_init__()
        self._fill_in()

        channels = "three numbers, R,G,B, or one for each channel of other images"
        require(len(self.image_mean) > 0, "image_mean", self.image_mean, channels)
        is_one_each = len(self.image_std) == len(self.image_mean)
        require(is_one_each, "image_std", self.image_std, "as many numbers as image_mean has")

        variant = BACKBONES[self.model_variant]
        factors = f"empty, or {variant.multi_grid} factors, one for each block of the last stage"
        require(
            len(self.multi_grid) in (0, variant.multi_grid),
            "multi_grid",
            self.multi_grid,
            factors if variant.multi_grid else f"empty for {self.model_variant}",
        )
        placements = variant.stride_placements or ("",)
        require(
            self.stride_placement in placements,
            "stride_placement",
            self.stride_placement,
            f"{' or '.join(placements) or 'empty'} for {self.model_variant}",
        )
        require(
            variant.family == "resnet" or not self.stem_padding,
            "stem_padding",
            self.stem_padding,
            f"empty for {self.model_variant}",
        )

        for name in ("image_pooling_crop_size", "image_pooling_stride"):
            value = getattr(self, name)
            lengths = (2,) if name == "image_pooling_stride" else (0, 2)
            require(len(value) in lengths, name, value, "two numbers, down,across")
        has_gate = self.add_image_level_feature and self.aspp_with_squeeze_and_excitation
        require(
            self.aspp_with_concat_projection or not (has_gate and self.atrous_rates),
            "atrous_rates",
            self.atrous_rates,
            "empty with aspp_with_squeeze_and_excitation and no aspp_with_concat_projection, since "
            "the gate has the channels of one branch",
        )
        self._check_decoder()

    def _refuse_former_names(self) -> None:
        """Raises UserError for torchvision's depths under the name that Google's networks have."""
        variant = str(self.model_variant)
        present = variant.replace("resnet_v1_", "resnet_v1b_")
        is_former = variant not in BACKBONES and present in BACKBONES
        require(not is_former, "model_variant", variant, f"{present}, torchvision's ResNet")

    def _fill_in(self) -> None:
        """Gives the settings that were left open the values that the model variant has."""
        conventions = dict(BACKBONES[self.model_variant].conventions)
        rates = conventions["atrous_rates"]
        conventions["atrous_rates"] = tuple(rate * 16 // self.output_stride for rate in rates)
        if self.batch_norm_decay is not None:
            conventions["head_batch_norm_decay"] = self.batch_norm_decay

        for name, value in conventions.items():
            if getattr(self, name) in (None, ""):
                object.__setattr__(self, name, value)
        # If one of the two is given for other channels, the other one follows.
        lengths = {len(self.image_mean), len(self.image_std)} - {_RGB}
        if len(lengths) == 1:
            mean, std = self._mean_and_std_for(*lengths)
            object.__setattr__(self, "image_mean", mean)
            object.__setattr__(self, "image_std", std)
        if self.dense_prediction_cell_json:
            cell = canonical(self.dense_prediction_cell_json)
            object.__setattr__(self, "dense_prediction_cell_json", cell)

    def _check_decoder(self) -> None:
        """Raises UserError if there cannot be such a decoder, or no dense prediction cell."""
        strides = self.decoder_output_stride
        is_possible = set(strides) <= set(DECODER_STRIDES) and list(strides) == sorted(
            set(strides), reverse=True
        )
        require(
            is_possible and all(stride < self.output_stride for stride in strides),
            "decoder_output_stride",
            strides,
            f"some of {', '.join(map(str, DECODER_STRIDES))}, in falling order, each less than "
            f"output_stride ({self.output_stride})",
        )
        require(
            self.output_stride <= 16 or not self.dense_prediction_cell_json,
            "output_stride",
            self.output_stride,
            "8 or 16 with a dense prediction cell, whose rates are given for 16",
        )

    @property
    def image_channels(self) -> int:
        """The number of channels of the images that the network takes."""
        return len(self.image_mean)

    def with_channels(self, channels: int) -> "ModelConfig":
        """Returns the same network for images of this many channels, if this one is for RGB.

        The means and standard deviations of the further channels are the mean of the RGB ones; with
        fewer than three channels, all are. Those that the user gave say nothing about further
        channels: with them, the network stays as it is.
        """
        mean, std = self._mean_and_std_for(channels)
        if not len(mean) == len(std) == channels:
            return self
        return dataclasses.replace(self, image_mean=mean, image_std=std)

    def _mean_and_std_for(self, channels: int) -> list[tuple[float, ...]]:
        """Returns both, with a number for each channel if they are the model variant's own."""
        own = BACKBONES[self.model_variant].conventions
        given = {"image_mean": self.image_mean, "image_std": self.image_std}
        return [
            _for_channels(values, channels) if values == own[name] else values
            for name, values in given.items()
        ]

    def logits_stride(self) -> int:
        """Returns the number of input pixels, along each side, per cell of the logits."""
        return min(self.decoder_output_stride, default=self.output_stride)

    def at_output_stride(
        self, output_stride: int, *, written: Callable[[str, Any], str] = as_flag
    ) -> "ModelConfig":
        """Returns the same network at another output stride, with its rates scaled to match.

        Args:
          written: how errors write a setting.
        """

        def require_stride(condition: bool, allowed: str) -> None:
            require(condition, "output_stride", output_stride, allowed, written=written)

        require_stride(
            output_stride in OUTPUT_STRIDES, f"one of {', '.join(map(str, OUTPUT_STRIDES))}"
        )
        decoder = max(self.decoder_output_stride, default=0)
        require_stride(output_stride > decoder, f"more than the decoder's stride ({decoder})")

        def scaled(rates: tuple[int, ...]) -> tuple[int, ...]:
            are_whole = all(rate * self.output_stride % output_stride == 0 for rate in rates)
            require_stride(are_whole, f"a stride at which the rates {rates} stay whole numbers")
            return tuple(rate * self.output_stride // output_stride for rate in rates)

        # Factors on the rates of the last stage, unless they replace these.
        grid = scaled(self.multi_grid) if self.multi_grid_replaces_rates else self.multi_grid
        return dataclasses.replace(
            self,
            output_stride=output_stride,
            atrous_rates=scaled(self.atrous_rates),
            multi_grid=grid,
        )


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns one value per channel from three for red, green and blue; others as they are."""
    if len(values) != _RGB or channels == _RGB:
        return values
    mean = round(sum(values) / _RGB, 3)
    return (*values, *[mean] * (channels - _RGB)) if channels > _RGB else (mean,) * channels

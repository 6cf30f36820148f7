"""Settings of augmentation beyond the recipes; all of it is off by default."""

from dataclasses import dataclass

from deeplab_tf.config.setting import MOST_PIXELS_OF_A_SIDE, Config, require, setting

MOST_SIGMA = 16.0  # a kernel of 97 pixels
MOST_OPERATIONS = 10  # the paper tries up to 3


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig(Config):
    """Augmentation beyond the recipes, in the order in which it is applied."""

    hsv_jitter: tuple[float, ...] = setting(
        (),
        "Three shares, such as 0.015,0.7,0.4: the hue turns by up to the first of a full turn, and "
        "saturation and value are multiplied by 1 plus or minus up to the others; empty changes "
        "nothing.",
        least=0,
        most=1,
    )
    randaugment_operations: int = setting(
        0,
        "Operations that RandAugment (Cubuk et al. 2020) applies to each image, drawn from the six "
        "of keras-cv that move nothing: auto contrast, equalize, solarize, less colour, contrast, "
        "brightness; 0 applies none.",
        most=MOST_OPERATIONS,
    )
    randaugment_magnitude: float = setting(
        0.5,
        "Mean strength of RandAugment's operations, from 0 to 1 as in keras-cv.",
        least=0,
        most=1,
        only_with={"randaugment_operations": ()},
    )
    max_blur_sigma: float = setting(
        0.0,
        "Largest standard deviation, in pixels, of a Gaussian blur, which every second image gets; "
        "0 blurs none.",
        least=0,
        most=MOST_SIGMA,
    )
    max_rotation_degrees: float = setting(
        0.0,
        "Largest angle that crops are turned by, either way, around their centre; what comes in "
        "from outside is the mean colour, and ignored.",
        least=0,
        most=180,
    )
    grid_mask_probability: float = setting(
        0.0,
        "Share of the crops that GridMask (Chen et al. 2020) covers with a grid of squares in the "
        "mean colour; their pixels are ignored.",
        least=0,
        most=1,
    )
    grid_mask_ratio: float = setting(
        0.6,
        "Share of the side of each cell of GridMask's grid that stays visible.",
        above=0,
        below=1,
        only_with={"grid_mask_probability": ()},
    )
    grid_mask_size: tuple[int, ...] = setting(
        (96, 224),
        "Smallest and largest side, in pixels, of the cells of GridMask's grid.",
        least=2,
        most=MOST_PIXELS_OF_A_SIDE,
        only_with={"grid_mask_probability": ()},
    )
    cutmix_probability: float = setting(
        0.0,
        "Share of the crops into which CutMix (Yun et al. 2019) pastes a box of another training "
        "image's crop, with its label.",
        least=0,
        most=1,
    )

    def __post_init__(self):
        super().__post_init__()

        jitter = self.hsv_jitter
        three = "empty, or three numbers, for hue, saturation and value"
        require(len(jitter) in (0, 3), "hsv_jitter", jitter, three)
        turns_less = not jitter or jitter[0] <= 0.5
        require(turns_less, "hsv_jitter", jitter, "at most 0.5, half a turn, for the hue")

        sizes = self.grid_mask_size
        is_range = len(sizes) == 2 and sizes[0] <= sizes[1]
        require(is_range, "grid_mask_size", sizes, "two numbers, the smallest,the largest side")

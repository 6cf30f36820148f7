"""Settings of the loss: which losses, how they are summed, and which pixels count how much."""

from dataclasses import dataclass

from deeplab_tf.config.setting import Config, as_flag, require, setting
from deeplab_tf.messages import UserError

# Losses of a region have one value for many pixels, so no pixel has a loss of its own.
PIXEL_LOSSES = ("cross_entropy", "focal")
REGION_LOSSES = ("dice", "lovasz_softmax")


@dataclass(frozen=True, kw_only=True)
class LossWeights(Config):
    """How strongly each loss counts."""

    loss_weights: tuple[float, ...] = setting(
        (), "Factors on the losses, one for each of --loss; empty means 1.", least=0
    )

    def __post_init__(self):
        super().__post_init__()

        weights = self.loss_weights
        is_learning = not weights or any(weights)
        require(is_learning, "loss_weights", weights, "at least one number above 0")


@dataclass(frozen=True, kw_only=True)
class LossConfig(LossWeights):
    """How the losses of all pixels become one number."""

    loss: tuple[str, ...] = setting(
        ("cross_entropy",),
        "The losses to add up, as in --loss=cross_entropy,dice. focal is the focal loss of each "
        "class against the others (Lin et al. 2017). dice is computed over the images of all "
        "replicas, lovasz_softmax (Berman et al. 2018) over each replica's own images.",
        choices=(*PIXEL_LOSSES, *REGION_LOSSES),
    )
    label_smoothing: float = setting(
        0.0,
        "Share of each label that cross_entropy spreads evenly over all classes.",
        least=0,
        below=1,
        only_with={"loss": ("cross_entropy",)},
    )
    focal_gamma: float = setting(
        2.0,
        "Power of the factor by which focal lowers the loss of what is classified well.",
        least=0,
        most=100,
        only_with={"loss": ("focal",)},
    )
    focal_alpha: float = setting(
        0.0,
        "Factor that focal gives a pixel's own class, where all others get 1 minus it; 0 gives all "
        "the factor 1.",
        least=0,
        below=1,
        only_with={"loss": ("focal",)},
    )
    dice_smooth: float = setting(
        0.0,
        "Number of pixels that dice adds to the overlap and to the mean size of each class.",
        least=0,
        only_with={"loss": ("dice",)},
    )
    dice_log_loss: bool = setting(
        False,
        "Whether dice is the negative logarithm of the Dice coefficient instead of 1 minus it.",
        only_with={"loss": ("dice",)},
    )
    lovasz_per_image: bool = setting(
        False,
        "Whether lovasz_softmax is the mean of the images' own losses, and so the same on any "
        "number of replicas.",
        only_with={"loss": ("lovasz_softmax",)},
    )
    label_weights: tuple[float, ...] = setting(
        (),
        "Factors on the loss of a pixel, one for each class; empty means 1. The sum is divided by "
        "the number of pixels, not by the sum of their weights. With dice and lovasz_softmax, "
        "factors on the losses of the classes.",
        least=0,
    )
    top_k_percent_pixels: float = setting(
        1.0,
        "Share of each replica's pixels to train on, those with the highest loss; 1 means all. "
        "With gradient accumulation, they are chosen in each part, and part losses are averaged.",
        above=0,
        most=1,
    )
    hard_example_mining_step: int = setting(
        0,
        "Number of steps in which the share falls from 1 to top_k_percent_pixels.",
        least=0,
        only_with={"top_k_percent_pixels": ()},
    )
    auxiliary_loss_weight: float = setting(
        0.4, "Weight of the auxiliary head's loss.", least=0, only_with={"auxiliary_filters": ()}
    )

    def __post_init__(self):
        super().__post_init__()

        names = self.loss
        require(bool(names), "loss", names, "one or more of " + ", ".join(all_losses()))
        is_set = len(set(names)) == len(names)
        require(is_set, "loss", names, "each loss once; --loss_weights makes one of them stronger")

        weights = self.loss_weights
        fits = not weights or len(weights) == len(names)
        allowed = f"empty, or one number for each of {as_flag('loss', names)}"
        require(fits, "loss_weights", weights, allowed)

        self._require_pixel_losses_to_select()

    def _require_pixel_losses_to_select(self) -> None:
        regions = [name for name in self.loss if name in REGION_LOSSES]
        if regions and self.top_k_percent_pixels != 1.0:
            raise UserError(
                f"{as_flag('top_k_percent_pixels', self.top_k_percent_pixels)} selects pixels by "
                f"their own losses, which {' and '.join(regions)} do not have; give "
                "--top_k_percent_pixels=1, or only "
                f"{' and '.join(PIXEL_LOSSES)} as --loss."
            )


def all_losses() -> tuple[str, ...]:
    """Returns the names that `loss` may hold."""
    return (*PIXEL_LOSSES, *REGION_LOSSES)

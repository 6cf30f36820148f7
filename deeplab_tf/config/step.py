"""Settings of one training step: the loss, and what is done with its gradients."""

from dataclasses import dataclass

from deeplab_tf.config.setting import Config, require, setting


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """How the losses of the pixels become one number."""

    label_weights: tuple[float, ...] = setting(
        (),
        "Factor on the loss of each class's pixels, one for each class; empty means 1. The sum is "
        "divided by the number of pixels, not of weights.",
        least=0,
    )
    top_k_percent_pixels: float = setting(
        1.0,
        "Share of a replica's pixels to train on, those with the highest loss (1 is 100 %). With "
        "gradient accumulation they are chosen in each part, and the parts' losses are averaged.",
        least=0,
    )
    hard_example_mining_step: int = setting(
        0,
        "Steps in which the share goes from 1 to top_k_percent_pixels.",
        least=0,
        only_with={"top_k_percent_pixels": ()},
    )
    auxiliary_loss_weight: float = setting(
        0.4, "Weight of the auxiliary head's loss.", least=0, only_with={"auxiliary_filters": ()}
    )

    def __post_init__(self):
        super().__post_init__()
        share = self.top_k_percent_pixels
        require(0 < share <= 1, "top_k_percent_pixels", share, "above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class StepConfig(Config):
    """How a step computes its gradients, and what it does to them before the optimizer."""

    gradient_accumulation_steps: int = setting(
        1,
        "Equal parts in which a replica computes its images of one step, to save memory. Batch "
        "normalisation uses the statistics of each part, and updates its moving averages once for "
        "each part.",
        least=1,
    )
    clip_gradient_norm: float = setting(
        0.0,
        "Largest norm of all gradients of the global batch together; larger ones are scaled down, "
        "before momentum and weight decay. 0 sets no limit.",
        least=0,
    )
    last_layer_gradient_multiplier: float = setting(
        1.0,
        "Factor on the loss's gradients for ASPP, decoder and classifiers, after clipping; "
        "weight decay is not multiplied (official DeepLab multiplies its L2 too).",
        least=0,
    )
    fine_tune_batch_norm: bool = setting(
        True, "Whether batch normalisation uses and updates batch statistics while training."
    )
    last_layers_contain_logits_only: bool = setting(
        False,
        "Whether initialize_last_layer=false and last_layer_gradient_multiplier apply only to the "
        "classifiers.",
        only_with={"initialize_last_layer": (False,), "last_layer_gradient_multiplier": ()},
    )
    seed: int = setting(0, "Seed of initial weights, order, augmentation and dropout.", least=0)

"""Settings of one training step: how its gradients are computed, and what happens to them."""

from dataclasses import dataclass

from deeplab_tf.config.setting import MOST_SEED, Config, setting


@dataclass(frozen=True, kw_only=True)
class StepConfig(Config):
    """How a step computes its gradients, and what it does to them before the optimizer runs."""

    gradient_accumulation_steps: int = setting(
        1,
        "Number of equal parts in which a replica computes the images of a step, to save memory. "
        "Batch normalisation uses the statistics of each part and updates its moving averages once "
        "per part.",
        least=1,
    )
    clip_gradient_norm: float = setting(
        0.0,
        "Limit on the norm of all gradients of the global batch together; if it is exceeded, all "
        "gradients are scaled down, before momentum and weight decay. 0 sets no limit.",
        least=0,
    )
    last_layer_gradient_multiplier: float = setting(
        1.0,
        "Factor on the gradients of the loss for ASPP, decoder and classifiers, applied after "
        "clipping. It does not multiply weight decay (official DeepLab multiplies its L2 too).",
        least=0,
    )
    fine_tune_batch_norm: bool = setting(
        True,
        "Whether batch normalisation uses the statistics of each batch in training, and updates "
        "its moving averages.",
    )
    last_layers_contain_logits_only: bool = setting(
        False,
        "Whether initialize_last_layer=false and last_layer_gradient_multiplier apply only to the "
        "classifiers, and not to ASPP and decoder.",
        only_with={"initialize_last_layer": (False,), "last_layer_gradient_multiplier": ()},
    )
    seed: int = setting(
        0,
        "Seed of the initial weights, the order of images, augmentation and dropout.",
        least=0,
        most=MOST_SEED,
    )

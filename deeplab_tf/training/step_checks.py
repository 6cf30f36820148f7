"""Whether a training step can be computed: limits on settings that only together are too much."""

import math

from deeplab_tf.config import DataConfig, Experiment, as_flag
from deeplab_tf.config.setting import MOST_COUNT
from deeplab_tf.messages import UserError, counted, warn

# The largest maps of ResNet and Xception, for each pixel of an image: 128 channels at half the
# height and width. MobileNetV2's have 96 there, times the depth multiplier; the other
# MobileNets' are smaller. On CPUs cross-entropy holds no larger map of the classes
# (`ops.cross_entropy`); other losses do.
_NUMBERS_PER_PIXEL = 32
_NUMBERS_PER_PIXEL_OF_MOBILENET = 24


def require_possible(
    experiment: Experiment, *, num_classes: int, replicas: int, on_gpus: bool
) -> None:
    """Raises UserError unless batch and crops leave a step with something to learn from.

    Args:
      replicas: number of replicas that share a batch.
      on_gpus: whether they are GPUs.
    """
    _require_random_scales(experiment.data)
    train, size = experiment.train, experiment.data.train_crop_size
    images = train.train_batch_size / (replicas * train.gradient_accumulation_steps)

    pixels = max(int(images * size[0] * size[1]), 1)
    seen = math.ceil(pixels * max(experiment.model.image_pyramid, default=1.0) ** 2)
    holds_classes = on_gpus or train.loss != ("cross_entropy",)
    widest = math.ceil(_NUMBERS_PER_PIXEL_OF_MOBILENET * experiment.model.depth_multiplier)
    per_pixel = max(_NUMBERS_PER_PIXEL, widest, num_classes if holds_classes else 0)
    numbers = max(pixels, seen) * per_pixel
    crops = as_flag("train_crop_size", size)
    if numbers > MOST_COUNT:
        raise UserError(
            f"--train_batch_size={train.train_batch_size} and {crops} make a tensor of {numbers} "
            f"numbers in a replica, and TensorFlow counts up to {MOST_COUNT}; give smaller crops, "
            "fewer images or more --gradient_accumulation_steps."
        )

    share = train.top_k_percent_pixels
    if int(share * pixels) < 1:
        least = float(f"{1.01 / pixels:.2e}")
        raise UserError(
            f"--top_k_percent_pixels={share} leaves none of the {counted(pixels, 'pixel')} that a "
            f"replica computes at once ({crops}); give {least} or more."
        )


def _require_random_scales(data: DataConfig) -> None:
    """Raises UserError if a step is so large that the smallest scale is the only one.

    Official DeepLab then takes it for every image without a word. Here and not in `DataConfig`,
    since runs that an earlier version trained so can still be scored.
    """
    span = data.max_scale_factor - data.min_scale_factor
    if 0 < span < data.scale_factor_step_size - 1e-6:
        raise UserError(
            f"--scale_factor_step_size={data.scale_factor_step_size} is more than the range from "
            f"--min_scale_factor={data.min_scale_factor} to "
            f"--max_scale_factor={data.max_scale_factor}, so every image would have the smallest "
            "scale; give --scale_factor_step_size=0 for any scale of the range, or a smaller step."
        )


def warn_of_small_crops(experiment: Experiment) -> None:
    """Warns if the encoder's output has one cell from side to side of a crop.

    Such a run learns and may be wanted, to try something, but its ASPP sees nothing around a cell.
    """
    size, stride = experiment.data.train_crop_size, experiment.model.output_stride
    if min(size) <= stride:
        warn(
            f"{as_flag('train_crop_size', size)} gives the network one cell from side to side, at "
            f"{as_flag('output_stride', stride)}, so it learns nothing of what is around it; give "
            f"crops of more than {counted(stride, 'pixel')} along each side, better of several "
            "hundred."
        )


def require_batch_statistics(experiment: Experiment) -> None:
    """Raises UserError if batch normalisation would see a single value per channel.

    Image pooling leaves one value of each channel per image, and one value has no variance.
    """
    size, parts = experiment.train.train_batch_size, experiment.train.gradient_accumulation_steps
    single_images = size == parts and experiment.train.fine_tune_batch_norm
    model = experiment.model
    # A gate has no batch normalisation, and a dense prediction cell takes the place of ASPP.
    has_branch = (
        model.add_image_level_feature
        and not model.aspp_with_squeeze_and_excitation
        and not model.dense_prediction_cell_json
    )
    if single_images and has_branch:
        given = f" with --gradient_accumulation_steps={parts}" if parts > 1 else ""
        raise UserError(
            f"--train_batch_size={size}{given} leaves batch normalisation in the image pooling "
            f"branch only one value per channel; allowed: {2 * parts} or more, "
            "--nofine_tune_batch_norm, or --noadd_image_level_feature."
        )

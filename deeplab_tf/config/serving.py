"""Settings of an exported model: what a server's clients may send and what they get."""

from dataclasses import dataclass

from deeplab_tf.config.setting import MOST_PIXELS_OF_A_SIDE, Config, require, setting


@dataclass(frozen=True, kw_only=True)
class ServingConfig(Config):
    """What the exported model takes and returns."""

    serving_size: tuple[int, ...] = setting(
        (),
        "Height and width that encoded images are resized to; their labels have that size too. If "
        "empty, they keep their size, and all images of a batch must have the same size.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
    )
    add_scores: bool = setting(
        False, "Whether to return `scores` too: the probability of each pixel's label."
    )
    add_probabilities: bool = setting(
        False, "Whether to return `probabilities` too: one number for each pixel and class."
    )
    # A server sends each label as a varint, which takes one byte below 128 and two from 128 on.
    # gRPC clients accept 4 MiB by default: enough for the labels of one image of this size with up
    # to 128 classes, but not with more.
    max_image_pixels: int = setting(
        4_000_000,
        "Largest number of pixels in an image, also after resizing for prediction; larger images "
        "are refused. Clients must accept answers of 1 byte per pixel, or 2 for labels from 128 "
        "on.",
        least=1,
    )
    max_batch_size: int = setting(
        8, "Maximum number of images per request and per server-side batch.", least=1
    )

    serving_device: str = setting(
        "any",
        "Where the model will run. cpu uses the convolutions that are fastest on CPUs for images "
        "of the size used in evaluation; such a file is larger, slower on GPUs, and cannot be "
        "converted to other formats.",
        choices=("any", "cpu"),
    )

    def __post_init__(self):
        super().__post_init__()

        size = self.serving_size
        require(len(size) in (0, 2), "serving_size", size, "two numbers, height,width")
        fits = not size or size[0] * size[1] <= self.max_image_pixels
        require(fits, "serving_size", size, f"max_image_pixels ({self.max_image_pixels}) or fewer")

"""Settings of an exported model: what a server's clients may send and what they get."""

from dataclasses import dataclass

from deeplab_tf.config.setting import Config, require, setting


@dataclass(frozen=True, kw_only=True)
class ServingConfig(Config):
    """What the exported model takes and returns."""

    serving_size: tuple[int, ...] = setting(
        (),
        "Height and width that encoded images are resized to, and their labels' size; "
        "empty predicts them at their own size, which all images of a batch must share.",
        least=1,
    )
    add_scores: bool = setting(
        False, "Whether `scores` is returned too: the probability of each pixel's label."
    )
    add_probabilities: bool = setting(
        False, "Whether `probabilities` is returned too: one number for each pixel and class."
    )
    # A server sends each label as a varint, of one byte below 128: labels of one image, of up to
    # 128 classes, fit into the 4 MiB that gRPC's clients accept by default; those of more do not.
    max_image_pixels: int = setting(
        4_000_000,
        "Most pixels of an image, also after resizing for prediction; larger ones are refused. "
        "Clients must accept answers of 1 byte a pixel, or 2 for labels from 128 on.",
        least=1,
    )
    max_batch_size: int = setting(
        8, "Most images in a request, and in a batch that a server joins from several.", least=1
    )

    serving_device: str = setting(
        "any",
        "Where the model will run. cpu uses the convolutions that are fastest on CPUs for images "
        "of the evaluation's size; the file is larger, slower on GPUs and cannot be converted.",
        choices=("any", "cpu"),
    )

    def __post_init__(self):
        super().__post_init__()
        size = self.serving_size
        require(len(size) in (0, 2), "serving_size", size, "two numbers, height,width")
        fits = not size or size[0] * size[1] <= self.max_image_pixels
        require(fits, "serving_size", size, f"max_image_pixels ({self.max_image_pixels}) or fewer")

"""Settings of prediction and scoring."""

from dataclasses import dataclass

from deeplab_tf.config.setting import MOST_PIXELS_OF_A_SIDE, MOST_SCALE, Config, require, setting


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """How images are scored."""

    eval_split: str = setting("val", "Split to score.", may_change=True)
    eval_batch_size: int = setting(
        1, "Images per batch; only images of one size share a batch.", least=1, may_change=True
    )
    eval_scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales at which each image is predicted; their probabilities are averaged.",
        least=0.01,
        most=MOST_SCALE,
        may_change=True,
    )
    add_flipped_images: bool = setting(
        False,
        "Whether each image is also predicted mirrored; the probabilities are averaged.",
        may_change=True,
    )
    inference_mode: str = setting(
        "whole",
        "whole: each image is predicted at once; slide: in windows, and probabilities are averaged "
        "where windows overlap.",
        choices=("whole", "slide"),
        may_change=True,
    )
    eval_crop_size: tuple[int, ...] = setting(
        (),
        "Height and width, in pixels. whole: each image is padded to it, below and on the right, "
        "with the mean colour, as official DeepLab does; empty pads nothing. slide: the size of a "
        "window; in a smaller image the window is as large as the image.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
        may_change=True,
    )
    eval_size_divisor: int = setting(
        0,
        "Pads each image, or each window, below and on the right, with the mean colour, to a "
        "multiple of this number, and by 1 pixel more if corners are aligned. With the output "
        "stride, the enlarged scores lie exactly over the image, as in training; 0 pads nothing, "
        "as in SSSegmentation.",
        least=0,
        most=MOST_PIXELS_OF_A_SIDE,
        may_change=True,
    )
    eval_crop_stride: tuple[int, ...] = setting(
        (),
        "For inference_mode=slide: distance from one window to the next, down and across, in "
        "pixels.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
        may_change=True,
        only_with={"inference_mode": ("slide",)},
    )
    window_blending: str = setting(
        "none",
        "How overlapping windows are averaged. none: all their pixels count alike; hann: less "
        "towards a window's border, so that no border shows.",
        choices=("none", "hann"),
        may_change=True,
        only_with={"inference_mode": ("slide",), "max_image_pixels": ()},
    )

    def __post_init__(self):
        super().__post_init__()
        require(len(self.eval_scales) > 0, "eval_scales", "", "at least one scale")

        size, stride = self.eval_crop_size, self.eval_crop_stride
        lengths = (2,) if self.inference_mode == "slide" else (0, 2)
        require(len(size) in lengths, "eval_crop_size", size, "two numbers, height,width")
        require(len(stride) in lengths, "eval_crop_stride", stride, "two numbers, height,width")
        require(
            not (size and self.eval_size_divisor and self.inference_mode == "whole"),
            "eval_size_divisor",
            self.eval_size_divisor,
            "0 with eval_crop_size, which says itself to which size images are padded",
        )
        if size and stride:
            fits = stride[0] <= size[0] and stride[1] <= size[1]
            require(fits, "eval_crop_stride", stride, f"at most eval_crop_size {size}")

"""Predicts images in windows if they are too large to be predicted at once."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from deeplab_tf.config import DataConfig, EvalConfig
from deeplab_tf.evaluation.predictor import Predictor, build_predictor
from deeplab_tf.inference import replicas
from deeplab_tf.inference.replicas import Predict, Result
from deeplab_tf.models.deeplab import DeepLab

_CELLS = 32  # the coarsest output stride; windows of its multiples end at whole cells


def sliding(evaluation: EvalConfig, max_pixels: int, *, align_corners: bool = False) -> EvalConfig:
    """Returns settings that predict in square windows of at most `max_pixels` pixels.

    A third of each window overlaps the next one. An image may be less high or wide than a window;
    it is padded to whole cells if the settings pad whole images. Settings that slide already stay
    as they are.

    Args:
      align_corners: the model's setting.
    """
    if evaluation.inference_mode == "slide":
        return evaluation
    divisor = evaluation.eval_size_divisor or (_CELLS if evaluation.eval_crop_size else 0)
    beyond = 1 if align_corners else 0  # the corner cells' centres are then the corner pixels
    side = (math.isqrt(max_pixels) - beyond) // _CELLS * _CELLS + beyond
    stride = side - side // 3
    return dataclasses.replace(
        evaluation,
        inference_mode="slide",
        eval_crop_size=(side, side),
        eval_crop_stride=(stride, stride),
        eval_size_divisor=divisor,
    )


def with_windows(
    predict: Predict,
    predictor: Predictor,
    model: DeepLab,
    data: DataConfig,
    evaluation: EvalConfig,
    *,
    max_pixels: int,
    with_probabilities: bool = False,
) -> Predict:
    """Returns a function that predicts images of more than `max_pixels` pixels in windows.

    It leaves all others to `predict`, and prints a line when the first larger image comes.

    Args:
      predict: the function from images, [H, W, C], to results, as the run says.
      predictor: what `predict` uses; the sizes of its views of an image count too.
    """
    settings = sliding(evaluation, max_pixels, align_corners=model.config.align_corners)
    in_windows = replicas.one_by_one(
        build_predictor(model, data, settings, predictor.image_kind),
        with_probabilities=with_probabilities,
    )
    told: list[tuple] = []

    def results(images: Sequence[np.ndarray]) -> list[Result]:
        sizes = [int(predictor.most_pixels(image.shape[:2])) for image in images]
        small = [image for image, pixels in zip(images, sizes, strict=True) if pixels <= max_pixels]
        found = iter(predict(small) if small else [])
        return [
            next(found) if pixels <= max_pixels else of_large(image)
            for image, pixels in zip(images, sizes, strict=True)
        ]

    def of_large(image: np.ndarray) -> Result:
        if not told:
            told.append(image.shape)
            height, width = settings.eval_crop_size
            down, across = settings.eval_crop_stride
            print(
                f"Images of more than --max_image_pixels={max_pixels} pixels, such as one of "
                f"{image.shape[1]}x{image.shape[0]}, are predicted in windows of {width}x{height}, "
                f"{across} and {down} pixels apart.",
                flush=True,
            )
        return in_windows([image])[0]

    return results

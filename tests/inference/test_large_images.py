"""Images above --max_image_pixels slide; those below are predicted as ever."""

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import predict
from deeplab_tf.config import DataConfig, EvalConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.evaluation.predictor import Predictor, build_predictor
from deeplab_tf.inference import large_images, replicas
from deeplab_tf.messages import UserError
from tests.inference import runs
from tests.serving import cases


@pytest.mark.parametrize(
    ("most", "side", "stride"), [(64 * 64, 64, 43), (4_000_000, 1984, 1323), (10_000, 96, 64)]
)
def test_windows_hold_at_most_so_many_pixels_and_overlap_by_a_third(most, side, stride):
    settings = large_images.sliding(EvalConfig(), most)
    assert settings.eval_crop_size == (side, side) and side * side <= most
    assert settings.eval_crop_stride == (stride, stride) and settings.eval_size_divisor == 0
    own = EvalConfig(inference_mode="slide", eval_crop_size=(50, 60), eval_crop_stride=(20, 30))
    assert large_images.sliding(own, most) is own


@pytest.mark.parametrize(
    ("settings", "align_corners", "side", "divisor"),
    [
        ({"eval_size_divisor": 16}, False, 1984, 16),
        ({"eval_size_divisor": 16}, True, 1985, 16),
        ({"eval_crop_size": (513, 513)}, True, 1985, 32),
        ({}, True, 1985, 0),
    ],
)
def test_windows_end_at_whole_cells_as_whole_images_do(settings, align_corners, side, divisor):
    found = large_images.sliding(EvalConfig(**settings), 4_000_000, align_corners=align_corners)
    assert found.eval_crop_size == (side, side) and found.eval_size_divisor == divisor


def test_an_image_that_is_less_high_than_a_window_is_padded_as_the_run_pads():
    """Its last cells would be squeezed into it otherwise, and its labels move up."""
    image = cases.pictures(1, (40, 200))[0]
    evaluation = EvalConfig(eval_size_divisor=16)
    whole = build_predictor(cases.model(), DataConfig(), evaluation)
    predict = large_images.with_windows(
        replicas.one_by_one(whole),
        whole,
        cases.model(),
        DataConfig(),
        evaluation,
        max_pixels=64 * 64,
    )
    found, _ = predict([image])[0]
    # Only the first of the windows, which are 43 pixels apart, covers the first 43 columns.
    first = whole.labels(image[np.newaxis, :, :64])[0, :, :43]
    np.testing.assert_array_equal(found[:, :43], first)
    squeezed = Predictor(cases.model()).labels(image[np.newaxis, :, :64])[0, :, :43]
    assert (first != squeezed).numpy().any()


def test_only_larger_images_slide(tmp_path, capsys):
    run = runs.write(tmp_path / "run", steps=(100,))
    (tmp_path / "photos").mkdir()
    small, large = cases.pictures(1, (64, 64))[0], cases.pictures(1, (70, 150), seed=1)[0]
    for name, pixels in (("small", small), ("large", large)):
        Image.fromarray(pixels).save(tmp_path / f"photos/{name}.png")
    places = {"input": (str(tmp_path / "photos"),), "checkpoint_dir": str(run)}
    limited = PredictConfig(output_dir=str(tmp_path / "out"), max_image_pixels=64 * 64, **places)
    predict.main(limited)
    said = [line for line in capsys.readouterr().out.splitlines() if "max_image_pixels" in line]
    assert said == [
        "Images of more than --max_image_pixels=4096 pixels, such as one of 150x70, are predicted "
        "in windows of 64x64, 43 and 43 pixels apart."
    ]

    sliding = Predictor(cases.model(), window_size=(64, 64), window_stride=(43, 43))
    for name, predictor, pixels in (
        ("small", Predictor(cases.model()), small),
        ("large", sliding, large),
    ):
        found = np.asarray(Image.open(tmp_path / f"out/index/{name}.png"))
        np.testing.assert_array_equal(found, predictor.labels(pixels[np.newaxis])[0])
    whole = Predictor(cases.model()).labels(large[np.newaxis])[0]
    assert (whole != found).numpy().any()

    with pytest.raises(UserError, match=r"another max_image_pixels \(4096; now null\)"):
        predict.main(PredictConfig(output_dir=str(tmp_path / "out"), **places))
    with pytest.raises(UserError, match="max_image_pixels=9 is not possible; allowed: 0, or 4096"):
        PredictConfig(output_dir="out", max_image_pixels=9, **places)

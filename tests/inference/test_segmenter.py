"""deeplab_tf.load: one model, any image; compared with the Keras model and with predict."""

import io
import logging

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import deeplab_tf
from deeplab_tf import predict
from deeplab_tf.config import UserError
from deeplab_tf.config.programs import PredictConfig
from tests.inference import runs
from tests.serving import cases

PIXELS = cases.pictures(1, (45, 60))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("segmenter") / "run", steps=(100, 200))


@pytest.fixture(scope="module")
def segmenter(run):
    return deeplab_tf.load(run, checkpoint=100)


def by_keras(pixels):
    """Labels and scores from the model's logits, resized and normalised here."""
    logits = cases.model()(pixels[np.newaxis].astype(np.float32))["logits"]
    logits = tf.image.resize(logits, pixels.shape[:2]).numpy()[0]
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return logits.argmax(-1), scores / scores.sum(-1, keepdims=True)


def test_a_prediction_is_the_models_at_the_images_size(segmenter):
    found = segmenter.predict(PIXELS)
    labels, scores = by_keras(PIXELS)
    assert found.labels.dtype == np.uint8 and found.labels.shape == (45, 60)
    assert (found.labels != labels).mean() < 1e-3 and len(np.unique(labels)) > 2  # float ties
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert found.names == tuple(f"class {i}" for i in range(7))
    table = np.array([(i, 10 * i, 255 - i) for i in range(7)], np.uint8)
    np.testing.assert_array_equal(found.colors, table[found.labels])


def test_path_pillow_array_and_list_are_one_image_and_equal_predict(segmenter, run, tmp_path):
    other = cases.pictures(1, (31, 40), seed=3)[0]
    for name, pixels in (("a", PIXELS), ("b", other)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    a, b, c, d = segmenter.predict(
        [tmp_path / "a.png", str(tmp_path / "b.png"), Image.fromarray(PIXELS), other]
    )
    np.testing.assert_array_equal(a.labels, c.labels)
    np.testing.assert_array_equal(b.labels, d.labels)

    job = {"input": (str(tmp_path),), "output_dir": str(tmp_path / "out"), "checkpoint": "100"}
    predict.main(PredictConfig(checkpoint_dir=str(run), **job))
    for name, found in (("a", a), ("b", b)):
        for kind, wanted in (("index", found.labels), ("color", found.colors)):
            written = np.asarray(Image.open(tmp_path / f"out/{kind}/{name}.png"))
            np.testing.assert_array_equal(written, wanted)


def test_scores_are_of_the_image_that_was_predicted(segmenter):
    """Though they are computed later, when a frame buffer holds the next frame."""
    buffer = PIXELS.copy()
    found = segmenter.predict(buffer)
    buffer[:] = 0
    np.testing.assert_allclose(found.scores, by_keras(PIXELS)[1], atol=1e-4)


def test_the_checkpoint_is_chosen_as_everywhere(run, segmenter, caplog):
    newest = deeplab_tf.load(run)
    named = deeplab_tf.load(run / "model.ckpt-200")
    assert (newest.predict(PIXELS).labels != segmenter.predict(PIXELS).labels).mean() > 0.5
    np.testing.assert_array_equal(newest.predict(PIXELS).labels, named.predict(PIXELS).labels)
    with caplog.at_level(logging.INFO, "deeplab_tf"):
        deeplab_tf.load(run, checkpoint="newest")
    assert "step 200 (newest)" in caplog.text
    with pytest.raises(
        UserError, match=r"^model='.*ckpt-200' names step 200, but checkpoint='100'"
    ):
        deeplab_tf.load(run / "model.ckpt-200", checkpoint=100)


def test_settings_take_the_place_of_the_recipes(run):
    """With a mirrored view too, the scores are the average of both views, computed here."""
    found = deeplab_tf.load(run, checkpoint=100, add_flipped_images=True).predict(PIXELS)
    mirrored = by_keras(PIXELS[:, ::-1])[1][:, ::-1]
    np.testing.assert_allclose(found.scores, (by_keras(PIXELS)[1] + mirrored) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"eval_scale": (1.0,)}, "has no setting 'eval_scale'; did you mean eval_scales?"),
        ({"batch": 3}, "has no setting 'batch'; it has: output_stride, "),
        ({"eval_scales": ()}, "eval_scales= is not possible; allowed: at least one scale"),
        (
            {"eval_crop_stride": (9, 9)},
            r"eval_crop_stride=\(9, 9\) has no effect without inference",
        ),
        ({"checkpoint": "last"}, "checkpoint='last' is not possible; allowed: newest, best or"),
    ],
)
def test_a_setting_that_cannot_be_had_is_refused(run, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        deeplab_tf.load(run, **settings)


@pytest.mark.slow
def test_an_exported_model_is_loaded_by_its_folder(tmp_path, segmenter):
    """With probabilities if it was exported with them; its settings are fixed."""
    plain = cases.write(tmp_path / "plain")
    full = cases.write(tmp_path / "full", add_probabilities=True)
    wanted = segmenter.predict(PIXELS)
    for folder in (plain.parent, full):
        found = deeplab_tf.load(folder).predict(PIXELS)
        np.testing.assert_array_equal(found.labels, wanted.labels)
        assert found.names == wanted.names
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    with pytest.raises(UserError, match="returns no probabilities; export it again"):
        deeplab_tf.load(plain).predict(PIXELS).scores  # noqa: B018
    for fixed in ({"checkpoint": "best"}, {"add_flipped_images": True}):
        with pytest.raises(UserError, match=f"{[*fixed][0]}=.* is fixed in the exported model"):
            deeplab_tf.load(plain, **fixed)
    with pytest.raises(UserError, match="give export_model a higher --max_image_pixels"):
        deeplab_tf.load(plain).predict(np.zeros([300, 300, 3], np.uint8))


def deep_png(tmp_path):
    """A PNG of 16 bits per channel, which Pillow opens as if it had 8."""
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.full([4, 4, 3], 4000, np.uint16))
    return path


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (PIXELS[..., 0], r"shape \[45, 60\]; .* np.stack\("),
        (PIXELS[..., :1], r"shape \[45, 60, 1\]; .* np.repeat\("),
        (PIXELS[np.newaxis], r"shape \[1, 45, 60, 3\]; .* list\(images\)"),
        (np.moveaxis(PIXELS, -1, 0), r"shape \[3, 45, 60\]; .* np.moveaxis\("),
        (np.dstack([PIXELS, PIXELS[..., 0]]), r"shape \[45, 60, 4\]; .* image\[..., :3\]"),
        (PIXELS[:0], r"shape \[0, 60, 3\]; .* with pixels"),
        (PIXELS / 255, r"array of float64; .* np.uint8\(np.round\(image \* 255\)"),
        (PIXELS.astype(np.uint16) * 257, r"array of uint16; .* np.uint8\(image // 257\)"),
        (PIXELS.astype(np.int64), r"array of int64; .* values are 0..255"),
        (Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "mode I;16; images have 8 bits"),
        (Image.fromarray(np.zeros([4, 4], np.float32)), "mode F; images have 8 bits"),
        (None, "An image is a NoneType; give a path"),
        (b"x", "An image is a bytes; give a path"),
        ("missing.png", "missing.png cannot be read: No such file"),
        (deep_png, "deep.png has 16 bits per channel, but images have 8"),
        (lambda folder: Image.open(deep_png(folder)), "deep.png has 16 bits per channel"),
        (
            lambda folder: Image.open(io.BytesIO(deep_png(folder).read_bytes())),
            "The Pillow image has 16 bits per channel",
        ),
    ],
    ids=range(17),
)
def test_what_is_no_8_bit_rgb_image_is_refused(segmenter, tmp_path, image, sentence):
    with pytest.raises(UserError, match=sentence):
        segmenter.predict(image(tmp_path) if callable(image) else image)


def test_the_ways_out_of_the_sentences_work(segmenter):
    grey, wanted = PIXELS[..., 0], segmenter.predict(PIXELS).labels
    stacked = segmenter.predict(np.stack([grey] * 3, axis=-1)).labels
    for same in (np.repeat(grey[..., np.newaxis], 3, axis=-1), Image.fromarray(grey)):
        np.testing.assert_array_equal(segmenter.predict(same).labels, stacked)
    deep = PIXELS.astype(np.uint16) * 257
    for same in (np.uint8(deep // 257), np.uint8(np.round(PIXELS / 255 * 255))):
        np.testing.assert_array_equal(segmenter.predict(same).labels, wanted)
    (first,) = segmenter.predict(list(PIXELS[np.newaxis]))
    np.testing.assert_array_equal(first.labels, wanted)


def test_a_turned_photo_is_upright_by_path_and_as_it_stands_as_an_object(
    segmenter, tmp_path, capsys
):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    assert segmenter.predict(tmp_path / "turned.png").labels.shape == (60, 45)
    assert capsys.readouterr().err == ""
    assert segmenter.predict(Image.open(tmp_path / "turned.png")).labels.shape == (45, 60)
    assert "its EXIF data turn it; give its path" in capsys.readouterr().err


def test_transparency_is_dropped_with_a_warning_as_on_the_command_line(segmenter, tmp_path, capsys):
    image = Image.fromarray(np.dstack([PIXELS, np.full([45, 60], 9, np.uint8)]))
    image.save(tmp_path / "clear.png")
    wanted = segmenter.predict(PIXELS).labels
    for given in (image, tmp_path / "clear.png"):
        np.testing.assert_array_equal(segmenter.predict(given).labels, wanted)
        assert "channels other than red, green and blue" in capsys.readouterr().err

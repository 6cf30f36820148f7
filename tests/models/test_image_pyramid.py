import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models import image_pyramid
from deeplab_tf.models.deeplab import build_model
from tests.models.calculations import enlarge

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 33, 42, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, (2, 33, 42, 1)).astype(np.int32)


def network(images, index):
    """Its logits are every fourth pixel, times a factor that tells the scale's place."""
    return {"logits": images[:, ::4, ::4] * (index + 1.0)}


@pytest.mark.parametrize("known_size", [True, False])
@pytest.mark.parametrize(("method", "merge"), [("max", np.max), ("avg", np.mean)])
@pytest.mark.parametrize(
    ("scales", "sizes", "size"),
    [
        # int((33 - 1) * 0.5 + 1) = 17, int(41 * 0.5 + 1) = 21; merged at 32 / 4 + 1 and 41 / 4 + 1.
        ((0.5, 1.0), [(17, 21), (33, 42)], (9, 11)),
        # int(32 * 1.3 + 1) = 42 and 54; merged at int(32 * 1.3 / 4 + 1) = 11 and int(14.3).
        ((1.3, 0.75), [(42, 54), (25, 31)], (11, 14)),
        ((0.5, 0.75), [(17, 21), (25, 31)], (9, 11)),
    ],
)
def test_logits_of_all_scales_are_merged(scales, sizes, size, method, merge, known_size):
    def run(images):
        return image_pyramid.over_scales(
            network, images, scales=scales, merge_method=method, stride=4, align_corners=True
        )

    spec = tf.TensorSpec(IMAGES.shape if known_size else [None, None, None, 3])
    outputs = tf.function(run, [spec])(IMAGES)

    expected = [
        enlarge(enlarge(IMAGES, *scaled)[:, ::4, ::4] * (index + 1.0), *size)
        for index, scaled in enumerate(sizes)
    ]
    for scale, logits in zip(outputs["scales"], expected, strict=True):
        np.testing.assert_allclose(scale["logits"], logits, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(outputs["logits"], merge(expected, axis=0), rtol=1e-3, atol=0.05)


def test_a_single_scale_has_nothing_to_merge():
    outputs = image_pyramid.over_scales(
        network, IMAGES, scales=(0.5,), merge_method="max", stride=4, align_corners=True
    )
    expected = enlarge(enlarge(IMAGES, 17, 21)[:, ::4, ::4], 9, 11)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-3, atol=0.05)
    assert set(outputs) == {"logits"}


@pytest.fixture(scope="module")
def models():
    """A network with an image pyramid, and the same without, of equal weights."""
    plain = ModelConfig(
        model_variant="resnet_v1b_18",
        atrous_rates=(1,),
        aspp_convs_filters=8,
        auxiliary_filters=4,
        align_corners=True,
    )
    config = dataclasses.replace(plain, image_pyramid=(0.5, 1.0), merge_method="avg")
    with_pyramid, single = (build_model(c, num_classes=3) for c in (config, plain))
    single.set_weights(with_pyramid.get_weights())
    return with_pyramid, single


def cross_entropy(logits):
    logits = enlarge(np.float64(logits), 33, 42)
    scores = np.log(np.exp(logits).sum(axis=-1, keepdims=True)) - logits
    return np.take_along_axis(scores, LABELS, axis=-1).mean()


def test_the_loss_is_that_of_every_scale_and_of_the_merged_logits(models):
    model, single = models
    scales = [single(image) for image in (enlarge(IMAGES, 17, 21).astype(np.float32), IMAGES)]
    logits = [enlarge(outputs["logits"].numpy(), 3, 3) for outputs in scales]
    auxiliary = [cross_entropy(outputs["aux_logits"].numpy()) for outputs in scales]
    merged = np.mean(logits, axis=0)
    expected = sum(map(cross_entropy, logits)) + 0.4 * sum(auxiliary) + cross_entropy(merged)

    model.compile("sgd", auxiliary_loss_weight=0.4)
    assert model.test_on_batch(IMAGES, LABELS) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(model.infer(tf.constant(IMAGES)), merged, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_it_trains_and_predicts_and_is_saved(models, tmp_path):
    model, _ = models
    model.compile("sgd")
    history = model.fit(IMAGES, LABELS, verbose=0).history
    assert np.isfinite(history["loss"][0])

    predicted = model.predict(IMAGES, batch_size=1, verbose=0)
    np.testing.assert_allclose(predicted["logits"], model(IMAGES)["logits"], atol=1e-5)
    assert [set(scale) for scale in predicted["scales"]] == [{"logits", "aux_logits"}] * 2
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES)["logits"], predicted["logits"], atol=1e-5)


def test_each_scale_draws_its_own_dropout_and_a_repeated_step_the_same(models):
    model, _ = models
    config = dataclasses.replace(
        model.config, image_pyramid=(1.0, 1.0), aspp_dropout_rate=0.5, dropout_rate=0.0
    )
    model = build_model(config, num_classes=3)
    seed = tf.constant([1, 2], tf.int64)
    runs = [
        model(IMAGES, training=True, update_batch_norm=False, seed=seed)["scales"] for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0][0]["logits"], runs[1][0]["logits"])
    assert not np.allclose(runs[0][0]["logits"], runs[0][1]["logits"])


def test_scales_of_evaluation_take_the_place_of_the_pyramid():
    """Official model.py: with several eval_scales, each is predicted without the pyramid."""
    plain = ModelConfig(
        model_variant="resnet_v1b_18",
        atrous_rates=(),
        aspp_convs_filters=8,
        initializer="he_normal",
    )
    model = build_model(plain, num_classes=3)
    looking_twice = build_model(dataclasses.replace(plain, image_pyramid=(0.5, 1.0)), num_classes=3)
    looking_twice.set_weights(model.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (1, 49, 65, 3), np.uint8)

    def probabilities(network, scales):
        return Predictor(network, scales=scales).probabilities(images).numpy()

    several = (0.75, 1.0)
    np.testing.assert_array_equal(
        probabilities(looking_twice, several), probabilities(model, several)
    )
    logits = Predictor(model).scores(images).numpy()
    change = np.abs(Predictor(looking_twice).scores(images).numpy() - logits)
    assert change.max() > 1e-3 * logits.std()

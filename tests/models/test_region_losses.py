"""Dice, Lovasz-softmax, focal loss and label smoothing, against the golden file and invariants."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.models.inputs import InputError
from deeplab_tf.models.losses import SegmentationLoss
from deeplab_tf.models.pixel_losses import FocalLoss
from deeplab_tf.models.region_losses import DiceLoss, LovaszSoftmaxLoss
from tests.conftest import two_replicas
from tests.golden import losses as golden

LOSSES = {
    "dice": {"pixel_loss": "dice"},
    "dice_smooth": {"pixel_loss": DiceLoss(smooth=1.0)},
    "dice_log": {"pixel_loss": "dice", "dice_log_loss": True},
    "focal": {"pixel_loss": "focal"},
    "focal_weak": {"pixel_loss": "focal", "focal_gamma": 0.5, "focal_alpha": 0.25},
    "lovasz": {"pixel_loss": "lovasz_softmax"},
    "lovasz_per_image": {"pixel_loss": LovaszSoftmaxLoss(per_image=True)},
    "smoothing": {"label_smoothing": 0.1},
}


@pytest.fixture(scope="module")
def expected():
    with np.load(golden.PATH) as arrays:
        return dict(arrays)


def value_and_gradient(loss, logits, labels, **how):
    logits = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(labels, logits, **how)
    return float(value), tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", golden.CASES)
def test_values_and_gradients_are_those_of_segmentation_models_pytorch(expected, case, name):
    logits, labels = golden.case(case)
    value, gradient = value_and_gradient(SegmentationLoss(**LOSSES[name]), logits, labels)
    assert value == pytest.approx(float(expected[f"{case}_{name}"]), rel=1e-5)
    wanted = expected[f"{case}_{name}_gradient"]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
    assert not gradient[labels == 255].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_ignored_pixels_has_no_loss_and_no_gradient(name):
    logits, labels = golden.case("seven")
    value, gradient = value_and_gradient(
        SegmentationLoss(**LOSSES[name]), logits, np.full_like(labels, 255)
    )
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_xla_and_half_precision_change_no_result(name):
    logits, labels = golden.case("seven")
    logits, labels = tf.cast(logits, tf.bfloat16), tf.constant(labels, tf.int32)[..., tf.newaxis]
    plain, _ = SegmentationLoss(**LOSSES[name]).share(tf.cast(logits, tf.float32), labels)

    def compiled(logits):
        share, _ = SegmentationLoss(**LOSSES[name]).share(logits, labels, for_xla=True)
        return share, tf.gradients(share, logits)[0]

    share, gradient = tf.function(compiled, jit_compile=True)(logits)
    assert share.dtype == tf.float32 and gradient.dtype == tf.bfloat16
    assert float(share) == pytest.approx(float(plain), rel=1e-5)
    assert np.isfinite(tf.cast(gradient, tf.float32)).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", ["dice", "focal", "lovasz"])
def test_logits_are_enlarged_to_the_labels(name, align_corners):
    logits, _ = golden.case("seven")
    labels = np.random.default_rng(0).integers(0, 7, [2, 13, 17])
    resize = tf.compat.v1.image.resize_bilinear if align_corners else tf.image.resize
    enlarged = resize(logits, [13, 17], **({"align_corners": True} if align_corners else {}))
    loss = SegmentationLoss(**LOSSES[name], align_corners=align_corners)
    assert float(loss(labels, logits)) == pytest.approx(float(loss(labels, enlarged)), rel=1e-5)


def test_dice_of_a_hand_worked_case():
    # Logits ln 1, ln 3: probabilities 1/4, 3/4. Labels 0, 1, ignored, 1.
    logits = tf.tile(tf.math.log([[[[1.0, 3.0]]]]), [1, 2, 2, 1])
    labels = np.array([[[0, 1], [255, 1]]])
    # Class 0: I = 1/4, S = 3/4 + 1. Class 1: I = 3/2, S = 9/4 + 2.
    dice = [2 * 0.25 / 1.75, 2 * 1.5 / 4.25]
    assert float(SegmentationLoss("dice")(labels, logits)) == pytest.approx(1 - np.mean(dice))
    weighted = SegmentationLoss("dice", label_weights=(2.0, 0.5))(labels, logits)
    assert float(weighted) == pytest.approx((2 * (1 - dice[0]) + (1 - dice[1]) / 2) / 2)


def test_lovasz_softmax_of_hard_predictions_is_one_minus_the_iou_of_the_classes_present():
    _, labels = golden.case("seven")
    predicted = np.random.default_rng(3).choice([0, 2, 5], labels.shape)
    logits = 100 * np.eye(7, dtype=np.float32)[predicted]  # probabilities are 1 or 0

    valid = labels != 255
    losses = []
    for own in (0, 2, 3, 6):
        label, guess = (labels == own) & valid, (predicted == own) & valid
        losses.append(1 - (label & guess).sum() / (label | guess).sum())
    found = SegmentationLoss("lovasz_softmax")(labels, logits)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)

    factors = (1.0, 9.0, 2.0, 3.0, 9.0, 9.0, 4.0)
    found = SegmentationLoss("lovasz_softmax", label_weights=factors)(labels, logits)
    assert float(found) == pytest.approx(np.mean(np.array([1, 2, 3, 4]) * losses), rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "dice_log", "lovasz"])
def test_a_sample_weight_counts_a_pixel_several_times(name):
    """And one of 0 leaves it out; the pixels are in one row here, so that they can be repeated."""
    logits, labels = (values.reshape(1, 1, 40, -1) for values in golden.case("seven"))
    labels = labels[..., 0]
    counts = np.random.default_rng(5).integers(0, 4, 40)
    loss = SegmentationLoss(**LOSSES[name])

    value, gradient = value_and_gradient(
        loss, logits, labels, sample_weight=counts[np.newaxis, np.newaxis].astype(np.float32)
    )
    often = np.repeat(np.arange(40), counts)
    wanted, parts = value_and_gradient(loss, logits[:, :, often], labels[:, :, often])
    summed = np.zeros_like(gradient)
    np.add.at(summed, (0, 0, often), parts[0, 0])
    assert value == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient, summed, atol=1e-6)


def test_focal_loss_without_focus_is_the_binary_cross_entropies():
    logits, labels = golden.case("seven")
    own = np.eye(8)[np.minimum(labels, 7)][..., :7]
    entropies = np.where(own > 0, np.logaddexp(0, -logits), np.logaddexp(0, logits)).mean(axis=-1)
    found = SegmentationLoss(FocalLoss(gamma=0.0))(labels, logits)
    assert float(found) == pytest.approx(entropies[labels != 255].mean(), rel=1e-5)


def test_gradients_stay_finite_where_predictions_are_certain():
    logits, labels = golden.case("seven")
    for name, settings in LOSSES.items():
        loss = SegmentationLoss(**settings)
        value, gradient = value_and_gradient(loss, 1e4 * logits, labels)
        assert np.isfinite(value) and np.isfinite(gradient).all(), name


def test_several_losses_are_added_up_with_their_weights():
    logits, labels = golden.case("seven")
    names, factors = ("cross_entropy", "dice", "lovasz_softmax", "focal"), (1.0, 0.5, 2.0, 0.25)
    alone = [value_and_gradient(SegmentationLoss(name), logits, labels) for name in names]
    value, gradient = value_and_gradient(
        SegmentationLoss(names, loss_weights=factors), logits, labels
    )
    assert value == pytest.approx(np.dot([one[0] for one in alone], factors), rel=1e-5)
    wanted = sum(factor * one[1] for factor, one in zip(factors, alone, strict=True))
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "is_the_same"),
    [("dice", True), ("dice_log", True), ("lovasz_per_image", True), ("lovasz", False)],
)
def test_shares_of_replicas_add_up(name, is_the_same):
    """To the loss and the gradient of the whole batch, except for Lovasz: to the replicas' mean."""
    logits, labels = golden.case("seven")
    loss = SegmentationLoss(**LOSSES[name])

    def share_of_replica():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.constant(logits)[index : index + 1]
        own_labels = tf.constant(labels[..., np.newaxis])[index : index + 1]
        with tf.GradientTape() as tape:
            tape.watch(own)
            share, _ = loss.share(own, own_labels)
        return share, tape.gradient(share, own)

    shares, gradients = tf.function(lambda: two_replicas().run(share_of_replica))()

    if is_the_same:
        value, gradient = value_and_gradient(loss, logits, labels)
    else:
        images = [value_and_gradient(loss, logits[i : i + 1], labels[i : i + 1]) for i in (0, 1)]
        value = (images[0][0] + images[1][0]) / 2
        gradient = np.concatenate([images[0][1], images[1][1]]) / 2
    assert float(sum(shares.values)) == pytest.approx(value, rel=1e-5)
    found = np.concatenate([part.numpy() for part in gradients.values])
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [DiceLoss, FocalLoss, LovaszSoftmaxLoss])
def test_each_class_is_a_loss_of_any_keras_model(kind):
    logits, labels = golden.case("seven")
    labels = np.where(labels == 255, 0, labels)
    model = tf.keras.Sequential([tf.keras.layers.Conv2D(7, 1, use_bias=False)])
    model.compile("sgd", loss=kind())
    found = model.evaluate(logits, labels[..., np.newaxis], verbose=0)
    expected = SegmentationLoss(kind())(labels, model.predict(logits, verbose=0))
    assert found == pytest.approx(float(expected), rel=1e-5)

    with pytest.raises(ValueError, match="255"):
        kind()(np.full_like(labels, 255), logits)


def test_losses_are_stored_with_their_settings():
    logits, labels = golden.case("seven")
    loss = SegmentationLoss(
        ["cross_entropy", DiceLoss(smooth=2.0), FocalLoss(gamma=1.0, alpha=0.3)],
        loss_weights=[1, 0.5, 2],
        label_smoothing=0.2,
    )
    loaded = tf.keras.saving.deserialize_keras_object(tf.keras.saving.serialize_keras_object(loss))
    assert [type(one) for one in loaded.losses] == [type(None), DiceLoss, FocalLoss]
    assert loaded.get_config() == loss.get_config()
    assert float(loaded(labels, logits)) == float(loss(labels, logits))


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("sparse_categorical_crossentropy", {"label_smoothing": 0.1}),
        ("dice", {"label_smoothing": 0.1}),
        (DiceLoss(), {"dice_smooth": 1.0}),
        ([None, FocalLoss()], {"focal_gamma": 3.0}),
        (None, {"lovasz_per_image": True}),
    ],
)
def test_settings_of_a_loss_that_is_not_used_by_name_are_refused(loss, settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"^{name}=.* has no effect without loss="):
        SegmentationLoss(loss, **settings)


def test_a_saved_loss_keeps_the_settings_of_its_losses():
    loss = SegmentationLoss(["cross_entropy", "dice"], label_smoothing=0.1, dice_smooth=1.0)
    restored = SegmentationLoss.from_config(loss.get_config())
    assert restored.get_config() == loss.get_config()

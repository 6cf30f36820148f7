import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.models.losses import SegmentationLoss
from deeplab_tf.ops import cross_entropy, hard_pixels
from deeplab_tf.training.optimizers import MomentumSGD
from tests.conftest import two_replicas


def test_cross_entropy_of_a_hand_worked_case():
    # Logits ln 1, ln 3: probabilities 1/4, 3/4. Labels 0, 1, ignored, 1.
    logits = tf.tile(tf.math.log([[[[1.0, 3.0]]]]), [1, 2, 2, 1])
    labels = tf.constant([[[[0], [1]], [[255], [1]]]])
    total, count = SegmentationLoss().sums(logits, labels)
    assert float(count) == 3
    assert float(total) == pytest.approx(np.log(4) + 2 * np.log(4 / 3), rel=1e-5)


def test_ignored_pixels_have_no_influence():
    rng = np.random.default_rng(0)
    logits = tf.Variable(rng.standard_normal([2, 4, 4, 5]).astype(np.float32))
    labels = rng.integers(0, 5, [2, 4, 4, 1])
    labels[0, :2] = 255
    with tf.GradientTape() as tape:
        total, _ = SegmentationLoss().sums(logits, tf.constant(labels))
    gradient = tape.gradient(total, logits).numpy()
    assert (gradient[0, :2] == 0).all() and (gradient[0, 2:] != 0).all()


def test_only_ignored_pixels_give_zero_and_no_gradient():
    logits = tf.Variable(tf.random.normal([1, 3, 3, 4]))
    with tf.GradientTape() as tape:
        total, count = SegmentationLoss().sums(logits, tf.fill([1, 9, 9, 1], 255))
        loss = tf.math.divide_no_nan(total, count)
    assert float(loss) == 0 and float(count) == 0
    assert not tape.gradient(loss, logits).numpy().any()


def test_logits_are_enlarged_to_the_labels():
    logits = tf.constant([[[[0.0, 4.0], [4.0, 0.0]]]])
    labels = tf.constant([[[[1], [1], [0], [0]]]])
    total, count = SegmentationLoss().sums(logits, labels)
    # Half-pixel enlargement of 0, 4 gives 0, 1, 3, 4: margins of the label 4, 2, 2, 4.
    assert float(count) == 4
    assert float(total) == pytest.approx(
        2 * np.log1p(np.exp(-4)) + 2 * np.log1p(np.exp(-2)), rel=1e-4
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("band_bytes", [1 << 30, 4 * 7 * 19 * 5, 1, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_all_forms_equal_the_whole_image(monkeypatch, align_corners, band_bytes, smoothing):
    """`band_bytes` is the size of a band; None means the form for GPUs and for unknown sizes."""
    monkeypatch.setattr(cross_entropy, "_BAND_BYTES", band_bytes)
    rng = np.random.default_rng(0)
    logits = tf.constant(30 * rng.standard_normal([2, 4, 3, 7]), tf.float32)
    labels = tf.constant(rng.integers(0, 7, [2, 23, 19]), tf.int32)
    weights = tf.constant(rng.uniform(-1, 1, labels.shape), tf.float32)

    def whole(logits):
        resize = {False: tf.image.resize, True: tf.compat.v1.image.resize_bilinear}[align_corners]
        settings = {"align_corners": True} if align_corners else {}
        return tf.nn.softmax_cross_entropy_with_logits(
            labels=tf.one_hot(labels, 7) * (1 - smoothing) + smoothing / 7,
            logits=resize(logits, [23, 19], **settings),
        )

    def ours(logits):
        return cross_entropy.pixel_losses(
            logits, labels, align_corners=align_corners, label_smoothing=smoothing
        )

    if band_bytes is None:
        ours = tf.function(ours, input_signature=[tf.TensorSpec([None] * 4)])

    results = []
    for function in (whole, ours):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            pixels = function(logits)
            total = tf.reduce_sum(pixels * weights)
        results.append((pixels.numpy(), tape.gradient(total, logits).numpy()))

    for expected, result in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def pixel_case():
    """Returns logits of 3 classes, labels of their size, some ignored, and the pixels' losses."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal([2, 4, 5, 3]).astype(np.float32)
    labels = rng.integers(0, 3, [2, 4, 5, 1])
    labels[1, 1:] = 255
    valid = labels[..., 0] != 255
    exponentials = np.exp(logits)
    chances = exponentials / exponentials.sum(axis=-1, keepdims=True)
    chances = np.take_along_axis(chances, np.where(labels == 255, 0, labels), axis=-1)[..., 0]
    return logits, labels, np.where(valid, -np.log(chances), 0.0)


@pytest.mark.parametrize("band_bytes", [1 << 30, 1])
def test_label_weights_do_not_change_the_number_of_pixels(monkeypatch, band_bytes):
    monkeypatch.setattr(cross_entropy, "_BAND_BYTES", band_bytes)
    logits, labels, pixels = pixel_case()
    weights = np.array([0.5, 2.0, 0.0])
    expected = pixels * weights[np.where(labels == 255, 0, labels)[..., 0]]
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = SegmentationLoss(label_weights=weights)
        total, count = loss.sums(variable, tf.constant(labels))
    assert float(total) == pytest.approx(expected.sum(), rel=1e-5)
    assert float(count) == 25

    gradient = tape.gradient(total, variable).numpy()
    without = np.broadcast_to((labels == 255) | (labels == 2), gradient.shape)
    assert (gradient[without] == 0).all() and (gradient[~without] != 0).all()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_only_the_hardest_pixels_count(share):
    # int(0.3 * 40) = 12 of the 25 valid pixels; int(0.9 * 40) = 36: all 25, and 11 zeros.
    logits, labels, pixels = pixel_case()
    kept = np.sort(pixels.ravel())[::-1][: int(share * 40)]

    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = SegmentationLoss(top_k_percent_pixels=share)
        total, count = loss.sums(variable, tf.constant(labels))
    assert float(total) == pytest.approx(kept.sum(), rel=1e-5)
    assert float(count) == np.count_nonzero(kept) == {0.3: 12, 0.9: 25}[share]

    moved = np.abs(tape.gradient(total, variable).numpy()).sum(axis=-1) > 0
    np.testing.assert_array_equal(moved, pixels >= kept[: int(count)].min())


def test_mining_begins_with_all_pixels():
    # Official: ratio = step / ramp; share = ratio * 0.2 + (1 - ratio)
    shares = [
        float(hard_pixels.hardest_share(0.2, step=tf.constant(step), ramp_steps=4))
        for step in (0, 1, 2, 4, 9)
    ]
    assert shares == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])
    assert hard_pixels.hardest_share(0.2, step=tf.constant(3), ramp_steps=0) == 0.2


def test_replicas_select_their_own_pixels_and_divide_by_all_selected():
    logits, labels, pixels = pixel_case()
    logits, labels = tf.constant(logits), tf.constant(labels)
    strategy = two_replicas()
    with strategy.scope():
        model = build_model(
            ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8), num_classes=3
        )
        model.compile(MomentumSGD(0.1), top_k_percent_pixels=0.5)

    def share_of_replica(logits, labels):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = slice(index, index + 1)
        return model.segmentation_loss({"logits": logits[part]}, labels[part])

    shares = tf.function(lambda: strategy.run(share_of_replica, args=(logits, labels)))()

    kept = [np.sort(image.ravel())[::-1][:10] for image in pixels]
    divisor = sum(map(np.count_nonzero, kept))  # 10, and the 5 valid ones of the second image
    assert divisor == 15
    for value, part in zip(shares.values, kept, strict=True):
        assert float(value) == pytest.approx(part.sum() / divisor, rel=1e-5)

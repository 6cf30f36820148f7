import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.training import losses
from deeplab_tf.training.losses import cross_entropy


def test_cross_entropy_of_a_hand_worked_case():
    # Logits ln 1, ln 3: probabilities 1/4, 3/4. Labels 0, 1, ignored, 1.
    logits = tf.tile(tf.math.log([[[[1.0, 3.0]]]]), [1, 2, 2, 1])
    labels = tf.constant([[[[0], [1]], [[255], [1]]]])
    total, count = cross_entropy(logits, labels, ignore_label=255)
    assert float(count) == 3
    assert float(total) == pytest.approx(np.log(4) + 2 * np.log(4 / 3), rel=1e-5)


def test_ignored_pixels_have_no_influence():
    rng = np.random.default_rng(0)
    logits = tf.Variable(rng.standard_normal([2, 4, 4, 5]).astype(np.float32))
    labels = rng.integers(0, 5, [2, 4, 4, 1])
    labels[0, :2] = 255
    with tf.GradientTape() as tape:
        total, _ = cross_entropy(logits, tf.constant(labels), ignore_label=255)
    gradient = tape.gradient(total, logits).numpy()
    assert (gradient[0, :2] == 0).all() and (gradient[0, 2:] != 0).all()


def test_only_ignored_pixels_give_zero_and_no_gradient():
    logits = tf.Variable(tf.random.normal([1, 3, 3, 4]))
    with tf.GradientTape() as tape:
        total, count = cross_entropy(logits, tf.fill([1, 9, 9, 1], 255), ignore_label=255)
        loss = tf.math.divide_no_nan(total, count)
    assert float(loss) == 0 and float(count) == 0
    assert not tape.gradient(loss, logits).numpy().any()


def test_logits_are_enlarged_to_the_labels():
    logits = tf.constant([[[[0.0, 4.0], [4.0, 0.0]]]])
    labels = tf.constant([[[[1], [1], [0], [0]]]])
    total, count = cross_entropy(logits, labels, ignore_label=255)
    # Half-pixel enlargement of 0, 4 gives 0, 1, 3, 4: margins of the label 4, 2, 2, 4.
    assert float(count) == 4
    assert float(total) == pytest.approx(
        2 * np.log1p(np.exp(-4)) + 2 * np.log1p(np.exp(-2)), rel=1e-4
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("band_bytes", [1 << 30, 4 * 7 * 19 * 5, 1])
def test_bands_of_rows_equal_the_whole_image(monkeypatch, align_corners, band_bytes):
    monkeypatch.setattr(losses, "_BAND_BYTES", band_bytes)
    rng = np.random.default_rng(0)
    logits = tf.constant(30 * rng.standard_normal([2, 4, 3, 7]), tf.float32)
    labels = tf.constant(rng.integers(0, 7, [2, 23, 19]), tf.int32)
    weights = tf.constant(rng.uniform(-1, 1, labels.shape), tf.float32)

    def whole(logits):
        resize = {False: tf.image.resize, True: tf.compat.v1.image.resize_bilinear}[align_corners]
        settings = {"align_corners": True} if align_corners else {}
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=labels, logits=resize(logits, [23, 19], **settings)
        )

    def in_bands(logits):
        return losses.pixel_losses(logits, labels, align_corners=align_corners)

    results = []
    for function in (whole, in_bands):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            found = function(logits)
            total = tf.reduce_sum(found * weights)
        results.append((found.numpy(), tape.gradient(total, logits).numpy()))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

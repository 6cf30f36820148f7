"""The model used as in the Keras documentation: compile, fit, evaluate, save, load."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.evaluation.metrics import MeanIoU, PixelAccuracy
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.models.inputs import InputError, ScaleWarning
from deeplab_tf.models.losses import SegmentationLoss
from deeplab_tf.models.region_losses import DiceLoss
from deeplab_tf.startup.process_state import keras_settings
from tests.conftest import two_replicas

CONFIG = ModelConfig(
    model_variant="resnet_v1b_18",
    atrous_rates=(1, 2),
    aspp_convs_filters=8,
    auxiliary_filters=4,
    dropout_rate=0.0,
)
ONE_HEAD = {"auxiliary_loss_weight": 0.0}  # so that losses are easy to compute by hand
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (5, 33, 33, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (5, 33, 33, 1)).astype(np.int32)
LABELS[0, :9] = 255
LABELS[4, 3:] = 255
VALID = LABELS[..., 0] != 255
CLASSES = np.where(LABELS == 255, 0, LABELS)


@pytest.fixture(scope="module")
def weights():
    tf.keras.utils.set_random_seed(0)
    return build_model(CONFIG, num_classes=3).get_weights()


@pytest.fixture(scope="module")
def model():
    """A model whose steps run eagerly, which is faster; other tests trace their steps."""
    return build_model(CONFIG, num_classes=3)


@pytest.fixture
def fit(model, weights):
    """Compiles and fits one batch from the same weights; returns the history's last values."""

    def run(images=IMAGES, labels=LABELS, *, sample_weight=None, **settings):
        model.set_weights(weights)
        defaults = {} if isinstance(settings.get("loss"), SegmentationLoss) else ONE_HEAD
        model.compile("sgd", run_eagerly=True, **defaults | settings)
        history = model.fit(
            images, labels, batch_size=5, sample_weight=sample_weight, shuffle=False, verbose=0
        )
        return {name: values[-1] for name, values in history.history.items()}

    return run


@pytest.fixture
def check(model, weights):
    """Compiles and evaluates; returns the result of `evaluate` as a dict."""

    def run(images=IMAGES, labels=LABELS, *, sample_weight=None, batch_size=5, **settings):
        model.set_weights(weights)
        defaults = {} if isinstance(settings.get("loss"), SegmentationLoss) else ONE_HEAD
        model.compile("sgd", run_eagerly=True, **defaults | settings)
        return model.evaluate(
            images,
            labels,
            batch_size=batch_size,
            sample_weight=sample_weight,
            verbose=0,
            return_dict=True,
        )

    return run


@pytest.fixture(scope="module")
def logits(model, weights):
    """The logits that `evaluate` scores, enlarged to the labels' size by tf.image.resize."""
    model.set_weights(weights)
    return tf.image.resize(model(IMAGES)["logits"], [33, 33]).numpy()


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def pixel_losses(logits):
    return -np.log(np.take_along_axis(softmax(logits), CLASSES, axis=-1)[..., 0])


# Losses


def test_the_loss_of_a_data_set_does_not_depend_on_its_batches(check, logits):
    expected = pixel_losses(logits)[VALID].mean()
    for batch_size in (5, 2):
        assert check(batch_size=batch_size)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        tf.keras.losses.sparse_categorical_crossentropy,
        tf.keras.losses.SparseCategoricalCrossentropy,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "categorical_crossentropy",
        tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        SegmentationLoss(**ONE_HEAD),
        lambda y, x: tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[..., 0], logits=x),
    ],
)
def test_cross_entropy_is_the_same_however_it_is_given(check, logits, loss):
    assert check(loss=loss)["loss"] == pytest.approx(pixel_losses(logits)[VALID].mean(), rel=1e-5)


def test_keras_focal_loss_counts_valid_pixels_only(check, logits):
    chances = np.take_along_axis(softmax(logits), CLASSES, axis=-1)[..., 0]
    expected = (-0.25 * (1 - chances) ** 2 * np.log(chances))[VALID].mean()
    focal = tf.keras.losses.CategoricalFocalCrossentropy(from_logits=True)
    assert check(loss=focal)["loss"] == pytest.approx(expected, rel=1e-4)


def test_any_pixel_loss_can_be_weighted_and_mined(check, logits):
    weights = np.array([1.0, 2.0, 0.5])
    pixels = np.where(VALID, logits.max(axis=-1) ** 2 + 1, 0) * weights[CLASSES[..., 0]]
    found = check(
        loss=lambda y_true, y_pred: tf.reduce_max(y_pred, -1) ** 2 + 1,
        label_weights=tuple(weights),
        top_k_percent_pixels=0.25,
    )
    hardest = np.sort(pixels.ravel())[::-1][: int(0.25 * pixels.size)]
    assert found["loss"] == pytest.approx(hardest.mean(), rel=1e-5)


def test_both_heads_are_in_the_loss_with_the_auxiliary_weight(check):
    found = check(
        loss=lambda y_true, y_pred: tf.ones_like(y_pred[..., 0]), auxiliary_loss_weight=0.25
    )
    assert found["loss"] == pytest.approx(1.25)


def test_a_loss_that_reduces_itself_gets_the_mask_as_sample_weight(check, fit, logits):
    def dice(y_true, y_pred, sample_weight):
        chances = tf.nn.softmax(y_pred) * sample_weight[..., tf.newaxis]
        hits = tf.reduce_sum(tf.gather(chances, y_true, batch_dims=3))
        return 1 - hits / tf.reduce_sum(sample_weight)

    chances = np.take_along_axis(softmax(logits), CLASSES, axis=-1)[..., 0]
    assert check(loss=dice)["loss"] == pytest.approx(1 - chances[VALID].mean(), rel=1e-5)

    def without(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_pred))

    plain = (logits**2).mean()
    assert check(labels=CLASSES, loss=without)["loss"] == pytest.approx(plain, rel=1e-4)
    with pytest.raises(InputError, match="pixels to ignore: 1287; return a number for each"):
        fit(loss=without)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "mse"}, "allowed: None .cross-entropy., sparse_categorical_crossentropy"),
        ({"loss": "no such"}, "loss='no such' is not possible"),
        ({"loss": {"logits": "mse"}}, "or one function"),
        ({"loss": tf.keras.losses.KLDivergence()}, "not defined on class numbers and logits"),
        (
            {"loss": tf.keras.losses.SparseCategoricalCrossentropy()},
            r"write SparseCategoricalCrossentropy\(from_logits=True\)",
        ),
        (
            {"loss": tf.keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")},
            "leave reduction out",
        ),
        (
            {
                "loss": tf.keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True, ignore_class=0
                )
            },
            "leave it out, and give compile ignore_label=0",
        ),
        ({"loss_weights": [1, 2]}, "loss_weights=1.0,2.0 .* one number for each of --loss=cross"),
        (
            {"loss": [None, DiceLoss()], "loss_weights": [1]},
            "loss_weights holds 1; allowed: none, or 2",
        ),
        ({"loss": "dice", "top_k_percent_pixels": 0.5}, "dice do not have; give --top_k"),
        ({"loss": DiceLoss(), "top_k_percent_pixels": 0.5}, "a number per pixel"),
        ({"label_weights": (1.0, 2.0)}, "label_weights holds 2; allowed: none, or 3"),
        (
            {"loss": SegmentationLoss(), "ignore_label": 0},
            "ignore_label cannot be given to compile together",
        ),
        ({"metrics": ["mse"]}, "'mse' is not possible"),
        ({"metrics": [tf.keras.metrics.CategoricalAccuracy()]}, "not defined on class numbers"),
        ({"metrics": [tf.keras.metrics.SparseCategoricalCrossentropy()]}, "from_logits=True"),
        ({"metrics": {"aux_logits": ["accuracy"]}}, "only metrics for logits"),
        ({"metrics": [MeanIoU]}, "give an instance"),
        (
            {"metrics": [tf.keras.metrics.MeanIoU(3, sparse_y_true=False)]},
            "leave sparse_y_true=False out",
        ),
        ({"metrics": [tf.keras.metrics.MeanIoU(2)]}, "counts 2 classes, and the model has 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_compile_cannot_do_is_refused(model, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.compile("sgd", **settings)


# Metrics


def test_metrics_see_labels_and_enlarged_logits_without_ignored_pixels(check, logits):
    def margin(y_true, y_pred):
        return y_pred[..., 1] - y_pred[..., 0]

    weights = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    with pytest.warns(UserWarning, match="stops at 16,777,216"):
        keras_iou = tf.keras.metrics.MeanIoU(3, name="keras_iou")
        of_many = tf.keras.metrics.MeanIoU(
            256, name="of_many"
        )  # classes without pixels do not count
        found = check(
            sample_weight=weights,
            metrics=["accuracy", MeanIoU(3), PixelAccuracy(3), keras_iou, of_many, margin],
            weighted_metrics=[MeanIoU(3, name="weighted"), "sparse_categorical_accuracy"],
        )
    right = (logits.argmax(axis=-1) == CLASSES[..., 0])[VALID]
    assert found["accuracy"] == pytest.approx(right.mean(), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx(right.mean(), rel=1e-5)
    assert found["margin"] == pytest.approx((logits[..., 1] - logits[..., 0])[VALID].mean(), 1e-4)
    factors = np.broadcast_to(weights[:, None, None], VALID.shape)[VALID]
    weighted = (right * factors).sum() / factors.sum()
    assert found["sparse_categorical_accuracy"] == pytest.approx(weighted, rel=1e-4)

    def mean_iou(factors):
        truth, guess = CLASSES[..., 0][VALID], logits.argmax(axis=-1)[VALID]
        ious = [
            factors[(truth == c) & (guess == c)].sum() / factors[(truth == c) | (guess == c)].sum()
            for c in range(3)
        ]
        return np.mean(ious)

    assert found["mean_iou"] == pytest.approx(mean_iou(np.ones(VALID.sum())), rel=1e-5)
    assert found["keras_iou"] == pytest.approx(found["mean_iou"], rel=1e-5)
    assert found["of_many"] == pytest.approx(found["mean_iou"], rel=1e-5)
    assert found["weighted"] == pytest.approx(mean_iou(factors), rel=1e-5)


def test_a_metric_that_cannot_be_masked_is_refused(check):
    def mean(y_true, y_pred):
        return tf.reduce_mean(y_pred)

    for metric in (mean, tf.keras.metrics.MeanMetricWrapper(mean)):
        with pytest.raises(ValueError, match="metric mean .* number for each pixel"):
            check(metrics=[metric])


def test_mean_iou_of_a_hand_worked_case():
    # Class 0: 1 of 3; class 1: 2 of 3; class 2 occurs nowhere; pixel 255 does not count.
    metric = MeanIoU(3)
    assert np.isnan(metric.result())
    metric.update_state([[0, 0]], [[0, 1]])
    metric.update_state([[1, 1, 255, 0]], [[1, 1, 2, 1]])
    metric.update_state([[1]], [[0]])
    # Labels 0 0 0 1 1 1, predictions 0 1 1 1 1 0: 0 has 1 of 4, 1 has 2 of 5.
    assert float(metric.result()) == pytest.approx((1 / 4 + 2 / 5) / 2)
    metric.reset_state()
    assert np.isnan(metric.result())


def test_mean_iou_counts_beyond_what_float32_can():
    metric = MeanIoU(2)
    metric.matrix.assign([[2.0**24, 0.0], [0.0, 2.0**24]])
    for _ in range(3):
        metric.update_state([0], [1])
    assert metric.matrix.numpy()[0, 1] == 3
    metric.update_state([0], [0])
    assert metric.matrix.numpy()[0, 0] == 2**24 + 1


def test_mean_iou_refuses_numbers_that_are_not_classes():
    with pytest.raises(ValueError, match="got the label 2; class numbers are 0 to 1"):
        MeanIoU(2).update_state([0, 2], [0, 1])
    with pytest.raises(ValueError, match="got the prediction -1"):
        MeanIoU(2).update_state([0, 1], [0, -1])
    with pytest.raises(ValueError, match="scores with 2 channels"):
        MeanIoU(2).update_state([[0, 1]], [[0, 1, 1]])


def test_mean_iou_counts_over_replicas():
    strategy = two_replicas()
    with strategy.scope():
        metric = MeanIoU(2)

    def update():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        metric.update_state([index, 1, 255], [0, 1, 1])

    for _ in range(2):
        tf.function(lambda: strategy.run(update))()
    # Each time: labels 0 1 1 1, predictions 0 1 0 1: class 0 has 1 of 2, class 1 has 2 of 3.
    np.testing.assert_array_equal(metric.matrix.numpy(), [[2, 0], [2, 4]])
    assert float(metric.result()) == pytest.approx((1 / 2 + 2 / 3) / 2)


# Labels, images and weights


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[..., 0],
        LABELS.astype(np.uint8),
        LABELS.astype(np.int64),
        LABELS.astype(np.float32),
        np.where(LABELS == 255, 255, LABELS).astype(np.float16),
    ],
    ids=["BHW", "uint8", "int64", "float32", "float16"],
)
def test_labels_of_any_form_are_the_same(check, logits, labels):
    found = check(labels=labels)["loss"]
    assert found == pytest.approx(pixel_losses(logits)[VALID].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.eye(3, dtype=np.float32)[CLASSES[..., 0]], "argmax"),
        (np.zeros([5, 33, 33, 4]), r"shape \[5, 33, 33, 4\]; give class numbers"),
        (LABELS + 1, "The labels hold the value 256; class numbers are 0 to 2, and 255"),
        (LABELS - 1, "The labels hold the value -1;"),
        (CLASSES + 0.5, "The labels hold the value 0.5;"),
        (np.where(LABELS == 255, np.nan, LABELS), "The labels hold the value nan;"),
        (LABELS[:, ::2, ::2], r"\[5, 33, 33\] and the labels \[5, 17, 17\]"),
        (LABELS.astype(np.complex64), "type complex64"),
        (None, "images without labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_that_are_not_class_numbers_are_refused(fit, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(labels=labels)


@pytest.mark.parametrize(
    ("images", "way_out"),
    [
        (np.moveaxis(IMAGES, -1, 1), "channels come last"),
        (IMAGES[..., 0], "grey"),
        (IMAGES[..., :1], "grey"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], -1), "fourth channel"),
        ([IMAGES, IMAGES], "tuple; give one array"),
        ({"images": IMAGES}, "dict; give one array"),
    ],
    ids=["channels_first", "BHW", "grey", "RGBA", "list", "dict"],
)
def test_only_a_batch_of_rgb_images_is_accepted(fit, model, images, way_out):
    with pytest.raises(ValueError, match=way_out):
        fit(images=images)
    with pytest.raises(ValueError, match=way_out):
        model.predict(images, verbose=0)


def test_one_image_without_a_batch_axis_is_refused(fit, model):
    with pytest.raises(ValueError, match=r"images\[np.newaxis\]"):
        fit(images=IMAGES[0], labels=LABELS[0])
    with pytest.raises(ValueError, match=r"images\[np.newaxis\]"):
        model(IMAGES[0])
    assert model(IMAGES[0][np.newaxis])["logits"].shape == (1, 3, 3, 3)


@pytest.mark.parametrize("scaled", [IMAGES / 255, IMAGES / 127.5 - 1], ids=["0..1", "-1..1"])
def test_scaled_images_cause_one_warning(weights, scaled):
    model = build_model(CONFIG, num_classes=3)
    model.compile("sgd", run_eagerly=True)
    with pytest.warns(UserWarning, match="takes 0 to 255") as caught:
        for _ in range(2):
            model.evaluate(scaled, LABELS, batch_size=2, verbose=0)
    assert len([one for one in caught if "0 to 255" in str(one.message)]) == 1


def test_images_of_any_type_in_0_to_255_cause_no_warning(check):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = check(images=np.round(IMAGES))["loss"]
        for dtype in (np.uint8, np.float64):
            assert check(images=np.round(IMAGES).astype(dtype))["loss"] == pytest.approx(expected)
        check(images=np.zeros_like(IMAGES))


def test_sample_weights_multiply_losses_but_not_the_number_of_pixels(check, fit, logits):
    pixels = np.where(VALID, pixel_losses(logits), 0)
    factors = np.array([0.0, 1.0, 2.0, 0.5, 3.0])
    expected = (pixels * factors[:, None, None]).sum() / VALID.sum()
    whole = np.broadcast_to(factors[:, None, None], VALID.shape)
    for given in (factors, factors[:, None], whole, whole[..., None]):
        assert check(sample_weight=given)["loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"sample_weight has the shape \[5, 3, 33\]"):
        fit(sample_weight=np.ones([5, 3, 33]))


def test_class_weight_is_refused_in_favour_of_label_weights(model, check, logits):
    model.compile("sgd")
    with pytest.raises(ValueError, match="label_weights"):
        model.fit(IMAGES, LABELS, class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    factors = np.array([1.0, 2.0, 3.0])[CLASSES[..., 0]]
    expected = (pixel_losses(logits) * factors)[VALID].mean()
    found = check(label_weights=(1.0, 2.0, 3.0))["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_added_losses_are_part_of_the_loss(weights, check):
    """A penalty on the classifier's weights, as Keras' guide to add_loss has one."""
    model = build_model(CONFIG, num_classes=3)
    model.set_weights(weights)
    kernel = model.classifier.trainable_variables[0]
    model.add_loss(lambda: 2.0 * tf.reduce_sum(kernel))
    model.compile("sgd", run_eagerly=True, **ONE_HEAD)
    penalty = 2.0 * kernel.numpy().sum()
    loss = model.evaluate(IMAGES, LABELS, batch_size=5, verbose=0)
    assert loss == pytest.approx(check()["loss"] + penalty, rel=1e-5)

    def trained(factor, parts):
        model.set_weights(weights)
        model.add_loss(lambda: factor * tf.reduce_sum(kernel))
        rate = tf.keras.optimizers.SGD(0.1)
        settings = {"gradient_accumulation_steps": parts, "fine_tune_batch_norm": False}
        model.compile(rate, run_eagerly=True, **ONE_HEAD, **settings)
        model.train_on_batch(IMAGES[:4], LABELS[:4])
        return kernel.numpy()

    # The kernel's gradient grows by 3 everywhere, and the rate is 0.1.
    for parts in (1, 2):
        before, after = trained(0.0, parts), trained(3.0, parts)
        np.testing.assert_allclose(before - after, 0.3, atol=1e-4)


def test_an_added_loss_is_computed_once_in_a_step():
    model = build_model(CONFIG, num_classes=3)
    calls = []

    def penalty():
        calls.append(1)
        return tf.constant(2.0)

    model.add_loss(penalty)
    model.compile("sgd", run_eagerly=True)
    calls.clear()
    model.test_on_batch(IMAGES[:2], LABELS[:2])
    assert len(calls) == 1


# Training, saving and loading


def batches():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2)


@pytest.mark.slow
def test_fit_with_validation_and_callbacks_then_load_and_go_on(weights, tmp_path):
    """History, best model, early stopping, TensorBoard, saving and resuming, in one training."""
    model = build_model(CONFIG, num_classes=3)
    model.set_weights(weights)
    loss = SegmentationLoss(label_weights=(1.0, 2.0, 1.0))
    optimizer = tf.keras.optimizers.SGD(0.001, momentum=0.9)
    model.compile(optimizer, loss, ["accuracy", MeanIoU(3)], clip_gradient_norm=1.0)
    history = model.fit(
        batches(),
        epochs=2,
        validation_data=(IMAGES, LABELS),
        validation_batch_size=2,
        verbose=0,
        callbacks=[
            tf.keras.callbacks.ModelCheckpoint(
                str(tmp_path / "best.keras"),
                monitor="val_mean_iou",
                mode="max",
                save_best_only=True,
            ),
            tf.keras.callbacks.EarlyStopping("val_mean_iou", mode="max", patience=5),
            tf.keras.callbacks.TensorBoard(tmp_path / "logs"),
            tf.keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    ).history
    names = {"loss", "accuracy", "mean_iou"}
    assert set(history) == names | {f"val_{name}" for name in names} | {"learning_rate"}
    assert (tmp_path / "best.keras").is_file() and list((tmp_path / "logs").rglob("*tfevents*"))
    scored = model.evaluate(IMAGES, LABELS, batch_size=2, verbose=0, return_dict=True)
    assert scored["mean_iou"] == pytest.approx(
        history["val_mean_iou"][-1]
    )  # each epoch starts afresh

    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 6
    model.run_eagerly = loaded.run_eagerly = True  # one step needs no graph
    first, second = (
        [one.train_on_batch(IMAGES[:2], LABELS[:2]), one.get_weights()] for one in (model, loaded)
    )
    assert model.metrics_names == loaded.metrics_names == ["loss", "accuracy", "mean_iou"]
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
    for one, other in zip(first[1], second[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_corrected_call_trains_after_a_refused_one(weights):
    model = build_model(CONFIG, num_classes=3)
    model.set_weights(weights)
    model.compile(tf.keras.optimizers.SGD(0.001, momentum=0.9))
    with pytest.raises(InputError, match="give class numbers"):
        model.fit(IMAGES[:1], LABELS[:1, 0, 0], verbose=0)
    model.fit(IMAGES[:1], LABELS[:1], verbose=0)
    assert int(model.optimizer.iterations) == 1


@pytest.mark.slow
def test_a_call_trains_after_one_whose_trace_was_ended_by_any_error(weights):
    errors = [RuntimeError("a mistake"), KeyboardInterrupt()]  # a user's function, or Ctrl-C

    def loss(y_true, y_pred):
        if errors:
            raise errors.pop(0)
        return y_pred[..., 0]

    model = build_model(CONFIG, num_classes=3)
    model.set_weights(weights)
    model.compile(tf.keras.optimizers.SGD(0.001, momentum=0.9), loss)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            model.fit(IMAGES[:1], LABELS[:1], verbose=0)
    model.fit(IMAGES[:1], LABELS[:1], verbose=0)
    assert int(model.optimizer.iterations) == 1


@tf.keras.utils.register_keras_serializable("tests")
def absolute_margin(y_true, y_pred):
    """A loss that a user might write."""
    return tf.abs(y_pred[..., 0] - y_pred[..., 1])


@pytest.mark.parametrize(
    "loss",
    [None, "sparse_categorical_crossentropy", absolute_margin],
    ids=["own", "name", "function"],
)
def test_a_loss_is_stored_with_its_settings(loss):
    loss = SegmentationLoss(loss, ignore_label=7, label_weights=[1.0, 2.0])
    stored = tf.keras.saving.serialize_keras_object(loss)
    loaded = tf.keras.saving.deserialize_keras_object(stored)
    assert type(loaded.pixel_loss) is type(loss.pixel_loss)
    assert loaded.settings == loss.settings


@pytest.mark.slow
def test_weights_and_architecture_are_saved_and_cloned(model, weights, tmp_path, capsys):
    model.set_weights(weights)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = tf.keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    clone.load_weights(tmp_path / "model.weights.h5")
    expected = model.predict_on_batch(IMAGES[:1])["logits"]
    np.testing.assert_allclose(clone.predict_on_batch(IMAGES[:1])["logits"], expected, atol=1e-5)
    clone.summary()
    assert "backbone" in capsys.readouterr().out


def test_predict_returns_what_the_model_does(model, weights):
    model.set_weights(weights)
    found = model.predict(IMAGES, batch_size=2, verbose=0)
    np.testing.assert_allclose(found["logits"], model(IMAGES)["logits"], atol=1e-5)
    found = model.predict(batches(), verbose=0)
    assert found["logits"].shape == (5, 3, 3, 3)


def test_a_frozen_backbone_stays_as_it_is(model, weights):
    model.set_weights(weights)
    model.backbone.trainable = False
    model.compile(run_eagerly=True)
    before = [(variable, variable.numpy()) for variable in model.backbone.variables]
    heads = [variable.numpy() for variable in model.classifier.variables]
    model.fit(IMAGES[:2], LABELS[:2], verbose=0)
    model.backbone.trainable = True
    for variable, old in before:
        np.testing.assert_array_equal(old, variable.numpy(), err_msg=variable.name)
    assert (heads[0] != model.classifier.get_weights()[0]).any()


@pytest.mark.slow
def test_traced_steps_refuse_the_same_inputs_as_eager_steps(weights):
    model = build_model(CONFIG, num_classes=3)
    model.set_weights(weights)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"^The labels hold the value 3; class numbers are 0 to 2"):
        model.fit(IMAGES, np.where(VALID[..., None], LABELS + 1, 255), verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)  # the refused step has changed nothing
    with pytest.raises(ValueError, match="^The labels have the shape") as caught:
        model.fit(IMAGES, np.eye(3)[CLASSES[..., 0]], verbose=0)
    assert "user code" not in str(caught.value)


def test_a_clone_has_the_precision_of_its_model():
    with keras_settings("mixed_float16"):
        model = build_model(CONFIG, num_classes=3)
        model.compile("sgd")
    assert isinstance(model.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
    clone = tf.keras.models.clone_model(model)
    assert clone.backbone.compute_dtype == "float16"
    assert clone.classifier.variables[0].dtype == tf.float32


def test_other_global_settings_change_nothing_or_are_refused(model, weights):
    model.set_weights(weights)
    expected = model(IMAGES[:1])["logits"]
    backend = tf.keras.backend
    backend.set_image_data_format("channels_first")
    try:
        other = build_model(CONFIG, num_classes=3)
        other.set_weights(weights)
        np.testing.assert_allclose(other(IMAGES[:1])["logits"], expected, atol=1e-5)
        backend.set_floatx("float16")
        with pytest.raises(ValueError, match="too coarse to train with; call .*set_floatx"):
            build_model(CONFIG, num_classes=3)
    finally:
        backend.set_floatx("float32")
        backend.set_image_data_format("channels_last")


def test_a_traced_step_warns_of_scaled_images_too():
    warning = ScaleWarning()

    @tf.function(autograph=False)
    def step(images):
        warning.look_at(images)
        return tf.reduce_sum(images)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(tf.constant(IMAGES))
    with pytest.warns(UserWarning, match="takes 0 to 255") as caught:
        for _ in range(2):
            step(tf.constant(IMAGES / 255))
    assert len(caught) == 1

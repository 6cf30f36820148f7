import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig, UserError
from deeplab_tf.data import catalog, records
from deeplab_tf.evaluation import evaluator
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import build_model

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 45, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    model = build_model(
        ModelConfig(model_variant="resnet_v1_18", aspp_convs_filters=8), num_classes=7
    )
    model.classifier.conv.kernel.assign(model.classifier.conv.kernel * 10)  # decided scores
    return model


def test_plain_prediction_is_the_enlarged_logits(model):
    logits = model(IMAGES.astype(np.float32))["logits"]
    enlarged = tf.image.resize(logits, [45, 60]).numpy()
    labels, probabilities = Predictor(model).predict(IMAGES)
    np.testing.assert_array_equal(labels, enlarged.argmax(-1))
    expected = np.exp(enlarged) / np.exp(enlarged).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    assert labels.dtype == tf.uint8


def test_labels_and_probabilities_agree_with_predict(model):
    predictor = Predictor(model, scales=(0.75, 1.0), add_flipped_images=True)
    labels, probabilities = predictor.predict(IMAGES)
    assert (predictor.labels(IMAGES).numpy() == labels.numpy()).mean() > 0.999
    np.testing.assert_allclose(predictor.probabilities(IMAGES), probabilities, atol=1e-5)


def test_views_are_averaged_as_probabilities(model):
    views = []
    for scale in (0.5, 1.0):
        for flip in (False, True):
            images = IMAGES[:, :, ::-1] if flip else IMAGES
            single = Predictor(model, scales=(scale,)).probabilities(images).numpy()
            views.append(single[:, :, ::-1] if flip else single)
    several = Predictor(model, scales=(0.5, 1.0), add_flipped_images=True)
    np.testing.assert_allclose(several.probabilities(IMAGES), np.mean(views, axis=0), atol=1e-5)


def test_the_resize_rule_is_applied_and_the_images_size_returned(model):
    shapes = []

    class Spy(tf.Module):
        num_classes, config = model.num_classes, model.config

        def infer(self, images):
            shapes.append(tuple(images.shape))
            return model.infer(images)

    predictor = Predictor(Spy(), min_resize_value=30, max_resize_value=200)
    labels, _ = predictor.predict(IMAGES)
    assert shapes == [(2, 30, 40, 3)] and labels.shape == (2, 45, 60)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_equals_a_loop_in_numpy(model, records_dir, batch_size):
    info = catalog.load("", records_dir)
    table = records.open_split(records_dir, "val", info)
    result = evaluator.evaluate(Predictor(model), table, info, split="val", batch_size=batch_size)
    matrix = np.zeros([7, 7], np.int64)
    for index in range(len(table)):
        record = records.parse(table.read(tf.constant(index)))
        image, label = record["image"].numpy(), record["label"].numpy()[..., 0]
        logits = model(image[np.newaxis].astype(np.float32))["logits"]
        predicted = tf.image.resize(logits, label.shape)[0].numpy().argmax(-1)
        np.add.at(matrix, (label[label != 255], predicted[label != 255]), 1)
    assert np.abs(result.matrix - matrix).sum() <= 2e-4 * matrix.sum()  # float ties
    assert result.matrix.sum() == matrix.sum() and result.images == 5


def test_an_image_scored_twice_is_refused(model, records_dir):
    info = catalog.load("", records_dir)
    table = records.open_split(records_dir, "val", info)
    twice = records.RecordTable(
        table.files, np.append(table.file_index, 0).astype(np.int32), np.append(table.offsets, 0)
    )
    with pytest.raises(UserError, match="'val_0000' more than once"):
        evaluator.evaluate(Predictor(model), twice, info, split="val")

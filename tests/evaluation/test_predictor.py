import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.data import catalog, records
from deeplab_tf.evaluation import evaluator, metrics
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 45, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    model = build_model(
        ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8), num_classes=7
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
    both = predictor.labels_and_probabilities(IMAGES)
    np.testing.assert_array_equal(both[0], predictor.labels(IMAGES))
    np.testing.assert_allclose(both[1], probabilities, atol=1e-5)


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


def test_a_split_whose_labels_are_all_ignored_has_no_score(records_dir):
    info = catalog.load("", records_dir)
    matrix = np.zeros([7, 7], np.int64)
    nothing = evaluator.Evaluation("val", 5, matrix, metrics.scores(matrix))
    with pytest.raises(UserError, match=r"5 images of 'val' in here are ignored \(255\), so there"):
        evaluator.require_labels(nothing, info, where="here")
    content = nothing.to_json(info, 1)
    assert content["miou"] is None and (content["classes_in_miou"], content["num_classes"]) == (
        0,
        7,
    )

    matrix[0, 1] = 1
    scored = evaluator.Evaluation("val", 5, matrix, metrics.scores(matrix))
    evaluator.require_labels(scored, info, where="here")
    assert scored.to_json(info, 1)["classes_in_miou"] == 2


def windows_of(length, crop, stride):
    """First cells of the windows on one axis, listed by hand from the rule of ssseg sec. 5."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, length) - crop, 0) for i in range(count)]


def slide_in_numpy(model, images, crop, stride):
    total = np.zeros([*images.shape[:3], model.num_classes])
    count = np.zeros([1, *images.shape[1:3], 1])
    for top in windows_of(images.shape[1], crop[0], stride[0]):
        for left in windows_of(images.shape[2], crop[1], stride[1]):
            part = images[:, top : top + crop[0], left : left + crop[1]].astype(np.float32)
            logits = tf.image.resize(model(part)["logits"], part.shape[1:3]).numpy()
            scores = np.exp(logits - logits.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            total[:, top : top + crop[0], left : left + crop[1]] += scores
            count[:, top : top + crop[0], left : left + crop[1]] += 1
    return total / count


def test_the_window_rule_by_hand():
    # Context: long side 520, crop 480, stride 320 -> two windows, the last ends at the border.
    assert windows_of(520, 480, 320) == [0, 40]
    assert windows_of(480, 480, 320) == [0] and windows_of(346, 480, 320) == [0]
    assert windows_of(1000, 480, 320) == [0, 320, 520]


@pytest.mark.parametrize(
    ("crop", "stride"),
    [
        ((33, 33), (20, 24)),
        pytest.param((45, 60), (30, 30), marks=pytest.mark.slow),
        ((99, 41), (99, 19)),
        pytest.param((17, 99), (9, 50), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_slide_equals_a_loop_over_windows_in_numpy(model, crop, stride, flip):
    predictor = Predictor(model, window_size=crop, window_stride=stride, add_flipped_images=flip)
    labels, probabilities = predictor.predict(IMAGES)
    expected = slide_in_numpy(model, IMAGES, crop, stride)
    if flip:
        mirrored = slide_in_numpy(model, IMAGES[:, :, ::-1], crop, stride)[:, :, ::-1]
        expected = (expected + mirrored) / 2
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert (labels == expected.argmax(-1)).numpy().mean() > 0.999
    np.testing.assert_allclose(predictor.probabilities(IMAGES), probabilities, atol=1e-5)


def hann_in_numpy(height, width):
    down = np.sin(np.pi * (np.arange(height) + 0.5) / height) ** 2
    across = np.sin(np.pi * (np.arange(width) + 0.5) / width) ** 2
    return np.outer(down, across)[..., np.newaxis]


def test_blended_windows_are_averaged_with_hann_weights(model):
    """A loop over windows; the one in the corner is alone there, however little it counts."""
    crop, stride = (33, 40), (20, 24)
    predictor = Predictor(model, window_size=crop, window_stride=stride, window_blending="hann")
    total, weights = np.zeros([2, 45, 60, 7]), np.zeros([45, 60, 1])
    for top in windows_of(45, 33, 20):
        for left in windows_of(60, 40, 24):
            part = np.s_[top : top + 33, left : left + 40]
            alone = Predictor(model).probabilities(IMAGES[:, part[0], part[1]])
            total[:, part[0], part[1]] += alone * hann_in_numpy(33, 40)
            weights[part] += hann_in_numpy(33, 40)
    found = predictor.probabilities(IMAGES).numpy()
    np.testing.assert_allclose(found, total / weights, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)  # weights add up to 1 everywhere


class Even(tf.Module):
    """A network whose logits are the same everywhere in what it sees: `logits_of` its images."""

    num_classes = 3

    def __init__(self, config, logits_of):
        self.config, self._logits_of = config, logits_of

    def infer(self, images):
        logits = self._logits_of(images)[:, tf.newaxis, tf.newaxis, :]
        return tf.tile(logits, [1, 5, 5, 1])


@pytest.mark.parametrize("size", [(200, 300), (64, 64), (65, 500), (9, 7)])
def test_constant_probabilities_stay_constant_under_blending(model, size):
    """Weights that did not add up to 1 somewhere would show there."""
    logits = tf.constant([[0.3, -1.0, 2.0]])
    constant = Even(model.config, lambda images: logits)
    predictor = Predictor(
        constant, window_size=(64, 64), window_stride=(43, 50), window_blending="hann"
    )
    found = predictor.probabilities(np.zeros([1, *size, 3], np.uint8)).numpy()
    expected = np.exp([0.3, -1.0, 2.0]) / np.exp([0.3, -1.0, 2.0]).sum()
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)


def test_blended_windows_have_no_seams(model):
    """Each window sees another brightness and is sure of another class: the sharpest of edges."""

    def logits_of(images):
        brightness = tf.reduce_mean(images, axis=(1, 2, 3)) / 255
        return tf.stack([brightness, 1 - brightness, 0 * brightness], axis=-1) * 30

    image = np.zeros([1, 64, 400, 3], np.uint8)
    image[:, :, 200:] = 255

    def largest_step(blending):
        network = Even(model.config, logits_of)
        predictor = Predictor(
            network, window_size=(64, 96), window_stride=(64, 64), window_blending=blending
        )
        scores = predictor.probabilities(image).numpy()
        return np.abs(np.diff(scores, axis=2)).max()

    # The overlap has 32 pixels, so a straight ramp would take steps of 1 / 32.
    assert largest_step("none") > 0.3 and largest_step("hann") < 3 / 32


def test_slide_resizes_probabilities_back_to_the_image(model):
    """Windows lie on the resized image; the averaged probabilities are enlarged, not the logits."""
    predictor = Predictor(
        model,
        min_resize_value=68,
        max_resize_value=68,  # the longer side becomes 68: 45x60 -> 51x68
        scales=(1.0, 0.5),
        window_size=(48, 48),
        window_stride=(32, 32),
    )
    views = []
    for size in ((51, 68), (26, 34)):  # 0.5: 25.5 is rounded up
        resized = tf.image.resize(IMAGES, size)
        resized = np.rint(resized).astype(np.uint8)
        views.append(tf.image.resize(slide_in_numpy(model, resized, (48, 48), (32, 32)), (45, 60)))
    np.testing.assert_allclose(predictor.probabilities(IMAGES), np.mean(views, axis=0), atol=1e-5)


class TestSizeDivisor:
    """Images are padded to a multiple of --eval_size_divisor, and the scores cut to their size."""

    @pytest.mark.parametrize(("divisor", "padded"), [(16, (48, 64)), (7, (49, 63)), (5, (45, 60))])
    @pytest.mark.parametrize("flip", [False, True])
    def test_the_logits_are_those_of_images_padded_by_hand(self, model, divisor, padded, flip):
        by_hand = np.empty([2, *padded, 3], np.float32)
        by_hand[:] = model.config.image_mean
        by_hand[:, :45, :60] = IMAGES[:, :, ::-1] if flip else IMAGES
        logits = tf.image.resize(model(by_hand)["logits"], padded).numpy()[:, :45, :60]
        expected = logits[:, :, ::-1] if flip else logits

        predictor = Predictor(model, size_divisor=divisor)
        images = tf.constant(IMAGES)
        np.testing.assert_allclose(predictor._view(images, 1.0, flip), expected, atol=1e-4)
        assert predictor.most_pixels([45, 60]) == padded[0] * padded[1]

    def test_one_pixel_more_where_corners_are_aligned(self, model):
        config = dataclasses.replace(model.config, align_corners=True)
        aligned = build_model(config, num_classes=7)
        predictor = Predictor(aligned, size_divisor=16)
        assert predictor._divisible_size(tf.constant([45, 65])).numpy().tolist() == [49, 65]

    def test_a_view_of_another_scale_returns_to_the_images_size(self, model):
        predictor = Predictor(model, scales=(0.5, 1.0), size_divisor=16)
        probabilities = predictor.probabilities(IMAGES)
        assert probabilities.shape == (2, 45, 60, 7)
        half = tf.cast(tf.image.resize(IMAGES, [22, 30]), tf.float32)
        views = [
            tf.image.resize(Predictor(model, size_divisor=16)._view(half, 1.0, False), [45, 60]),
            Predictor(model, size_divisor=16)._view(tf.constant(IMAGES), 1.0, False),
        ]
        expected = np.mean([tf.nn.softmax(view) for view in views], axis=0)
        # Resized images are rounded to whole numbers; here they are not.
        np.testing.assert_allclose(probabilities, expected, atol=0.05)

    def test_cells_lie_over_the_pixels_that_they_were_computed_from(self):
        """A class that follows the brightness of cells has its border where the image has it."""

        class Mean(tf.Module):
            """Logits of two classes at stride 16: dark and bright."""

            num_classes = 2
            config = ModelConfig(model_variant="resnet_v1b_18", image_mean=(0.0, 0.0, 0.0))

            def infer(self, images):
                size = tf.shape(images)[1:3]
                images = tf.pad(images, [[0, 0], [0, -size[0] % 16], [0, -size[1] % 16], [0, 0]])
                cells = tf.nn.avg_pool2d(images[..., :1], 16, 16, "VALID")
                return tf.concat([128 - cells, cells - 128], axis=-1)

        image = np.zeros([1, 16, 150, 3], np.uint8)
        image[:, :, 128:] = 255
        borders = [
            int(np.argmax(Predictor(Mean(), size_divisor=divisor).labels(image)[0, 8]))
            for divisor in (0, 16)
        ]
        assert borders == [120, 128]  # 10 cells squeezed into 150 pixels: 128 * 150 / 160


class TestPaddedSize:
    """Images are padded to --eval_crop_size as official DeepLab pads them (input_preprocess.py)."""

    @pytest.fixture(scope="class")
    def network(self):
        tf.keras.utils.set_random_seed(0)
        config = ModelConfig(
            model_variant="resnet_v1_18", aspp_convs_filters=8, image_mean=(10.0, 120.0, 200.0)
        )
        model = build_model(config, num_classes=7)
        model.classifier.conv.kernel.assign(model.classifier.conv.kernel * 10)
        return model

    def by_hand(self, network, scale, flip):
        """Probabilities of one view, from images that numpy has padded."""
        padded = np.empty([2, 65, 81, 3], np.float32)
        padded[:] = (10.0, 120.0, 200.0)
        padded[:, :45, :60] = IMAGES
        # scale_dimension of 65 and 81: (side - 1) * scale + 1
        size = [int(64 * scale) + 1, int(80 * scale) + 1]
        view = tf.raw_ops.ResizeBilinear(images=padded, size=size, align_corners=True).numpy()
        if flip:
            view = view[:, :, ::-1]
        logits = network(view)["logits"].numpy()
        if flip:
            logits = logits[:, :, ::-1]
        if scale < 1:  # official multi_scale_logits: first to the size of logits at scale 1
            stride = network.config.output_stride
            first = [64 // stride + 1, 80 // stride + 1]
            logits = tf.raw_ops.ResizeBilinear(images=logits, size=first, align_corners=True)
        logits = tf.raw_ops.ResizeBilinear(images=logits, size=[65, 81], align_corners=True)
        return tf.nn.softmax(logits).numpy()[:, :45, :60]

    @pytest.mark.parametrize("scales", [(1.0,), (0.5, 0.75, 1.0, 1.25)])
    @pytest.mark.parametrize("flips", [False, True])
    def test_views_equal_those_of_images_padded_by_hand(self, network, scales, flips):
        views = [
            self.by_hand(network, scale, flip)
            for scale in scales
            for flip in ((False, True) if flips else (False,))
        ]
        predictor = Predictor(
            network, scales=scales, add_flipped_images=flips, padded_size=(65, 81)
        )
        labels, probabilities = predictor.predict(IMAGES)
        np.testing.assert_allclose(probabilities, np.mean(views, axis=0), atol=2e-5)
        assert labels.shape == (2, 45, 60)
        plain = Predictor(network, scales=scales, add_flipped_images=flips)
        assert np.abs(plain.probabilities(IMAGES) - probabilities).max() > 1e-3

    def test_a_larger_image_is_one_sentence(self, network):
        predictor = Predictor(network, padded_size=(65, 59))
        with pytest.raises(UserError, match="45x60 pixels, more than --eval_crop_size=65,59; give"):
            predictor.labels(IMAGES)
        fitting = Predictor(network, padded_size=(65, 59), min_resize_value=33)
        assert fitting.labels(IMAGES).shape == (2, 45, 60)
        with pytest.raises(UserError, match="66x88 pixels when resized, more than"):
            Predictor(network, padded_size=(65, 59), min_resize_value=66).labels(IMAGES)
        any_size = tf.function(predictor.predict, [tf.TensorSpec([None, None, None, 3], tf.uint8)])
        with pytest.raises(tf.errors.InvalidArgumentError, match="larger than"):
            any_size(IMAGES)  # as a server calls it

    def test_the_largest_view_counts(self, network):
        predictor = Predictor(network, scales=(0.5, 1.5), padded_size=(65, 81))
        assert predictor.most_pixels([45, 60]) == 97 * 121

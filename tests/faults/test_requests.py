"""Requests of any content, and answers of any server: labels of classes, or a plain refusal."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.config import ServingConfig
from deeplab_tf.data.image_kinds import RGB
from deeplab_tf.messages import UserError
from deeplab_tf.serving import answers, client, signatures
from tests.faults.mutations import mutated
from tests.faults.sentences import require_one_sentence
from tests.serving import cases


class RedPredictor:
    """In place of a network: the class of a pixel is its red over 37."""

    image_kind = RGB

    def scores(self, images):
        return tf.one_hot(tf.cast(images[..., 0], tf.int32) // 37, 7)

    def labels_of(self, scores):
        return tf.cast(tf.argmax(scores, axis=-1), tf.uint8)

    def most_pixels(self, size):
        return size[0] * size[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    table = tmp_path_factory.mktemp("served") / "labels.csv"
    table.touch()
    config = ServingConfig(**cases.LIMITS)
    module = signatures.ServingModule(RedPredictor(), config, class_table=table, variables=[])
    return module.functions


def encoded(rng):
    height, width = rng.randint(1, 20), rng.randint(1, 20)
    pixels = np.frombuffer(rng.randbytes(3 * height * width), np.uint8).reshape(height, width, 3)
    content = io.BytesIO()
    image = Image.fromarray(pixels).convert(rng.choice(("RGB", "L")))
    image.save(content, rng.choice(("PNG", "PNG", "JPEG", "GIF", "BMP")), progressive=True)
    return content.getvalue()


def test_damaged_images_are_predicted_or_refused(fuzz, served):
    """What is predicted is what Pillow sees."""

    def attempt(rng, folder):
        whole = encoded(rng)
        content = whole if rng.random() < 0.1 else mutated(whole, rng)
        (folder / "image").write_bytes(content)
        batch = [content] * rng.choice((0, 1, 1, 1, 2, 5))
        try:
            labels = served["serve_encoded"](tf.constant(batch, tf.string, [len(batch)]))["labels"]
        except tf.errors.InvalidArgumentError as error:
            assert signatures.reason_of(error)
            return
        assert labels.shape[0] == len(batch) and labels.shape.num_elements() > 0
        if whole.startswith(b"\x89PNG"):
            red = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[..., 0]
            assert (labels.numpy() == red // 37).all()

    fuzz(attempt, tries=40)


def test_images_of_odd_shapes_are_refused(served):
    for shape in ((0, 5, 5, 3), (1, 0, 5, 3), (5, 4, 4, 3), (1, 300, 300, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
            served["serving_default"](tf.zeros(shape, tf.uint8))


CLASSES = cases.INFO.classes


@pytest.mark.parametrize(
    "labels",
    [
        np.full([1, 2, 3], 7, np.uint8),
        np.full([1, 2, 3], -1, np.int64),
        np.zeros([1, 2, 3], np.float32),
        np.full([1, 2, 3], np.nan, np.float32),
        np.zeros([1, 2, 3], bool),
        np.zeros([1, 3, 2], np.uint8),
        np.zeros([0], np.uint8),
        np.zeros([], np.uint8),
        np.array([b"a"] * 6).reshape(1, 2, 3),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(UserError, match="^It answered labels .* and 7 classes; mend it.$") as told:
        answers.checked_labels(labels, (1, 2, 3, 3), CLASSES, who="It", way_out="mend it")
    require_one_sentence(told.value)


def test_labels_of_any_whole_type_become_bytes():
    given = np.arange(6, dtype=np.int64).reshape(1, 2, 3)
    labels = answers.checked_labels(given, (1, 2, 3, 3), CLASSES, who="It", way_out="")
    assert labels.dtype == np.uint8 and (labels == given).all()


def test_damaged_answers_of_a_server(fuzz):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    message = pytest.importorskip("google.protobuf.message")
    good = predict_pb2.PredictResponse()
    good.outputs["labels"].CopyFrom(
        tf.make_tensor_proto(np.arange(6, dtype=np.uint8), shape=[1, 2, 3])
    )

    server = client.ServerPredictor.__new__(client.ServerPredictor)
    server.classes, server._address, server._model_name, server._timeout = CLASSES, "x:1", "m", 1

    def attempt(rng, folder):
        try:
            response = predict_pb2.PredictResponse.FromString(
                mutated(good.SerializeToString(), rng)
            )
        except message.DecodeError:  # gRPC tells it as a failed call
            return
        server._predict = lambda *_, **__: response
        try:
            labels = server.labels(np.zeros([1, 2, 3, 3], np.uint8))
        except UserError as error:
            require_one_sentence(error)
            return
        assert labels.shape == (1, 2, 3) and labels.dtype == np.uint8 and labels.max() < 7

    fuzz(attempt, tries=300)

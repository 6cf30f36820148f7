"""The frozen graph holds what programs made for official DeepLab's files ask for."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.serving import frozen_graph
from tests.serving import cases


@pytest.mark.parametrize(
    "inference",
    [
        pytest.param({}, id="whole"),
        pytest.param(
            {"padded_size": (65, 81), "scales": (0.5, 1.0), "add_flipped_images": True},
            id="padded",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_its_tensors_give_what_the_predictor_gives(tmp_path, inference):
    predictor = Predictor(cases.model(), **inference)
    path = frozen_graph.write(predictor, cases.INFO, tmp_path / "frozen_inference_graph.pb")

    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    assert not {node.op for node in definition.node} & {"VarHandleOp", "ReadVariableOp"}
    image, labels, probabilities = (
        f"{name}:0" for name in ("ImageTensor", "SemanticPredictions", "SemanticProbabilities")
    )
    pictures = [cases.pictures(1, size) for size in ((45, 60), (33, 70))]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        tensors = [graph.get_tensor_by_name(name) for name in (image, labels)]
        assert [tensor.dtype for tensor in tensors] == [tf.uint8, tf.int32]
        assert tensors[0].shape.as_list() == [1, None, None, 3] and tensors[1].shape.rank == 3
        found = [session.run([labels, probabilities], {image: picture}) for picture in pictures]

    for picture, (ids, shares) in zip(pictures, found, strict=True):
        assert ids.shape == picture.shape[:3]
        np.testing.assert_allclose(shares, predictor.probabilities(picture), atol=1e-4)
        assert (ids == predictor.labels(picture).numpy()).mean() > 0.999

    rows = list(csv.reader((tmp_path / "frozen_inference_graph.labels.csv").open()))
    assert rows[0] == ["index", "name", "r", "g", "b"] and len(rows) == 8


def test_an_image_larger_than_the_padded_size_is_refused_by_the_graph():
    predictor = Predictor(cases.model(), padded_size=(33, 33))
    definition = frozen_graph.graph_of(predictor)
    picture = cases.pictures(1, (34, 33))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        with pytest.raises(tf.errors.InvalidArgumentError, match="larger than"):
            session.run("SemanticPredictions:0", {"ImageTensor:0": picture})

import concurrent.futures
import re
import socket

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import predict
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.messages import UserError
from deeplab_tf.serving import client
from tests.serving.models import pictures, tiny_export


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    return tiny_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def class_list(export_dir):
    return export_dir / "1" / "assets" / "labels.csv"


@pytest.fixture(scope="module")
def address(export_dir):
    """A server on loopback that answers as TensorFlow Serving does; yields host:port."""
    grpc = pytest.importorskip("grpc")
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    from tensorflow_serving.apis import predict_pb2

    signature = tf.saved_model.load(str(export_dir / "1")).signatures["serving_default"]

    class Servicer(apis.PredictionServiceServicer):
        def Predict(self, request, context):
            images = tf.make_ndarray(request.inputs["images"])
            response = predict_pb2.PredictResponse()
            if request.model_spec.name == "zeros":
                zeros = np.zeros(images.shape[:3], np.uint8)
                response.outputs["labels"].CopyFrom(tf.make_tensor_proto(zeros))
                return response
            if request.model_spec.name != "deeplab":
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found\nfor request")
            for name, value in signature(images=tf.constant(images)).items():
                if name in request.output_filter or not request.output_filter:
                    response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    limit = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=limit)
    apis.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_server_gives_the_files_of_the_export(address, export_dir, class_list, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in [("flat", (65, 81)), ("tall", (90, 47))]:
        Image.fromarray(pictures(1, *size)[0]).save(photos / f"{name}.png")
    sources = {
        "server": {"server": address, "class_list": str(class_list)},
        "export": {"export_dir": str(export_dir)},
    }
    for name, source in sources.items():
        output = str(tmp_path / name)
        predict.main(PredictConfig(input=(str(photos),), output_dir=output, **source))
    by_server, by_export = files(tmp_path / "server"), files(tmp_path / "export")
    assert len(by_export) == 6 and by_server == by_export
    assert len(np.unique(Image.open(tmp_path / "server" / "index" / "flat.png"))) > 2


def test_messages_may_be_larger_than_grpcs_4_mb(address, class_list):
    server = client.ServerPredictor(
        address, model_name="zeros", class_list=class_list, timeout_secs=20
    )
    assert server.labels(np.zeros([1, 1500, 3000, 3], np.uint8)).shape == (1, 1500, 3000)


def test_a_servers_refusal_is_one_sentence(address, class_list):
    server = client.ServerPredictor(
        address, model_name="other", class_list=class_list, timeout_secs=20
    )
    expected = re.escape("--model_name=other (NOT_FOUND: Servable not found for request).")
    with pytest.raises(UserError, match=expected):
        server.labels(pictures(1, 65, 81))


def test_another_models_class_list_is_refused(address, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("name,r,g,b\nsky,0,0,0\nroad,1,1,1\n")
    server = client.ServerPredictor(
        address, model_name="deeplab", class_list=table, timeout_secs=20
    )
    with pytest.raises(UserError, match="and 2 classes; give .* as --class_list"):
        server.labels(pictures(1, 65, 81))


def test_no_server_is_said_in_time(class_list):
    pytest.importorskip("tensorflow_serving")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=f"No server answered at --server={address} within 1 s"):
            client.ServerPredictor(
                address, model_name="deeplab", class_list=class_list, timeout_secs=1
            )


def test_without_the_serving_api_the_extra_is_named(class_list, monkeypatch):
    monkeypatch.setattr(client, "grpc", None)
    with pytest.raises(UserError, match=r"pip install 'tensorflow-serving-api==2\.\d+\.\*'"):
        client.ServerPredictor("x:1", model_name="deeplab", class_list=class_list, timeout_secs=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {},
            "Give either --checkpoint_dir or --weights or --export_dir or --server, and only that; "
            "given: none.",
        ),
        (
            {"server": "x:1", "export_dir": "y", "class_list": "z"},
            "given: --export_dir and --server.",
        ),
        ({"server": "x:1"}, "--class_list is missing; give it the exported model's"),
    ],
)
def test_sources_are_checked(source, message):
    with pytest.raises(UserError, match=re.escape(message)):
        PredictConfig(input=("x.png",), output_dir="y", **source)

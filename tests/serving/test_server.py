"""The exported model in a TensorFlow Serving, where TENSORFLOW_MODEL_SERVER names its binary."""

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.serving import export
from tests.serving import cases

BINARY = os.environ.get("TENSORFLOW_MODEL_SERVER", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="TENSORFLOW_MODEL_SERVER names no server binary")
NAME = "tiny"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, model_dir, log):
        self.grpc, self.rest = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                BINARY,
                f"--port={self.grpc}",
                f"--rest_api_port={self.rest}",
                "--grpc_max_threads=4",
                f"--model_config_file={model_dir}/model.config",
                "--enable_batching",
                f"--batching_parameters_file={model_dir}/batching_parameters.txt",
                "--file_system_poll_wait_seconds=1",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def call(self, path, body=None):
        """Returns status code and JSON of a REST call."""
        url = f"http://127.0.0.1:{self.rest}/v1/models/{NAME}{path}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def wait_for(self, version):
        for _ in range(120):
            assert self.process.poll() is None, "the server has ended"
            try:
                _, answer = self.call(f"/versions/{version}")
            except OSError:
                answer = {}
            states = [state["state"] for state in answer.get("model_version_status", [])]
            if states == ["AVAILABLE"]:
                return
            time.sleep(0.5)
        pytest.fail(f"version {version} did not become available: {answer}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    model_dir = folder / NAME
    cases.write(model_dir)
    export.write_server_files(
        model_dir, model_name=NAME, base_path=str(model_dir), max_batch_size=4
    )
    with (folder / "log").open("w") as log:
        server = Server(model_dir, log)
        server.model_dir = model_dir
        try:
            server.wait_for(1)
            yield server
        finally:
            server.process.terminate()
            server.process.wait(timeout=30)


def rest_labels(server, images):
    code, answer = server.call(":predict", {"instances": images.tolist()})
    assert code == 200, answer
    return np.array(answer["predictions"], np.uint8)


def files_request(files):
    instances = [{"b64": base64.b64encode(file).decode()} for file in files]
    return {"signature_name": "serve_encoded", "instances": instances}


def test_rest_answers_both_signatures(server):
    images = cases.pictures()
    expected = Predictor(cases.model()).labels(images).numpy()
    assert (rest_labels(server, images) == expected).mean() > 0.999
    code, answer = server.call(":predict", files_request([cases.encode(i) for i in images]))
    assert code == 200, answer
    assert (np.array(answer["predictions"]) == expected).mean() > 0.999


def test_bad_requests_are_refused_and_the_server_lives(server):
    good = cases.pictures(1)
    for case, (images, _) in cases.bad_images().items():
        if images.size:  # JSON has no shape of an empty list
            code, answer = server.call(":predict", {"instances": images.tolist()})
            assert code == 400, (case, answer)
    for case, (files, _) in cases.bad_files().items():
        code, answer = server.call(":predict", files_request(files))
        assert code == 400, (case, answer)
    assert rest_labels(server, good).shape == good.shape[:3]


def test_grpc_answers_and_refuses(server):
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    service = pytest.importorskip(
        "tensorflow_serving.apis.prediction_service_pb2_grpc",
        reason="tensorflow-serving-api is not installed",
    )
    from tensorflow_serving.apis import predict_pb2

    def labels(images):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = NAME
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        outputs = service.PredictionServiceStub(channel).Predict(request, timeout=60).outputs
        assert set(outputs) == {"labels"}
        return tf.make_ndarray(outputs["labels"])

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        images = cases.pictures()
        expected = Predictor(cases.model()).labels(images).numpy()
        assert (labels(images) == expected).mean() > 0.999
        for case, (bad, _) in cases.bad_images().items():
            with pytest.raises(grpc.RpcError) as refusal:
                labels(bad)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT, case
            assert (labels(images) == expected).mean() > 0.999


def test_a_new_version_takes_over_while_requests_go_on(server):
    images = cases.pictures(1)
    before = rest_labels(server, images)
    bias = cases.model().classifier.conv.bias
    usual = bias.numpy()
    try:
        bias.assign(usual + 1e6 * np.eye(7)[3])  # everything becomes class 3
        cases.write(server.model_dir)
    finally:
        bias.assign(usual)
    for _ in range(120):
        labels = rest_labels(server, images)
        if (labels == 3).all():
            break
        np.testing.assert_array_equal(labels, before)
        time.sleep(0.5)
    assert (labels == 3).all()

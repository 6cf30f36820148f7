"""Predicts with an exported model that TensorFlow Serving runs, over gRPC."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab_tf.data.catalog import LabelClass, read_class_table
from deeplab_tf.evaluation.predictor import RefusedImage
from deeplab_tf.messages import UserError, shortened
from deeplab_tf.serving import answers
from deeplab_tf.startup import legacy_keras

try:
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
except ImportError:  # the extra `serving` is not installed
    grpc = None
_SIGNATURE = "serving_default"
_OUTPUT = "labels"


class ServerPredictor:
    """Asks one server for the labels of images; the connection is not encrypted."""

    def __init__(self, address: str, *, model_name: str, class_list: Path, timeout_secs: float):
        """Connects.

        Args:
          address: host:port of the server's gRPC port (8500 by default, not REST's 8501).
          model_name: name of the model there.
          class_list: file with the names and colours of the classes, which a server does not send.
          timeout_secs: how long to wait for the connection, and for each answer.
        Raises:
          UserError: if the extra `serving` is not installed, or no server answers in time.
        """
        if grpc is None:
            raise UserError(
                f"--server={address} needs tensorflow-serving-api; pip install "
                "'tensorflow-serving-api=={}.{}.*'".format(*legacy_keras.tensorflow_version())
            )
        self.classes: tuple[LabelClass, ...] = read_class_table(class_list)
        self._address, self._model_name, self._timeout = address, model_name, timeout_secs

        # Requests and answers may exceed the 4 MB that gRPC accepts by default.
        limits = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        channel = grpc.insecure_channel(address, options=[(name, -1) for name in limits])
        try:
            grpc.channel_ready_future(channel).result(timeout=timeout_secs)
        except grpc.FutureTimeoutError:
            channel.close()
            raise UserError(
                f"No server answered at --server={address} within {timeout_secs} s; start it, or "
                "give the host:port of its gRPC port (8500 by default)."
            ) from None
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Predicts images, uint8 [B, H, W, 3], and returns labels [B, H, W].

        Raises:
          RefusedImage: if the server's model does not take such images.
          UserError: if the server does not answer, or not in time, or has other classes.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model_name
        request.model_spec.signature_name = _SIGNATURE
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images, tf.uint8))
        request.output_filter.append(_OUTPUT)

        try:
            response = self._predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            reason = re.sub(r"\s+", " ", error.details() or "no reason given").strip()
            refused = error.code() == grpc.StatusCode.INVALID_ARGUMENT
            raise (RefusedImage if refused else UserError)(
                f"--server={self._address} did not predict with --model_name={self._model_name} "
                f"({error.code().name}: {reason})."
            ) from None

        return answers.checked_labels(
            self._array(response, list(images.shape[:3])),
            images.shape,
            self.classes,
            who=f"--server={self._address}",
            way_out="give the labels.csv of the server's own model as --class_list",
        )

    def _array(self, response, shape: list[int]) -> np.ndarray:
        """Returns the labels of an answer; raises UserError if it has none of this shape."""
        problem = f"it has no output {_OUTPUT!r}"
        # Reading an entry of this map that is not there would create it.
        if _OUTPUT in response.outputs:
            tensor = response.outputs[_OUTPUT]
            sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
            problem = f"its labels have the shape {shortened(str(sizes))} for images of {shape}"
            # Asked first, since a few bytes may say that they stand for terabytes.
            if sizes == shape:
                try:
                    return tf.make_ndarray(tensor)
                except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
                    problem = shortened(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise UserError(
            f"The answer of --server={self._address} cannot be read ({problem}); give the "
            "--model_name of a model that export_model wrote."
        )

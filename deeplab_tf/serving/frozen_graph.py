"""Writes a Predictor as a frozen graph of TensorFlow 1, as official DeepLab's export does.

Programs made for its files (demos, OpenCV, converters of other frameworks) ask for these tensors:
  ImageTensor:0            uint8 [1, H, W, 3], RGB, of any height and width
  SemanticPredictions:0    int32 [1, H, W], the class of each pixel
  SemanticProbabilities:0  float32 [1, H, W, classes]
Differs: labels are chosen at the size of the image, where official DeepLab enlarges labels.
"""

from pathlib import Path

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from deeplab_tf import files
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.serving.export import class_table_text

IMAGE, LABELS, PROBABILITIES = "ImageTensor", "SemanticPredictions", "SemanticProbabilities"


def write(predictor: Predictor, info: DatasetInfo, path: Path) -> Path:
    """Writes the graph, and its classes as NAME.labels.csv next to it; returns the graph's path.

    Raises:
      UserError: if the model's images are not 8-bit RGB.
    """
    predictor.image_kind.require_rgb(
        "The frozen graph of --export_path", "give --export_dir for a SavedModel"
    )
    files.write(path, graph_of(predictor).SerializeToString())
    files.write(path.with_suffix(".labels.csv"), class_table_text(info))
    return path


def graph_of(predictor: Predictor) -> tf.compat.v1.GraphDef:
    """Returns the graph with the weights as constants."""

    def serve(image):
        scores = predictor.scores(image)
        labels = tf.cast(predictor.labels_of(scores), tf.int32, name=LABELS)
        probabilities = tf.identity(predictor.probabilities_of(scores), name=PROBABILITIES)
        return labels, probabilities

    with predictor.model.folded():
        image = tf.TensorSpec([1, None, None, 3], tf.uint8, name=IMAGE)
        traced = tf.function(serve, input_signature=[image], autograph=False)
        frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    return frozen.graph.as_graph_def()

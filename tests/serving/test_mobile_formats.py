"""Google's mobile networks in TensorFlow Lite: operations, labels and sizes of the files."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from deeplab_tf import convert_model
from deeplab_tf.config import ModelConfig
from deeplab_tf.config.programs import ConvertConfig
from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.serving import export
from deeplab_tf.serving.export import ExportedPredictor
from tests.serving.models import pictures

V2 = ModelConfig(model_variant="mobilenet_v2")
V2_NARROW = dataclasses.replace(V2, depth_multiplier=0.5)
V3_SMALL = ModelConfig(  # the flags of the published V3 networks
    model_variant="mobilenet_v3_small_seg",
    output_stride=32,
    image_pooling_crop_size=(769, 769),
    image_pooling_stride=(4, 5),
    aspp_convs_filters=128,
    aspp_with_concat_projection=False,
    aspp_with_squeeze_and_excitation=True,
    decoder_output_stride=(8,),
    decoder_use_sum_merge=True,
    decoder_filters=19,
    decoder_output_is_logits=True,
    image_se_uses_qsigmoid=True,
)
V3_LARGE = dataclasses.replace(V3_SMALL, model_variant="mobilenet_v3_large_seg")


def export_of(config, folder, *, num_classes=19, **inference):
    """Exports an untrained network whose scores are decided; returns it and the folder."""
    tf.keras.utils.set_random_seed(0)
    model = build_model(
        dataclasses.replace(config, initializer="he_normal"), num_classes=num_classes
    )

    # The biases of the file, which in an untrained network would all be 0 and equal.
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "beta" in variable.name or "moving_mean" in variable.name:
            variable.assign(rng.normal(0, 0.1, variable.shape))

    # No class is far above the others.
    last = model.classifier.conv if model.classifier else model.decoder.refinement[-1]
    logits = model.infer(pictures(1, 65, 65, seed=7).astype(np.float32))
    last.bias.assign_sub(tf.reduce_mean(logits, axis=[0, 1, 2]))

    classes = tuple(LabelClass(f"class {i}", (i, i, i)) for i in range(num_classes))
    info = DatasetInfo(name="mobile", classes=classes)
    export.export(Predictor(model, **inference), info, folder, warmup_size=(33, 33))
    return model, folder


def converted(folder, output, *, format="tflite_float32", size=(), **settings):
    job = ConvertConfig(
        export_dir=str(folder), output=str(output), format=format, image_size=size, **settings
    )
    convert_model.main(job)
    return output


def operations(file):
    """Counts the operations of a TensorFlow Lite file, which must all be built into its runtime."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = flatbuffer_utils.read_model(str(file))
    assert all(code.customCode is None for code in model.operatorCodes)
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    (graph,) = model.subgraphs
    return collections.Counter(codes[operator.opcodeIndex] for operator in graph.operators)


def run(file, images):
    return tf.lite.Interpreter(str(file)).get_signature_runner()(images=images)["labels"]


def equal_share(file, images, folder):
    expected = ExportedPredictor(folder).labels(images)
    assert len(np.unique(expected)) >= 3  # else any file would agree
    labels = run(file, images)
    assert labels.dtype == expected.dtype
    return np.mean(labels == expected)


def num_weights(model):
    """Counts the numbers that a file holds: kernels, and a bias for each normalisation or layer."""
    return sum(
        int(np.prod(variable.shape))
        for variable in model.trainable_variables
        if "gamma" not in variable.name  # folded into the kernels
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "num_depthwise", "num_hard_swish"),
    [
        pytest.param(V2_NARROW, 17, 0, id="v2_0.5"),  # 17 inverted residuals
        # 11; the first convolution, two for each of eight units, and the last convolution
        pytest.param(V3_SMALL, 11, 18, id="v3_small"),
        # 15; the same with nine units
        pytest.param(V3_LARGE, 15, 20, id="v3_large"),
    ],
)
def test_a_mobile_network_needs_only_the_operations_of_its_layers(
    config, num_depthwise, num_hard_swish, tmp_path
):
    model, folder = export_of(config, tmp_path / "export")
    file = converted(folder, tmp_path / "model.tflite", size=(65, 65))
    counts = operations(file)

    # Dilated convolutions are one operation each, not three with space and batch exchanged.
    assert counts["DEPTHWISE_CONV_2D"] == num_depthwise
    assert not {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "BROADCAST_TO"} & set(counts)
    assert counts["HARD_SWISH"] == num_hard_swish

    # Nothing else in the file is large: names and structure take 320 to 450 bytes an operation, and
    # the pooled map repeated over the image would be 256 numbers for each of 25 cells.
    rest = file.stat().st_size - 4 * num_weights(model)
    assert 0 < rest < 550 * sum(counts.values())

    assert equal_share(file, pictures(1, 65, 65, seed=7), folder) > 0.999


@pytest.mark.slow
def test_a_padded_size_adds_no_constant_image(tmp_path):
    padded = {"padded_size": (257, 257)}
    _, folder = export_of(V2_NARROW, tmp_path / "export", num_classes=5, **padded)
    file = converted(folder, tmp_path / "model.tflite", size=(65, 97))
    largest = max(
        len(buffer.data)
        for buffer in flatbuffer_utils.read_model(str(file)).buffers
        if buffer.data is not None
    )
    # The kernel of the projection, from twice 256 channels; an image has 3 * 257 * 257 numbers.
    assert largest == 4 * 512 * 256
    assert equal_share(file, pictures(1, 65, 97, seed=7), folder) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "published"),
    [  # The 8-bit files of official DeepLab's model zoo, bytes.
        pytest.param(V2_NARROW, 751_100, id="v2_0.5"),
        pytest.param(V2, 2_200_000, id="v2"),
    ],
)
def test_an_int8_file_is_about_as_small_as_the_published_one(config, published, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, picture in enumerate(pictures(2, 129, 129)):
        Image.fromarray(picture).save(photos / f"{index}.png")

    model, folder = export_of(config, tmp_path / "export", num_classes=21)
    calibration = {"calibration_images": (str(photos),)}
    settings = {"format": "tflite_int8", "size": (513, 513), **calibration}
    file = converted(folder, tmp_path / "model.tflite", **settings)

    # The published files have one scale for each kernel. Ours have one for each of its channels,
    # and one for each bias, 4 bytes each.
    biases = [v for v in model.trainable_variables if "beta" in v.name or "bias" in v.name]
    num_channels = sum(int(bias.shape[0]) for bias in biases)
    assert published < file.stat().st_size < 1.03 * (published + 8 * num_channels)

    # All numbers are integers, but for the image on its way from uint8 to int8.
    (graph,) = flatbuffer_utils.read_model(str(file)).subgraphs
    floats = [tensor for tensor in graph.tensors if tensor.type == schema.TensorType.FLOAT32]
    assert [tensor.shape.tolist() for tensor in floats] == [[1, 513, 513, 3]]

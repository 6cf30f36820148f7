"""Converts an exported SavedModel to the formats of other programs: ONNX and TensorFlow Lite.

Only the signature `serving_default` is read, so what was scored is what is converted. The files
take what this signature takes, `images`, uint8 [B, H, W, 3], RGB, and return what it returns.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils
from tqdm import tqdm

from deeplab_tf import json_files
from deeplab_tf.data import image_files, transforms
from deeplab_tf.data.catalog import read_class_table
from deeplab_tf.json_files import keyed, text
from deeplab_tf.messages import UserError
from deeplab_tf.serving import export
from deeplab_tf.startup import legacy_keras

_CARD = keyed({}, {"serving": keyed({}, {"serving_device": text()})})
_OPSET = 17  # of 2022; bilinear resizing with half-pixel centres has been in ONNX for longer


class Served(tf.Module):
    """The signature `serving_default` of a SavedModel, for images of any size or of one size."""

    def __init__(self, folder: Path, *, image_size: tuple[int, ...] = ()):
        """Loads the signature.

        Args:
          folder: the folder of one version.
          image_size: height and width of images that it takes one at a time; empty for any number
            of images of any size.
        Raises:
          UserError: if it does not take 8-bit RGB images.
        """
        super().__init__()
        self.class_table = (folder / "assets" / export.LABELS).read_text(encoding="utf-8")
        self.loaded, signature = export.load_signature(folder)
        kind = export.kind_of_images(folder, signature)
        kind.require_rgb("An ONNX or TensorFlow Lite file", "use the SavedModel itself")
        shape = [1, *image_size, 3] if image_size else [None, None, None, 3]
        self.inputs = [tf.TensorSpec(shape, tf.uint8, name="images")]
        self.serve = tf.function(lambda images: signature(images=images), self.inputs)


def open_export(export_dir: Path, *, image_size: tuple[int, ...] = ()) -> Served:
    """Loads `export_dir` if it is a version, else the highest version in it.

    Raises:
      UserError: if there is no version, one of its files is missing, or it was exported for CPUs.
    """
    folder = export.version_folder(export_dir)
    for file in (export.CARD, f"assets/{export.LABELS}"):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder} has no {file}; give --export_dir a whole folder of export_model."
            )

    card = json_files.read(
        folder / export.CARD, "The model card", _CARD, advice="export the model again"
    )
    read_class_table(folder / "assets" / export.LABELS)  # refuses a damaged one
    device = card.get("serving", {}).get("serving_device", "any")  # earlier versions: no entry
    if device != "any":
        raise UserError(
            f"{folder} was exported with --serving_device={device}, whose convolutions other "
            "programs do not have; export it with --serving_device=any."
        )
    return Served(folder, image_size=image_size)


def onnx(served: Served) -> bytes:
    """Returns the model as an ONNX file, with labels.csv in its metadata.

    Raises:
      UserError: if the extra `onnx` is not installed.
    """
    try:
        import onnx as library  # of the extra `onnx`
        import tf2onnx  # of the extra `onnx`
    except ImportError:
        raise UserError(
            "--format=onnx needs tf2onnx and onnx; pip install tf2onnx "
            + ("onnx" if legacy_keras.tensorflow_version() >= (2, 16) else "'onnx<1.18'")
        ) from None

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    model, _ = tf2onnx.convert.from_function(
        served.serve, input_signature=served.inputs, opset=_OPSET
    )
    _pad_explicitly(library, model.graph)
    library.helper.set_model_props(model, {export.LABELS: served.class_table})
    return model.SerializeToString()


def _pad_explicitly(library: Any, graph: Any) -> None:
    """Gives the padding of convolutions without stride in numbers, in inner graphs too.

    Where the image's size is not known, tf2onnx leaves the padding to the program that runs the
    model (auto_pad), and onnxruntime refuses that for atrous convolutions.
    """
    sizes = {weights.name: weights.dims[2:] for weights in graph.initializer}
    for node in graph.node:
        values = {a.name: library.helper.get_attribute_value(a) for a in node.attribute}
        for value in values.values():
            if isinstance(value, library.GraphProto):
                _pad_explicitly(library, value)

        strided = max(values.get("strides", [1])) > 1
        if node.op_type != "Conv" or values.get("auto_pad") != b"SAME_UPPER" or strided:
            continue

        rates = values.get("dilations", [1, 1])
        kernel = values.get("kernel_shape") or sizes[node.input[1]]
        pads = [(side - 1) // 2 * rate for side, rate in zip(kernel, rates, strict=True)]
        others = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
        del node.attribute[:]
        node.attribute.extend([*others, library.helper.make_attribute("pads", pads * 2)])


def tflite(served: Served, *, half: bool = False, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Returns the model as a TensorFlow Lite file that uses only built-in operations.

    Args:
      half: whether weights are stored as float16.
      calibration: images, uint8 [H, W, 3], all of one size. If given, weights and activations
        become int8, scaled by the range that activations have on these images.
    Raises:
      UserError: if TensorFlow Lite lacks an operation of the model, or cannot calibrate it.
    """
    function = served.serve.get_concrete_function()
    graph = function.graph.as_graph_def()
    operations = {node.op for part in graph.library.function for node in part.node_def}
    has_windows = bool(operations & {"While", "StatelessWhile"})  # the loop over windows
    if has_windows and calibration and served.inputs[0].shape.is_fully_defined():
        raise UserError(
            "TensorFlow Lite's calibration crashes for windows (--inference_mode=slide) in images "
            "of one size; leave --image_size empty."
        )

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], served)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if half or calibration:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if half:
        converter.target_spec.supported_types = [tf.float16]

    with silent_stderr() as stderr:
        if calibration:
            shown = tqdm(calibration, unit=" images", disable=None, file=stderr)
            converter.representative_dataset = lambda: ([image[np.newaxis]] for image in shown)
        try:
            return _with_shared_vectors(converter.convert())
        except Exception as error:
            lacking = re.search(r"^TF Select ops: (.*)", str(error), re.MULTILINE)
            if not lacking:
                raise
            raise UserError(
                f"TensorFlow Lite lacks operations of this model ({lacking[1]}); give --image_size "
                "(height,width), or export at one scale."
            ) from None


class _SharingBuilder(flatbuffers.Builder):
    """Writes vectors of equal numbers only once; all their readers point to the same bytes."""

    def __init__(self):
        super().__init__()
        self._written: dict[tuple, int] = {}

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def _with_shared_vectors(model: bytes) -> bytes:
    """Returns a TensorFlow Lite file of the same content that holds equal vectors once.

    In an int8 model, each output channel has a zero point of 8 bytes for its weights and one for
    its bias, all of them 0. The converter writes them out for every layer: a seventh of the file
    of a narrow network.
    """
    builder = _SharingBuilder()
    contents = flatbuffer_utils.convert_bytearray_to_object(model)
    builder.Finish(contents.Pack(builder), file_identifier=model[4:8])
    return bytes(builder.Output())


@contextlib.contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Silences stderr inside the context; the file that it yields still writes to it.

    TensorFlow Lite's converter writes pages of notes to stderr from C++, and no setting turns them
    off.
    """
    with os.fdopen(os.dup(2), "w") as stderr, open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)


def calibration_images(
    paths: Sequence[Path], *, count: int, image_size: tuple[int, ...] = ()
) -> list[np.ndarray]:
    """Reads images, spread evenly over `paths`, and returns them as uint8 [H, W, 3] of one size.

    TensorFlow Lite calibrates at one size.

    Args:
      count: how many images to read; all if there are fewer.
      image_size: height and width of the result; if empty, the size of the first image.
    """
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    read = {paths[place]: image_files.read_image_and_loss(paths[place]) for place in places}
    image_files.warn_of_losses([path for path, (_, lost) in read.items() if lost])

    images = [image for image, _ in read.values()]
    size = image_size or images[0].shape[:2]
    return [
        image if image.shape[:2] == size else transforms.resize_image(image, size).numpy()
        for image in images
    ]

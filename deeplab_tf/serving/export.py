"""Writes a Predictor as a SavedModel that any program can load, and predicts with it again."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf import files, json_files
from deeplab_tf.config import ServingConfig
from deeplab_tf.data.catalog import DatasetInfo, LabelClass, read_class_table
from deeplab_tf.data.image_kinds import MOST_CHANNELS, MOST_VALUE, RGB, ImageKind
from deeplab_tf.evaluation.predictor import Predictor, RefusedImage
from deeplab_tf.json_files import keyed, whole
from deeplab_tf.messages import UserError, counted, shortened
from deeplab_tf.runs.checkpoints import WRITE_FAULTS, reason_of
from deeplab_tf.serving import answers, warmup
from deeplab_tf.serving import signatures as serving

_CARD = keyed(
    {},
    {
        "dataset": keyed(
            {},
            {"image_channels": whole(1, MOST_CHANNELS), "image_max_value": whole(1, MOST_VALUE)},
        )
    },
)
LABELS, CARD = "labels.csv", "model_card.json"
_SIGNATURE = "serving_default"
MODEL_CONFIG, BATCHING = "model.config", "batching_parameters.txt"


def export(
    predictor: Predictor,
    info: DatasetInfo,
    export_dir: Path,
    *,
    version: int = 0,
    config: ServingConfig | None = None,
    model_name: str = "deeplab",
    warmup_size: tuple[int, ...] = (513, 513),
    card: dict | None = None,
    base_path: str = "",
) -> Path:
    """Writes <export_dir>/<version>/, whole or not at all; returns its path.

    The folder holds the SavedModel, the class table (assets/labels.csv), requests that warm a
    server up (assets.extra/tf_serving_warmup_requests) and model_card.json.

    Args:
      version: 0 takes the next free one.
      config: what the model takes and returns; the defaults if None.
      model_name: the model's name on the server.
      warmup_size: height and width of the warm-up images, reduced if `max_image_pixels` requires
        it, and of the images that serving_device=cpu is fastest for. `serving_size`, if given, is
        used instead of it for both.
      card: further content of model_card.json.
      base_path: path at which a server sees `export_dir`; if given, the server's files are written
        too, before the version appears.
    Raises:
      UserError: if the version exists, or the model refuses a warm-up request.
    """
    config = config or ServingConfig()
    if config.serving_size:
        predictor.image_kind.require_rgb(
            "--serving_size, the size of encoded images,", "leave it out"
        )
    version = version or max(versions(export_dir), default=0) + 1
    target = export_dir / str(version)
    if target.exists():
        raise UserError(
            f"{target} exists; give another --export_version, or 0 for the next free one."
        )

    # Built inside export_dir, to be renamed on the same disk. A server does not see it meanwhile:
    # it looks only at folders whose names are numbers.
    with files.building_folder(export_dir, ".exporting-") as building:
        model = building / "model"
        module = _save(predictor, info, model, config=config, image_size=warmup_size)
        size = config.serving_size or _allowed_size(predictor, warmup_size, config)
        _write_warmup(model, model_name, size, module.functions)

        content = {
            "version": version,
            "dataset": info.to_json(),  # tells what images it takes: `kind_of_images`
            **(card or {}),
            "serving": dataclasses.asdict(config),
            "signatures": signatures_of(module),
        }
        (model / CARD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

        if base_path:
            write_server_files(
                export_dir,
                model_name=model_name,
                base_path=base_path,
                max_batch_size=config.max_batch_size,
            )
        os.rename(model, target)
    return target


def _save(
    predictor: Predictor,
    info: DatasetInfo,
    model: Path,
    *,
    config: ServingConfig,
    image_size: tuple[int, ...],
) -> serving.ServingModule:
    """Writes the SavedModel to `model` and returns the module that was saved."""
    # TensorFlow copies an asset into the SavedModel from a file outside of it.
    class_table = model.with_name(LABELS)
    class_table.write_bytes(class_table_text(info).encode())

    # The size that convolutions are chosen for; empty: the same convolutions for any size.
    fastest = config.serving_size or image_size if config.serving_device == "cpu" else ()
    with predictor.model.folded(fastest) as variables:  # saving traces the functions
        module = serving.ServingModule(
            predictor, config, class_table=class_table, variables=variables
        )
        try:
            tf.saved_model.save(module, str(model), signatures=module.functions)
        except WRITE_FAULTS as error:
            raise UserError(
                f"The model could not be written to {model.parents[1]} "
                f"({reason_of(error)}); nothing was left behind. Give another --export_dir or make "
                "room."
            ) from None
    return module


def class_table_text(info: DatasetInfo) -> str:
    """Returns the classes as the content of labels.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["index", "name", "r", "g", "b"])
    for index, label_class in enumerate(info.classes):
        writer.writerow([index, label_class.name, *label_class.color])
    return text.getvalue()


def _allowed_size(
    predictor: Predictor, size: tuple[int, ...], config: ServingConfig
) -> tuple[int, ...]:
    """Returns `size`, reduced in steps of 5 % until it is within `max_image_pixels`.

    If not even one pixel is allowed, because prediction enlarges images, returns `size` itself.
    """
    factor, height, width = 1.0, *size
    while predictor.most_pixels([height, width]) > config.max_image_pixels:
        if max(height, width) == 1:
            return size
        factor *= 0.95
        height, width = (max(int(side * factor), 1) for side in size)
    return height, width


def _write_warmup(
    model: Path, model_name: str, size: tuple[int, ...], functions: Mapping[str, Any]
) -> None:
    """Writes the warm-up requests, then makes them, since a server refuses a model that fails one.

    Raises:
      UserError: if the model refuses one of them.
    """
    path = model / warmup.PATH
    path.parent.mkdir()
    inputs = {"serving_default": "images", "serve_encoded": "encoded_images"}
    with tf.io.TFRecordWriter(str(path)) as writer:
        (images,) = functions["serving_default"].input_signature
        for signature, value in warmup.requests((size[0], size[1]), images).items():
            if signature not in functions:
                continue
            writer.write(warmup.record(model_name, signature, inputs[signature], value))

    try:
        warmup.replay(model)
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"The exported model refuses an image of {size[0]}x{size[1]} pixels "
            f"({serving.reason_of(error)}); give another --serving_size or a higher "
            "--max_image_pixels."
        ) from None


def signatures_of(module: serving.ServingModule) -> dict:
    """Returns name, type, shape and meaning of all inputs and outputs; null means any length."""

    def described(specs, meanings):
        return {
            name: {
                "dtype": spec.dtype.name,
                "shape": spec.shape.as_list(),
                "meaning": meanings[name],
            }
            for name, spec in sorted(specs.items())
        }

    signatures = {}
    for name, function in module.functions.items():
        (spec,) = function.input_signature
        outputs = function.get_concrete_function().structured_outputs
        signatures[name] = {
            "inputs": described({spec.name: spec}, serving.INPUTS | module.meaning_of_images),
            "outputs": described(outputs, serving.OUTPUTS),
        }
    return signatures


def write_server_files(
    export_dir: Path, *, model_name: str, base_path: str, max_batch_size: int
) -> None:
    """Writes model.config and batching_parameters.txt next to the versions.

    Args:
      base_path: path at which the server sees `export_dir`.
    """
    # Both files are protocol buffers in text form: ModelServerConfig (model_server_config.proto)
    # and BatchingParameters (session_bundle_config.proto).
    config = (
        "model_config_list {\n  config {\n"
        f"    name: {json.dumps(model_name)}\n    base_path: {json.dumps(base_path)}\n"
        '    model_platform: "tensorflow"\n  }\n}\n'
    )
    # Without allowed_batch_sizes: with them, a server fills up batches with the first image of the
    # last request. If that request has no images, the server's process ends (batching_session.cc,
    # Slice(0, 1)).
    batching = (
        f"max_batch_size {{ value: {max_batch_size} }}\n"
        "batch_timeout_micros { value: 5000 }\n"
        "max_enqueued_batches { value: 100 }\n"
        "num_batch_threads { value: 1 }\n"  # each uses all cores, and memory of its own
    )
    files.write(export_dir / MODEL_CONFIG, config)
    files.write(export_dir / BATCHING, batching)


def versions(export_dir: Path) -> list[int]:
    """Returns the versions in a model's folder, ascending."""
    if not export_dir.is_dir():
        return []
    return sorted(int(path.name) for path in export_dir.iterdir() if path.name.isdecimal())


def version_folder(export_dir: Path) -> Path:
    """Returns `export_dir` if it is a version itself, else the folder of the highest version in it.

    Raises:
      UserError: if there is no version.
    """
    if (export_dir / "saved_model.pb").is_file():
        return export_dir
    numbers = versions(export_dir)
    if not numbers:
        raise UserError(f"--export_dir={export_dir} holds no SavedModel; run export_model.")
    return export_dir / str(numbers[-1])


def is_export(folder: Path) -> bool:
    """Whether a folder is an exported model's: one version, or a folder of versions."""
    candidates = [folder, *(folder / str(number) for number in versions(folder))]
    return any((candidate / "saved_model.pb").is_file() for candidate in candidates)


def load_signature(folder: Path) -> tuple[Any, Any]:
    """Loads a version that `export` wrote; returns it and its function from images to labels.

    Raises:
      UserError: if it is damaged or another program's.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures[_SIGNATURE]
        given = {name: spec.dtype for name, spec in signature.structured_input_signature[1].items()}
        types = ({"images": tf.uint8}, {"images": serving.DEEP_TYPE})
        is_ours = given in types and "labels" in signature.structured_outputs
    except Exception as error:  # what TensorFlow raises depends on which byte is damaged
        reason = shortened(str(error).partition("\n")[0]) or type(error).__name__
        raise UserError(
            f"The SavedModel in {folder} cannot be loaded ({reason}); export the model again."
        ) from None
    if not is_ours:
        raise UserError(
            f"The SavedModel in {folder} does not take images and return labels; give the folder "
            "of a model that export_model wrote."
        )
    return loaded, signature


def kind_of_images(folder: Path, signature: Any) -> ImageKind:
    """Returns what images a version takes, by its signature and, if not 8-bit RGB, its card.

    Raises:
      UserError: if the card is missing, is damaged or belongs to another model.
    """
    images = signature.structured_input_signature[1]["images"]
    found = (images.shape[-1], images.dtype)
    if found == (RGB.channels, tf.uint8):
        return RGB
    advice = "export the model again"
    path = folder / CARD
    card = json_files.read(path, "The model card", _CARD, advice=advice) if path.is_file() else {}
    kind = ImageKind.from_json(card.get("dataset", {}))
    if found != (kind.channels, tf.uint8 if kind.is_rgb else serving.DEEP_TYPE):
        raise UserError(
            f"{path} does not say what images the model takes ({counted(found[0], 'channel')} of "
            f"{found[1].name}); {advice}."
        )
    return kind


class ExportedPredictor:
    """Predicts with a SavedModel that `export` wrote, without the code of the model.

    Images are uint8 [B, H, W, 3], RGB, or as `image_kind` says.
    """

    def __init__(self, export_dir: Path):
        """Loads `export_dir` if it is a version, else the highest version in it.

        Raises:
          UserError: if there is no version, or it is damaged or another program's.
        """
        self._path = version_folder(export_dir)
        self.classes: tuple[LabelClass, ...] = read_class_table(self._path / "assets" / LABELS)
        self._loaded, self._serve = load_signature(self._path)
        self.image_kind = kind_of_images(self._path, self._serve)

    def probabilities(self, images) -> np.ndarray:
        """Returns the probabilities of images, uint8 [B, H, W, 3]: float32 [B, H, W, classes].

        Raises:
          RefusedImage: if the model was exported for smaller images or batches.
          UserError: if it was exported without probabilities.
        """
        return self.labels_and_probabilities(images)[1]

    def labels(self, images) -> np.ndarray:
        """Predicts images, uint8 [B, H, W, 3], and returns labels [B, H, W].

        Raises:
          RefusedImage: if the model was exported for smaller images or batches.
          UserError: if it returns labels that the class table does not list.
        """
        return self._checked(images, self._outputs(images))

    def labels_and_probabilities(self, images) -> tuple[np.ndarray, np.ndarray]:
        """As `labels`, and probabilities, float32 [B, H, W, classes].

        Raises:
          UserError: if the model was exported without them, too.
        """
        self.require_probabilities()
        outputs = self._outputs(images)
        return self._checked(images, outputs), outputs["probabilities"].numpy()

    def require_probabilities(self) -> None:
        """Raises UserError if the model was exported without probabilities."""
        if "probabilities" not in self._serve.structured_outputs:
            raise UserError(
                f"The model in {self._path} returns no probabilities; export it again with "
                "--add_probabilities, or take the run that it was exported from."
            )

    def _outputs(self, images) -> dict[str, tf.Tensor]:
        try:
            images = tf.constant(images)
            if not self.image_kind.is_rgb:
                images = tf.cast(images, serving.DEEP_TYPE)
            return self._serve(images=images)
        except tf.errors.InvalidArgumentError as error:
            raise RefusedImage(
                f"The exported model refuses images of shape {tuple(images.shape)} "
                f"({serving.reason_of(error)}); give export_model a higher "
                "--max_image_pixels or --max_batch_size."
            ) from None

    def _checked(self, images, outputs) -> np.ndarray:
        return answers.checked_labels(
            outputs["labels"].numpy(),
            images.shape,
            self.classes,
            who=f"The model in {self._path}",
            way_out=f"restore its assets/{LABELS}, or export the model again",
        )

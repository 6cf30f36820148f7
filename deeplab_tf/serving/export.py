"""A Predictor as a SavedModel that any program can load, and back."""

import csv
import dataclasses
import json
import os
import tempfile
from pathlib import Path

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import ServingConfig
from deeplab_tf.data.catalog import DatasetInfo, LabelClass, read_class_table
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.messages import UserError
from deeplab_tf.serving import signatures as serving
from deeplab_tf.serving import warmup

LABELS, CARD = "labels.csv", "model_card.json"
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

    It holds the SavedModel, the class table (assets/labels.csv), requests to warm a server
    up (assets.extra/tf_serving_warmup_requests) and model_card.json.

    Args:
      version: 0 takes the next free one.
      config: what the model takes and returns; the defaults if None.
      model_name: the name the server gives it.
      warmup_size: height and width of the warm-up images, made smaller if `max_image_pixels`
        needs it, and of those that `serving_device` means; `serving_size` goes before it.
      card: what else model_card.json says.
      base_path: where a server sees `export_dir`; with it the server's files are written, before
        the version appears.
    Raises:
      UserError: if the version exists, or the model refuses a request of the warm-up.
    """
    config = config or ServingConfig()
    version = version or max(versions(export_dir), default=0) + 1
    target = export_dir / str(version)
    if target.exists():
        raise UserError(
            f"{target} exists; give another --export_version, or 0 for the next free one."
        )
    export_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=export_dir, prefix="building-") as building:
        model = Path(building) / "model"  # servers look at numbers only
        module = _save(predictor, info, model, config=config, image_size=warmup_size)
        size = config.serving_size or _allowed_size(predictor, warmup_size, config)
        _write_warmup(model, model_name, size)
        described = {
            "version": version,
            **(card or {}),
            "serving": dataclasses.asdict(config),
            "signatures": signatures_of(module),
        }
        (model / CARD).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
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
    """Writes the SavedModel; its class table is first written next to it, then copied into it."""
    class_table = model.with_name(LABELS)
    _write_class_table(class_table, info)
    fastest = config.serving_size or image_size if config.serving_device == "cpu" else ()
    with predictor.model.folded(fastest) as variables:  # saving traces the functions
        module = serving.ServingModule(
            predictor, config, class_table=class_table, variables=variables
        )
        tf.saved_model.save(module, str(model), signatures=module.functions)
    return module


def _write_class_table(path: Path, info: DatasetInfo) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "name", "r", "g", "b"])
        for index, label_class in enumerate(info.classes):
            writer.writerow([index, label_class.name, *label_class.color])


def _allowed_size(
    predictor: Predictor, size: tuple[int, ...], config: ServingConfig
) -> tuple[int, ...]:
    """Returns `size`, or the largest of its shape that may be predicted (itself if none may)."""
    smaller, height, width = 1.0, *size
    while predictor.most_pixels([height, width]) > config.max_image_pixels:
        if max(height, width) == 1:
            return size
        smaller *= 0.95
        height, width = (max(int(side * smaller), 1) for side in size)
    return height, width


def _write_warmup(model: Path, model_name: str, size: tuple[int, ...]) -> None:
    path = model / warmup.PATH
    path.parent.mkdir()
    inputs = {"serving_default": "images", "serve_encoded": "encoded_images"}
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, value in warmup.requests((size[0], size[1])).items():
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
    """Returns names, types, shapes (null is any length) and meanings of inputs and outputs."""

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
            "inputs": described({spec.name: spec}, serving.INPUTS),
            "outputs": described(outputs, serving.OUTPUTS),
        }
    return signatures


def write_server_files(
    export_dir: Path, *, model_name: str, base_path: str, max_batch_size: int
) -> None:
    """Writes model.config and batching_parameters.txt next to the versions.

    Args:
      base_path: where the server sees `export_dir`.
    """
    # Texts of ModelServerConfig and BatchingParameters (model_server_config.proto,
    # session_bundle_config.proto).
    config = (
        "model_config_list {\n  config {\n"
        f"    name: {json.dumps(model_name)}\n    base_path: {json.dumps(base_path)}\n"
        '    model_platform: "tensorflow"\n  }\n}\n'
    )
    # No allowed_batch_sizes: to them a server pads with the last request's first image, and a
    # request without images has none, which ends its process (batching_session.cc, Slice(0, 1)).
    batching = (
        f"max_batch_size {{ value: {max_batch_size} }}\n"
        "batch_timeout_micros { value: 5000 }\n"
        "max_enqueued_batches { value: 100 }\n"
        "num_batch_threads { value: 1 }\n"  # each uses all cores, and its own memory
    )
    files.write(export_dir / MODEL_CONFIG, config)
    files.write(export_dir / BATCHING, batching)


def versions(export_dir: Path) -> list[int]:
    """Returns the versions found in a model's folder, ascending."""
    if not export_dir.is_dir():
        return []
    return sorted(int(path.name) for path in export_dir.iterdir() if path.name.isdecimal())


def version_folder(export_dir: Path) -> Path:
    """Returns the version in `export_dir` itself, or the folder of the highest one in it.

    Raises:
      UserError: if there is none.
    """
    if (export_dir / "saved_model.pb").is_file():
        return export_dir
    found = versions(export_dir)
    if not found:
        raise UserError(f"--export_dir={export_dir} holds no SavedModel; run export_model.")
    return export_dir / str(found[-1])


class ExportedPredictor:
    """Predicts with a SavedModel written by `export`, without any code of the model."""

    def __init__(self, export_dir: Path):
        """Loads the version in `export_dir`, or the highest of the versions in it."""
        path = version_folder(export_dir)
        self._loaded = tf.saved_model.load(str(path))
        self._serve = self._loaded.signatures["serving_default"]
        self.classes: tuple[LabelClass, ...] = read_class_table(path / "assets" / LABELS)

    def labels(self, images) -> tf.Tensor:
        """uint8 [B, H, W, 3] -> labels [B, H, W].

        Raises:
          serving.RefusedImage: if the model was exported for smaller images or batches.
        """
        try:
            return self._serve(images=tf.constant(images))["labels"]
        except tf.errors.InvalidArgumentError as error:
            raise serving.RefusedImage(
                f"The exported model refuses images of shape {tuple(images.shape)} "
                f"({serving.reason_of(error)}); give export_model a higher "
                "--max_image_pixels or --max_batch_size."
            ) from None

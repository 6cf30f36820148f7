r"""An exported model in every format: same labels, mIoU, size of file and latency, in one table.

    python -m benchmarks.export_parity --export_dir=DIR --images_dir=CAMVID/images/val \
        --masks_dir=CAMVID/labels/val --calibration_images=CAMVID/images/train

Converts the model, predicts the images with each format in a process of its own, and times batches
of random images in turns. Masks are index PNGs named as the images. A format whose labels or mIoU
are further off than LEAST_SAME and MOST_OFF allow ends the benchmark with an error.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import labelling, pairs
from deeplab_tf.config import Config, flags, require, setting
from deeplab_tf.messages import UserError

CONVERTED = {
    "onnx": "model.onnx",
    "tflite_float32": "float32.tflite",
    "tflite_float16": "float16.tflite",
    "tflite_int8": "int8.tflite",
}
LEAST_SAME = 99.9  # % of the labels, of formats that compute in floating point
MOST_OFF, MOST_OFF_INT8 = 0.1, 1.0  # points of mIoU


@dataclass(frozen=True, kw_only=True)
class ParityConfig(Config):
    """Which export is compared on which images, and how often it is timed."""

    export_dir: str = setting("", "Folder of a model by export_model.")
    checkpoint_dir: str = setting(
        "", "The run it came from, which labels are compared with; empty: with the SavedModel."
    )
    images_dir: str = setting("", "Folder with images.")
    masks_dir: str = setting("", "Folder with their masks, index PNGs, 255 ignored.")
    calibration_images: tuple[str, ...] = setting((), "Training images, for int8.", names="paths")
    num_images: int = setting(24, "Images that labels are compared on, evenly taken.", least=1)
    crop_size: int = setting(512, "Height and width of the images timed.")
    calls: int = setting(3, "Batches in a measurement, after one that is not timed.", least=1)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    worker: str = setting("", "What this process runs.", choices=("", "checkpoint", "tf", "tflite"))
    model: str = setting("", "The worker's model.")
    images: str = setting("", "The worker's images.")
    labels: str = setting("", "The worker's labels.")


def main(config: ParityConfig) -> None:
    if config.worker:
        predict = {"checkpoint": checkpoint, "tf": saved_model, "tflite": tflite}[config.worker]
        labelling.serve(
            predict(config.model),
            Path(config.images),
            Path(config.labels),
            crop_size=config.crop_size,
            calls=config.calls,
        )
        return
    for name in ("export_dir", "images_dir", "masks_dir", "calibration_images"):
        require(bool(getattr(config, name)), name, "(empty)", "a path")
    with tempfile.TemporaryDirectory() as folder:
        compare(config, Path(folder))


def checkpoint(run: str):
    """Returns the prediction of a run's folder: uint8 [B, H, W, 3] -> labels [B, H, W]."""
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.runs import loaded_run

    loaded = loaded_run.load(run)
    predictor = build_predictor(loaded.model, loaded.experiment.data, loaded.experiment.eval)
    return lambda images: predictor.labels(images).numpy()


def saved_model(folder: str):
    """Returns the prediction of a SavedModel, as `checkpoint`."""
    import tensorflow as tf

    serve = tf.saved_model.load(folder).signatures["serving_default"]
    return lambda images: serve(images=tf.constant(images))["labels"].numpy()


def tflite(file: str):
    """Returns the prediction of a TensorFlow Lite file, as `checkpoint`."""
    import os

    import tensorflow as tf

    interpreter = tf.lite.Interpreter(file, num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: runner(images=images)["labels"]


def compare(config: ParityConfig, folder: Path) -> None:
    """Converts, predicts, times and prints the table."""
    from deeplab_tf.data.catalog import read_class_table
    from deeplab_tf.evaluation import metrics
    from deeplab_tf.serving import export

    version = export.version_folder(Path(config.export_dir))
    num_classes = len(read_class_table(version / "assets" / export.LABELS))
    masks = read_pairs(config, folder / "images.npz", num_classes)
    models = {"SavedModel": version} | convert(config, version, folder)
    programs = start(config, models, folder)
    pairs.take_turns(programs, config.pairs)
    print(f"{len(masks)} images; times at {config.crop_size}x{config.crop_size}")
    columns = [f"batch {count} ms" for count in labelling.BATCHES]
    titles = ("same labels %", "mIoU %", "MiB", *columns)
    print(f"{'format':<24}" + "".join(f"{title:>16}" for title in titles))
    first, found = None, {}
    for program in programs:
        with np.load(folder / f"{program.title}.npz") as file:
            labels = {name: file[name] for name in file.files}
        first = first or labels
        same = sum(np.sum(labels[name] == first[name]) for name in labels)
        pixels = sum(label.size for label in labels.values())
        matrix = np.zeros([num_classes, num_classes], np.int64)
        for name, mask in masks.items():
            matrix += metrics.confusion_matrix(
                mask, labels[name], num_classes=num_classes, ignore_label=255
            ).numpy()
        found[program.title] = 100 * same / pixels, 100 * metrics.scores(matrix).miou
        cells = [f"{found[program.title][0]:.3f}", f"{found[program.title][1]:.2f}"]
        cells += [size(models[program.title])]
        cells += [f"{program.median(column):.0f}" for column in columns]
        print(f"{program.title:<24}" + "".join(f"{cell:>16}" for cell in cells))
        program.close()
    require_parity(found)


def require_parity(found: dict[str, tuple[float, float]]) -> None:
    """Checks the labels and scores of all formats against the first format's.

    Args:
      found: labels equal to the first's, in %, and mIoU in %, by format.
    Raises:
      UserError: if a format is too far off.
    """
    _, expected = next(iter(found.values()))
    for title, (same, miou) in found.items():
        int8 = title == "tflite_int8"
        most = MOST_OFF_INT8 if int8 else MOST_OFF
        close = abs(miou - expected) <= most  # false for NaN
        if not (close and (int8 or same >= LEAST_SAME)):
            share = "" if int8 else f"{LEAST_SAME} % of the labels and "
            raise UserError(
                f"{title} has {same:.3f} % of the labels and a mIoU of {miou:.2f} %, where "
                f"{share}a mIoU of {expected:.2f} % within {most} points are required."
            )


def read_pairs(config: ParityConfig, images_file: Path, num_classes: int) -> dict[str, np.ndarray]:
    """Writes the images to an .npz and returns their masks, uint8 [H, W], by the same names."""
    from deeplab_tf.conversion import masks
    from deeplab_tf.data import image_files

    coding = masks.MaskCoding(num_classes=num_classes, ignore_label=255)
    paths = sorted(Path(config.images_dir).iterdir())
    places = np.linspace(0, len(paths) - 1, min(config.num_images, len(paths))).round().astype(int)
    chosen = [paths[place] for place in places]
    np.savez(images_file, **{path.stem: image_files.read_image(path) for path in chosen})
    folder = Path(config.masks_dir)
    return {path.stem: masks.read_mask(folder / f"{path.stem}.png", coding) for path in chosen}


def convert(config: ParityConfig, version: Path, folder: Path) -> dict[str, Path]:
    """Converts the model with our program; returns the files by format."""
    for name, file in CONVERTED.items():
        command = [sys.executable, "-m", "deeplab_tf.convert_model", f"--format={name}"]
        command += [f"--export_dir={version}", f"--output={folder / file}"]
        if name == "tflite_int8":
            images = flags.text_of(config.calibration_images)
            command.append(f"--calibration_images={images}")
        subprocess.run(command, cwd=pairs.ROOT, check=True)
    return {name: folder / file for name, file in CONVERTED.items()}


def start(config: ParityConfig, models: dict[str, Path], folder: Path) -> list[pairs.Program]:
    """Starts a program for each format, the one that is compared with first."""

    def arguments(title):
        return [
            f"--model={models[title]}",
            f"--images={folder / 'images.npz'}",
            f"--labels={folder / title}.npz",
            f"--crop_size={config.crop_size}",
            f"--calls={config.calls}",
        ]

    def ours(title, worker, **environment):
        command = pairs.ours("export_parity", f"--worker={worker}", *arguments(title))
        return pairs.Program(title, command, **environment)

    def peer(title, program):
        command = pairs.peer("export_parity", f"--program={program}", *arguments(title))
        return pairs.Program(title, command)

    programs = []
    if config.checkpoint_dir:
        models["checkpoint"] = Path(config.checkpoint_dir)
        programs.append(ours("checkpoint", "checkpoint"))
    programs.append(ours("SavedModel", "tf", TF_ONEDNN_ASSUME_FROZEN_WEIGHTS="1"))
    models["OpenVINO"] = models["SavedModel"]
    programs += [peer("OpenVINO", "openvino"), peer("onnx", "onnxruntime")]
    names = [name for name in CONVERTED if name.startswith("tflite")]
    return programs + [ours(name, "tflite") for name in names]


def size(path: Path) -> str:
    """Returns the size of a file, or of a SavedModel's graph and weights; of a run a dash."""
    files = [path] if path.is_file() else [path / "saved_model.pb", *path.glob("variables/*")]
    if not files[0].exists():
        return "-"
    return f"{sum(file.stat().st_size for file in files) / 2**20:.1f}"


if __name__ == "__main__":
    flags.run(main, [ParityConfig], (__doc__ or "").strip())

"""Predicts own images.

python -m deeplab_tf.predict --checkpoint_dir=RUN --input=photos --output_dir=DIR
"""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import Config, UserError, require, setting

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Which images are predicted, by what, and where the results go."""

    input: str = setting("", "Images, folders and globs, joined by commas.")
    output_dir: str = setting("", "Folder for index/, color/ and overlay/.")
    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    export_dir: str = setting("", "A SavedModel by export_model, in place of checkpoint_dir.")

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.input), "input", "(empty)", "files, folders or globs joined by commas")
        require(bool(self.output_dir), "output_dir", "(empty)", "a path")
        require(
            bool(self.checkpoint_dir) != bool(self.export_dir),
            "checkpoint_dir",
            self.checkpoint_dir,
            "exactly one of --checkpoint_dir and --export_dir",
        )


def main(job: PredictConfig) -> None:
    """Writes index/, color/ and overlay/ PNGs under the images' own names."""
    images = find_images(job.input)
    import numpy as np
    from tqdm import tqdm

    from deeplab_tf.data.conversion import read_image
    from deeplab_tf.evaluation import report

    if job.export_dir:  # its weights never change, so the CPU's library may pack them once
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    labels_of, classes = _open_model(job)
    colors = [label_class.color for label_class in classes]
    from PIL import Image

    for name, path in tqdm(images.items(), unit=" images", disable=None):
        image = read_image(path)
        labels = np.asarray(labels_of(image[np.newaxis]))[0]
        pictures = {
            "index": Image.fromarray(labels),
            "color": Image.fromarray(report.colorize(labels, colors)),
            "overlay": Image.fromarray(report.overlay(image, labels, colors)),
        }
        for kind, picture in pictures.items():
            target = Path(job.output_dir) / kind / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target)
    print(f"{job.output_dir}: {len(images)} images.")


def find_images(text: str) -> dict[str, Path]:
    """Returns the images that files, folders and globs name, by their output name.

    An image in a folder is named by its path there, others by their file name, without ending.

    Raises:
      UserError: if a part names no image, or two images would get one name.
    """
    found: dict[str, Path] = {}
    for part in filter(None, text.split(",")):
        path = Path(part)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            named = [(p.relative_to(path).with_suffix("").as_posix(), p) for p in files]
        else:
            files = [path] if path.is_file() else sorted(map(Path, glob.glob(part, recursive=True)))
            named = [(p.stem, p) for p in files if p.is_file()]
        if not named:
            raise UserError(
                f"--input={part} names no image; give existing files, folders or globs."
            )
        for name, file in named:
            if found.setdefault(name, file) != file:
                raise UserError(
                    f"{found[name]} and {file} would both be written as {name}.png; predict them "
                    "into two folders."
                )
    return found


def _open_model(job: PredictConfig):
    from deeplab_tf.evaluation.export import ExportedPredictor
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.training import run_dir

    if job.export_dir:
        fixed = [name for name in config_flags.INFERENCE if config_flags.given(name) is not None]
        if fixed:
            raise UserError(
                f"--{fixed[0]} is fixed in --export_dir={job.export_dir}; give it to export_model, "
                "or predict with --checkpoint_dir."
            )
        exported = ExportedPredictor(Path(job.export_dir))
        return exported.labels, exported.classes
    loaded = run_dir.load(job.checkpoint_dir, output_stride=config_flags.given("output_stride"))
    experiment = config_flags.with_overrides(loaded.experiment)
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    return predictor.labels, loaded.info.classes


def run() -> None:
    description = "Predicts images with a checkpoint or an exported model."
    config_flags.run(main, [PredictConfig], description, overrides=config_flags.INFERENCE)


if __name__ == "__main__":
    run()

"""Predicts own images.

python -m deeplab_tf.predict --checkpoint_dir=RUN --input=photos --output_dir=DIR
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import config_flags
from deeplab_tf.config import Config, UserError, require, setting
from deeplab_tf.files import find_images


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Which images are predicted, by what, and where the results go."""

    input: str = setting("", "Images, folders and globs, joined by commas.")
    output_dir: str = setting("", "Folder for index/, color/ and overlay/.")
    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    export_dir: str = setting("", "A SavedModel by export_model, in place of checkpoint_dir.")
    server: str = setting(
        "", "host:port of a TensorFlow Serving that answers gRPC, in place of checkpoint_dir."
    )
    model_name: str = setting("deeplab", "Name of the model on the server.")
    class_list: str = setting(
        "", "Names and colours of the server's classes: its model's assets/labels.csv, or another."
    )
    server_timeout_secs: int = setting(
        30, "Seconds to wait for the server at first, and for each image.", least=1
    )

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.input), "input", "(empty)", "files, folders or globs joined by commas")
        require(bool(self.output_dir), "output_dir", "(empty)", "a path")
        sources = [self.checkpoint_dir, self.export_dir, self.server]
        require(
            sum(map(bool, sources)) == 1,
            "checkpoint_dir",
            self.checkpoint_dir or "(empty)",
            "exactly one of --checkpoint_dir, --export_dir and --server",
        )
        require(
            bool(self.server) == bool(self.class_list),
            "class_list",
            self.class_list or "(empty)",
            "the exported model's assets/labels.csv with --server, else nothing",
        )


def main(job: PredictConfig) -> None:
    """Writes index/, color/ and overlay/ PNGs under the images' own names."""
    images = _by_output_name(job.input)
    import numpy as np
    from tqdm import tqdm

    from deeplab_tf.data.conversion import read_image
    from deeplab_tf.evaluation import memory, report

    labels_of, classes = _open_model(job)
    colors = [label_class.color for label_class in classes]
    from PIL import Image

    for name, path in memory.trimmed(tqdm(images.items(), unit=" images", disable=None)):
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


def _by_output_name(text: str) -> dict[str, Path]:
    images: dict[str, Path] = {}
    listing = find_images(text, flag="input")
    for name, file in listing.images:
        if images.setdefault(name, file) != file:
            raise UserError(
                f"{images[name]} and {file} would both be written as {name}.png; predict them "
                "into two folders."
            )
    if listing.left_out:
        print(f"--input: {len(images)} images; {listing.note()}.")
    return images


def _open_model(job: PredictConfig):
    given = [name for name in config_flags.INFERENCE if config_flags.given(name) is not None]
    if given and not job.checkpoint_dir:
        place = f"--export_dir={job.export_dir}" if job.export_dir else f"--server={job.server}"
        raise UserError(
            f"--{given[0]} is fixed in {place}; give it to export_model, or predict with "
            "--checkpoint_dir."
        )
    if job.server:
        from deeplab_tf.evaluation.client import ServerPredictor

        server = ServerPredictor(
            job.server,
            model_name=job.model_name,
            class_list=Path(job.class_list),
            timeout_secs=job.server_timeout_secs,
        )
        return server.labels, server.classes
    if job.export_dir:
        from deeplab_tf.evaluation.export import ExportedPredictor

        exported = ExportedPredictor(Path(job.export_dir))
        return exported.labels, exported.classes
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.training import run_dir

    loaded = run_dir.load(job.checkpoint_dir, output_stride=config_flags.given("output_stride"))
    experiment = config_flags.with_overrides(loaded.experiment)
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    return predictor.labels, loaded.info.classes


def run() -> None:
    description = "Predicts images with a checkpoint, an exported model or a server of one."
    if "tensorflow" not in sys.modules:
        # This process only predicts. An export's weights never change, so that oneDNN may pack them
        # once; the network of a checkpoint turns this off again (process_state).
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    config_flags.run(main, [PredictConfig], description, overrides=config_flags.INFERENCE)


if __name__ == "__main__":
    run()

"""Predicts your own images.

python -m deeplab_tf.predict --checkpoint_dir=RUN --input=photos --output_dir=DIR
"""

import io
import os
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import Config, flags, require, require_exactly_one, require_given, setting
from deeplab_tf.config.checkpoint_choice import checkpoint_setting, require_one_choice
from deeplab_tf.messages import UserError, counted


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Which images are predicted, with which model, and where the results go."""

    input: tuple[str, ...] = setting(
        (), "Images to predict: files, folders and globs.", names="paths"
    )
    output_dir: str = setting("", "Folder to write index/, color/ and overlay/ to.")
    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    export_dir: str = setting(
        "", "Folder that export_model wrote; give it in place of checkpoint_dir."
    )
    server: str = setting(
        "",
        "host:port of the gRPC port of TensorFlow Serving; give it in place of checkpoint_dir.",
    )
    model_name: str = setting(
        "deeplab", "Name of the model on the server.", only_with={"server": ()}
    )
    class_list: str = setting(
        "",
        "Class list with the names and colours of the server's classes: the exported model's "
        "assets/labels.csv, or another list.",
        only_with={"server": ()},
    )
    skip_bad: bool = setting(
        False, "Whether to succeed even if some images cannot be predicted; they are listed."
    )
    server_timeout_secs: int = setting(
        30,
        "Seconds to wait for the connection to the server, and for the answer to each image.",
        least=1,
        only_with={"server": ()},
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("input", self.input, "files, folders or globs")
        require_given("output_dir", self.output_dir, "a path")
        require_exactly_one(
            checkpoint_dir=self.checkpoint_dir, export_dir=self.export_dir, server=self.server
        )
        require(
            bool(self.checkpoint_dir) or not self.checkpoint,
            "checkpoint",
            self.checkpoint,
            "a choice among the checkpoints of --checkpoint_dir",
        )
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")
        if self.server:
            require_given("class_list", self.class_list, "the exported model's assets/labels.csv")


def main(job: PredictConfig) -> None:
    """Writes PNGs to index/, color/ and overlay/, named like the images.

    An image that cannot be read, or that the model refuses, is listed at the end and does not stop
    the others.

    Raises:
      UserError: if there was such an image, unless `skip_bad`; or if no image could be predicted.
    """
    # Before the imports, so that mistakes in --input and --output_dir are reported at once.
    images = _by_output_name(job)
    import numpy as np
    from tqdm import tqdm

    from deeplab_tf.data import image_files
    from deeplab_tf.evaluation import memory, report
    from deeplab_tf.serving import signatures

    labels_of, classes = _open_model(job)
    colors = [label_class.color for label_class in classes]
    from PIL import Image

    bad: list[str] = []
    with_other_channel: list[Path] = []
    for name, path in memory.trimmed(tqdm(images.items(), unit=" images", disable=None)):
        try:
            image, lost_channel = image_files.read_image_and_loss(path)
        except UserError as error:  # it names the file
            bad.append(str(error))
            continue
        if lost_channel:
            with_other_channel.append(path)

        try:
            labels = np.asarray(labels_of(image[np.newaxis]))[0]
        except signatures.RefusedImage as error:
            bad.append(f"{path}: {error}")
            continue

        pictures = {
            "index": Image.fromarray(labels),
            "color": Image.fromarray(report.colorize(labels, colors)),
            "overlay": Image.fromarray(report.overlay(image, labels, colors)),
        }
        for kind, picture in pictures.items():
            content = io.BytesIO()
            picture.save(content, "PNG")
            files.write(_target(job, kind, name), content.getvalue())

    if bad and len(images) == 1:
        raise UserError(bad[0])
    image_files.warn_of_dropped_channels(with_other_channel)

    done = counted(len(images) - len(bad), "image")
    print(f"{files.shown(job.output_dir)}: {done}.")
    for reason in bad:
        print(f"  skipped: {files.shown(reason)}")

    if len(bad) == len(images):
        raise UserError(f"None of the {len(images)} images could be predicted.")
    if bad and not job.skip_bad:
        raise UserError(
            f"{len(bad)} of {len(images)} images were not predicted, for the reasons above; mend "
            "or remove them, or give --skip_bad to go without them."
        )


def _target(job: PredictConfig, kind: str, name: str) -> Path:
    return Path(job.output_dir) / kind / f"{name}.png"


def _by_output_name(job: PredictConfig) -> dict[str, Path]:
    """Returns the images by the names of their outputs.

    Raises:
      UserError: if two images would be written to the same file, or an output over an input.
    """
    images: dict[str, Path] = {}
    listing = files.find_images(job.input, flag="input")

    name_of_folded: dict[str, str] = {}
    for name, file in listing.images:
        if images.setdefault(name, file) != file:
            _refuse_twice(images[name], file, name)
        # Some file systems take two names for the same file if they differ only in capitals, or in
        # how accents are encoded.
        folded = unicodedata.normalize("NFC", name).casefold()
        other = name_of_folded.setdefault(folded, name)
        if other != name and files.same_place(Path(job.output_dir), other, name):
            _refuse_twice(images[other], file, name)

    inputs = {path.resolve() for path in images.values()}
    for name in images:
        for target in (_target(job, kind, name) for kind in ("index", "color", "overlay")):
            if target.resolve() in inputs:
                raise UserError(
                    f"{files.shown(target)} is an input that would be replaced; give another "
                    "--output_dir."
                )

    if listing.left_out:
        print(f"--input: {len(images)} images; {listing.note()}.")
    return images


def _refuse_twice(one: Path, other: Path, name: str) -> None:
    raise UserError(
        f"{files.shown(one)} and {files.shown(other)} would both be written as "
        f"{files.shown(name)}.png; predict them into two folders."
    )


def _open_model(job: PredictConfig):
    """Returns the function from images [B, H, W, 3] to labels [B, H, W], and the classes."""
    given = [name for name in flags.INFERENCE if flags.given(name) is not None]
    if given and not job.checkpoint_dir:
        place = f"--export_dir={job.export_dir}" if job.export_dir else f"--server={job.server}"
        raise UserError(
            f"--{given[0]} is fixed in {place}; give it to export_model, or predict with "
            "--checkpoint_dir."
        )

    if job.server:
        from deeplab_tf.serving.client import ServerPredictor

        server = ServerPredictor(
            job.server,
            model_name=job.model_name,
            class_list=Path(job.class_list),
            timeout_secs=job.server_timeout_secs,
        )
        return server.labels, server.classes

    if job.export_dir:
        from deeplab_tf.serving.export import ExportedPredictor

        exported = ExportedPredictor(Path(job.export_dir))
        return exported.labels, exported.classes

    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.runs import loaded_run

    loaded, experiment = loaded_run.load_asked(job.checkpoint_dir, job.checkpoint)
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    return predictor.labels, loaded.info.classes


def run() -> None:
    description = "Predicts your own images with a checkpoint, an exported model or a server."
    if "tensorflow" not in sys.modules:
        # This process only predicts, and the weights of an exported model never change, so oneDNN
        # may pack them once. For the network of a checkpoint, `process_state` turns this off again.
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    flags.run(main, [PredictConfig], description, overrides=flags.INFERENCE)


if __name__ == "__main__":
    run()

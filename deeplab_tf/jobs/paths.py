"""The files that programs read and write, checked before TensorFlow's slow import.

So a mistake in a path is reported at once.
"""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config.programs import ConvertConfig, PredictConfig
from deeplab_tf.messages import UserError

PICTURES = ("index", "color", "overlay")  # that predict always writes


def images_to_predict(job: PredictConfig, kinds: Iterable[str] = PICTURES) -> dict[str, Path]:
    """Returns the images of --input by the names of their outputs.

    Args:
      kinds: the pictures that will be written for each image.
    Raises:
      UserError: if two images would be written to the same file, an output over an input, or
        nothing can be written to --output_dir.
    """
    files.require_writable(Path(job.output_dir), flag="output_dir")
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

    inputs = {os.path.realpath(path) for path in images.values()}
    for name in images:
        for target in (prediction_file(job, kind, name) for kind in kinds):
            if os.path.realpath(target) in inputs:
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


def prediction_file(job: PredictConfig, kind: str, name: str, ending: str = ".png") -> Path:
    """Returns the file of a prediction.

    Args:
      kind: index, color, overlay or another one that is asked for; it has a folder of its own.
      name: a key of `images_to_predict`.
    """
    return Path(job.output_dir) / kind / f"{name}{ending}"


def calibration_images(job: ConvertConfig) -> list[Path]:
    """Returns the images of --calibration_images, and says how many files are none.

    Raises:
      UserError: if a part of the flag names no image.
    """
    listing = files.find_images(job.calibration_images, flag="calibration_images")
    if listing.left_out:
        print(f"--calibration_images: {len(listing.images)} images; {listing.note()}.")
    return [path for _, path in listing.images]


def class_table_file(job: ConvertConfig) -> Path:
    """Returns the file with the classes of a .tflite file, next to it."""
    return Path(job.output).with_suffix(".labels.csv")


def require_new_files(job: ConvertConfig) -> None:
    """Raises UserError if a conversion would replace a file, or cannot write one."""
    output = Path(job.output)
    files.require_writable(output.parent, flag="output")
    for path in [output] if job.format == "onnx" else [output, class_table_file(job)]:
        if path.exists():
            raise UserError(
                f"--output={output} would replace {path}, which exists; give another name or "
                "remove it."
            )

"""The files that programs read and write, checked before TensorFlow's slow import.

So a mistake in a path is reported at once.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config.pictures import AREAS, COCO, POLYGONS, PROBABILITIES, USUAL, PictureConfig
from deeplab_tf.config.programs import ConvertConfig, PredictConfig
from deeplab_tf.inference import finished, video
from deeplab_tf.jobs.inputs import (
    STANDARD_INPUT,
    ImageAddress,
    ImageFile,
    ImageSource,
    StandardInput,
    VideoFile,
    is_address,
)
from deeplab_tf.messages import UserError, counted

_EVERYTHING = PictureConfig(
    legend=True, side_by_side=True, save_probabilities=PROBABILITIES, save_polygons=POLYGONS
)
PICTURES = ("index", "color", "overlay")  # that predict always writes of an image


def images_to_predict(
    job: PredictConfig, pictures: PictureConfig = USUAL
) -> dict[str, ImageSource]:
    """Returns the images of --input, or of its --shard, by the names of their outputs.

    Raises:
      UserError: if two images would be written to the same file, an output would replace an input
        or somebody's work, nothing can be written to --output_dir, or an image cannot have the
        outputs that `pictures` asks for.
    """
    files.require_writable(Path(job.output_dir), flag="output_dir")
    elsewhere = [part for part in job.input if is_address(part) or part == STANDARD_INPUT]
    on_disk = [part for part in job.input if part not in elsewhere]
    listing = files.find_images(
        on_disk, flag="input", takes_videos=True, why_left_out=_why_left_out
    )

    found: list[tuple[str, ImageSource]] = []
    for name, path in listing.images:
        if files.is_video(path):
            video.require_ffmpeg(path)
        found.append((name, VideoFile(path) if files.is_video(path) else ImageFile(path)))
    for part in elsewhere:
        source = ImageAddress(part) if is_address(part) else StandardInput()
        found.append((source.name, source))
    images = _by_name(job, found)
    _require_possible(pictures, images)
    _require_other_outputs(job, images, pictures)

    if listing.left_out:
        print(f"--input: {counted(len(images), 'image')}; {listing.note()}.")
    number, count = job.share or (1, 1)
    share = dict(list(images.items())[number - 1 :: count])
    _require_own(job, share, pictures)
    return share


def _why_left_out(folder: Path) -> str:
    """Returns the reason why a folder holds no images to predict; "" if it may hold some.

    Predictions are no images, and often lie in a folder among them.
    """
    is_of_predict = folder.name in (*PICTURES, *_EVERYTHING.kinds(), finished.FOLDER)
    return "folders of predict" if is_of_predict and finished.is_written_to(folder.parent) else ""


def _by_name(
    job: PredictConfig, found: Sequence[tuple[str, ImageSource]]
) -> dict[str, ImageSource]:
    """Returns the images by name; raises UserError if two would be written to the same file."""
    images: dict[str, ImageSource] = {}
    name_of_folded: dict[str, str] = {}
    for name, source in found:
        if images.setdefault(name, source) != source:
            _refuse_twice(images[name], source, name)
        # Some file systems take two names for the same file if they differ only in capitals, or in
        # how accents are encoded.
        folded = files.folded(name)
        other = name_of_folded.setdefault(folded, name)
        if other != name and files.same_place(Path(job.output_dir), other, name):
            _refuse_twice(images[other], source, name)
    return images


def _require_possible(pictures: PictureConfig, images: Mapping[str, ImageSource]) -> None:
    """Raises UserError if one of the images cannot have all outputs that are asked for."""
    beside = pictures.beside_overlays()
    for source in images.values():
        if beside and isinstance(source, VideoFile):
            raise UserError(
                f"{beside[0]} is for images, but --input={files.shown(source)} is a video, which "
                f"gets only an overlay; predict it in a call without {beside[0]}."
            )
        if "labelme" in pictures.save_polygons and not isinstance(source, ImageFile):
            raise UserError(
                "--save_polygons=labelme names the file of each image for labelme, but "
                f"--input={_given(source)} is no file; save it first and give its path."
            )


def _given(source: ImageSource) -> str:
    """Returns a source that is no file as --input names it."""
    return STANDARD_INPUT if isinstance(source, StandardInput) else files.shown(source)


def _require_own(
    job: PredictConfig, images: Mapping[str, ImageSource], pictures: PictureConfig
) -> None:
    """Raises UserError if a file would be replaced that somebody may have made or corrected.

    These are files for annotation tools, and tables. A file that predict wrote and nobody changed
    may be replaced.
    """
    targets = [summary_file(job, name) for name in pictures.summaries()]
    targets += [
        path
        for name, source in images.items()
        for path in outputs(job, name, source, pictures)
        if is_for_tools(path)
    ]
    existing = [path for path in targets if os.path.lexists(path)]
    earlier = finished.Finished(Path(job.output_dir)) if existing else None
    for path in existing:
        if earlier and not earlier.wrote(path):
            raise UserError(
                f"{files.shown(path)} was not written by predict, or was changed since; "
                "move it elsewhere if it is somebody's work, or give another --output_dir."
            )


def _require_other_outputs(
    job: PredictConfig, images: Mapping[str, ImageSource], pictures: PictureConfig
) -> None:
    """Raises UserError if an output would replace an input."""
    inputs = {
        os.path.realpath(each.path) for each in images.values() if isinstance(each, ImageFile)
    }
    for name, source in images.items():
        for target in outputs(job, name, source, pictures):
            if os.path.realpath(target) in inputs:
                raise UserError(
                    f"{files.shown(target)} is an input that would be replaced; give another "
                    "--output_dir."
                )


def _refuse_twice(one: ImageSource, other: ImageSource, name: str) -> None:
    raise UserError(
        f"{files.shown(one)} and {files.shown(other)} would both be written as "
        f"{files.shown(name)}; predict them into two folders."
    )


def outputs(
    job: PredictConfig, name: str, source: ImageSource, pictures: PictureConfig
) -> list[Path]:
    """Returns the files that predict writes for an image or a video."""
    if isinstance(source, VideoFile):
        return [prediction_file(job, "overlay", name, ".mp4")]
    kinds = dict.fromkeys(PICTURES, ".png") | pictures.kinds()
    return [prediction_file(job, kind, name, ending) for kind, ending in kinds.items()]


def is_for_tools(path: Path) -> bool:
    """Whether an output of an image is a file that annotation tools correct."""
    return path.suffix == ".json"


def summary_file(job: PredictConfig, name: str) -> Path:
    """Returns the file about all images; with --shard, about its images: areas-2-of-16.csv.

    Args:
      name: such as areas.csv.
    """
    path = Path(job.output_dir) / name
    part = job.shard.replace("/", "-of-")
    return path.with_stem(f"{path.stem}-{part}") if part else path


def is_written_or_of_others(job: PredictConfig, config: PictureConfig, path: Path) -> bool:
    """Whether this call writes a summary again, or another shard of the same job has it.

    The other shards of a job have other images.
    """
    if path in [summary_file(job, name) for name in config.summaries()]:
        return True
    _, _, count = job.shard.partition("/")
    is_of_job = bool(count) and path.stem.endswith(f"-of-{count}")
    return is_of_job and path not in [summary_file(job, name) for name in (AREAS, COCO)]


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
        print(f"--calibration_images: {counted(len(listing.images), 'image')}; {listing.note()}.")
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

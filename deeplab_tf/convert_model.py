"""Converts an exported model to ONNX or TensorFlow Lite.

python -m deeplab_tf.convert_model --export_dir=DIR --format=onnx --output=model.onnx
"""

from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config import Config, flags, require, require_given, setting
from deeplab_tf.messages import UserError

SUFFIXES = {
    "onnx": ".onnx",
    "tflite_float32": ".tflite",
    "tflite_float16": ".tflite",
    "tflite_int8": ".tflite",
}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Config):
    """Which SavedModel is converted, to which format, and where the file goes."""

    export_dir: str = setting(
        "", "Folder that export_model wrote, whose highest version is taken, or one version in it."
    )
    format: str = setting("onnx", "Format to convert to.", choices=tuple(SUFFIXES))
    output: str = setting("", "File to write: .onnx or .tflite.")
    image_size: tuple[int, ...] = setting(
        (),
        "Height and width of the images that the file takes, one at a time; if empty, it takes any "
        "number of images of any size.",
        least=1,
    )
    calibration_images: tuple[str, ...] = setting(
        (),
        "For tflite_int8: training images to measure the range of activations with, given as "
        "files, folders and globs.",
        names="paths",
        only_with={"format": ("tflite_int8",)},
    )
    num_calibration_images: int = setting(
        100,
        "Number of calibration images to use, spread evenly over those given.",
        least=1,
        only_with={"calibration_images": ()},
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("export_dir", self.export_dir, "the folder of an exported model")
        suffix = SUFFIXES[self.format]
        allowed = f"a file {suffix} for --format={self.format}"
        require_given("output", self.output, allowed)
        require(Path(self.output).suffix == suffix, "output", self.output, allowed)
        require(len(self.image_size) in (0, 2), "image_size", self.image_size, "height,width")
        if self.format == "tflite_int8":
            require_given("calibration_images", self.calibration_images, "images to measure with")


def main(job: ConvertConfig) -> None:
    """Writes the file; for TensorFlow Lite also NAME.labels.csv, since .tflite has no classes."""
    output = Path(job.output)
    table = output.with_suffix(".labels.csv")
    for path in [output] if job.format == "onnx" else [output, table]:
        if path.exists():
            raise UserError(
                f"--output={output} would replace {path}, which exists; give another name or "
                "remove it."
            )

    listing = files.find_images(job.calibration_images, flag="calibration_images")
    if listing.left_out:
        print(f"--calibration_images: {len(listing.images)} images; {listing.note()}.")
    paths = [path for _, path in listing.images]

    # Only now, so that mistakes in the paths are reported before TensorFlow is imported.
    from deeplab_tf.serving import formats

    served = formats.open_export(Path(job.export_dir), image_size=job.image_size)
    if job.format == "onnx":
        content = formats.onnx(served)
    else:
        calibration = []
        if paths:
            calibration = formats.calibration_images(
                paths, count=job.num_calibration_images, image_size=job.image_size
            )
        content = formats.tflite(
            served, half=job.format == "tflite_float16", calibration=calibration
        )
        files.write(table, served.class_table)

    files.write(output, content)
    print(f"{output}: {job.format}, {len(content) / 2**20:.1f} MiB.")


def run() -> None:
    description = "Converts an exported SavedModel to ONNX or TensorFlow Lite."
    flags.run(main, [ConvertConfig], description)


if __name__ == "__main__":
    run()

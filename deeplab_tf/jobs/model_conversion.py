"""Converts an exported model to ONNX or TensorFlow Lite."""

from collections.abc import Sequence
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.config.programs import ConvertConfig
from deeplab_tf.jobs import paths
from deeplab_tf.serving import comparison, formats


def main(job: ConvertConfig, calibration_images: Sequence[Path]) -> None:
    """Writes the file; for TensorFlow Lite also NAME.labels.csv, since .tflite has no classes."""
    served = formats.open_export(Path(job.export_dir), image_size=job.image_size)
    image = comparison.image_for(served)
    if job.format == "onnx":
        content = formats.onnx(served)
    else:
        calibration = []
        if calibration_images:
            calibration = formats.calibration_images(
                calibration_images, count=job.num_calibration_images, image_size=job.image_size
            )
            image = calibration[0]  # int8 keeps only what lies in the range of such images
        content = formats.tflite(
            served, half=job.format == "tflite_float16", calibration=calibration
        )

    try:
        share = comparison.share_of_equal_labels(served, content, job.format, image)
        compared = f"It has the SavedModel's label in {share:.2%} of the pixels of a test image."
    except ImportError:
        compared = (
            "NOT COMPARED with the SavedModel: that needs onnxruntime; pip install onnxruntime"
        )

    output = Path(job.output)
    if job.format != "onnx":
        files.write(paths.class_table_file(job), served.class_table)
    files.write(output, content)
    print(f"{output}: {job.format}, {len(content) / 2**20:.1f} MiB. {compared}")

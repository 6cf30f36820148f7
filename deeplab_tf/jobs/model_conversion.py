"""Converts an exported model to ONNX or TensorFlow Lite."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab_tf import files
from deeplab_tf.config.programs import ConvertConfig
from deeplab_tf.jobs import paths
from deeplab_tf.serving import comparison, formats


def main(job: ConvertConfig, calibration_images: Sequence[Path]) -> None:
    """Writes the file; for TensorFlow Lite also NAME.labels.csv, since .tflite has no classes."""
    served = formats.open_export(Path(job.export_dir), image_size=job.image_size)
    calibration: Sequence[np.ndarray] = []
    if job.format == "onnx":
        content = formats.onnx(served)
    else:
        if calibration_images:
            calibration = formats.calibration_images(
                calibration_images, count=job.num_calibration_images, image_size=job.image_size
            )
        content = formats.tflite(
            served, half=job.format == "tflite_float16", calibration=calibration
        )

    # int8 keeps only what lies in the range of the images that it was measured with.
    compared = comparison.compared(served, content, job.format, photos=calibration)

    output = Path(job.output)
    if job.format != "onnx":
        files.write(paths.class_table_file(job), served.class_table)
    files.write(output, content)
    print(f"{output}: {job.format}, {len(content) / 2**20:.1f} MiB. {compared}")

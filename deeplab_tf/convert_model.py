"""Converts an exported model to ONNX or TensorFlow Lite.

python -m deeplab_tf.convert_model --export_dir=DIR --format=onnx --output=model.onnx
"""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import ConvertConfig
from deeplab_tf.jobs import paths


def main(job: ConvertConfig) -> None:
    paths.require_new_files(job)
    images = paths.calibration_images(job)
    jobs.start("model_conversion", job, images)


def run() -> None:
    description = "Converts an exported SavedModel to ONNX or TensorFlow Lite."
    flags.run(main, [ConvertConfig], description, official="convert_to_tflite")


if __name__ == "__main__":
    run()

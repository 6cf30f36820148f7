"""Checks converted data before training: python -m deeplab_tf.inspect_data --dataset_dir=DIR.

Prints image counts and sizes, the share of each class, and settings that follow from them; writes a
page of samples for each split.
"""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import InspectConfig


def main(job: InspectConfig) -> None:
    jobs.start("data_inspection", job)


def run() -> None:
    flags.run(main, [InspectConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()

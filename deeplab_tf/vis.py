"""Paints a split's predictions: python -m deeplab_tf.vis --checkpoint_dir=RUN --vis_logdir=DIR."""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import VisConfig


def main(job: VisConfig, pictures: PictureConfig = USUAL) -> None:
    jobs.start("visualization", job, pictures)


def run() -> None:
    flags.run(
        main,
        [VisConfig, PictureConfig],
        "Paints a checkpoint's predictions for a split.",
        overrides=(*flags.INFERENCE, "dataset_dir", "max_bad_records"),
        repeated=(*flags.REPEATED, "num_classes"),
        official="vis",
    )


if __name__ == "__main__":
    run()

"""Scores checkpoints: python -m deeplab_tf.eval --checkpoint_dir=RUN --eval_logdir=DIR."""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import EvalJobConfig


def main(job: EvalJobConfig) -> None:
    jobs.start("evaluation", job)


def run() -> None:
    flags.run(
        main,
        [EvalJobConfig],
        "Scores a checkpoint, or each new checkpoint of a run in training.",
        overrides=(
            *flags.INFERENCE,
            "dataset_dir",
            "max_bad_records",
            "eval_split",
            "eval_batch_size",
        ),
        repeated=(*flags.REPEATED, "num_classes"),
        official="eval",
    )


if __name__ == "__main__":
    run()

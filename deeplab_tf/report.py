"""Writes one HTML page about a run: python -m deeplab_tf.report --train_logdir=RUN.

Its recipe, data, curves, scores, best and worst images, and how to make it again. The page is one
file, which can be mailed and opens without a network.
"""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import ReportConfig


def main(job: ReportConfig) -> None:
    jobs.start("run_report", job)


def run() -> None:
    flags.run(
        main,
        [ReportConfig],
        (__doc__ or "").strip(),
        instead={
            "checkpoint_dir": "the run's folder is --train_logdir.",
            "checkpoint": "the page is about the checkpoint that eval scored; --eval_logdir names "
            "the folder of another evaluation.",
        },
    )


if __name__ == "__main__":
    run()

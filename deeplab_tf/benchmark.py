"""Times a recipe's training step on this machine, with its records or with random images.

python -m deeplab_tf.benchmark --flagfile=configs/ade20k_r101_os16.flags [--dataset_dir=RECORDS]

Prints parameters, floating-point operations, images/s, peak memory and, with records, the share of
the time that the step waits for its input. Writes nothing.

Takes all flags of train, so that any training command can be timed as it stands. The flags that
decide what one step computes apply. The flags for the run's length, initial weights, output and
validation have no effect here, and steps run one by one, whatever --steps_per_execution is.
Training on several hosts cannot be timed.
"""

from deeplab_tf import jobs
from deeplab_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig, flags
from deeplab_tf.config.programs import BenchmarkConfig


def main(
    job: BenchmarkConfig,
    model: ModelConfig,
    data: DataConfig,
    train: TrainConfig,
    evaluation: EvalConfig,
) -> None:
    jobs.start("benchmark", job, model, data, train, evaluation)


def run() -> None:
    settings = [BenchmarkConfig, ModelConfig, DataConfig, TrainConfig, EvalConfig]
    flags.run(main, settings, (__doc__ or "").strip())


if __name__ == "__main__":
    run()

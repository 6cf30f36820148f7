"""Trains a model, or continues a run: python -m deeplab_tf.train --flagfile=configs/X.flags."""

from deeplab_tf import jobs
from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig, flags


def main(model: ModelConfig, data: DataConfig, train: TrainConfig, evaluation: EvalConfig) -> None:
    experiment = Experiment(model=model, data=data, train=train, eval=evaluation)
    jobs.start("training", experiment)


def run() -> None:
    settings = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
    description = "Trains DeepLab, or continues the run in --train_logdir."
    flags.run(main, settings, description, official="train")


if __name__ == "__main__":
    run()

"""Trains a model, or continues a run: python -m deeplab_tf.train --flagfile=configs/X.flags."""

from deeplab_tf import jobs
from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig, flags
from deeplab_tf.data import catalog
from deeplab_tf.training import trackers


def main(model: ModelConfig, data: DataConfig, train: TrainConfig, evaluation: EvalConfig) -> None:
    experiment = Experiment(model=model, data=data, train=train, eval=evaluation)

    # Refuses whatever it can before the user waits for TensorFlow.
    trackers.require_installed(train.tracker)
    info = catalog.load_described(data)

    where = data.dataset_dir or info.name
    folder = f" in {train.train_logdir}" if train.train_logdir else ""
    print(
        f"Training {model.model_variant} on {where} ({info.num_classes} classes){folder}; "
        "starting TensorFlow, which takes some seconds.",
        flush=True,
    )
    jobs.start("training", experiment)


def run() -> None:
    settings = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
    description = "Trains DeepLab, or continues the run in --train_logdir."
    flags.run(main, settings, description, official="train")


if __name__ == "__main__":
    run()

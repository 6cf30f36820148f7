"""Trains a model, or continues a run: python -m deeplab_tf.train --flagfile=configs/X.flags."""

import gc

from deeplab_tf import config_flags
from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig


def main(model: ModelConfig, data: DataConfig, train: TrainConfig, evaluation: EvalConfig) -> None:
    gc.disable()  # TensorFlow's import and the model make many objects, and all of them stay
    from deeplab_tf.training.trainer import Trainer

    trainer = Trainer(Experiment(model=model, data=data, train=train, eval=evaluation))
    gc.freeze()
    gc.enable()
    step = trainer.run()
    if trainer.workers.is_chief:
        print(f"{train.train_logdir} is at step {step} of {train.training_number_of_steps}.")


def run() -> None:
    settings = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
    config_flags.run(main, settings, "Trains DeepLab, or continues the run in --train_logdir.")


if __name__ == "__main__":
    run()

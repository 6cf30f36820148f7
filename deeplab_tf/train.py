"""Trains a model, or continues a run: python -m deeplab_tf.train --flagfile=configs/X.flags."""

import contextlib
import gc
from collections.abc import Callable, Iterator

from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig, flags


def main(model: ModelConfig, data: DataConfig, train: TrainConfig, evaluation: EvalConfig) -> None:
    with _resting_collector() as start_is_over:
        from deeplab_tf.training.trainer import Trainer

        trainer = Trainer(Experiment(model=model, data=data, train=train, eval=evaluation))
        start_is_over()
        step = trainer.run()

    if trainer.workers.is_chief:
        last_step = trainer.experiment.train.training_number_of_steps
        print(f"{train.train_logdir} is at step {step} of {last_step}.")


@contextlib.contextmanager
def _resting_collector() -> Iterator[Callable[[], None]]:
    """Turns the garbage collector off during the start, and hides the start's objects from it.

    TensorFlow's import and the model make many objects, and all of them stay: searching them again
    and again takes 0.8 s of a start. Yields the function to call when the start is over. On leaving
    the context, the collector is as it was before.
    """
    was_enabled = gc.isenabled()
    gc.disable()

    def start_is_over() -> None:
        gc.freeze()
        if was_enabled:
            gc.enable()

    try:
        yield start_is_over
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def run() -> None:
    settings = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
    flags.run(main, settings, "Trains DeepLab, or continues the run in --train_logdir.")


if __name__ == "__main__":
    run()

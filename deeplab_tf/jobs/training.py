"""Trains a model, or continues a run."""

from deeplab_tf.config import Experiment, flags, groups
from deeplab_tf.startup.garbage_collector import resting_collector
from deeplab_tf.training.trainer import Trainer


def main(experiment: Experiment) -> None:
    """Trains until the run's last step and prints where the run is, and how to score its best."""
    with resting_collector() as start_is_over:
        trainer = Trainer(experiment)
        start_is_over()
        if trainer.workers.is_chief:
            variant = experiment.model.model_variant
            info = trainer.info
            flags.tell_departures("train", variant, *groups(experiment), dataset=info.name)
        step = trainer.run()

    if trainer.workers.is_chief:
        print(trainer.ending(step))

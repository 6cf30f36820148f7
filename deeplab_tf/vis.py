"""Paints a split's predictions: python -m deeplab_tf.vis --checkpoint_dir=RUN --vis_logdir=DIR."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import Config, flags, require_given, setting
from deeplab_tf.config.checkpoint_choice import checkpoint_setting, require_one_choice


@dataclass(frozen=True, kw_only=True)
class VisConfig(Config):
    """Which checkpoint predicts which split, and where the pictures go."""

    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    vis_logdir: str = setting("", "Folder for the pictures.")
    vis_split: str = setting("val", "Split to paint.")
    max_number_of_images: int = setting(
        0, "Number of images to paint; 0 paints the whole split.", least=0
    )
    also_save_raw_predictions: bool = setting(
        False, "Whether to save predictions also as index PNGs, in raw_segmentation_results/."
    )
    raw_label_ids: bool = setting(
        False,
        "Whether the index PNGs hold the label ids of the data set's own masks, as benchmark "
        "servers want them (16-bit PNGs if an id is above 255), and not train ids.",
        only_with={"also_save_raw_predictions": ()},
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("checkpoint_dir", self.checkpoint_dir, "the folder of a run")
        require_given("vis_logdir", self.vis_logdir, "a path")
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")


def main(job: VisConfig) -> None:
    """Writes the image, prediction, overlay and label of each record as pictures."""
    import numpy as np
    from PIL import Image

    from deeplab_tf.data import pipeline, records
    from deeplab_tf.evaluation import memory, report
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.runs import loaded_run

    loaded, experiment = loaded_run.load_asked(job.checkpoint_dir, job.checkpoint)
    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, job.vis_split, info, labelled=False)

    # Train id -> the value that raw predictions are stored with.
    stored_ids = np.array(info.label_ids if job.raw_label_ids else range(info.num_classes))
    stored_ids = stored_ids.astype(np.uint8 if stored_ids.max() < 256 else np.uint16)

    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    folder = Path(job.vis_logdir) / "segmentation_results"
    batches = pipeline.eval_batches(
        table,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=False,
    )

    painted = 0
    for batch in memory.trimmed(itertools.islice(batches, job.max_number_of_images or None)):
        image, label = batch.images[0], batch.labels[0, ..., 0]
        predicted = predictor.labels(batch.images).numpy()[0]
        name = Path(batch.names[0].removeprefix("/"))

        pictures = {
            "image": image,
            "prediction": report.colorize(predicted, info.colors),
            "overlay": report.overlay(image, predicted, info.colors),
        }
        if label.size:  # a test split may have no labels
            pictures["label"] = report.colorize(label, info.colors)
        for kind, picture in pictures.items():
            path = folder / name.parent / f"{name.name}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)

        if job.also_save_raw_predictions:
            path = Path(job.vis_logdir) / "raw_segmentation_results" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stored_ids[predicted]).save(path)
        painted += 1
    print(f"{folder}: {painted} images of {job.vis_split} at step {loaded.step}.")


def run() -> None:
    flags.run(
        main,
        [VisConfig],
        "Paints a checkpoint's predictions for a split.",
        overrides=(*flags.INFERENCE, "dataset_dir"),
    )


if __name__ == "__main__":
    run()

"""Paints a split's predictions."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config.programs import VisConfig
from deeplab_tf.data import pipeline, records
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.evaluation import memory, report
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run


def main(job: VisConfig) -> None:
    """Writes the image, prediction, overlay and label of each record as pictures."""
    files.require_writable(Path(job.vis_logdir), flag="vis_logdir")
    loaded, experiment = loaded_run.load_asked(job.checkpoint_dir, job.checkpoint)
    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, job.vis_split, info, labelled=False)
    table = table.without(
        find_bad(
            table,
            pipeline.checks_of(info, labelled=False),
            most=experiment.data.max_bad_records,
            split=job.vis_split,
        )
    )

    # Train id -> the value that raw predictions are stored with.
    stored_ids = np.array(info.label_ids if job.raw_label_ids else range(info.num_classes))
    stored_ids = stored_ids.astype(np.uint8 if stored_ids.max() < 256 else np.uint16)

    predictor = build_predictor(loaded.model, experiment.data, experiment.eval)
    folder = Path(job.vis_logdir) / "segmentation_results"
    raw_folder = Path(job.vis_logdir) / "raw_segmentation_results"
    batches = pipeline.eval_batches(
        table,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=False,
    )

    painted: set[Path] = set()
    for batch in memory.trimmed(itertools.islice(batches, job.max_number_of_images or None)):
        image, label = batch.images[0], batch.labels[0, ..., 0]
        predicted = predictor.labels(batch.images).numpy()[0]
        name = batch.names[0]
        if (painting := files.path_below(folder, name)) in painted:
            raise UserError(
                f"Two records of {job.vis_split} have the name '{files.shown(name)}', so the "
                "second picture would replace the first; rename one of the images and build the "
                "data set again."
            )
        painted.add(painting)

        pictures = {
            "image": image,
            "prediction": report.colorize(predicted, info.colors),
            "overlay": report.overlay(image, predicted, info.colors),
        }
        if label.size:  # a test split may have no labels
            pictures["label"] = report.colorize(label, info.colors)
        for kind, picture in pictures.items():
            path = files.path_below(folder, name, f"_{kind}.png")
            report.write_picture(path, Image.fromarray(picture))

        if job.also_save_raw_predictions:
            path = files.path_below(raw_folder, name, ".png")
            report.write_picture(path, Image.fromarray(stored_ids[predicted]))
    print(f"{folder}: {len(painted)} images of {job.vis_split} at step {loaded.step}.")

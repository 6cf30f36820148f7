"""Scores checkpoints of a run."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config import flags
from deeplab_tf.config.programs import EvalJobConfig
from deeplab_tf.data import pipeline, records
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.distribution import Workers, on_this_host
from deeplab_tf.evaluation import evaluator, report, result_files, tables
from deeplab_tf.evaluation.boundaries import BoundaryScores
from deeplab_tf.evaluation.metrics import mean_of_numbers
from deeplab_tf.evaluation.per_image import ImageScores, WorstImage
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.jobs import new_checkpoints
from deeplab_tf.messages import counted, warn
from deeplab_tf.runs import loaded_run
from deeplab_tf.runs.run_dir import RunDir


def main(job: EvalJobConfig) -> None:
    """Scores the chosen checkpoint, or each new one until the end of the run."""
    files.require_writable(Path(job.eval_logdir), flag="eval_logdir")
    strategy = on_this_host(job.num_gpus)
    new_checkpoints.follow(
        job.checkpoint_dir,
        lambda path: score(job, path, strategy),
        at_most=job.max_number_of_evaluations,
        interval_secs=job.eval_interval_secs,
    )


def score(job: EvalJobConfig, path: str, strategy: tf.distribute.Strategy) -> evaluator.Evaluation:
    """Scores a checkpoint, or the chosen one in a folder; prints the table, writes the results.

    The replicas of `strategy` share the images.
    """
    with strategy.scope():
        choice = job.checkpoint if path == job.checkpoint_dir else ""
        loaded, experiment = loaded_run.load_asked(path, choice)
    # At once, since a training that goes on may delete the checkpoint meanwhile.
    checkpoints = RunDir.of(path).checkpoints
    digest = checkpoints.digest(loaded.step)
    loaded_run.tell_departures("eval", loaded, experiment, job)

    split = experiment.eval.eval_split
    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, split, info)
    bad = find_bad(
        table, pipeline.checks_of(info), most=experiment.data.max_bad_records, split=split
    )
    table = table.without(bad)

    images = ImageScores(len(table), info.class_names)
    boundary = None
    if job.boundary_f_score:
        boundary = BoundaryScores(len(table), info, tolerance=job.boundary_tolerance)

    def watch(counted: evaluator.CountedBatch) -> None:
        images.add(counted)
        if boundary:
            boundary.add(counted)

    with tqdm(total=len(table), desc=split, unit=" images", disable=None) as bar:
        result = evaluator.evaluate(
            build_predictor(loaded.model, experiment.data, experiment.eval, info.image_kind),
            table,
            info,
            split=split,
            batch_size=experiment.eval.eval_batch_size,
            progress=bar.update,
            watch=watch,
            workers=Workers.of(strategy),
        )
    evaluator.require_labels(result, info, where=experiment.data.dataset_dir)

    outlines = boundary.of_classes if boundary else None
    worst = images.worst(job.worst_images)
    content = {
        **result.to_json(info, loaded.step),
        **_boundary_to_json(job, info, outlines),
        "worst_images": [image.name for image in worst],
        "bad_records": len(bad),
        "checkpoint": checkpoints.prefix(loaded.step),
        **({"checkpoint_digest": digest} if digest else {}),
        "dataset_dir": experiment.data.dataset_dir,
        "inference": flags.inference_settings(experiment, loaded.model.config),
    }
    folder = Path(job.eval_logdir)
    scores = images.table(boundary=boundary.scores if boundary else None)
    try:
        files.write(folder / result_files.PER_IMAGE, scores)
        _write_worst(folder / result_files.WORST, worst)
        _write_matrix(folder, result.matrix, info.class_names)
        files.write(folder / result_files.RESULTS, json.dumps(content, indent=1) + "\n")
        _write_summary(folder, result, info.class_names, loaded.step)
    finally:
        # After the files, for `eval | head`, whose output nobody reads to the end; and also if the
        # disk took none of them.
        print(
            f"{job.checkpoint_dir}, step {loaded.step}: {counted(len(table), 'image')} of {split}"
        )
        print(report.table(result.scores, info.class_names, result.matrix, boundary=outlines))

    if boundary and boundary.ignored_share > 0.5:
        warn(
            f"{100 * boundary.ignored_share:.0f} % of the outlines in the labels lie next to "
            "ignored pixels, where they cannot be scored; the boundary F-score says little here."
        )
    if worst:
        print(
            f"Lowest mIoU of an image: {100 * worst[0].miou:.2f} % ({worst[0].name}); the worst "
            f"{len(worst)} are in {files.shown(folder / result_files.WORST)}, all in "
            f"{result_files.PER_IMAGE}."
        )
    return result


def _boundary_to_json(job: EvalJobConfig, info: DatasetInfo, scores: np.ndarray | None) -> dict:
    """Returns what results.json says about outlines: nothing if they were not scored.

    Args:
      scores: boundary F-score of each class.
    """
    if scores is None:
        return {}
    values = map(evaluator.number, scores)
    return {
        "boundary_tolerance": job.boundary_tolerance,
        "mean_boundary_f_score": evaluator.number(mean_of_numbers(scores)),
        "per_class_boundary_f_score": dict(zip(info.class_names, values, strict=True)),
    }


def _write_worst(path: Path, worst: list[WorstImage]) -> None:
    """Writes the table of the worst images, unless it would be empty."""
    if not worst:
        path.unlink(missing_ok=True)  # an earlier call's
        return

    rows = [(f"{number:06d}", name, f"{miou:.6f}") for number, name, miou in worst]
    files.write(path, tables.as_csv(("number", "name", "miou"), rows))


def _write_matrix(folder: Path, matrix: np.ndarray, class_names: list[str]) -> None:
    """Writes the confusion matrix, as pixels and as a picture of shares."""
    files.write(folder / result_files.MATRIX, tables.confusion_matrix(matrix, class_names))
    picture = report.confusion_picture(matrix, class_names)
    report.write_picture(folder / "confusion_matrix.png", picture)


def _write_summary(
    folder: Path, result: evaluator.Evaluation, class_names: list[str], step: int
) -> None:
    """Writes the scores for TensorBoard."""
    with tf.summary.create_file_writer(str(folder)).as_default(step=step):
        for name in evaluator.MEANS:
            tf.summary.scalar(f"eval/{name}", getattr(result.scores, name))
        for name, iou in zip(class_names, result.scores.iou, strict=True):
            tf.summary.scalar(f"eval/iou/{name}", iou)

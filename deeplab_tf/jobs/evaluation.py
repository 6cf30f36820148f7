"""Scores checkpoints of a run."""

import json
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config import flags
from deeplab_tf.config.programs import EvalJobConfig
from deeplab_tf.data import pipeline, records
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.distribution import Workers, on_this_host
from deeplab_tf.evaluation import evaluator, report
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.jobs import new_checkpoints
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
    loaded_run.tell_departures("eval", loaded, experiment, job)

    split = experiment.eval.eval_split
    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, split, info)
    bad = find_bad(
        table, pipeline.checks_of(info), most=experiment.data.max_bad_records, split=split
    )
    table = table.without(bad)

    with tqdm(total=len(table), desc=split, unit=" images", disable=None) as bar:
        result = evaluator.evaluate(
            build_predictor(loaded.model, experiment.data, experiment.eval),
            table,
            info,
            split=split,
            batch_size=experiment.eval.eval_batch_size,
            progress=bar.update,
            workers=Workers.of(strategy),
        )
    evaluator.require_labels(result, info, where=experiment.data.dataset_dir)

    print(f"{job.checkpoint_dir}, step {loaded.step}: {len(table)} images of {split}")
    print(report.table(result.scores, info.class_names, result.matrix))

    folder = Path(job.eval_logdir)
    content = {
        **result.to_json(info, loaded.step),
        "bad_records": len(bad),
        "checkpoint": RunDir.of(path).checkpoints.prefix(loaded.step),
        "dataset_dir": experiment.data.dataset_dir,
        "inference": flags.inference_settings(experiment, loaded.model.config),
    }
    files.write(folder / "results.json", json.dumps(content, indent=1) + "\n")
    picture = report.confusion_picture(result.matrix, info.class_names)
    report.write_picture(folder / "confusion_matrix.png", picture)

    with tf.summary.create_file_writer(str(folder)).as_default(step=loaded.step):
        for name in ("miou", "pixel_accuracy", "mean_accuracy"):
            tf.summary.scalar(f"eval/{name}", getattr(result.scores, name))
        for name, iou in zip(info.class_names, result.scores.iou, strict=True):
            tf.summary.scalar(f"eval/iou/{name}", iou)
    return result

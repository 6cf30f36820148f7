"""Scores checkpoints: python -m deeplab_tf.eval --checkpoint_dir=RUN --eval_logdir=DIR."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab_tf import files
from deeplab_tf.config import Config, checkpoint_choice, flags, require_given, setting
from deeplab_tf.config.checkpoint_choice import checkpoint_setting, require_one_choice
from deeplab_tf.messages import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from deeplab_tf.evaluation import evaluator


@dataclass(frozen=True, kw_only=True)
class EvalJobConfig(Config):
    """Which checkpoints are scored, and where the scores go."""

    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    eval_logdir: str = setting("", "Folder for results.json, the confusion matrix and TensorBoard.")
    eval_interval_secs: int = setting(
        300,
        "Seconds to wait before looking for a new checkpoint again.",
        least=0,
        only_with={"max_number_of_evaluations": ()},
    )
    max_number_of_evaluations: int = setting(
        1,
        "Number of checkpoints to score. 1 scores the chosen one; with more, eval waits for new "
        "checkpoints of a run in training; 0 means until the end of the run.",
        least=0,
    )
    num_gpus: int = setting(
        -1, "Number of GPUs that share the images; -1 uses all, 0 uses the CPU.", least=-1
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("checkpoint_dir", self.checkpoint_dir, "the folder of a run")
        require_given("eval_logdir", self.eval_logdir, "a path")
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")
        if self.max_number_of_evaluations != 1:
            folder, step = checkpoint_choice.split(self.checkpoint_dir)
            flag = f"--max_number_of_evaluations={self.max_number_of_evaluations}"
            if self.checkpoint not in ("", checkpoint_choice.NEWEST) or step is not None:
                raise UserError(
                    f"{flag} scores each new checkpoint of a run; give --checkpoint_dir={folder} "
                    "without --checkpoint, or leave --max_number_of_evaluations out to score one."
                )


def main(job: EvalJobConfig) -> None:
    """Scores the chosen checkpoint, or each new one until the end of the run."""
    from deeplab_tf.distribution import on_this_host
    from deeplab_tf.runs.checkpoints import UnreadableCheckpointError
    from deeplab_tf.runs.run_dir import RunDir

    strategy = on_this_host(job.num_gpus)
    if job.max_number_of_evaluations == 1:
        score(job, job.checkpoint_dir, strategy)
        return

    run = RunDir(job.checkpoint_dir)
    last_step = run.experiment().train.training_number_of_steps
    last_tried, evaluations = 0, 0
    while True:
        newest = max(run.checkpoints.steps(), default=0)
        if newest > last_tried:
            last_tried = newest
            try:
                score(job, run.checkpoints.prefix(newest), strategy)
                evaluations += 1
            except UnreadableCheckpointError as error:  # the trainer may just have deleted it
                print(f"{error} Waiting for the next one.", flush=True)

        if evaluations == job.max_number_of_evaluations or last_tried >= last_step:
            return
        print(f"Waiting for a checkpoint after step {last_tried} in {run.path}.", flush=True)
        time.sleep(job.eval_interval_secs)


def score(
    job: EvalJobConfig, path: str, strategy: "tf.distribute.Strategy"
) -> "evaluator.Evaluation":
    """Scores a checkpoint, or the chosen one in a folder; prints the table, writes the results.

    The replicas of `strategy` share the images.
    """
    import tensorflow as tf
    from tqdm import tqdm

    from deeplab_tf.data import records
    from deeplab_tf.distribution import Workers
    from deeplab_tf.evaluation import evaluator, report
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.runs import loaded_run, run_dir

    with strategy.scope():
        choice = job.checkpoint if path == job.checkpoint_dir else ""
        loaded, experiment = loaded_run.load_asked(path, choice)

    split = experiment.eval.eval_split
    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, split, info)

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
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        **result.to_json(info, loaded.step),
        "checkpoint": run_dir.RunDir.of(path).checkpoints.prefix(loaded.step),
        "dataset_dir": experiment.data.dataset_dir,
        "inference": flags.inference_settings(experiment, loaded.model.config),
    }
    files.write(folder / "results.json", json.dumps(content, indent=1) + "\n")
    report.confusion_picture(result.matrix, info.class_names).save(folder / "confusion_matrix.png")

    with tf.summary.create_file_writer(str(folder)).as_default(step=loaded.step):
        for name in ("miou", "pixel_accuracy", "mean_accuracy"):
            tf.summary.scalar(f"eval/{name}", getattr(result.scores, name))
        for name, iou in zip(info.class_names, result.scores.iou, strict=True):
            tf.summary.scalar(f"eval/iou/{name}", iou)
    return result


def run() -> None:
    flags.run(
        main,
        [EvalJobConfig],
        "Scores a checkpoint, or each new checkpoint of a run in training.",
        overrides=(*flags.INFERENCE, "dataset_dir", "eval_split", "eval_batch_size"),
    )


if __name__ == "__main__":
    run()

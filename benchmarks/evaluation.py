"""Evaluation of a split (read, predict, count) against the time of only the model, in turns.

    python -m benchmarks.evaluation --dataset_dir=records/camvid --eval_split=val

The network is SSSegmentation's R50 at output stride 16, untrained; whole images at native size.
The model by itself is peer and limit.
"""

import dataclasses
import time
from dataclasses import dataclass

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """What is evaluated, and how often."""

    dataset_dir: str = setting("", "Folder with records.")
    eval_split: str = setting("val", "Split.")
    num_images: int = setting(12, "Images of it that are predicted in a measurement.", least=1)
    pairs: int = setting(9, "Measurements of each program.", least=1)
    worker: str = setting("", "What this process measures.", choices=("", "evaluation", "model"))


def main(config: EvaluationConfig) -> None:
    if config.worker:
        work(config)
        return
    records = [
        f"--{name}={getattr(config, name)}" for name in ("dataset_dir", "eval_split", "num_images")
    ]
    programs = [
        pairs.Program(worker, pairs.ours("evaluation", *records, f"--worker={worker}"))
        for worker in ("evaluation", "model")
    ]
    ratio = pairs.compare(programs, pairs=config.pairs, limit=programs[1])
    print(f"over the model's own time: {100 * (1 / ratio - 1):.1f} %")
    print(f"ratio: {ratio:.3f}")


def work(config: EvaluationConfig) -> None:
    """Evaluates the split, or predicts its images from memory, on demand."""
    from benchmarks import network
    from deeplab_tf.data import catalog, pipeline, records
    from deeplab_tf.evaluation import evaluator
    from deeplab_tf.evaluation.predictor import Predictor

    info = catalog.load("", config.dataset_dir)
    whole = records.open_split(config.dataset_dir, config.eval_split, info)
    table = dataclasses.replace(
        whole,
        file_index=whole.file_index[: config.num_images],
        offsets=whole.offsets[: config.num_images],
    )
    predictor = Predictor(network.ssseg(50, 16, info.num_classes))
    batches = []
    if config.worker == "model":
        classes = {"num_classes": info.num_classes, "ignore_label": info.ignore_label}
        batches = [batch.images for batch in pipeline.eval_batches(table, batch_size=1, **classes)]

    def measure():
        start = time.perf_counter()
        if config.worker == "model":
            for images in batches:
                predictor.labels(images)
        else:
            evaluator.evaluate(predictor, table, info, split=config.eval_split)
        seconds = time.perf_counter() - start
        return {"images/s": len(table) / seconds, "peak MiB": pairs.peak_mib()}

    pairs.serve(measure)


if __name__ == "__main__":
    flags.run(main, [EvaluationConfig], (__doc__ or "").strip())

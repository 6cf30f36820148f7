"""Paints a split's predictions.

Pictures are named after their number in the split, as in the official package. A record's own name
is used only for the file name of its raw prediction.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config import Experiment
from deeplab_tf.config.pictures import AREAS, COCO, USUAL, PictureConfig
from deeplab_tf.config.programs import VisConfig
from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.evaluation import memory, outputs, report, tables
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.jobs import new_checkpoints
from deeplab_tf.messages import UserError, counted
from deeplab_tf.runs import loaded_run

_FOLDER, _RAW_FOLDER, _NAMES = "segmentation_results", "raw_segmentation_results", "names.csv"
_PICTURES = ("image", "prediction", "overlay", "label")  # the last one only of labelled records

# Official DeepLab's names of colour tables, each with a known data set that has these colours.
_COLORMAPS = {"pascal": "pascal_voc_seg", "cityscapes": "cityscapes", "ade20k": "ade20k"}


def main(job: VisConfig, pictures: PictureConfig = USUAL) -> None:
    """Paints what the chosen checkpoint predicts, or each new checkpoint until the run's end."""
    files.require_writable(Path(job.vis_logdir), flag="vis_logdir")
    new_checkpoints.follow(
        job.checkpoint_dir,
        lambda path: paint(job, path, pictures),
        at_most=job.max_number_of_iterations,
        interval_secs=job.eval_interval_secs,
    )


def paint(job: VisConfig, path: str, config: PictureConfig = USUAL) -> None:
    """Writes the image, prediction, overlay and label of each record as pictures, and names.csv.

    Also writes whatever else `config` asks for.

    Args:
      path: a checkpoint, or the folder of the run whose chosen checkpoint is taken.
    """
    choice = job.checkpoint if path == job.checkpoint_dir else ""
    loaded, experiment = loaded_run.load_asked(path, choice)
    _tell_departures(job, loaded, experiment)

    info = loaded.dataset_at(experiment.data.dataset_dir)
    table = records.open_split(experiment.data.dataset_dir, job.vis_split, info, labelled=False)
    checks = pipeline.checks_of(info, labelled=False)
    table = table.without(
        find_bad(table, checks, most=experiment.data.max_bad_records, split=job.vis_split)
    )
    _require_no_other_pictures(job, config, pipeline.record_names(table, checks))

    # Train id -> the value that raw predictions are stored with.
    stored_ids = np.array(info.label_ids if job.raw_label_ids else range(info.num_classes))
    stored_ids = stored_ids.astype(np.uint8 if stored_ids.max() < 256 else np.uint16)

    image_kind = info.image_kind
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval, image_kind)
    folder = Path(job.vis_logdir) / _FOLDER
    raw_folder = Path(job.vis_logdir) / _RAW_FOLDER
    batches = pipeline.eval_batches(
        table,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=False,
        image_kind=image_kind,
    )

    predict = predictor.labels_and_probabilities if config.save_probabilities else None
    summaries = outputs.Summaries(config, info.classes)
    names = _Names()
    for batch in memory.trimmed(itertools.islice(batches, job.max_number_of_images or None)):
        predicted = _predicted(batch, predictor.labels, predict)
        predicted = predicted._replace(image=image_kind.picture(predicted.image))
        number = f"{len(names.rows):06d}"
        raw_name = names.add(batch.names[0], number)
        _require_truth(job, predicted, name=batch.names[0])

        for kind, picture in _pictures(predicted, info, config).items():
            report.write_picture(folder / f"{number}_{kind}.png", Image.fromarray(picture))
        image_name = f"{number}_image.png"
        for kind, ending, content in outputs.of_image(
            predicted,
            config,
            info.classes,
            image_path=image_name,
            ignore_label=info.ignore_label,
            error_map=job.error_map,
        ):
            files.write(folder / f"{number}_{kind}{ending}", content, is_lasting=False)
        summaries.add(image_name, predicted.labels)

        if job.also_save_raw_predictions:
            raw = Image.fromarray(stored_ids[predicted.labels])
            report.write_picture(raw_folder / raw_name, raw)

    summaries.write(Path(job.vis_logdir))
    text = names.table(with_raw=job.also_save_raw_predictions)
    files.write(Path(job.vis_logdir) / _NAMES, text)
    count = len(names.rows)
    print(
        f"{folder}: {counted(count, 'image')} of {job.vis_split} at step {loaded.step}; names in "
        "names.csv."
    )


def _require_no_other_pictures(
    job: VisConfig, config: PictureConfig, record_names: Iterator[str]
) -> None:
    """Raises UserError if files of an earlier call would contradict the new pictures.

    The same images may be painted again, with another checkpoint, and more images after them:
    then every earlier file is replaced.

    Args:
      record_names: the names of the split's records; read only if there are earlier files.
    """
    folder = Path(job.vis_logdir)
    earlier = {
        *folder.glob(f"{_FOLDER}/[0-9][0-9][0-9][0-9][0-9][0-9]_*.*"),
        *folder.glob(f"{_RAW_FOLDER}/*.png"),
        *(path for path in (folder / AREAS, folder / COCO, folder / _NAMES) if path.exists()),
    }
    if not earlier:
        return

    names = _Names()
    for name in itertools.islice(record_names, job.max_number_of_images or None):
        names.add(name, f"{len(names.rows):06d}")
    if folder / _NAMES in earlier:
        rows = _rows_of(folder / _NAMES)
        for (number, name, _), row in zip(names.rows, rows, strict=False):
            if row[:2] != [number, name]:
                raise UserError(
                    f"--vis_logdir={files.shown(folder)} holds pictures of other images: {number} "
                    f"would be {files.shown(name)}, and {_NAMES} says "
                    f"{files.shown(','.join(row[:2]))}; give another --vis_logdir, or remove that "
                    "folder."
                )

    kinds = dict.fromkeys(_PICTURES, ".png") | config.kinds(with_errors=bool(job.error_map))
    replaced = {folder / name for name in (*config.summaries(), _NAMES)}
    for number, _, raw_name in names.rows:
        replaced |= {folder / _FOLDER / f"{number}_{kind}{end}" for kind, end in kinds.items()}
        if job.also_save_raw_predictions:
            replaced.add(folder / _RAW_FOLDER / raw_name)
    if left := sorted(earlier - replaced):
        first = left[0].relative_to(folder)
        others = f" and {counted(len(left) - 1, 'other file')}" if len(left) > 1 else ""
        raise UserError(
            f"--vis_logdir={files.shown(folder)} holds {files.shown(first)}{others} of an earlier "
            "call, which this call would not write again; give the earlier call's flags too, or "
            "another --vis_logdir, or remove that folder."
        )


def _rows_of(path: Path) -> list[list[str]]:
    """Returns the rows of an earlier call's names.csv, without the heading."""
    try:
        return tables.parse_csv(files.read_text(path, "the names of pictures in"))[1:]
    except ValueError:
        return [[""]]  # nobody knows which images it names


def _predicted(batch: pipeline.EvalBatch, labels_of, both_of) -> outputs.Predicted:
    """Predicts a batch of one image.

    Args:
      labels_of: from images to labels. both_of: from images to labels and probabilities, or None if
        only labels are wanted.
    """
    image, label = batch.images[0], batch.labels[0, ..., 0]
    truth = label if label.size else None  # a test split may have no labels
    if not both_of:
        return outputs.Predicted(image, labels_of(batch.images).numpy()[0], truth=truth)
    labels, probabilities = (values.numpy()[0] for values in both_of(batch.images))
    return outputs.Predicted(image, labels, probabilities, truth)


def _pictures(
    predicted: outputs.Predicted, info: catalog.DatasetInfo, config: PictureConfig
) -> dict[str, np.ndarray]:
    """Returns the pictures that are always written, uint8 [H, W, 3], by their kinds."""
    image, labels = predicted.image, predicted.labels
    pictures = {
        "image": image,
        "prediction": report.colorize(labels, info.colors),
        "overlay": report.overlay(image, labels, info.colors, alpha=config.overlay_alpha),
    }
    if predicted.truth is not None:
        pictures["label"] = report.colorize(predicted.truth, info.colors)
    return pictures


def _require_truth(job: VisConfig, predicted: outputs.Predicted, *, name: str) -> None:
    """Raises UserError if errors are to be painted, but the image has no label."""
    if job.error_map and predicted.truth is None:
        raise UserError(
            f"--error_map={job.error_map} compares with labels, and {files.shown(name)!r} of the "
            f"split {job.vis_split!r} has none; leave it out, or give another --vis_split."
        )


class _Names:
    """Names of the raw predictions: the records' names, as far as files can have them.

    Records may come from anybody: their names may be paths, may lead out of the folder, and may
    occur twice.

    rows: number, name in the record and name of the raw prediction of each image so far.
    """

    def __init__(self):
        self.rows: list[tuple[str, str, str]] = []
        self._taken: set[str] = set()

    def add(self, name: str, number: str) -> str:
        """Returns the file's name; if the record's name is taken or unusable, it has the number."""
        stem = files.safe_name(name, otherwise=number)
        chosen, times = stem, 0
        while files.folded(chosen) in self._taken:
            chosen = f"{stem}_{number}" + (f"_{times}" if times else "")
            times += 1

        self._taken.add(files.folded(chosen))
        self.rows.append((number, files.shown(name), f"{chosen}.png"))
        return f"{chosen}.png"

    def table(self, *, with_raw: bool) -> str:
        """Returns the rows as the text of a CSV file.

        Args:
          with_raw: whether raw predictions are written; their column is empty otherwise.
        """
        rows = ((number, name, raw if with_raw else "") for number, name, raw in self.rows)
        return tables.as_csv(("number", "name", "raw_prediction"), rows)


def _tell_departures(job: VisConfig, loaded: loaded_run.LoadedRun, experiment: Experiment) -> None:
    """Prints where vis differs from official DeepLab's.

    Raises:
      UserError: if --colormap_type has other colours than the data set.
    """
    colors = tuple(loaded.info.colors)
    fitting = []
    for name, dataset in _COLORMAPS.items():
        known = tuple(catalog.KNOWN[dataset]().colors)
        # ADE20K comes with or without a class 0 for ignored pixels; a map may have more colours.
        if colors[1:] == known or any(colors == known[i : i + len(colors)] for i in (0, 1)):
            fitting.append(name)
    if job.colormap_type and job.colormap_type not in fitting:
        raise UserError(
            f"--colormap_type={job.colormap_type} has other colours than the data set "
            f"{loaded.info.name}; leave it out, for the data set's own colours"
            + (f", or give --colormap_type={fitting[0]}." if fitting else ".")
        )
    shown = job.colormap_type or next(iter(fitting), "")
    loaded_run.tell_departures("vis", loaded, experiment, job, colormap_type=shown)

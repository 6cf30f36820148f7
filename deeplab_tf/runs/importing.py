"""Makes a run's folder from weights that another program trained."""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import DataConfig, EvalConfig, Experiment, flags
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.data import catalog, class_lists
from deeplab_tf.messages import UserError, warn
from deeplab_tf.models import heads
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.runs import checkpoints, run_dir
from deeplab_tf.startup.process_state import keras_settings
from deeplab_tf.weights import mapping, sources
from deeplab_tf.weights.official import reader
from deeplab_tf.weights.untold import Untold

# (min_resize_value, max_resize_value) with which SSSegmentation scores each data set;
# docs/ancestors.md, SSSegmentation, Recipes.
_RESIZING = {
    "pascal_voc_seg": (512, 2048),
    "ade20k": (512, 2048),
    "cityscapes": (1024, 2048),
    "pascal_context": (520, 520),
    "pascal_context_59": (520, 520),
}
_CONTEXT_WINDOWS = {
    "inference_mode": "slide",
    "eval_crop_size": (480, 480),
    "eval_crop_stride": (320, 320),
}
# Most files of weights hold no class names: the data set is guessed from the number of classes.
DATASETS = {
    19: "cityscapes",
    21: "pascal_voc_seg",
    59: "pascal_context_59",
    60: "pascal_context",
    150: "ade20k",
    151: "ade20k_151",
}
# Settings that networks of the other programs do not have.
_ONLY_OFFICIAL = (
    "image_pooling_crop_size",
    "image_pooling_stride",
    "image_se_uses_qsigmoid",
    "use_bounded_activation",
    "dense_prediction_cell_json",
)


@dataclasses.dataclass(frozen=True)
class Imported:
    """What was imported.

    has_head: whether the file held a head, and not only a backbone.
    """

    source: mapping.Source
    info: catalog.DatasetInfo
    has_head: bool


def import_weights(job: ImportConfig, *, advice: str = "") -> Imported:
    """Writes the folder job.output, whole or not at all.

    Args:
      advice: what the user can do if a download fails; by default, to give the file's path.
    Raises:
      UserError: if the weights cannot be read or do not fit, or the folder cannot be written.
    """
    _require_free(job.output)
    source = sources.read(job.source, Untold.of(job), as_told=True, flag="source", advice=advice)
    _require_only_settings_that_matter(source, job)
    source = _as_asked_or_told(source, job)

    info = classes_of(job, source)
    with keras_settings():
        model = build_model(source.config, num_classes=info.num_classes)
    has_head = bool(source.num_classes)
    # If the file holds only a backbone, the head keeps its random weights.
    mapping.assign(model, source.arrays, kept=() if has_head else heads.HEADS)
    _write(job.output, tf.train.Checkpoint(model=model), _experiment(source, info.name), info)
    return Imported(source, info, has_head)


def _require_free(output: str) -> None:
    """Raises UserError unless a run can be written to the folder, which is new or empty."""
    path = Path(output)
    files.require_plain(Path(os.path.realpath(path)), "--output")  # `_write` follows links
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"--output={output} cannot be a folder: {place} is a file.")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"--output={output} is not empty; give a new folder.")


def _write(output: str, checkpoint, experiment: Experiment, info) -> None:
    """Writes the folder, whole or not at all."""
    path = Path(os.path.realpath(output))
    building = path.with_name(f".{path.name[:50]}-importing")  # a longer name may be too long
    run = run_dir.RunDir(building / "run")
    busy = f"Another import is writing to --output={output}; wait until it has ended."
    try:
        with files.sole_writer(building, busy=busy):
            shutil.rmtree(run.path, ignore_errors=True)  # left by an import that was killed
            try:
                run.open_for_training(experiment, info)
                run.checkpoints.write(checkpoint, 0)
                os.rename(run.path, path)
            finally:
                shutil.rmtree(run.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # raised if another import is using it
            building.rmdir()
    except checkpoints.WRITE_FAULTS as error:
        raise UserError(
            f"--output={output} could not be written ({checkpoints.reason_of(error)}); nothing was "
            "left behind. Give another place or make room."
        ) from None


def _require_only_settings_that_matter(source, job: ImportConfig) -> None:
    """Raises UserError if a setting was given that only official DeepLab's networks have."""
    if _is_official(source):
        return

    defaults = {field.name: field.default for field in dataclasses.fields(job)}
    for name in _ONLY_OFFICIAL:
        value = getattr(job, name)
        if value and value != defaults[name]:
            raise UserError(
                f"--{name}={flags.text_of(value)} is for weights of official DeepLab; leave it out "
                f"for {job.source} ({source.kind})."
            )


def _as_asked_or_told(source: mapping.Source, job: ImportConfig) -> mapping.Source:
    """Sets up the network as the user says, and else as the file tells; warns of contradictions."""
    told = source.told.network
    for name in ("output_stride", "atrous_rates", "multi_grid", "align_corners"):
        asked = getattr(job, name)
        if name in told and asked not in (None, (), told[name]):
            warn(
                f"{job.source} tells that its network has "
                f"--{name}={flags.text_of(told[name])}; --{name}={flags.text_of(asked)} is used, "
                "as you gave it."
            )

    settings: dict[str, Any] = {
        name: told[name] for name in ("image_mean", "image_std") if name in told
    }
    for corners in (job.align_corners, told.get("align_corners")):
        if corners is not None:
            settings["align_corners"] = corners
            break
    return dataclasses.replace(source, config=dataclasses.replace(source.config, **settings))


def _is_official(source) -> bool:
    """Returns whether the weights are official DeepLab's."""
    return source.kind == reader.KIND


def classes_of(job: ImportConfig, source: mapping.Source) -> catalog.DatasetInfo:
    """Returns the data set that the classes of the weights belong to.

    Raises:
      UserError: if the data set or class list that was asked for has another number of classes.
    """
    info = _asked_or_usual_classes(job, source.num_classes)
    told = source.told
    if len(told.class_names) != info.num_classes or _have_same_classes(told.class_names, info):
        return info

    if job.class_list or job.dataset:
        pairs = enumerate(zip(told.class_names, info.class_names, strict=True))
        index, names = next((i, pair) for i, pair in pairs if _plain(pair[0]) != _plain(pair[1]))
        warn(
            f"{job.source} calls class {index} {files.shown(names[0])!r}, and not {names[1]!r}; "
            f"the names of {job.class_list or job.dataset} are used, as you asked."
        )
        return info
    colors = told.colors or info.colors
    classes = tuple(map(catalog.LabelClass, told.class_names, colors))
    return catalog.DatasetInfo(name=f"classes_{info.num_classes}", classes=classes)


def _have_same_classes(names: tuple[str, ...], info: catalog.DatasetInfo) -> bool:
    """Returns whether the names in a file are a data set's class names, in the same order.

    mmsegmentation's names of PASCAL Context stand in another order than the labels that it trains
    on (docs/ancestors.md, SSSegmentation, Data), so there any order counts.
    """
    theirs, ours = [*map(_plain, names)], [*map(_plain, info.class_names)]
    if info.name.startswith("pascal_context"):
        theirs, ours = sorted(theirs), sorted(ours)
    return theirs == ours


def _plain(name: str) -> str:
    """Returns a class's name as programs agree on it: "traffic_light" and "traffic light" do."""
    return name.replace("_", " ").strip().casefold()


def _asked_or_usual_classes(job: ImportConfig, num_classes: int) -> catalog.DatasetInfo:
    """Returns the classes that the user asks for, or else the known ones of this number.

    Args:
      num_classes: number of classes of the weights; 0 for a backbone without a head.
    Raises:
      UserError: as `classes_of`.
    """
    if job.class_list:
        path = Path(job.class_list)
        classes = catalog.read_class_table(path)
        info = catalog.DatasetInfo(
            name=f"classes_{len(classes)}", classes=classes, ignore_label=job.ignore_label
        )
        if num_classes not in (0, info.num_classes):
            raise UserError(
                f"--class_list={path} has {info.num_classes} classes, the weights of {job.source} "
                f"have {num_classes}; give the list that they were trained with."
            )
        # A list with the classes of a known data set is that data set, and is scored the same way.
        known = catalog.known_as(info)
        return dataclasses.replace(info, name=known.name) if known else info

    name = job.dataset or DATASETS.get(num_classes or 21, "")
    if not name:
        numbered = (
            catalog.LabelClass(f"class_{index}", class_lists.default_color(index))
            for index in range(num_classes)
        )
        return catalog.DatasetInfo(name=f"classes_{num_classes}", classes=tuple(numbered))

    info = catalog.load(name, "")
    if num_classes not in (0, info.num_classes):
        raise UserError(
            f"--dataset={name} has {info.num_classes} classes, the weights have {num_classes}; "
            "leave it out, or give your own classes with --class_list=classes.csv."
        )
    return info


def _experiment(source, dataset: str) -> Experiment:
    """Returns the settings of the imported run, with the sizes its ancestor scores the data at."""
    low, high = 0, 0
    evaluation: dict[str, Any] = {}
    if not _is_official(source):
        low, high = _RESIZING.get(dataset, (0, 0))
        if dataset.startswith("pascal_context"):
            evaluation = _CONTEXT_WINDOWS
    if any(source.told.resizing):
        low, high = source.told.resizing
    return Experiment(
        model=source.config,
        data=DataConfig(dataset=dataset, min_resize_value=low, max_resize_value=high),
        eval=EvalConfig(**(source.told.evaluation or evaluation)),
    )

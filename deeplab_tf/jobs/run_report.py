"""Writes one page about a run: how it was made, and how good it is."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab_tf import files
from deeplab_tf.config import Experiment, flags
from deeplab_tf.config.programs import ReportConfig
from deeplab_tf.data import catalog, decoding, pipeline, records, statistics
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.evaluation import memory, metrics, pictures, report
from deeplab_tf.evaluation.predictor import build_predictor
from deeplab_tf.messages import UserError, counted
from deeplab_tf.reporting import card, made, markup, results, scored
from deeplab_tf.reporting.commands import command
from deeplab_tf.reporting.scored import ImageScore, Scored
from deeplab_tf.runs import foreign, loaded_run
from deeplab_tf.runs.loaded_run import LoadedRun
from deeplab_tf.runs.run_dir import EXPERIMENT, RunDir
from deeplab_tf.serving import model_card

# A repeated prediction may differ in a few pixels: other devices round differently.
_SAME_MIOU = 0.01


class Model(NamedTuple):
    """A restored checkpoint, and the settings that it predicts with."""

    loaded: LoadedRun
    experiment: Experiment


def main(job: ReportConfig) -> None:
    """Writes the page, whole, and prints what it says is missing."""
    run = RunDir(job.train_logdir)
    if not (run.path / EXPERIMENT).is_file():
        raise foreign.not_a_run(run.path, EXPERIMENT)
    output = Path(job.output) if job.output else run.path / "report.html"
    _require_place(output)

    experiment, info = run.experiment(), run.dataset()
    folder = scored.find(run, job.eval_logdir, dataset_dir=job.dataset_dir)
    evaluation = scored.read(run, info, folder, dataset_dir=job.dataset_dir) if folder else None
    validation = scored.best_validation(run, info)
    scoring = scored.eval_command(run, dataset_dir=job.dataset_dir)
    model, problem = _restored(job, run, evaluation)

    sections = [
        made.recipe(experiment),
        _data(job, run, experiment, info),
        made.training(run, experiment, scoring="" if evaluation else scoring),
    ]
    if evaluation:
        sections += [
            results.classes(
                evaluation.results,
                f"{files.shown(evaluation.folder)}, which scored "
                f"{files.shown(evaluation.results['checkpoint'])}",
            ),
            results.confusion(evaluation, info, run),
            _images(job, evaluation, model),
        ]
    else:
        sections += results.not_scored(scoring, validation)
    sections += [
        _card(run, model, problem),
        made.again(run, experiment, evaluation, _own_command(job)),
    ]

    title = f"Report on {files.shown(run.path.resolve().name)}"
    scores = evaluation.results if evaluation else validation
    page = markup.page(title, [_introduction(run, experiment, info, scores)], sections)
    files.write(output, page)
    for sentence in markup.what_is_missing(sections):
        print(f"Missing: {sentence}")
    print(
        f"{files.shown(output)}: {len(page.encode()) / 2**10:,.0f} KiB in one file, which opens "
        "without a network."
    )


def _require_place(output: Path) -> None:
    """Raises UserError if the page cannot be written there."""
    if output.is_dir():
        raise UserError(
            f"--output={files.shown(output)} is a folder; give a file in it, such as "
            f"{files.shown(output / 'report.html')}."
        )
    files.require_writable(output.parent, flag="output")


def _own_command(job: ReportConfig) -> str:
    given = {
        field.name: getattr(job, field.name)
        for field in dataclasses.fields(job)
        if getattr(job, field.name) != field.default
    }
    return command("report", **given)


def _introduction(
    run: RunDir, experiment: Experiment, info: catalog.DatasetInfo, scores: dict | None
) -> markup.Element:
    """Returns in two sentences what was trained, how far, and how good it is.

    Args:
      scores: of the evaluation, or else of the best validation; None if there are none.
    """
    steps = run.checkpoints.steps()
    model, train = experiment.model, experiment.train
    first = f"{model.model_variant} for the {info.num_classes} classes of {info.name}"
    if train.train_logdir:
        done = max(steps, default=0)
        early = ", stopped early" if run.stopped_early() else ""
        wanted = counted(train.training_number_of_steps, "step", grouped=True)
        first += f", trained {done:,} of {wanted}{early}."
    else:
        first += ", with imported weights."
    second, best = "It was not scored yet.", run.metrics.best()
    if not scores and best:  # an earlier version noted no more than this
        of_split = f" on {best['split']}" if best["split"] else ""
        second = (
            f"Step {best['step']:,} has a mean IoU of {report.percent(best['miou'])} %{of_split}, "
            "the best in validation."
        )
    if scores:
        second = (
            f"Step {scores['step']:,} has a mean IoU of {report.percent(scores['miou'])} % on "
            f"{counted(scores['images'], 'image', grouped=True)} of {scores['split']}."
        )
    return markup.paragraph(f"{first} {second}")


def _restored(
    job: ReportConfig, run: RunDir, evaluation: Scored | None
) -> tuple[Model | None, str]:
    """Restores the checkpoint that was scored, or the newest one if none was.

    Returns:
      The checkpoint, set up as it was scored; None if it cannot be restored, with the reason.
    """
    wanted = str(evaluation.results["step"]) if evaluation else ""
    inference = evaluation.results["inference"] if evaluation else {}
    try:
        stride = inference.get("output_stride", "")
        loaded = loaded_run.load(
            run.path,
            checkpoint=wanted,
            output_stride=int(stride) if stride.isdecimal() else None,
        )
        if not evaluation:
            return Model(loaded, loaded.experiment), ""

        experiment = _as_scored(loaded.experiment, inference)
        if flags.inference_settings(experiment, loaded.model.config) != inference:
            again = scored.same_evaluation(
                run, evaluation.results, evaluation.folder, dataset_dir=job.dataset_dir
            )
            return None, (
                f"{files.shown(evaluation.folder)} was predicted with settings that this version "
                f"cannot repeat; score the checkpoint again: `{again}`."
            )
        return Model(loaded, experiment), ""
    except UserError as error:
        return None, str(error)


def _as_scored(experiment: Experiment, inference: dict[str, str]) -> Experiment:
    """Returns a run's settings, changed to what an evaluation predicted with."""
    fields = {
        field.name: field
        for group in (experiment.data, experiment.eval)
        for field in dataclasses.fields(group)
    }
    values = {}
    for name in flags.INFERENCE:
        if name in fields:
            # Settings without an effect are left out of results.json.
            known = name in inference
            field = fields[name]
            values[name] = flags.value_of(field, inference[name]) if known else field.default
    return flags.changed_by(experiment, values)


def _data(
    job: ReportConfig, run: RunDir, experiment: Experiment, info: catalog.DatasetInfo
) -> markup.Element:
    """Returns the section on the data; what the builder counted is read from the records."""
    folder = job.dataset_dir or experiment.data.dataset_dir
    problem = _why_not_its_records(job, folder, info)
    if problem:
        advice = "" if job.dataset_dir else "; --dataset_dir=FOLDER names the folder of the records"
        note = f"The shares of the classes are not known: {problem}{advice}."
        return made.data(run, experiment, info, {}, [note], [])

    problem, note = _compared(run, experiment.data.train_split, folder, info)
    if problem:
        return made.data(run, experiment, info, {}, [problem], [])

    notes = [note] if note else []
    splits = catalog.read_manifest(folder).get("splits", {})
    counts = {}
    for name, entry in splits.items():
        found = statistics.counts_of(entry)
        if found:
            counts[name] = found
        elif entry.get("labelled"):
            notes.append(
                f"The builder did not count the labels of {name}; "
                f"`{command('inspect_data', dataset_dir=folder)}` prints their shares."
            )
    samples = _samples(folder, [*splits])
    return made.data(run, experiment, info, counts, notes, samples)


def _why_not_its_records(job: ReportConfig, folder: str, info: catalog.DatasetInfo) -> str:
    """Returns why nothing is known about the records in a folder; "" if something is.

    Raises:
      UserError: if --dataset_dir is no folder, or holds records of other classes or images.
    """
    if not folder:
        return "the run names no folder of records"
    if job.dataset_dir and not Path(folder).is_dir():
        raise UserError(
            f"--dataset_dir={files.shown(folder)} is no folder; give the folder of the run's "
            "records, or leave it out."
        )
    path = Path(folder) / catalog.MANIFEST
    if not path.is_file():  # as for records of the official package
        return f"there is no {files.shown(path)}"
    described = catalog.from_json(catalog.read_manifest(folder), path)
    places = ("in the run", "in the records")
    for what, compare in (
        ("classes", catalog.first_difference),
        ("images", catalog.image_difference),
    ):
        difference = files.shown(compare(info, described, places=places))
        if difference and job.dataset_dir:
            raise UserError(
                f"The {what} in --dataset_dir={files.shown(folder)} differ from the run's: "
                f"{difference}; give the folder of the run's records, or leave it out."
            )
        if difference:
            return f"the records in {files.shown(folder)} have other {what}: {difference}"
    return ""


def _compared(run: RunDir, split: str, folder: str, info: catalog.DatasetInfo) -> tuple[str, str]:
    """Compares records with the records that a run was trained on.

    Returns:
      Why they differ, and a sentence for the case that nobody knows; usually both are empty.
    """
    shown = files.shown(folder)
    unknown = f"The run does not say which records it was trained on; these are from {shown}."
    if not run.trained_on():
        return "", unknown
    try:
        table = records.open_split(folder, split, info, labelled=False)
    except UserError as error:  # such a split is not there, or its shards are damaged
        return f"The records that the run was trained on are not shown: {error}", ""
    is_same = run.is_trained_on(table)
    if is_same is False:
        return (
            f"The records of {split} in {shown} are not those that the run was trained on: they "
            "were built again since, or belong to another run."
        ), ""
    return "", unknown if is_same is None else ""


def _samples(folder: str, splits: Sequence[str]) -> list[markup.Element]:
    """Returns the pages of samples that inspect_data wrote, or the command that does."""
    parts = []
    pages = Path(folder) / "inspection"
    built = (Path(folder) / catalog.MANIFEST).stat().st_mtime_ns
    again = command("inspect_data", dataset_dir=folder)
    for split in splits:
        try:
            path = files.path_below(pages, split, ".png", advice=f"`{again}` makes such pages")
            if not path.is_file():
                continue
            if path.stat().st_mtime_ns < built:
                sentence = f"{files.shown(path)} is older than the records. This command makes it:"
                parts.append(markup.missing(sentence, again))
                continue
            content = results.compact(decoding.open_image(decoding.read_file(path), path))
        except UserError as error:  # damaged, or no file can have the split's name
            sentence = f"There is no page of samples of {split}: {error} This command makes it:"
            parts.append(markup.missing(sentence, again))
            continue
        alternative = f"Samples of {split}: images, and with their labels painted over them"
        parts.append(markup.picture(content, alternative, alternative))
    if not parts:
        parts.append(
            markup.missing(
                "There is no page of sample images; this command makes it, and the report then "
                "shows it:",
                again,
            )
        )
    return parts


def _images(job: ReportConfig, evaluation: Scored, model: Model | None) -> markup.Element:
    """Returns the section on the best and the worst images, painted again by the same model."""
    groups = evaluation.extremes(job.num_images)
    chosen = [*groups[0], *groups[1]]
    painted: dict[int, results.Painted] = {}
    notes = []
    if model is None and chosen:
        notes.append(
            "There are no pictures, since the checkpoint that was scored cannot be restored; the "
            "section Model card says why."
        )
    elif model is not None and chosen:
        try:
            painted, notes = _painted(job, evaluation, model, chosen)
        except UserError as error:
            # The error may name flags that only eval has.
            notes = [
                f"There are no pictures. For these records, eval says: {error} Score the run again "
                "with eval; if the records were only moved, --dataset_dir=FOLDER names them."
            ]
    return results.images(evaluation, painted, notes, groups)


def _pictures(
    image: np.ndarray, labels: np.ndarray, truth: np.ndarray, info: catalog.DatasetInfo
) -> results.Painted:
    """Returns image, label, prediction, overlay and errors, each small enough to be mailed."""
    panels, legend = pictures.compared(
        image,
        labels,
        info.classes,
        truth=truth,
        ignore_label=info.ignore_label,
        error_map="red",
    )
    contents = {title: results.compact(pictures.panel(pixels)) for title, pixels in panels.items()}
    return results.Painted(contents, legend)


def _painted(
    job: ReportConfig, evaluation: Scored, model: Model, chosen: Sequence[ImageScore]
) -> tuple[dict[int, results.Painted], list[str]]:
    """Predicts and paints some images of the split that was scored.

    Returns:
      The pictures, by the images' numbers. If the images or their scores differ from the
      evaluation's, no pictures, and a sentence that says so.
    """
    scores, (loaded, experiment) = evaluation.results, model
    folder = job.dataset_dir or scores["dataset_dir"]
    info = loaded.dataset_at(folder)
    table = records.open_split(folder, scores["split"], info)
    checks = pipeline.checks_of(info)
    bad = find_bad(table, checks, most=scores.get("bad_records", 0), split=scores["split"])
    table = table.without(bad)
    if len(table) != scores["images"]:
        return {}, [_other_records(evaluation, folder)]

    by_place = sorted(chosen, key=lambda image: image.number)
    numbers = [image.number for image in by_place]
    few = table.without(np.setdiff1d(np.arange(len(table)), numbers))
    batches = pipeline.eval_batches(
        few,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        image_kind=info.image_kind,
    )
    predictor = build_predictor(loaded.model, experiment.data, experiment.eval, info.image_kind)
    painted = {}
    for place, (image, batch) in enumerate(zip(by_place, memory.trimmed(batches), strict=True)):
        pixels, truth = batch.images[0], batch.labels[0, ..., 0]
        # A record without a name is named after its number, and among these few it has another.
        is_named = files.shown(batch.names[0]) == image.name or batch.names[0] == f"record_{place}"
        valid = int((truth != info.ignore_label).sum())
        if not is_named or (*truth.shape, valid) != (image.height, image.width, image.valid_pixels):
            return {}, [_other_records(evaluation, folder)]

        labels = predictor.labels(batch.images).numpy()[0]
        matrix = metrics.confusion_matrix(
            truth, labels, num_classes=info.num_classes, ignore_label=info.ignore_label
        )
        again = metrics.scores(matrix.numpy()).miou
        if abs(again - image.miou) > _SAME_MIOU:
            return {}, [
                f"There are no pictures: {image.name} now gets an mIoU of "
                f"{report.percent(again)} %, and not the {report.percent(image.miou)} % of the "
                "evaluation; its checkpoint or its records have changed since. Score the run again."
            ]
        shown = info.image_kind.picture(pixels)
        painted[image.number] = _pictures(shown, labels, truth, info)
    return painted, []


def _other_records(evaluation: Scored, folder: str) -> str:
    return (
        f"There are no pictures: the records of {evaluation.results['split']} in "
        f"{files.shown(folder)} are not the ones that were scored. Score the run again, or name "
        "the folder of the scored records with --dataset_dir."
    )


def _card(run: RunDir, model: Model | None, problem: str) -> markup.Element:
    if model is None:
        sentence = f"There is no model card, since the checkpoint cannot be restored: {problem}"
        return markup.section("card", "Model card", markup.missing(sentence))

    loaded, experiment = model
    weights = sum(variable.shape.num_elements() for variable in loaded.model.trainable_variables)
    content = model_card.of_run(run, loaded, experiment)
    return card.section(content, loaded.info.image_kind, loaded.title, loaded.others, weights)

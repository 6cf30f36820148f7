"""Sections of the page on how a run was made: recipe, data, curves, how to make it again."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeplab_tf.config import Experiment, ModelConfig, flags
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.statistics import LabelCounts
from deeplab_tf.evaluation.report import percent
from deeplab_tf.messages import counted
from deeplab_tf.reporting import curves, markup
from deeplab_tf.reporting.commands import command
from deeplab_tf.reporting.markup import Element
from deeplab_tf.reporting.scored import Scored, same_evaluation
from deeplab_tf.runs.run_dir import RunDir

_TRAIN_PROGRAMS = ("train.py", "deeplab-train")


def recipe(experiment: Experiment) -> Element:
    """Returns the settings that are not the defaults, and all of them in a fold."""
    settings, defaults = flags.settings_of(experiment), _defaults(experiment.model)
    rows = [
        (f"--{name}", value, defaults[name] or "(empty)")
        for name, value in settings.items()
        if value != defaults[name] or name == "model_variant"
    ]
    return markup.section(
        "recipe",
        "Recipe",
        markup.paragraph(
            f"Of {len(settings)} settings, these are not the defaults of deeplab_tf for "
            f"{experiment.model.model_variant}."
        ),
        markup.table("Settings", ("setting", "value", "default"), rows, texts=True),
        markup.fold(
            f"All {len(settings)} settings", markup.preformatted(flags.flagfile_text(experiment))
        ),
    )


def _defaults(model: ModelConfig) -> dict[str, str]:
    """Returns all settings as they would be if only the network's kind were given.

    What follows from the model variant and the output stride is no choice of the run.
    """
    general = flags.settings_of(Experiment())
    of_kind = ModelConfig(model_variant=model.model_variant, output_stride=model.output_stride)
    own = {name: general[name] for name in ("model_variant", "output_stride")}
    return flags.settings_of(Experiment(model=of_kind)) | own


def data(
    run: RunDir,
    experiment: Experiment,
    info: DatasetInfo,
    counts: Mapping[str, LabelCounts],
    notes: Sequence[str],
    samples: Sequence[Element],
) -> Element:
    """Returns what the run was trained on: the splits, and the share of each class.

    Args:
      counts: of the splits of the records, by their names, as far as they were counted.
      notes: sentences about what is not known.
      samples: pictures of the records, if there are any.
    """
    settings, trained_on = experiment.data, run.trained_on()
    contents = trained_on.get("contents")
    validated_on = ", ".join(
        dict.fromkeys(entry["split"] for entry in run.metrics.entries() if entry.get("split"))
    )
    facts = [
        ("data set", info.name),
        ("records", settings.dataset_dir or "unknown"),
        ("classes", str(info.num_classes)),
        ("ignored label", str(info.ignore_label)),
        ("images trained on", f"{trained_on['images']:,}" if trained_on else "unknown"),
        *([("hash of their contents", contents)] if contents else []),
        *([("split trained on", settings.train_split)] if trained_on else []),
        *([("split validated on", validated_on)] if validated_on else []),
    ]
    heading = ["class"]
    for split in counts:
        heading += [f"{split}: pixels, %", f"{split}: images with it"]
    rows: list[list] = [[markup.swatch(one.name, one.color)] for one in info.classes]
    for labels in counts.values():
        total = max(int(labels.pixels.sum()), 1)
        for row, pixels, images in zip(rows, labels.pixels, labels.images, strict=True):
            row += [f"{100 * pixels / total:.3f}", f"{images:,}"]
    ignored = ", ".join(
        f"{100 * labels.ignored_share:.2f} % in {split}" for split, labels in counts.items()
    )
    return markup.section(
        "data",
        "Data",
        markup.table("Data set", ("what", "value"), facts, texts=True),
        markup.paragraph(f"Ignored pixels: {ignored}.") if counts else None,
        markup.table("Classes in the labels", heading, rows) if counts else None,
        *(markup.missing(note) for note in notes),
        *samples,
    )


def training(run: RunDir, experiment: Experiment, *, scoring: str) -> Element:
    """Returns the curves of losses, learning rate and mIoU that metrics.jsonl has.

    Args:
      scoring: the command that scores the run; "" if it has an evaluation.
    """
    entries = run.metrics.entries()
    train = experiment.train
    shown: list[Element] = []
    parts: list[Element] = []
    for key, name in (("loss", "Training loss"), ("learning_rate", "Learning rate")):
        points = _points(entries, key)
        others = sum(not math.isfinite(value) for _, value in points)
        if others < len(points):
            shown.append(curves.curve(name, points))
        if others:
            lines = counted(others, "line")
            parts.append(
                markup.missing(f"{name}: {lines} of metrics.jsonl without a finite number.")
            )
    if not shown and not parts:
        parts.append(_no_training(run, experiment))

    scores = [entry for entry in entries if entry.get("miou") is not None]
    for split in dict.fromkeys(entry.get("split") for entry in scores):
        of_split = [entry for entry in scores if entry.get("split") == split]
        # A resumed run may have validated a step twice; the last one counts, as in `best`.
        by_step = {entry["step"]: 100 * entry["miou"] for entry in of_split}
        shown.append(
            curves.curve(
                "mIoU in validation",
                sorted(by_step.items()),
                unit="%",
                of=f"split {split}" if split else "",
                marked=True,
            )
        )
    if scores:
        parts.append(_validations(run, scores))
    elif train.train_logdir:
        parts.append(_no_validation(run, experiment, scoring=scoring))
    together = markup.element("div", *shown, class_="curves") if shown else None
    return markup.section("training", "Training", together, *parts)


def _points(entries: Sequence[dict], key: str) -> list[curves.Point]:
    """Returns steps and values of a key by rising steps; NaN where training had no finite one."""
    values = {}
    for entry in entries:
        if "miou" not in entry:  # not of a validation, which may have no score
            value = entry.get(key)
            values[entry["step"]] = float(value) if isinstance(value, int | float) else math.nan
    return sorted(values.items())


def _no_training(run: RunDir, experiment: Experiment) -> Element:
    if not experiment.train.train_logdir:
        return markup.missing("The weights were imported, not trained here; there are no curves.")
    return markup.missing(
        f"{run.path / 'metrics.jsonl'} holds no losses: a line comes every "
        f"{counted(experiment.train.log_steps, 'step')} (--log_steps). This command makes the "
        "page again:",
        command("report", train_logdir=run.path),
    )


def _no_validation(run: RunDir, experiment: Experiment, *, scoring: str) -> Element:
    interval, best = experiment.train.eval_interval_steps, run.metrics.best()
    if best:  # as in a copy of only the checkpoints
        of_split = f" on {best['split']}" if best["split"] else ""
        sentence = (
            "metrics.jsonl holds no validation, so there is no curve of mIoU; by best.json, step "
            f"{best['step']:,} was the best, with {percent(best['miou'])} %{of_split}."
        )
    elif interval:
        sentence = (
            "There was no validation yet; the first one comes after "
            f"{counted(interval, 'step')} (--eval_interval_steps)."
        )
    else:
        sentence = (
            "The run was not validated during training (--eval_interval_steps=0), so there is no "
            "curve of mIoU, and which checkpoint is best is not known. A training with "
            "--eval_interval_steps=-1 is validated twenty times."
        )
    if not scoring:
        return markup.missing(sentence)
    return markup.missing(f"{sentence} This command scores the newest checkpoint:", scoring)


def _validations(run: RunDir, scores: Sequence[dict]) -> Element:
    best = run.metrics.best()
    rows = []
    for entry in scores:
        is_best = entry["step"] == best["step"] and entry.get("split") == best["split"]
        kept = entry["step"] in run.checkpoints.steps()
        remarks = ["best"] * is_best + ["checkpoint kept"] * kept
        rows.append(
            (
                f"{entry['step']:,}",
                entry.get("split") or "",
                percent(entry["miou"]),
                ", ".join(remarks),
            )
        )
    heading = ("step", "split", "mIoU, %", "")
    return markup.fold(
        f"All {counted(len(rows), 'validation')}", markup.table("Validations", heading, rows)
    )


def again(
    run: RunDir, experiment: Experiment, scored: Scored | None, report_command: str
) -> Element:
    """Returns how the run, its scores and this page can be made again."""
    found = run.environment()
    parts = [_versions(found)] if found else []
    recipe_command = command(
        "train",
        flagfile="recipe.flags",
        dataset_dir=experiment.data.dataset_dir or "RECORDS",
        train_logdir="NEW_RUN",
    )
    if experiment.train.train_logdir:
        parts += [
            markup.paragraph(
                "Training, from the recipe: save the text under All settings as recipe.flags. "
                "Later flags replace its paths."
            ),
            markup.preformatted(recipe_command),
        ]
        started = found.get("command") or [""]
        if Path(started[0]).name in _TRAIN_PROGRAMS:
            parts += [
                markup.paragraph("The command that last started or continued it:"),
                markup.preformatted(f"python -m deeplab_tf.train {shlex.join(started[1:])}"),
            ]
    else:
        parts.append(
            markup.missing("The weights were imported; docs/weights.md has the commands for that.")
        )
    if scored:
        parts += [
            markup.paragraph("Scores:"),
            markup.preformatted(same_evaluation(run, scored.results, scored.folder)),
        ]
    parts += [markup.paragraph("This page:"), markup.preformatted(report_command)]
    return markup.section("again", "How to make it again", *parts)


def _versions(found: Mapping) -> Element:
    """Returns the environment that the run was last trained in."""
    names = ("deeplab_tf", "git_commit", "tensorflow", "python", "platform", "cpu_cores")
    rows = [(name, str(found[name])) for name in names if found.get(name)]
    devices = ", ".join(map(str, found.get("devices") or ()))
    return markup.table(
        "Trained with", ("what", "version"), [*rows, ("devices", devices)], texts=True
    )

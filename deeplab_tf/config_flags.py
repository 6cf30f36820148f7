"""The only bridge between settings and absl: dataclass -> flags -> dataclass -> flagfile text.

An entry point is two functions: `main(settings)` does the work and may import TensorFlow;
`run()` calls `config_flags.run(main, ...)`, which parses flags first. So `--help` and a
mistyped flag answer at once.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from deeplab_tf.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    UserError,
    groups,
)

FLAGS = flags.FLAGS
# TensorFlow's errors (not imported here) of damaged files, full disks and full memory, not of bugs.
_OUTSIDE_FAULTS = ("DataLossError", "PermissionDeniedError", "ResourceExhaustedError")
# Settings that decide how much memory a step needs.
_MEMORY = ("train_batch_size", "gradient_accumulation_steps", "recompute_stages")

# Settings of a run that whoever predicts with it may override; the rest is as trained.
INFERENCE = (
    "output_stride",
    "min_resize_value",
    "max_resize_value",
    "eval_scales",
    "add_flipped_images",
    "inference_mode",
    "eval_crop_size",
    "eval_crop_stride",
)


def run(
    main: Callable, settings: list[type], description: str, *, overrides: Sequence[str] = ()
) -> None:
    """Parses the command line into `settings` and calls `main` with one object for each.

    Prints one sentence and exits with status 1 for a mistake the user can mend.

    Args:
      overrides: names of settings stored in a run's folder for which flags are defined too; main
        asks for them with `with_overrides` and `given`.
    """
    module = sys.modules[main.__module__]
    program = f"python -m {module.__spec__.name}" if module.__spec__ else sys.argv[0]
    stored = (field for kind in (ModelConfig, DataConfig, EvalConfig) for field in fields(kind))
    of_a_run = [field for field in stored if field.name in overrides]

    def call(_):
        try:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else each start prints a page
            logging.set_verbosity(logging.WARNING)
            main(*[read(kind) for kind in settings])
        except (UserError, OSError) as error:
            sys.exit(f"{program}: {error}")
        except KeyboardInterrupt:
            print(f"{program}: interrupted.", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if type(error).__name__ not in _OUTSIDE_FAULTS:
                raise
            sys.exit(f"{program}: {_sentence(error)}")

    _define([*(field for kind in settings for field in fields(kind)), *of_a_run])
    help_text = _help(program, settings, of_a_run, description)
    app.run(call, flags_parser=lambda argv: _parse(argv, program, help_text))


def _sentence(error: Exception) -> str:
    """Returns an outside fault's message in one sentence."""
    text = str(error)
    wanted = re.search(r"OOM when allocating tensor with shape(\[[\d,]*\])", text)
    if not wanted:
        return text.splitlines()[0]
    deciding = ", ".join(f"--{name}" for name in _MEMORY if name in FLAGS)
    return f"out of memory at a tensor of shape {wanted[1]}" + (
        f"; {deciding} decide how much a step needs." if deciding else "."
    )


def _define(settings: Iterable[dataclasses.Field]) -> None:
    for field in settings:
        if field.name in FLAGS:
            continue  # a second entry point in the same process, as in tests
        if isinstance(field.default, bool):
            flags.DEFINE_boolean(field.name, field.default, field.metadata["help"])
        else:
            flags.DEFINE(
                _SettingParser(field),
                field.name,
                field.default,
                field.metadata["help"],
                serializer=_SettingSerializer(),
            )


def read(kind: type) -> Any:
    """Builds a settings group from the parsed flags."""
    return kind(**{field.name: getattr(FLAGS, field.name) for field in fields(kind)})


def given(name: str) -> Any:
    """Returns the value that the command line or a flagfile gave to a flag, else None."""
    return getattr(FLAGS, name) if name in FLAGS and FLAGS[name].present else None


def with_overrides(experiment: Experiment) -> Experiment:
    """Returns a run's settings with the data and evaluation settings the command line gave."""
    changed = {}
    for section in ("data", "eval"):
        group = getattr(experiment, section)
        values = {field.name: given(field.name) for field in fields(group)}
        values = {name: value for name, value in values.items() if value is not None}
        changed[section] = dataclasses.replace(group, **values)
    return dataclasses.replace(experiment, **changed)


def text_of(value: Any) -> str:
    """Returns a setting's value as it stands in a flagfile."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    return str(value)


def value_of(field: dataclasses.Field, text: str) -> Any:
    """Parses a setting's flagfile text; the inverse of `text_of`.

    Raises:
      UserError: if the text is not a value of the setting's type.
    """
    kind: Any = type(field.default)
    name = field.name
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
        if kind is tuple:
            number = float if "float" in str(field.type) else int
            return tuple(number(part) for part in text.split(",") if part.strip())
        return kind(text)
    except (KeyError, ValueError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        allowed = kinds.get(kind, "numbers joined by commas")
        raise UserError(f"--{name}={text} is not possible; allowed: {allowed}.") from None


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Returns one line for each setting that differs and must not change when a run resumes."""
    lines = []
    for before, after in zip(groups(old), groups(new), strict=True):
        for field in dataclasses.fields(before):  # type: ignore[arg-type]
            was, now = getattr(before, field.name), getattr(after, field.name)
            if was != now and not field.metadata["may_change"]:
                lines.append(f"--{field.name}: {text_of(was)} -> {text_of(now)}")
    return lines


def flagfile_text(experiment: Experiment) -> str:
    """Returns the experiment as a flagfile, one setting a line."""
    lines = ["# Written by deeplab_tf: the settings of this run."]
    lines += [f"--{name}={text}" for name, text in settings_of(experiment).items()]
    return "\n".join(lines) + "\n"


def settings_of(experiment: Experiment) -> dict[str, str]:
    """Returns all settings by name, as they stand in a flagfile."""
    return {
        field.name: text_of(getattr(group, field.name))
        for group in groups(experiment)
        for field in fields(group)  # type: ignore[arg-type]
    }


def inference_settings(experiment: Experiment, model: ModelConfig) -> dict[str, str]:
    """Returns the settings that decide which labels a checkpoint gives an image.

    Args:
      experiment: the run's settings with the command line's changes.
      model: the network as it was built, which may have another output stride.
    """
    values = settings_of(dataclasses.replace(experiment, model=model))
    found = {name: values[name] for name in INFERENCE}
    found["atrous_rates"] = text_of(model.aspp_rates())
    if experiment.eval.inference_mode == "whole":  # windows that are not used
        del found["eval_crop_size"], found["eval_crop_stride"]
    return found


def parse_flagfile(path: Path) -> Experiment:
    """Reads an experiment.flags back without touching absl's flags.

    Raises:
      UserError: if a line is not a known setting.
    """
    texts = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, text = line.strip().removeprefix("--").partition("=")
            texts[name] = text
    sections = {}
    for section in fields(Experiment):
        values = {}
        for field in fields(section.type):  # type: ignore[arg-type]
            if field.name in texts:
                values[field.name] = value_of(field, texts.pop(field.name))
        sections[section.name] = section.type(**values)  # type: ignore[operator]
    if texts:
        raise UserError(
            f"{path} holds settings this version does not know: {', '.join(sorted(texts))}; "
            "it was written by another version of deeplab_tf."
        )
    return Experiment(**sections)


class _SettingParser(flags.ArgumentParser):
    def __init__(self, field):
        super().__init__()
        self._field = field
        self.syntactic_help = ""

    def parse(self, argument):
        return argument if not isinstance(argument, str) else value_of(self._field, argument)

    def flag_type(self):
        return type(self._field.default).__name__


class _SettingSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return text_of(value)


def _parse(argv: list[str], program: str, help_text: str) -> list[str]:
    if any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv[1:]):
        print(help_text)
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except (flags.Error, UserError) as error:
        sys.exit(f"{program}: {str(error).strip()} See {program} --help.")
    if len(rest) > 1:
        sys.exit(f"{program}: {rest[1]!r} is not a flag; settings are given as --name=value.")
    return rest


def _help(
    program: str, settings: list[type], of_a_run: list[dataclasses.Field], description: str
) -> str:
    def describe(field, default):
        choices = field.metadata["choices"]
        limits = f" One of: {', '.join(map(str, choices))}." if choices else ""
        shown = f" [{default}]" if default else ""
        return f"  --{field.name}{shown}\n      {field.metadata['help']}{limits}"

    lines = [description, "", f"usage: {program} [--flagfile=FILE] [--name=value ...]"]
    for kind in settings:
        lines += ["", (kind.__doc__ or kind.__name__).strip().splitlines()[0]]
        lines += [describe(field, text_of(field.default)) for field in fields(kind)]
    if of_a_run:
        lines += ["", "In place of the run's own settings:"]
        lines += [describe(field, "as in the run") for field in of_a_run]
    return "\n".join(lines)

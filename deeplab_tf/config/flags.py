"""The only bridge between settings and flags: dataclass -> flags -> dataclass -> flagfile text.

An entry point is two functions. `main(settings)` starts the work, which imports TensorFlow. `run()`
calls `flags.run(main, ...)`, which parses the flags first, so `--help` and mistyped flags are
answered at once. Flags belong to one call of `run`: the next call in the same process does not see
them.
"""

import contextlib
import contextvars
import dataclasses
import errno
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from logging import getLogger
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from deeplab_tf import files
from deeplab_tf.config import (
    backbones,
    cells,
    command_line,
    earlier_versions,
    official_flags,
)
from deeplab_tf.config.command_line import Given
from deeplab_tf.config.data import DataConfig
from deeplab_tf.config.evaluation import EvalConfig
from deeplab_tf.config.experiment import Experiment, groups
from deeplab_tf.config.loss import LossConfig
from deeplab_tf.config.model import ModelConfig
from deeplab_tf.config.setting import (
    Config,
    allowed_of,
    is_list,
    part_type,
    require,
    type_of,
    without_effect,
)
from deeplab_tf.messages import UserError, shortened
from deeplab_tf.startup import legacy_keras, quiet_start

# Errors of TensorFlow that are not bugs: damaged files, forbidden or full disks, full memory. Given
# by name, since TensorFlow is not imported here.
_OUTSIDE_FAULTS = ("DataLossError", "PermissionDeniedError", "ResourceExhaustedError")
# Settings that decide how much memory a step needs; `_sentence` names them.
_MEMORY = ("train_batch_size", "gradient_accumulation_steps", "recompute_stages")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_WRITTEN = "# Written by deeplab_tf: the settings of this run."
_WHOLE_FLOAT = re.compile(r"-?\d+\.0*")
_CLOSED_PIPE = 141  # exit status that shells report for a program ended by SIGPIPE: 128 + 13

# Settings of a run that may be overridden when predicting with it; all others stay as trained.
INFERENCE = (
    "output_stride",
    "min_resize_value",
    "max_resize_value",
    "resize_factor",
    "eval_scales",
    "add_flipped_images",
    "inference_mode",
    "eval_crop_size",
    "eval_size_divisor",
    "eval_crop_stride",
    "window_blending",
)

# Settings of a run that may be given once more when predicting with it, as the official programs
# need them; they must be the run's.
REPEATED = (
    *(field.name for field in fields(ModelConfig) if field.name not in INFERENCE),
    "label_weights",
    "dataset",
)


@dataclass(frozen=True)
class Flags:
    """The flags of one job.

    Attributes:
      values: every setting's value by name, given or default.
      given: names of the settings given on the command line or in a flagfile.
      typed: names of the settings given on the command line itself.
      overrides: names of the stored settings of a run that may be replaced.
    """

    values: dict[str, Any]
    given: frozenset[str]
    typed: frozenset[str]
    overrides: frozenset[str] = frozenset()

    def read(self, kind: type) -> Any:
        """Builds a settings group."""
        return kind(**{field.name: self.values[field.name] for field in fields(kind)})


_NONE = Flags({}, frozenset(), frozenset())
_current: contextvars.ContextVar[Flags] = contextvars.ContextVar("flags", default=_NONE)


def run(
    main: Callable,
    settings: list[type],
    description: str,
    *,
    overrides: Sequence[str] = (),
    repeated: Sequence[str] = (),
    official: str = "",
    instead: Mapping[str, str] | None = None,
) -> None:
    """Parses the command line into `settings` and calls `main` with one object for each of them.

    For a mistake that the user can mend, prints one sentence and exits with status 1.

    Args:
      overrides: names of a run's stored settings that become flags too; `main` reads them with
        `with_overrides` and `given`.
      repeated: names of a run's stored settings that may be given too, but must be the run's; see
        `require_equal`.
      official: the official program whose flags are answered too, a key of
        `official_flags.PROGRAMS`.
      instead: for flags that people expect but this program does not have: the flag's name -> a
        sentence on what to do instead.
    """
    module = sys.modules[main.__module__]
    program = f"python -m {module.__spec__.name}" if module.__spec__ else sys.argv[0]

    def call(_):
        try:
            quiet_start.hide_start_up_lines()
            # TensorFlow leaves oneDNN off on CPUs without AVX-512. It is faster there too, and
            # direct atrous convolutions cannot be trained without it.
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
            legacy_keras.require()

            job = _current.get()
            groups_of_job = [job.read(kind) for kind in settings]
            _require_effect(groups_of_job)
            main(*groups_of_job)
        except (UserError, OSError) as error:
            # Our own output is closed: `_quiet_if_unread` ends the program. A broken pipe
            # elsewhere, such as to a worker process, is an error like any other.
            is_unread = _is_closed(sys.stdout) or _is_closed(sys.stderr)
            if isinstance(error, BrokenPipeError) and is_unread:
                raise
            sys.exit(f"{program}: {_sentence_of(error)}")
        except KeyboardInterrupt:
            print(f"{program}: interrupted.", file=sys.stderr)
            sys.exit(130)  # what shells report for a program ended by SIGINT: 128 + 2
        except Exception as error:
            if type(error).__name__ not in _OUTSIDE_FAULTS:
                raise
            sys.exit(f"{program}: {_sentence(error)}")

    def parse_all(argv: list[str]) -> list[str]:
        try:
            if any(argument in _HELP for argument in argv[1:]):
                with contextlib.suppress(BrokenPipeError):  # as in `--help | head`
                    print(_help(program, settings, overrides, repeated, description))
                sys.exit(0)
            _current.set(
                parse(
                    argv[1:],
                    settings,
                    overrides=overrides,
                    repeated=repeated,
                    official=official,
                    instead=instead,
                )
            )
        except (flags.Error, UserError) as error:
            sys.exit(f"{program}: {str(error).strip()} See {program} --help.")
        except OSError as error:  # the disk that the help is written to is full
            sys.exit(f"{program}: {_sentence_of(error)}")
        return argv[:1]

    _occupy_standard_streams()
    before = _current.set(_NONE)
    try:
        with _absl_restored(), _quiet_if_unread(program):
            logging.set_verbosity(logging.WARNING)
            app.run(call, flags_parser=parse_all)
    finally:
        _current.reset(before)


def _occupy_standard_streams() -> None:
    """Opens /dev/null in place of standard streams that the program was started without (`2>&-`).

    Otherwise the next file that is opened gets their number, and TensorFlow writes its log into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


@contextlib.contextmanager
def _absl_restored() -> Iterator[None]:
    """Restores absl's global state at the end: its flags (--verbosity, ...) and log handlers."""
    before = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    verbosity = logging.get_verbosity()
    root = getLogger()
    handlers, level = list(root.handlers), root.level

    try:
        yield
    finally:
        for name, value in before.items():
            if flags.FLAGS[name].value != value:
                flags.FLAGS[name].value = value
        logging.set_verbosity(verbosity)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _quiet_if_unread(program: str) -> Iterator[None]:
    """Ends the program without a traceback when nobody reads its output (`... | head -1`)."""
    try:
        yield
    except BrokenPipeError:  # of the program's own output only: see `call` in `run`
        _write_out()
        print(f"{program}: stopped, because nothing reads its output any more.", file=sys.stderr)
        sys.exit(_CLOSED_PIPE)
    except SystemExit as end:  # app.run always ends so, also after success
        # Only the last lines can still be unwritten: earlier ones would have failed before.
        fault = _write_out()
        if fault and not end.code:
            sys.exit(f"{program}: its output could not be written: {fault}")
        raise


def _write_out() -> OSError | None:
    """Flushes stdout; returns the error if that fails for any reason but a closed pipe.

    If this were left to Python, a failing flush at exit would print a traceback. For the same
    reason, streams that nobody reads are redirected to /dev/null, stderr included.
    """
    if _is_closed(sys.stderr):
        _send_to_null(sys.stderr)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return None
    except OSError as error:
        _send_to_null(sys.stdout)
        return None if isinstance(error, BrokenPipeError) else error


def _is_closed(stream: Any) -> bool:
    """Returns whether a stream is a pipe that nobody reads."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, AttributeError):  # a notebook's stream is no file; a closed one may be None
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _send_to_null(stream: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def parse(
    arguments: Sequence[str],
    settings: Iterable[type],
    *,
    overrides: Sequence[str] = (),
    repeated: Sequence[str] = (),
    official: str = "",
    instead: Mapping[str, str] | None = None,
) -> Flags:
    """Parses a command line: flags of the settings groups and of a run, and absl's own flags.

    Args:
      arguments: the command line without the program's name.
      overrides, repeated, official, instead: as in `run`.
    Raises:
      UserError: if a flag is unknown, a value has the wrong type, or a flag that takes one value
        is given twice in the same place.
    """
    known = {field.name: field for field in _fields_of(settings, (*overrides, *repeated))}
    of_absl = {
        name: flags.FLAGS[name].boolean
        for name in flags.FLAGS
        if name not in known and not name.startswith(("help", "?"))
    }
    switches = of_absl | {name: _is_switch(field) for name, field in known.items()}

    values = {name: field.default for name, field in known.items()}
    given: set[str] = set()
    typed: set[str] = set()
    answers = official_flags.of_program(official) if official else {}
    for layer in command_line.read(arguments, switches, instead=instead, official=answers):
        flags_of_settings = [flag for flag in layer if flag.name in known]
        values_of_layer = _values_of_layer(flags_of_settings, known, _given_value)
        values |= values_of_layer
        given |= set(values_of_layer)
        typed = set(values_of_layer)  # the last layer is the command line itself
        flags.FLAGS(["", *(f"--{flag.name}={flag.text}" for flag in layer if flag.name in of_absl)])
    return Flags(values, frozenset(given), frozenset(typed), frozenset(overrides))


def _require_effect(job: Sequence[Config]) -> None:
    """Raises UserError if the command line gives a setting that has no effect.

    In a flagfile, settings of a run may be without effect: recipes are made to be varied, and
    `overview` says at the start of training which settings have no effect then.
    """
    stored = settings_of(Experiment())
    for name, lacking in without_effect(job).items():
        is_refused = name in _current.get().typed if name in stored else True
        if is_refused:
            value = next(getattr(group, name) for group in job if hasattr(group, name))
            raise UserError(
                f"--{name}={text_of(value)} has no effect without {lacking}; give that too, or "
                f"leave --{name} out."
            )


def _sentence(error: Exception) -> str:
    """Returns the message of one of _OUTSIDE_FAULTS as one sentence."""
    text = str(error)
    tensor = re.search(r"OOM when allocating tensor with shape(\[[\d,]*\])", text)
    if not tensor:
        # TensorFlow's file system reports an error of the system as "PATH; its text".
        line = text.splitlines()[0]
        place, _, reason = line.rpartition("; ")
        numbers = {os.strerror(number): number for number in errno.errorcode}
        if place and reason in numbers:
            return _sentence_of(OSError(numbers[reason], reason, place))
        return line

    deciding = ", ".join(f"--{name}" for name in _MEMORY if name in _current.get().values)
    return f"out of memory at a tensor of shape {tensor[1]}" + (
        f"; {deciding} decide how much a step needs." if deciding else "."
    )


def _sentence_of(error: Exception) -> str:
    """Returns the message of a UserError, or that of an OSError as one sentence."""
    if not isinstance(error, OSError) or not error.strerror or not error.filename:
        return str(error)
    place = files.shown(error.filename)
    if error.errno in _FULL:
        return f"{place} could not be written: {error.strerror}; make room, or write elsewhere."
    return f"{place} could not be read or written: {error.strerror}."


def _fields_of(settings: Iterable[type], overrides: Sequence[str]) -> list[dataclasses.Field]:
    """Returns the settings that become flags: all of `settings`, then the overridden ones."""
    fields_of_groups = [field for kind in settings for field in fields(kind)]
    return fields_of_groups + _of_a_run(overrides)


def _of_a_run(overrides: Sequence[str]) -> list[dataclasses.Field]:
    """Returns the stored settings of a run that have these names."""
    kinds = (ModelConfig, DataConfig, EvalConfig, LossConfig)
    stored = (field for kind in kinds for field in fields(kind))
    return [field for field in stored if field.name in overrides]


def _is_switch(field: dataclasses.Field) -> bool:
    return type_of(field) is bool


def _values_of_layer(
    layer: Iterable[Given],
    known: Mapping[str, dataclasses.Field],
    parse_text: Callable[[dataclasses.Field, str], Any],
) -> dict[str, Any]:
    """Returns the values given in one layer: a flagfile, or the command line.

    The values of a list that is given several times are joined.

    Args:
      parse_text: parses the text of a setting's value.
    Raises:
      UserError: if a value has the wrong type, or a setting that takes one value is given twice.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for flag in layer:
        field = known[flag.name]
        if flag.name in texts and not is_list(field):
            raise flag.error(
                f"--{flag.name} is given twice, as {shortened(repr(texts[flag.name]))} and as "
                f"{shortened(repr(flag.text))}, but takes one value; leave one of them out."
            )

        text = flag.value()
        try:
            value = parse_text(field, text)
        except UserError as error:
            raise flag.error(str(error)) from None

        # --name= clears what was given before it.
        adds_up = is_list(field) and text and flag.name in values
        values[flag.name] = values[flag.name] + value if adds_up else value
        texts[flag.name] = text
    return values


def _given_value(field: dataclasses.Field, text: str) -> Any:
    """Parses a value that a person typed; a comma in it may belong to the name of a file."""
    value = value_of(field, text)
    if is_list(field) and part_type(field) is str:
        if field.metadata["names"] == "paths":
            return command_line.whole_paths(value, flag=field.name)
        if field.metadata["names"] == "named_files":
            return command_line.named_files(value)
        return tuple(part.strip() for part in value)
    return value


def given(name: str) -> Any:
    """Returns the value of a flag that the command line or a flagfile gave, else None."""
    job = _current.get()
    return job.values[name] if name in job.given else None


def with_overrides(experiment: Experiment, *jobs: Config) -> Experiment:
    """Returns a run's settings with the data and evaluation settings that were given as flags.

    Args:
      jobs: the program's own settings, if those may give one of these an effect.
    Raises:
      UserError: if the command line gave a setting that has no effect.
    """
    values = {name: given(name) for name in _current.get().overrides}
    changed = changed_by(experiment, {name: v for name, v in values.items() if v is not None})
    _require_effect([changed.data, changed.eval, *jobs])
    return changed


def changed_by(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Returns a run's settings, some of them in the groups data and eval replaced.

    Args:
      values: new values by the names of the settings; other groups' settings have no effect here.
    Raises:
      UserError: if a value is not allowed.
    """
    mode = experiment.eval.inference_mode
    if values.get("inference_mode", mode) != mode:
        # A window's size is none to pad images to, nor the other way round.
        values = {"eval_crop_size": (), "eval_crop_stride": ()} | dict(values)

    changed = {}
    for section in ("data", "eval"):
        group = getattr(experiment, section)
        names = {field.name for field in fields(group)} & values.keys()
        changed[section] = dataclasses.replace(group, **{name: values[name] for name in names})
    return dataclasses.replace(experiment, **changed)


def require_equal(experiment: Experiment, model: ModelConfig, *, where: str) -> None:
    """Checks the settings of a run that were given once more.

    Args:
      experiment: the run's settings.
      model: the settings of the network as it was built, possibly at another output stride.
      where: the run's folder, for the error.
    Raises:
      UserError: if one of them is not the run's.
    """
    at_stride = f" at output stride {model.output_stride}"
    for group in (model, experiment.train):
        for field in fields(group):
            name = field.name
            asked = given(name) if name in REPEATED else None
            if asked in (None, ""):  # left open, as the run's is filled in
                continue
            trained = getattr(group, name)
            if not _is_equal(name, asked, trained, model):
                at = at_stride if name in ("atrous_rates", "multi_grid") else ""
                raise UserError(
                    f"--{name}={shortened(text_of(asked))} is not how {files.shown(where)} was "
                    f"trained: it has --{name}={shortened(text_of(trained))}{at}; give "
                    f"that, or leave --{name} out."
                )


def _is_equal(name: str, asked: Any, trained: Any, model: ModelConfig) -> bool:
    """Whether two values of a setting mean the same in the network `model`."""
    if name == "dense_prediction_cell_json":
        return cells.canonical(asked) == trained
    if name == "multi_grid":  # empty means that all are 1
        length = max(len(asked), len(trained))
        return (asked or (1,) * length) == (trained or (1,) * length)
    if name == "divisible_by":
        own = 8 if model.depth_multiplier == 1 else 1
        return (asked or own) == (trained or own)
    return asked == trained


def tell_departures(program: str, variant: str, *groups: Any, **values: Any) -> None:
    """Prints where a program works with other values than the official one would by default.

    Prints nothing for networks that follow other conventions than Google's.

    Args:
      program: a key of `official_flags.PROGRAMS`.
      variant: the model variant.
      groups, values: the settings that the program uses; later ones replace earlier ones.
    """
    if not backbones.is_official(variant):
        return
    used: dict[str, Any] = {}
    for group in groups:
        used |= {field.name: getattr(group, field.name) for field in fields(group)}
    phrases = official_flags.departures(program, used | values, _current.get().given)
    if phrases:
        print(f"Other than in research/deeplab: {'; '.join(phrases)}.", flush=True)


def text_of(value: Any) -> str:
    """Returns a setting's value as it is written in a flagfile."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return command_line.join_parts([text_of(part) for part in value])
    return str(value)


def value_of(field: dataclasses.Field, text: str) -> Any:
    """Parses a setting's flagfile text; the inverse of `text_of`.

    Raises:
      UserError: if the text is not a value of the setting's type.
    """
    kind: Any = type_of(field)
    with contextlib.suppress(KeyError, ValueError):
        if kind is bool:
            return official_flags.SWITCH_TEXTS[text.strip().lower()]
        if kind is tuple:
            return tuple(map(part_type(field), command_line.split_parts(text)))
        if kind is int and _WHOLE_FLOAT.fullmatch(text.strip()):
            return int(float(text))  # such as official DeepLab's --decay_steps=0.0
        return kind(text)

    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    parts = "whole numbers" if is_list(field) and part_type(field) is int else "numbers"
    allowed = kinds.get(kind, f"{parts}, joined by commas or given one by one")
    require(False, field.name, text, allowed)


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
    """Returns the experiment as the text of a flagfile, one setting per line."""
    lines = [_WRITTEN]
    lines += [f"--{name}={text}" for name, text in settings_of(experiment).items()]
    return "\n".join(lines) + "\n"


def settings_of(experiment: Experiment) -> dict[str, str]:
    """Returns all settings by name, as they are written in a flagfile."""
    return {
        field.name: text_of(getattr(group, field.name))
        for group in groups(experiment)
        for field in fields(group)  # type: ignore[arg-type]
    }


def inference_settings(experiment: Experiment, model: ModelConfig) -> dict[str, str]:
    """Returns the settings that decide which labels a checkpoint gives to an image.

    Args:
      experiment: the run's settings, with the changes of the command line.
      model: the settings of the network as it was built, possibly at another output stride.
    """
    values = settings_of(dataclasses.replace(experiment, model=model))
    deciding = {name: values[name] for name in INFERENCE}
    deciding["atrous_rates"] = values["atrous_rates"]

    # Settings without effect are left out, as in files of earlier versions.
    if experiment.eval.inference_mode == "whole":
        del deciding["eval_crop_stride"]
        if not experiment.eval.eval_crop_size:
            del deciding["eval_crop_size"]
    if not experiment.data.resize_factor:
        del deciding["resize_factor"]
    if experiment.eval.window_blending == "none":
        del deciding["window_blending"]
    if not experiment.eval.eval_size_divisor:
        del deciding["eval_size_divisor"]
    return deciding


def parse_flagfile(path: Path) -> Experiment:
    """Reads an experiment.flags.

    Raises:
      UserError: if a line is not a known setting.
    """
    sections: dict[str, Any] = {section.name: section.type for section in fields(Experiment)}
    known = {field.name: field for kind in sections.values() for field in fields(kind)}

    layer = []
    lines = command_line.lines_of(path)
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            layer.append(command_line.flag_of(line.lstrip(), f"{path}, line {number}"))

    unknown = sorted({flag.name for flag in layer} - set(known))
    if unknown:
        raise UserError(
            f"{path} holds settings that this version does not know: {', '.join(unknown)}; "
            "another version of deeplab_tf wrote it."
        )

    values = _values_of_layer(layer, known, value_of)
    given_to = {
        name: {field.name: values[field.name] for field in fields(kind) if field.name in values}
        for name, kind in sections.items()
    }
    if _WRITTEN in lines:  # else a person has written it, who means what the settings mean now
        given_to["eval"] = earlier_versions.upgraded_evaluation(given_to["eval"], given_to["model"])
        given_to["model"] = earlier_versions.upgraded(given_to["model"])
        given_to["train"] = earlier_versions.upgraded_training(given_to["train"])
    return Experiment(**{name: kind(**given_to[name]) for name, kind in sections.items()})


def _default_of(field: dataclasses.Field) -> str:
    """Returns the default of a setting as --help shows it."""
    return field.metadata["open"] if field.default is None else text_of(field.default)


def _by_group(kind: type) -> Iterator[tuple[type, list[dataclasses.Field]]]:
    """Yields a settings group and its base groups, each with the fields that it adds itself."""
    for group in kind.__mro__:
        names = vars(group).get("__annotations__", {})
        added = [field for field in fields(kind) if field.name in names]
        if added:
            yield group, added


def _help(
    program: str,
    settings: list[type],
    overrides: Sequence[str],
    repeated: Sequence[str],
    description: str,
) -> str:
    """Returns the text of --help: each group with the first line of its docstring as heading."""

    def describe(field, default):
        choices = field.metadata["choices"]
        limits = f" Allowed: {allowed_of(choices)}." if choices else ""
        shown = f" [{default}]" if default else ""
        return f"  --{field.name}{shown}\n      {field.metadata['help']}{limits}"

    lines = [description, "", f"usage: {program} [--flagfile=FILE] [--name=value ...]"]
    if any(is_list(field) for field in _fields_of(settings, overrides)):
        lines += ["Give a list as --name=1,2 or by repeating the flag."]

    for kind in settings:
        for group, added in _by_group(kind):
            lines += ["", (group.__doc__ or group.__name__).strip().splitlines()[0]]
            lines += [describe(field, _default_of(field)) for field in added]

    if overrides:
        lines += ["", "These replace the settings stored in the run:"]
        lines += [describe(field, "as in the run") for field in _of_a_run(overrides)]
    if repeated:
        lines += ["", "These may be given too, but must be as in the run:"]
        lines += [f"  --{field.name}" for field in _of_a_run(repeated)]
    return "\n".join(lines)

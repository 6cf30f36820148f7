"""All settings of all programs: what a repeated flag means, and that one job is not another's."""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from absl import logging

from deeplab_tf.config import (
    Config,
    DataConfig,
    EvalConfig,
    Experiment,
    TrainConfig,
    flags,
    groups,
    setting,
)
from deeplab_tf.config.setting import is_list, part_type, type_of
from deeplab_tf.messages import UserError

ROOT = Path(__file__).parents[2]
FOLDERS = ("deeplab_tf", "datasets", "benchmarks")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in ROOT.glob(f"{folder}/**/*.py")
    if ".venv" not in path.parts  # of the benchmarks' peers
)


def modules_with(text):
    """Imports the modules whose source holds a text."""
    for path in SOURCES:
        if text in path.read_text():
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield importlib.import_module(name)


def groups_of(module):
    """Returns the settings groups that a module defines."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__]
    return [kind for kind in own if issubclass(kind, Config)]


def programs():
    """Returns what each program gives to `flags.run`, which is not run."""
    calls = []

    def run(main, settings, description, **others):
        calls.append({"settings": settings, "overrides": (), **others})

    found = {}
    # A program may prepare its own process.
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.setattr(flags, "run", run)
        for module in modules_with("    flags.run("):
            if hasattr(module, "run"):
                module.run()
            else:  # a benchmark
                run(None, groups_of(module), "")
            found[module.__name__] = calls.pop()
    return found


PROGRAMS = programs()


def fields_of(name):
    program = PROGRAMS[name]
    return flags._fields_of(
        program["settings"], (*program["overrides"], *program.get("repeated", ()))
    )


def parse(name, *arguments):
    return flags.parse(arguments, **PROGRAMS[name])


def samples(kind):
    """Returns three values of a type, and their texts."""
    values = {
        bool: (True, False, True),
        int: (3, 5, 7),
        float: (0.5, 1e-7, 2.0),
        str: ("a=b", "c=d e", "f=#g"),
    }[kind]
    return values, [flags.text_of(value) for value in values]


def test_every_group_of_settings_belongs_to_a_program():
    groups = {group for module in modules_with("setting(") for group in groups_of(module)}
    bases = {base for group in groups for base in group.__mro__[1:]} | {Config}
    of_programs = {kind for program in PROGRAMS.values() for kind in program["settings"]}
    assert len(groups) > 20 and len(PROGRAMS) > 20
    assert groups - bases == of_programs


@pytest.mark.parametrize("program", PROGRAMS)
def test_repeats_of_each_list_add_up_and_replace_a_flagfile(program, tmp_path):
    file, other = tmp_path / "x.flags", tmp_path / "y.flags"
    for field in filter(is_list, fields_of(program)):
        name = field.name
        (a, b, c), (one, two, three) = samples(part_type(field))

        def value(*arguments, name=name):
            job = parse(program, *arguments)
            assert job.given == {name}
            return job.values[name]

        assert value(f"--{name}={one}", f"--{name}", two, f"--{name}={three}") == (a, b, c)
        assert value(f"--{name}={one},{two},{three}") == (a, b, c)
        assert value(f"--{name}={one}", f"--{name}={two},{three}") == (a, b, c)
        assert value(f"--{name}={one}", f"--{name}=") == ()

        file.write_text(f"--{name}={one}\n")
        other.write_text(f"--{name}={two}\n--{name}={three}\n")
        assert value(f"--flagfile={other}") == (b, c)
        assert value(f"--{name}={two}", f"--flagfile={file}", f"--{name}={three}") == (b, c)
        assert value(f"--flagfile={other}", f"--flagfile={file}") == (a,)
        assert value(f"--{name}=", f"--flagfile={file}") == ()

        assert flags.value_of(field, flags.text_of((a, b, c))) == (a, b, c)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_repeat_of_each_single_setting_is_refused(program, tmp_path):
    file, other = tmp_path / "x.flags", tmp_path / "y.flags"
    for field in fields_of(program):
        if is_list(field):
            continue
        name = field.name
        (a, b, _), (one, two, _) = samples(type_of(field))
        repeats = [
            [f"--{name}={one}", f"--{name}={two}"],
            [f"--{name}={one}", f"--{name}={one}"],
        ]
        if type_of(field) is bool:
            repeats += [[f"--{name}", f"--no{name}"], [f"--no{name}", f"--{name}={one}"]]
        for repeated in repeats:
            with pytest.raises(UserError, match=f"^--{name} is given twice, as '.*' and as '.*', "):
                parse(program, *repeated)
            file.write_text("\n".join(repeated).replace("#", ""))
            with pytest.raises(UserError, match=f"x.flags, line 2: --{name} is given twice"):
                parse(program, f"--flagfile={file}")

        file.write_text(f"--{name}={one}\n")
        other.write_text(f"--{name}={two}\n")
        for arguments, expected in [
            ([f"--{name}={two}", f"--flagfile={file}"], b),
            ([f"--flagfile={file}", f"--{name}={two}"], b),
            ([f"--flagfile={other}", f"--flagfile={file}"], a),
        ]:
            assert parse(program, *arguments).values[name] == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_two_settings_of_a_program_share_a_flag(program):
    names = [field.name for field in fields_of(program)]
    assert len(set(names)) == len(names)
    switches = {f"no{field.name}" for field in fields_of(program) if field.default in (True, False)}
    reserved = {"flagfile", "undefok", "help"} | set(PROGRAMS[program].get("instead", ()))
    assert not set(names) & (switches | reserved)


@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    """A job of these tests."""

    steps: int = setting(1, "Steps.")
    rates: tuple[int, ...] = setting((6, 12), "Rates.")


def call(monkeypatch, main, *arguments):
    """Runs a job in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["job", *arguments])
    with pytest.raises(SystemExit) as end:
        flags.run(main, [JobConfig], "A job.", overrides=("eval_scales", "output_stride"))
    return end.value.code


def test_a_flag_without_effect_is_refused_unless_a_recipe_gives_it(monkeypatch, tmp_path):
    """A flagfile of a run's settings is made to be varied on the command line."""
    (tmp_path / "recipe.flags").write_text("--learning_power=2\n")
    recipe = f"--flagfile={tmp_path}/recipe.flags"

    def status(*arguments):
        monkeypatch.setattr(sys, "argv", ["job", *arguments])
        with pytest.raises(SystemExit) as end:
            flags.run(lambda train: None, [TrainConfig], "A job.")
        return end.value.code

    assert status(recipe, "--learning_policy=step") is None
    assert "--learning_power=2.0 has no effect without --learning_policy=poly" in status(
        "--learning_power=2", "--learning_policy=step"
    )
    assert status("--learning_power=0.9", "--learning_policy=step") is None  # the default


def test_windows_need_a_run_or_a_flag_that_slides(monkeypatch):
    """Only `eval --eval_crop_stride=...` would score whole images without a word."""
    slides = Experiment(
        eval=EvalConfig(inference_mode="slide", eval_crop_size=(9, 9), eval_crop_stride=(9, 9))
    )

    def status(experiment, *arguments):
        monkeypatch.setattr(sys, "argv", ["job", *arguments])
        with pytest.raises(SystemExit) as end:
            flags.run(
                lambda job: flags.with_overrides(experiment),
                [JobConfig],
                "A job.",
                overrides=flags.INFERENCE,
            )
        return end.value.code

    sentence = "--eval_crop_stride=33,33 has no effect without --inference_mode=slide"
    assert sentence in status(Experiment(), "--eval_crop_stride=33,33")
    assert status(Experiment(), "--eval_crop_size=33,33") is None  # which pads images to it
    assert status(slides, "--eval_crop_size=33,33") is None
    assert status(slides, "--inference_mode=whole") is None  # the windows are the run's


def test_a_windows_size_pads_no_image():
    slides = Experiment(
        eval=EvalConfig(inference_mode="slide", eval_crop_size=(9, 9), eval_crop_stride=(9, 9))
    )
    whole = flags.changed_by(slides, {"inference_mode": "whole"}).eval
    assert whole.eval_crop_size == () and whole.eval_crop_stride == ()
    padded = flags.changed_by(slides, {"inference_mode": "whole", "eval_crop_size": (17, 17)})
    assert padded.eval.eval_crop_size == (17, 17)
    assert flags.changed_by(slides, {"inference_mode": "slide"}) == slides
    with pytest.raises(UserError, match="--eval_crop_size= "):
        flags.changed_by(padded, {"inference_mode": "slide"})


def test_what_one_job_is_given_never_reaches_the_next(monkeypatch, tmp_path):
    seen = []

    def main(job):
        scales = flags.with_overrides(Experiment()).eval.eval_scales
        seen.append((job, flags.given("eval_scales"), flags.given("output_stride")))
        assert scales == (seen[-1][1] or (1.0,))
        seen.append(logging.get_verbosity())
        if job.steps == 3:
            raise UserError("no")

    flagfile = tmp_path / "job.flags"
    flagfile.write_text("--output_stride=8\n--rates=1\n")
    first = ["--steps=3", "--eval_scales=0.5", f"--flagfile={flagfile}", "--verbosity=1"]
    assert "no" in call(monkeypatch, main, *first)
    assert flags.given("eval_scales") is None
    assert call(monkeypatch, main) is None
    assert call(monkeypatch, main, "--rates=2", "--eval_scales=2") is None
    assert flags.given("eval_scales") is None
    assert seen == [
        (JobConfig(steps=3, rates=(1,)), (0.5,), 8),
        logging.DEBUG,
        (JobConfig(), None, None),
        logging.WARNING,
        (JobConfig(rates=(2,)), (2.0,), None),
        logging.WARNING,
    ]


def test_a_job_within_a_job_has_its_own_flags(monkeypatch):
    seen = []

    def inner(job):
        seen.append((job.steps, flags.given("output_stride")))

    def outer(job):
        call(monkeypatch, inner, "--steps=2")
        seen.append((job.steps, flags.given("output_stride")))

    call(monkeypatch, outer, "--output_stride=8")
    assert seen == [(2, None), (1, 8)]


def test_settings_of_any_text_survive_experiment_flags(tmp_path):
    path = tmp_path / "experiment.flags"
    for text in ("a,b", " a ", "a # b // c", '"a"', "'", "--x=y", "#", "größe\u2028", "\\,", "a\\"):
        experiment = Experiment(
            data=DataConfig(dataset_dir=text, train_split=text),
            train=TrainConfig(train_logdir=text, data_service=("a,b:1", f"{text}:2")),
        )
        path.write_text(flags.flagfile_text(experiment), encoding="utf-8")
        assert flags.parse_flagfile(path) == experiment


def test_experiment_flags_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "experiment.flags"
    path.write_text(
        "# Written by deeplab_tf: the settings of this run.\n--atrous_rates=6,12,18\n"
        "--multi_grid=\n--image_mean=123.675,116.28,103.53\n--train_logdir=/r/my run, #1\n"
        "--data_service=grpc://a:1, b:2\n--eval_scales=0.5,1.0\n--align_corners=true\n"
    )
    found = flags.parse_flagfile(path)
    assert found.model.atrous_rates == (6, 12, 18) and found.model.multi_grid == ()
    assert found.model.align_corners and found.eval.eval_scales == (0.5, 1.0)
    assert found.train.train_logdir == "/r/my run, #1"
    assert found.train.data_services() == ("a:1", "b:2")


def test_repeats_in_experiment_flags_mean_what_they_mean_elsewhere(tmp_path):
    path = tmp_path / "experiment.flags"
    path.write_text("--atrous_rates=6\r\n--atrous_rates=12\r\n")
    assert flags.parse_flagfile(path).model.atrous_rates == (6, 12)
    path.write_text("--output_stride=8\n--output_stride=16\n")
    with pytest.raises(UserError, match="line 2: --output_stride is given twice"):
        flags.parse_flagfile(path)
    path.write_text("--dataset\n")
    with pytest.raises(UserError, match="^[^:]*, line 1: --dataset has no value"):
        flags.parse_flagfile(path)


JOB = """
from dataclasses import dataclass
from deeplab_tf.config import flags
from deeplab_tf.config import Config, setting

@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    "A job."
    lines: int = setting(1, "Lines that are printed.")
    lost_worker: bool = setting(False, "Whether another pipe breaks.")

def main(job):
    print("line\\n" * job.lines)
    if job.lost_worker:
        raise BrokenPipeError(32, "a worker is gone")

flags.run(main, [JobConfig], "Prints.")
"""


STREAMS = """
import os, sys
from deeplab_tf.config import flags

def main():
    for number in (1, 2):
        print(os.readlink(f"/proc/self/fd/{number}"), file=told)

told = open(sys.argv.pop(), "w")
os.set_inheritable(os.dup2(told.fileno(), 9), False)
told.close()
told = open(9, "w")
flags.run(main, [], "Tells where its output goes.")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux")
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """TensorFlow would write its log into it."""
    command = f'exec "{sys.executable}" -c "$0" "$1" >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", command, STREAMS, tmp_path / "told"], env=environment, check=True)
    assert (tmp_path / "told").read_text() == "/dev/null\n/dev/null\n"


def without_reader(*arguments, unbuffered="", stderr_too=False):
    """Runs Python with an output that nobody reads; returns its status and what it complains."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdout=writer,
        stderr=writer if stderr_too else subprocess.PIPE,
        env=environment,
        text=True,
    )
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("program", sorted(name for name in PROGRAMS if "benchmarks" not in name))
def test_help_that_is_not_read_ends_quietly(program):
    assert without_reader("-m", program, "--help") == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_job_whose_output_is_not_read_ends_with_one_sentence(tmp_path, unbuffered):
    (tmp_path / "job.py").write_text(JOB)
    status, complaint = without_reader(tmp_path / "job.py", "--lines=100000", unbuffered=unbuffered)
    assert status == 141
    assert complaint.endswith("stopped, because nothing reads its output any more.\n")
    assert complaint.count("\n") == 1
    stderr_too = without_reader(tmp_path / "job.py", "--lines=100000", stderr_too=True)
    assert stderr_too == (141, None)
    assert without_reader(tmp_path / "job.py", "--nonsense", stderr_too=True) == (1, None)


def test_a_broken_pipe_of_a_worker_is_not_taken_for_the_output(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, str(tmp_path / "job.py"), "--lost_worker"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == "line\n\n"
    assert done.stderr.endswith("[Errno 32] a worker is gone\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_on_a_full_disk_is_told(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for argument in ("--lines=2", "--lines=100000", "--help"):
        with open("/dev/full", "w") as full:
            command = [sys.executable, str(tmp_path / "job.py"), argument]
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
            )
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configs").glob("**/*.flags")), ids=lambda p: p.stem
)
def test_a_recipe_says_the_same_to_train_and_to_the_reader_of_runs(recipe):
    job = parse("deeplab_tf.train", f"--flagfile={recipe}")
    experiment = flags.parse_flagfile(recipe)
    assert [job.read(type(group)) for group in groups(experiment)] == groups(experiment)

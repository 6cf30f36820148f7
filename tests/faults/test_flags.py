"""Command lines and flagfiles of any content: parsed, or refused in one sentence."""

import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_tf.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    TrainConfig,
    flags,
)
from deeplab_tf.messages import UserError
from tests.faults.mutations import mutated
from tests.faults.sentences import require_one_sentence

GROUPS = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
NAMES = sorted(flags.settings_of(Experiment()))
TEXTS = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.floats(width=16), max_size=4).map(lambda parts: ",".join(map(str, parts))),
    st.sampled_from(["", "true", "1e999", "-" * 9, "1,", ",", "\\"]),
    st.tuples(st.sampled_from("9x,"), st.sampled_from([5000, 10**5])).map(lambda p: p[0] * p[1]),
)
FLAGS = st.builds(
    lambda dashes, name, equals, text: f"{dashes}{name}{equals}{text}",
    st.sampled_from(["--", "-", "--no", ""]),
    st.one_of(st.sampled_from(NAMES), st.text(string.ascii_letters, max_size=9)),
    st.sampled_from(["=", "", " ", "=="]),
    TEXTS,
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(FLAGS, max_size=3))
def test_any_command_line_is_parsed_or_refused_in_one_sentence(arguments):
    arguments = [word for word in arguments if "flagfile" not in word]
    try:
        job = flags.parse(arguments, GROUPS)
        model, data, train, evaluation = (job.read(kind) for kind in GROUPS)
    except (UserError, flags.flags.Error) as error:
        require_one_sentence(error)
        return
    # What is accepted survives a run's folder.
    experiment = Experiment(model=model, data=data, train=train, eval=evaluation)
    assert flags.flagfile_text(experiment).count("\n--") == len(NAMES)


FLAGFILE = flags.flagfile_text(Experiment()).encode()


def test_damaged_flagfiles(fuzz):
    def attempt(rng, folder):
        path = folder / "a.flags"
        path.write_bytes(mutated(FLAGFILE, rng))
        try:
            job = flags.parse([f"--flagfile={path}"], GROUPS)
            [job.read(kind) for kind in GROUPS]
        except (UserError, flags.flags.Error) as error:
            require_one_sentence(error)

    fuzz(attempt, tries=100)


def written(folder, files):
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return [f"--flagfile={folder / next(iter(files))}"]


def test_a_chain_of_flagfiles_is_read_up_to_its_limit(tmp_path):
    def chain(length):
        files = {f"{i}.flags": [f"--flagfile={i + 1}.flags"] for i in range(length)}
        return files | {f"{length}.flags": ["--seed=7"]}

    assert flags.parse(written(tmp_path, chain(10)), GROUPS).values["seed"] == 7
    with pytest.raises(UserError, match=r"20\.flags, line 1|19\.flags, line 1: .* up to 20 deep"):
        flags.parse(written(tmp_path, chain(3000)), GROUPS)


def test_flagfiles_that_double_their_number_are_refused(tmp_path):
    files = {f"{i}.flags": [f"--flagfile={i + 1}.flags"] * 2 for i in range(18)}
    with pytest.raises(UserError, match="200 in all; write the settings into one file"):
        flags.parse(written(tmp_path, files | {"18.flags": ["--seed=7"]}), GROUPS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("circle.flags", "leads back to itself"),
        ("link.flags", "flagfile .*link.flags does not exist|leads back|cannot be read"),
        ("", "cannot be read: Is a directory"),
        ("x" * 5000, "x... .* cannot be read: File name too long"),
        ("long.flags", r"'--seed=1x+... \(200010 characters\)' seems to end in a comment"),
        ("deep.flags", "--train_crop_size=9,9,9,.*: two numbers"),
    ],
)
def test_odd_flagfiles_are_named(tmp_path, name, message):
    (tmp_path / "circle.flags").write_text("--flagfile=other.flags\n")
    (tmp_path / "other.flags").write_text(f"--flagfile={tmp_path}/./circle.flags\n")
    os.symlink("link.flags", tmp_path / "link.flags")
    (tmp_path / "long.flags").write_text(f"--seed=1{'x' * 200000} # \n")
    (tmp_path / "deep.flags").write_text("--train_crop_size=" + ",".join("9" * 10**4) + "\n")
    with pytest.raises(UserError, match=message) as told:
        flags.parse([f"--flagfile={tmp_path / name}"], GROUPS).read(DataConfig)
    require_one_sentence(told.value)

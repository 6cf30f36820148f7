"""Damaged files of a run's folder: told in a sentence, or read as if they were whole."""

import shutil

import numpy as np
import pytest

from deeplab_tf.config import Experiment, ModelConfig, TrainConfig
from deeplab_tf.data.records import RecordTable
from deeplab_tf.messages import UserError
from deeplab_tf.runs.run_dir import RunDir
from tests.faults.mutations import mutated
from tests.runs.test_run_dir import INFO

FILES = ["experiment.flags", "dataset.json", "metrics.jsonl", "best.json", "environment.json"]
STEPS = [0, 500, 800, 1000]  # 800 is the best


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small files of a finished run; its checkpoints are empty."""
    run = RunDir(tmp_path_factory.mktemp("whole") / "run")
    train = TrainConfig(base_learning_rate=0.007, training_number_of_steps=1000, ema_decay=0.9998)
    table = RecordTable((), np.zeros(3, np.int32), np.arange(3), np.arange(3, dtype=np.uint32))
    run.open_for_training(Experiment(model=ModelConfig(), train=train), INFO, table)
    for step, miou in ((500, 0.3), (800, 0.5341), (1000, 0.5299)):
        run.metrics.record({"step": step, "loss": 1 / step, "learning_rate": 0.007})
        run.metrics.record({"step": step, "split": "val", "images": 3, "miou": miou})
        run.metrics.note_best()
    for step in STEPS:
        for ending in ("index", "data-00000-of-00001"):
            (run.path / f"model.ckpt-{step}.{ending}").touch()
    return run


READ = {
    "settings": lambda run: run.experiment(),
    "classes": lambda run: run.dataset(),
    "records": lambda run: run.trained_on(),
    "environment": lambda run: run.environment(),
    "scores": lambda run: run.metrics.entries(),
    "best": lambda run: run.metrics.best(),
}


def read(run, what):
    """Returns what a run's folder tells, or the error that it raises, which must be a sentence."""
    try:
        return READ[what](run)
    except UserError as error:
        assert "\n" not in str(error) and str(error).endswith("."), error
        return error


def assert_nothing_is_lost(run, whole):
    for what in READ:
        found, expected = read(run, what), READ[what](whole)
        if what == "scores" and isinstance(found, list):
            expected = expected[: len(found)]  # the last lines may be missing, as after a kill
        assert isinstance(found, UserError) or found == expected, what

    # The best survives, and what is not sure to be another does too.
    is_told = isinstance(read(run, "best"), UserError)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    try:
        run.checkpoints.prune(keep=1)
        run.metrics.forget_after(1000)
    except UserError:
        assert is_told
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
    assert run.checkpoints.steps() == (STEPS if is_told else [800, 1000])
    assert is_told or run.metrics.best() == whole.metrics.best()


def test_a_damaged_file_is_a_sentence_or_read_as_it_was(whole, fuzz):
    def attempt(rng, folder):
        run = RunDir(folder / "run")
        shutil.copytree(whole.path, run.path)
        file = run.path / rng.choice(FILES)
        file.write_bytes(mutated(file.read_bytes(), rng))
        assert_nothing_is_lost(run, whole)

    fuzz(attempt, tries=60)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_a_sentence_or_read_as_it_was(whole, tmp_path, name):
    """Cut after each of its last bytes, and after some of those before."""
    content = (whole.path / name).read_bytes()
    ends = [*range(len(content) - 6, len(content)), *range(0, len(content), len(content) // 6)]
    for end in ends:
        run = RunDir(tmp_path / "run")
        shutil.copytree(whole.path, run.path)
        (run.path / name).write_bytes(content[:end])
        assert_nothing_is_lost(run, whole)
        shutil.rmtree(run.path)


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "sentence"),
    [
        ("experiment.flags", "rate=0.007\n", "rate=0.07\n", "settings", "its checksum is another"),
        ("experiment.flags", "# 1", "! 1", "settings", "its first line is not one that"),
        ("experiment.flags", "--ema_decay=0.9998\n", "", "settings", r"has \d+ of its \d+ set"),
        ("dataset.json", '"b"', '"B"', "classes", "names the model's classes: restore it from"),
        ("metrics.jsonl", "0.3,", "0.9,", "best", "Line 2 of .*metrics.jsonl is damaged; restore"),
        ("metrics.jsonl", 'sum": "crc32 ', 'sun": "crc32 0', "best", "Line 1 of .* damaged"),
        ("best.json", "800", "801", "best", "best.json is damaged; delete it: the best"),
        ("environment.json", '"checksum"', '"check"', "environment", "damaged; restore it from a"),
    ],
)
def test_one_changed_value_is_told(run, name, old, new, what, sentence):
    replace(run.path / name, old, new)
    with pytest.raises(UserError, match=sentence):
        READ[what](run)


def test_the_ways_out_of_damage_work(run, whole):
    replace(run.path / "experiment.flags", "rate=0.007\n", "rate=0.07\n")
    lines = (run.path / "experiment.flags").read_text().splitlines(keepends=True)
    (run.path / "experiment.flags").write_text("".join(lines[2:]))  # both comments are gone
    assert run.experiment().train.base_learning_rate == 0.07

    (run.path / "best.json").write_text("{")
    (run.path / "best.json").unlink()
    assert run.metrics.best() == whole.metrics.best()
    (run.path / "environment.json").unlink()
    assert run.environment() == {}


def test_files_of_earlier_versions_are_read(run, whole):
    """They have no checksums, and the oldest settings no count of them."""
    text = (run.path / "experiment.flags").read_text()
    oldest = text[text.index("\n") + 1 :]
    counted = f"# {oldest.count(chr(10)) - 1} settings follow.\n{oldest}"
    for earlier in (oldest, counted, text.replace("\n", "\r\n")):
        (run.path / "experiment.flags").write_bytes(earlier.encode())
        assert run.experiment() == whole.experiment()
    (run.path / "experiment.flags").write_text(counted[:-3])
    with pytest.raises(UserError, match="its last line is cut"):
        run.experiment()

    (run.path / "metrics.jsonl").write_text(
        '{"step": 500, "loss": NaN}\n{"step": 500, "split": "val", "miou": 0.3}\n'
    )
    assert [entry["step"] for entry in run.metrics.entries()] == [500, 500]
    run.metrics.record({"step": 600, "loss": 0.1})
    assert run.metrics.entries()[-1] == {"step": 600, "loss": 0.1}
    for bad in ('{"step": true}', '{"step": -1}', '{"step": 1, "miou": NaN}', '{"miou": 0.5}'):
        (run.path / "metrics.jsonl").write_text(f'{bad}\n{{"step": 600, "loss": 0.1}}\n')
        with pytest.raises(UserError, match="Line 1 of"):
            run.metrics.entries()


def test_a_line_that_stands_twice_is_one_measurement(run, whole):
    path = run.path / "metrics.jsonl"
    path.write_text(2 * path.read_text() + path.read_text().splitlines()[-1])
    assert run.metrics.entries() == whole.metrics.entries()
    run.metrics.forget_after(1000)
    assert path.read_bytes() == (whole.path / "metrics.jsonl").read_bytes()


def test_a_best_that_only_one_file_knows_is_kept(run):
    """Scores of earlier versions have no checksums: a changed digit makes two bests."""
    (run.path / "best.json").write_text('{"step": 800, "miou": 0.5341, "split": "val"}\n')
    (run.path / "metrics.jsonl").write_text(
        '{"step": 500, "split": "val", "miou": 0.9}\n'
        '{"step": 800, "split": "val", "miou": 0.5341}\n'
    )
    run.checkpoints.prune(keep=1)
    assert run.checkpoints.steps() == [500, 800, 1000]


def test_what_a_resumed_run_forgets_is_no_longer_its_best(run):
    run.metrics.forget_after(500)
    assert run.metrics.best() == {"step": 500, "miou": 0.3, "split": "val"}
    run.metrics.forget_after(0)
    assert run.metrics.best() == {} and not (run.path / "best.json").exists()

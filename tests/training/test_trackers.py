"""What trackers are told, by packages of their names that note their calls.

The real packages are not among the test requirements. docs/training.md says with which of their
versions this was tried.
"""

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import pytest

from deeplab_tf.messages import UserError
from deeplab_tf.training import trackers


@pytest.fixture
def package(monkeypatch):
    """Makes `import NAME` give a module whose functions note their calls."""

    def make(name, **functions):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="here")
        for function, call in functions.items():
            setattr(module, function, call)
        monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.fixture
def wandb(package):
    calls = []

    def note(name):
        return lambda *args, **kwargs: calls.append((name, *args, kwargs))

    def init(**kwargs):
        calls.append(("init", kwargs))
        names = ("define_metric", "log", "finish")
        run = {name: note(name) for name in names}
        return SimpleNamespace(id=kwargs["id"] or "abc123", **run)

    package("wandb", init=init)
    return calls


@pytest.fixture
def mlflow(package):
    calls = []

    def start_run(run_id=None, run_name=None):
        calls.append(("start_run", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "f00d"))

    package(
        "mlflow",
        start_run=start_run,
        set_experiment=lambda name: calls.append(("set_experiment", name)),
        log_params=lambda params: calls.append(("log_params", params)),
        log_metrics=lambda values, step: calls.append(("log_metrics", values, step)),
        end_run=lambda status: calls.append(("end_run", status)),
    )
    return calls


def test_weights_and_biases_gets_steps_and_continues_its_run(wandb, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "own"
    folder.mkdir()
    for _ in range(2):
        tracker = trackers.open_tracker("wandb", folder, {"seed": "3"})
        tracker.log(20, {"train/loss": 0.5})
        tracker.finish(failed=False)
        assert wandb[-2:] == [
            ("log", {"step": 20, "train/loss": 0.5}, {}),
            ("finish", {"exit_code": 0}),
        ]
    first, second = (call[1] for call in wandb if call[0] == "init")
    assert first["project"] == "deeplab_tf" and first["name"] == "own"
    assert first["config"] == {"seed": "3"} and first["id"] is first["resume"] is None
    assert (second["id"], second["resume"]) == ("abc123", "allow")


def test_mlflow_gets_settings_once_and_names_that_it_takes(mlflow, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    for _ in range(2):
        tracker = trackers.open_tracker("mlflow", tmp_path, {"seed": "3"})
        tracker.log(20, {"eval/iou/sign (front)": 0.5, "eval/iou/a//..": 0.25})
        tracker.finish(failed=True)
    values = {"eval/iou/sign _28_front_29_": 0.5, "eval/iou/a_2f__2f__2e__2e_": 0.25}
    logged = [("log_metrics", values, 20), ("end_run", "FAILED")]
    assert mlflow == [
        ("set_experiment", "deeplab_tf"),
        ("start_run", None, tmp_path.name),
        ("log_params", {"seed": "3"}),
        *logged,
        ("start_run", "f00d", None),
        *logged,
    ]


def test_classes_that_differ_only_in_signs_have_curves_of_their_own(mlflow, tmp_path):
    tracker = trackers.open_tracker("mlflow", tmp_path, {})
    tracker.log(20, {"eval/iou/trees < 5 m": 0.5, "eval/iou/trees > 5 m": 0.25})
    _, values, _ = mlflow[-1]
    assert sorted(values.values()) == [0.25, 0.5]


def test_a_server_that_fails_does_not_end_the_run(mlflow, tmp_path, monkeypatch, capsys):
    tracker = trackers.open_tracker("mlflow", tmp_path, {})

    def fail(values, step):
        raise ConnectionError("no route to host\nmore")

    log_metrics = sys.modules["mlflow"].log_metrics
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", fail)
    tracker.log(1, {"loss": 1.0})
    assert capsys.readouterr().err == (
        "Warning: --tracker=mlflow did not take step 1 (ConnectionError: no route to host); after "
        "a failure it is left alone for 10 minutes.\n"
    )

    # A client that cannot reach its server tries for minutes, in which nothing is trained.
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", log_metrics)
    tracker.log(2, {"loss": 1.0})
    assert mlflow[-1][0] == "log_params"
    later = trackers.time.monotonic() + 601
    monkeypatch.setattr(trackers.time, "monotonic", lambda: later)
    tracker.log(3, {"loss": 1.0})
    assert mlflow[-1] == ("log_metrics", {"loss": 1.0}, 3)


@pytest.mark.parametrize("variable", ["MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"])
def test_the_experiment_may_be_named_by_mlflows_variables(mlflow, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "12")
    trackers.open_tracker("mlflow", tmp_path, {})
    assert mlflow[0][0] == "start_run"


def test_a_tracker_that_cannot_start_ends_the_run_with_one_sentence(package, tmp_path):
    def init(**_):
        raise RuntimeError("api_key not configured")

    package("wandb", init=init)
    with pytest.raises(UserError, match=r"=wandb could not start \(RuntimeError: api_key not con"):
        trackers.open_tracker("wandb", tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_refused_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wandb").mkdir()  # a folder of that name is no package
    with pytest.raises(UserError, match=r"the package wandb, which is not .*; pip install wandb"):
        trackers.require_installed("wandb")
    trackers.require_installed("")


def test_without_a_tracker_nothing_is_kept(tmp_path):
    tracker = trackers.open_tracker("", tmp_path, {"seed": "3"})
    tracker.log(1, {"loss": 1.0})
    tracker.finish(failed=False)
    assert not list(tmp_path.iterdir())

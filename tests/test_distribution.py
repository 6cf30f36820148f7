"""Replicas and hosts that share a run, as processes of their own."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import distribution
from deeplab_tf.config import TrainConfig, flags
from deeplab_tf.messages import UserError
from deeplab_tf.runs import run_dir
from deeplab_tf.training.trainer import Trainer
from tests.conftest import STRATEGIES
from tests.training import replicas
from tests.training.test_trainer import change

PATIENCE = 200  # seconds until a process that should have ended is killed


def write_flags(experiment, path, **values):
    experiment = change(experiment, "train", train_logdir=str(path), **values)
    flagfile = path.with_suffix(".flags")
    flagfile.write_text(flags.flagfile_text(experiment))
    return flagfile


def on_replicas(task, flagfile, number):
    command = [sys.executable, "-m", "tests.training.replicas", task, str(flagfile), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def train_here(experiment, path, **values):
    """Trains one replica in this process, which costs no start of another."""
    experiment = change(experiment, "train", train_logdir=str(path), **values)
    Trainer(experiment, STRATEGIES[1]()).run()
    return experiment


class Hosts:
    """Two workers of one run on this machine, as `python -m deeplab_tf.train` starts them."""

    def __init__(self, flagfile, *extra):
        """`extra`: for each worker the flags that it has more."""
        sockets = [socket.socket() for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        command = [sys.executable, "-m", "deeplab_tf.train", f"--flagfile={flagfile}"]
        command += ["--distribution_strategy=multi_worker_mirrored", "--num_gpus=0"]
        self.workers = [
            subprocess.Popen(
                [*command, *(extra[index] if extra else ())],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ
                | {
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "TF_CONFIG": json.dumps(
                        {
                            "cluster": {"worker": hosts},
                            "task": {"type": "worker", "index": index},
                        }
                    ),
                },
            )
            for index in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.kill()  # SIGTERM is not heard by a worker that waits for another
            worker.wait()

    def outcome(self):
        """Returns the exit statuses and what was printed."""
        printed = [worker.communicate(timeout=PATIENCE)[0] for worker in self.workers]
        return [worker.returncode for worker in self.workers], printed


def weights(folder, step):
    reader = tf.train.load_checkpoint(run_dir.RunDir(folder).checkpoints.prefix(step))
    names = [name for name in reader.get_variable_to_shape_map() if "loss_tracker" not in name]
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def wait_for_file(path, hosts):
    deadline = time.monotonic() + PATIENCE
    while not path.is_file():
        ended = any(worker.poll() is not None for worker in hosts.workers)
        assert not ended and time.monotonic() < deadline, hosts.outcome()
        time.sleep(0.01)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def assert_alike(folder, other, step):
    """Equal but for rounding, which now and then turns a ReLU's sign."""
    found, expected = weights(folder, step), weights(other, step)
    assert found.keys() == expected.keys() and len(found) > 100
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-2, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(losses(folder), losses(other), rtol=2e-5)


@pytest.fixture
def experiment(tiny_experiment):
    return change(tiny_experiment, "train", train_batch_size=8)


@pytest.mark.slow
def test_two_hosts_train_like_one_process(experiment, tmp_path):
    steps = {"training_number_of_steps": 2}  # the second has the momentum of the first
    train_here(experiment, tmp_path / "one", **steps)
    flagfile = write_flags(experiment, tmp_path / "two", eval_interval_steps=2, **steps)
    with Hosts(flagfile) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [0, 0], printed
    assert "step 2/2" in printed[0] and "val mIoU" in printed[0]
    assert "loss" in printed[0] and "loss" not in printed[1]  # the chief's to say
    assert_alike(tmp_path / "two", tmp_path / "one", 2)
    assert len(list((tmp_path / "two").glob("events.out*"))) == 1
    # The score of two hosts is that of one process with the same weights.
    replicas.score(str(tmp_path / "two"), 1, STRATEGIES[1]())
    alone = json.loads((tmp_path / "two/eval_1/results.json").read_text())
    (scored,) = run_dir.RunDir(tmp_path / "two").metrics.scores_at(2)
    assert scored["images"] == alone["images"] == 5
    assert scored["miou"] == alone["miou"] and scored["per_class"] == alone["per_class"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"recompute_stages": 3, "ema_decay": 0.5, "clip_gradient_norm": 0.5},
        {"optimizer": "sgdw", "clip_gradient_norm": 0.5},
        {"gradient_accumulation_steps": 2, "fine_tune_batch_norm": False, "ema_decay": 0.5},
        {"dtype_policy": "mixed_bfloat16"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_two_hosts_do_with_settings_what_one_process_does(experiment, tmp_path, settings):
    on_replicas("train", write_flags(experiment, tmp_path / "one", **settings), 1)
    with Hosts(write_flags(experiment, tmp_path / "two", **settings)) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [0, 0], printed
    if "dtype_policy" in settings:  # whose rounding is coarser than assert_alike allows
        found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
        np.testing.assert_allclose(found, expected, rtol=2e-2)
    else:
        assert_alike(tmp_path / "two", tmp_path / "one", 4)


@pytest.mark.slow
def test_two_hosts_read_around_a_bad_record_as_one_process_does(experiment, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(experiment.data.dataset_dir, folder)
    experiment = change(experiment, "data", dataset_dir=str(folder), max_bad_records=1)
    shard = sorted(folder.glob("train-*"))[0]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1  # in the first record
    shard.write_bytes(content)

    on_replicas("train", write_flags(experiment, tmp_path / "one"), 1)
    with Hosts(write_flags(experiment, tmp_path / "two")) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [0, 0], printed
    assert "its checksum is wrong" in "".join(printed)
    assert_alike(tmp_path / "two", tmp_path / "one", 4)


def test_a_follower_writes_nothing(experiment, tmp_path):
    follower = run_dir.FollowersRunDir(tmp_path / "run")
    follower.open_for_training(experiment, None)
    follower.checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0)), 1, keep=1)
    follower.metrics.record({"step": 1, "miou": 0.5})
    follower.metrics.forget_after(0)
    follower.metrics.note_best()
    follower.checkpoints.prune(keep=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_ends_ends_the_job_and_both_continue_exactly(experiment, tmp_path):
    settings = {"training_number_of_steps": 60, "save_interval_steps": 5}
    with Hosts(write_flags(experiment, tmp_path / "whole", **settings)) as hosts:
        statuses, printed = hosts.outcome()
        assert statuses == [0, 0], printed
    for worker, kill in ((0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)):
        folder = tmp_path / f"{kill.name}_{worker}"
        flagfile = write_flags(experiment, folder, **settings)
        with Hosts(flagfile) as hosts:
            wait_for_file(folder / "model.ckpt-5.index", hosts)
            hosts.workers[worker].send_signal(kill)
            start = time.monotonic()
            statuses, printed = hosts.outcome()
            assert time.monotonic() - start < 30  # a bound, not a measurement
        other = 1 - worker
        if kill == signal.SIGTERM:
            assert statuses == [0, 0] and "Stopped and saved at step" in printed[0], printed
        else:
            assert statuses[worker] == -kill and statuses[other] == 1, printed
            assert f"Worker {other} of 2 lost contact with another" in printed[other], printed
            assert "Traceback" not in printed[other]
        with Hosts(flagfile) as hosts:
            statuses, printed = hosts.outcome()
        assert statuses == [0, 0] and "Continuing" in printed[0], printed
        assert losses(folder) == losses(tmp_path / "whole") and len(losses(folder)) == 60
        found, expected = weights(folder, 60), weights(tmp_path / "whole", 60)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        (0, "The checkpoint of step {} could not be written"),
        (1, "Step {} cannot be saved: every worker needs room"),
    ],
)
def test_a_full_disk_ends_both_and_keeps_the_last_checkpoint(experiment, tmp_path, worker, reason):
    folder = tmp_path / "run"
    settings = {"training_number_of_steps": 1000, "save_interval_steps": 5}
    with Hosts(write_flags(experiment, folder, **settings)) as hosts:
        wait_for_file(folder / "model.ckpt-5.index", hosts)
        limit = (1 << 20, 1 << 20)  # bytes of a file; a checkpoint has more
        resource.prlimit(hosts.workers[worker].pid, resource.RLIMIT_FSIZE, limit)
        start = time.monotonic()
        statuses, printed = hosts.outcome()
        assert time.monotonic() - start < 60  # a bound, not a measurement
    assert statuses == [1, 1], printed
    step = int(re.search(reason.format(r"(\d+)"), printed[worker])[1])
    steps = run_dir.RunDir(folder).checkpoints.steps()
    if worker == 0:
        assert f"the last whole one is model.ckpt-{step - 5}" in printed[0]
        assert steps[-1] == step - 5
    assert f"Worker {1 - worker} of 2 lost contact with another" in printed[1 - worker]
    assert "Traceback" not in "".join(printed)
    assert not list(folder.glob("*_temp"))
    assert weights(folder, steps[-1])


@pytest.mark.slow
def test_sigterm_during_a_validation_ends_both_hosts_in_time(experiment, tmp_path):
    folder = tmp_path / "run"
    experiment = change(experiment, "eval", eval_split="train", eval_scales=(2.0, 3.0))
    flagfile = write_flags(experiment, folder, eval_interval_steps=4)
    with Hosts(flagfile) as hosts:
        wait_for_file(folder / "model.ckpt-4.index", hosts)  # the validation comes next
        hosts.workers[1].send_signal(signal.SIGTERM)
        start = time.monotonic()
        statuses, printed = hosts.outcome()
        assert time.monotonic() - start < 30  # what preemption leaves
    assert statuses == [0, 0] and "Stopped and saved at step 4" in printed[0], printed
    assert "mIoU" not in printed[0]
    with Hosts(flagfile) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [0, 0] and "step 4  train mIoU" in printed[0], printed  # made up for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "parts", "settings"),
    [(2, 1, {}), (4, 1, {}), (1, 4, {"fine_tune_batch_norm": False})],
)
def test_replicas_and_parts_train_like_one(experiment, tmp_path, number, parts, settings):
    on_replicas("train", write_flags(experiment, tmp_path / "one", **settings), 1)
    settings["gradient_accumulation_steps"] = parts
    on_replicas("train", write_flags(experiment, tmp_path / "shared", **settings), number)
    assert_alike(tmp_path / "shared", tmp_path / "one", 4)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "images", "batch_size"), [("val", 5, 1), ("train", 9, 2)])
def test_replicas_count_as_one(experiment, tmp_path, split, images, batch_size):
    experiment = change(experiment, "eval", eval_split=split, eval_batch_size=batch_size)
    flagfile = write_flags(experiment, tmp_path / "run")
    trainer = Trainer(flags.parse_flagfile(flagfile), STRATEGIES[1]())
    trainer.run_dir.checkpoints.save(
        trainer.checkpoint, 0, keep=1
    )  # the weights matter to none of this
    # Two and three have places left over; this process has devices for two.
    matrices = [
        replicas.score(str(tmp_path / "run"), number, STRATEGIES[number]()).tolist()
        for number in (1, 2)
    ]
    matrices.append(json.loads(on_replicas("score", flagfile, 3).splitlines()[-1]))
    written = [json.loads((tmp_path / f"run/eval_{n}/results.json").read_text()) for n in (1, 2, 3)]
    assert written[0] == written[1] == written[2] and written[0]["images"] == images
    # Pixels of several classes, and predictions of several.
    assert min(np.count_nonzero(np.sum(matrices[0], axis=axis)) for axis in (0, 1)) > 1
    assert matrices[0] == matrices[1] == matrices[2]


def test_a_missing_host_ends_the_wait(experiment, tmp_path):
    flagfile = write_flags(experiment, tmp_path / "run", worker_timeout_secs=3)
    with Hosts(flagfile) as hosts:
        hosts.workers[1].kill()
        statuses, printed = hosts.outcome()
    assert statuses[0] == 1
    assert "Worker 0 waits for the other 1 of TF_CONFIG" in printed[0]
    assert "ends if one has not come after 3 s" in printed[0] and "Traceback" not in printed[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_with_other_settings_are_told_so(experiment, tmp_path):
    flagfile = write_flags(experiment, tmp_path / "run")
    with Hosts(flagfile, (), ("--base_learning_rate=0.5",)) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [1, 1], printed
    for text in printed:
        assert "The settings of worker 1 differ from worker 0's" in text
        assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_what_the_chief_refuses_ends_the_others_in_one_sentence(experiment, tmp_path):
    flagfile = write_flags(experiment, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.ckpt-3.index").touch()
    with Hosts(flagfile) as hosts:
        statuses, printed = hosts.outcome()
    assert statuses == [1, 1], printed
    assert "holds checkpoints but no experiment.flags" in printed[0]
    assert "Worker 1 of 2 lost contact with another" in printed[1]
    assert not any("Traceback" in text for text in printed), printed


CLUSTER = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("text", "strategy", "message"),
    [
        ("{", "multi_worker_mirrored", "TF_CONFIG cannot be used"),
        ("[" * 10**5, "multi_worker_mirrored", "TF_CONFIG cannot be used .*too many brackets"),
        (
            '{"cluster": {"worker": "a:1"}}',
            "mirrored",
            "cluster.worker is .a:1., but must be a",
        ),
        ('{"cluster": {}}', "mirrored", "TF_CONFIG cannot be used"),
        (
            json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}),
            "multi_worker_mirrored",
            "the task is worker 2",
        ),
        (
            json.dumps({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}),
            "multi_worker_mirrored",
            "'a' has no port",
        ),
        (
            json.dumps({"cluster": CLUSTER, "task": {"type": "evaluator", "index": 0}}),
            "multi_worker_mirrored",
            "TF_CONFIG cannot be used",
        ),
        (
            json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 0}}),
            "mirrored",
            "TF_CONFIG names 2 workers, but --distribution_strategy=mirrored",
        ),
        ("", "multi_worker_mirrored", "needs the environment variable TF_CONFIG"),
    ],
)
def test_wrong_descriptions_of_the_hosts_are_one_sentence(monkeypatch, text, strategy, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message):
        distribution.choose_strategy(TrainConfig(distribution_strategy=strategy))


@pytest.mark.parametrize("kind", ["mirrored", "one_device"])
def test_one_cpu_takes_a_dataset_as_it_is(kind):
    """Distributed, it has an iterator that tunes itself and may end up to a minute late."""
    strategy = distribution.choose_strategy(TrainConfig(distribution_strategy=kind))
    dataset = tf.data.Dataset.range(3)
    assert strategy.distribute_datasets_from_function(lambda _: dataset) is dataset


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="num_gpus"):
        distribution.choose_strategy(TrainConfig(num_gpus=1000))


@pytest.mark.parametrize(
    ("size", "number", "parts", "message"),
    [
        (7, 4, 1, "train_batch_size=7 .* 4 replicas; the nearest that can is 8"),
        (10, 2, 4, "=10 .* 2 replicas in --gradient_accumulation_steps=4 .* is 8"),
    ],
)
def test_a_batch_that_can_not_be_shared_names_the_nearest(size, number, parts, message):
    with pytest.raises(UserError, match=message):
        distribution.require_even_batch(size, number, parts=parts)
    distribution.require_even_batch(8, number, parts=parts)

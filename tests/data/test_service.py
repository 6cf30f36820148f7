"""Other processes that make the examples, over the loopback."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from deeplab_tf.config import TrainConfig
from deeplab_tf.config.programs import DataServiceConfig
from deeplab_tf.data import catalog, records, service
from deeplab_tf.messages import UserError
from deeplab_tf.training.trainer import Trainer
from tests.data.test_pipeline import BEYOND, assert_equal, batches
from tests.training.test_trainer import assert_resumed_exactly, change, start, wait_for


@contextlib.contextmanager
def hosts(count, host="localhost"):
    """Yields processes of the service and their addresses."""
    command = [sys.executable, "-m", "deeplab_tf.data_service", "--port=0", f"--host={host}"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        lines = [process.stdout.readline() for process in started]
        yield started, [re.fullmatch(r"Serving examples at (.*)\.\n", line)[1] for line in lines]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two_hosts():
    with hosts(2) as (_, addresses):
        yield addresses


@pytest.fixture
def table(records_dir):
    return records.open_split(records_dir, "train", catalog.load("shapes", records_dir))


@pytest.mark.parametrize(
    ("count", "first", "share"),
    [
        pytest.param(1, 0, {}, marks=pytest.mark.slow),
        (2, 5, {"replicas": 2}),
        (2, 0, {"replicas": 4, "workers": 2, "worker": 1}),
    ],
)
def test_served_batches_are_those_made_here(table, two_hosts, count, first, share):
    expected = batches(table, first, 9, batch_size=4, **share)  # 9 images: four epochs
    served = batches(table, first, 9, batch_size=4, services=two_hosts[:count], **share)
    assert_equal(served, expected)


@pytest.mark.slow
def test_served_batches_have_the_augmentation_beyond_the_recipes(table, two_hosts, monkeypatch):
    monkeypatch.setattr("tests.data.test_pipeline.CONFIG", BEYOND)
    expected = batches(table, 0, 3, batch_size=4)
    assert_equal(batches(table, 0, 3, batch_size=4, services=two_hosts), expected)


def test_a_served_label_outside_the_class_list_names_its_image(table, two_hosts):
    message = r"'train_\d{4}' .* holds the value [3-6]"
    with pytest.raises(UserError, match=message):
        batches(table, 0, 9, num_classes=3, services=two_hosts)


def test_a_service_that_is_not_there_is_one_sentence(tiny_experiment, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert not service.answers("127.0.0.1:1")
        experiment = change(
            tiny_experiment, "train", data_service=(f"grpc://{address}",), worker_timeout_secs=1
        )
        answer = threading.Thread(target=lambda: silent.accept()[0].sendall(b"HTTP/1.1 400\r\n"))
        answer.start()  # another kind of server
        with pytest.raises(UserError, match=f"does not answer at {address} within 1 s; start"):
            Trainer(experiment)
        answer.join()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_service_whose_examples_do_not_arrive_is_one_sentence(tiny_experiment, tmp_path):
    with hosts(1, host="192.0.2.1") as (_, addresses):  # an address of nobody's, RFC 5737
        port = addresses[0].split(":")[1]
        experiment = change(tiny_experiment, "train", data_service=(f"localhost:{port}",))
        trainer = start(experiment, tmp_path)
        printed = trainer.communicate(timeout=200)[0]
    assert trainer.returncode == 1, printed
    assert f"at localhost:{port} answers, but no examples came from there" in printed
    assert "Traceback" not in printed


def test_a_port_without_a_next_one_is_refused():
    with pytest.raises(UserError, match="--port=65535 .* 0 to 65534"):
        DataServiceConfig(port=65535)


@pytest.mark.parametrize("text", ["host", "host:", ":5050", "host:99999", "a:1,b"])
def test_wrong_addresses_are_refused(text):
    with pytest.raises(UserError, match=f"--data_service={text} .* HOST:PORT"):
        TrainConfig(data_service=tuple(text.split(",")))
    addresses = TrainConfig(data_service=("grpc://a:1", "b:2")).data_services()
    assert addresses == ("a:1", "b:2")


@pytest.mark.slow
def test_a_served_run_leaves_the_same_weights_and_continues_exactly(
    tiny_experiment, tmp_path, monkeypatch, two_hosts
):
    whole, served = (
        change(tiny_experiment, "train", train_logdir=str(tmp_path / name), data_service=addresses)
        for name, addresses in (("whole", ()), ("served", tuple(two_hosts)))
    )
    assert_resumed_exactly(whole, served, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_service_ends_the_run_in_bounded_time(tiny_experiment, tmp_path, ending):
    with hosts(1) as (processes, addresses):
        experiment = change(
            tiny_experiment, "train", data_service=(addresses[0],), training_number_of_steps=100000
        )
        trainer = start(experiment, tmp_path)
        wait_for(tmp_path / "run" / "model.ckpt-2.index", trainer)
        os.kill(processes[0].pid, ending)
        began = time.monotonic()
        printed = trainer.communicate(timeout=200)[0]
        assert time.monotonic() - began < 120  # a bound, not a measurement
    assert trainer.returncode == 1, printed
    assert f"The data service at {addresses[0]} failed (no answer for 60 s)" in printed
    assert "Traceback" not in printed

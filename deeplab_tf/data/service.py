"""tf.data service: other hosts make the training examples (Audibert et al. 2023, arXiv:2210.14826).

Each of n hosts runs its own dispatcher with one worker, which keeps the order of the elements, and
makes the examples of every n-th step. So a run reads exactly the batches that it would make itself.
The host runs a graph that the trainer sends: anybody who reaches the port can run theirs.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from deeplab_tf.messages import UserError

_SECONDS_TO_ANSWER = 5
_SECONDS_BETWEEN_LOOKS = 5
_OPEN_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
# What a client raises when a host has been restarted and no longer knows it, or lacks a file.
_FAILED = (tf.errors.NotFoundError, tf.errors.FailedPreconditionError, tf.errors.DataLossError)
# When a host has ended; the end of another worker may raise these too.
_LOST = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError)


def serve(port: int, host: str) -> None:
    """Makes examples for trainers, up to the process' end.

    Args:
      port: of the dispatcher; the next one is the worker's. 0 takes any two.
      host: name by which trainers reach this host.
    Raises:
      UserError: if a port is taken or the host's name is unknown.
    """
    service = tf.data.experimental.service
    try:
        socket.getaddrinfo(host, None)
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
        here = dispatcher.target.split("://")[1].replace("localhost", "127.0.0.1")
        worker = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=here,
                worker_address=f"{host}:%port%",
                port=port and port + 1,
            )
        )
    except (tf.errors.OpError, OSError) as error:
        ports = f"{port} and {port + 1}" if port else "any"
        raise UserError(
            f"No data service can be started as --host={host} on the ports {ports} "
            f"({str(error).splitlines()[0]}); give another --port or --host."
        ) from None
    print(f"Serving examples at {host}:{here.split(':')[-1]}.", flush=True)
    while dispatcher and worker:
        time.sleep(3600)  # joining them would ignore Ctrl-C


def answers(address: str) -> bool:
    """Whether a gRPC server is at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER) as server:
            server.sendall(_OPEN_HTTP2)
            frame = server.recv(9, socket.MSG_WAITALL)
            return len(frame) == 9 and frame[3] == _SETTINGS_FRAME
    except OSError:
        return False


def wait_for(addresses: Sequence[str], *, patience: float) -> None:
    """Returns once all hosts of the service answer.

    Raises:
      UserError: if one does not within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    for address in addresses:
        while not answers(address):
            if time.monotonic() > deadline:
                raise UserError(
                    f"The data service of --data_service={','.join(addresses)} does not answer at "
                    f"{address} within {patience:.0f} s; start `python -m deeplab_tf.data_service` "
                    "there, or leave the flag out."
                )
            time.sleep(1)


def require_examples(addresses: Sequence[str], *, patience: float = 60) -> None:
    """Fetches one number through each host of the service.

    A host sends its examples from another port than that of its address, under its own host name.

    Raises:
      UserError: if it does not come within `patience` seconds.
    """

    def fetch(numbers):
        with contextlib.suppress(tf.errors.OpError):  # training will say what it is
            list(numbers)

    for address in addresses:
        number = tf.data.Dataset.range(1).apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                service=f"grpc://{address}",
            )
        )
        # TensorFlow keeps asking for an hour; this thread ends with the process.
        thread = threading.Thread(target=fetch, args=[number], daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            raise UserError(
                f"The data service at {address} answers, but no examples came from there within "
                f"{patience:.0f} s; its --host must be a name that this host knows, and the port "
                "after its --port be open."
            )


@contextlib.contextmanager
def watched(addresses: Sequence[str], *, patience: float = 60) -> Iterator[None]:
    """Ends the process with one sentence once a host has not answered for `patience` seconds.

    TensorFlow would keep asking for an hour and ignore signals. What has been saved stays.
    """
    over = threading.Event()

    def look():
        answered = dict.fromkeys(addresses, time.monotonic())
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            for address in addresses:
                if answers(address):
                    answered[address] = time.monotonic()
                elif time.monotonic() - answered[address] > patience and not over.is_set():
                    print(_failed(address, f"no answer for {patience:.0f} s"), file=sys.stderr)
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(1)

    if addresses:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except (*_FAILED, *_LOST) as error:
        silent = [address for address in addresses if not answers(address)]
        if not addresses or (isinstance(error, _LOST) and not silent):
            raise
        raise UserError(_failed(" or ".join(silent or addresses), _reason_of(error))) from None
    finally:
        over.set()


def _reason_of(error: tf.errors.OpError) -> str:
    return re.sub(r"^({{.*?}} )+", "", str(error).splitlines()[0])


def _failed(address: str, reason: str) -> str:
    return (
        f"The data service at {address} failed ({reason}); start it again, then the same command "
        "continues from the newest checkpoint."
    )


def received(
    order: tf.data.Dataset,
    make: Callable[[tf.data.Dataset], tf.data.Dataset],
    addresses: Sequence[str],
    *,
    step_size: int,
    starts: tf.data.Dataset,
) -> tf.data.Dataset:
    """Has the hosts of the service make the parts of batches, and takes a step from each in turn.

    Args:
      order: what they are made of: (position, ...) of each example.
      make: what a host does with its share of `order`: yields (positions [part], images, labels).
      step_size: positions in a step.
      starts: first position of each part.
    Yields:
      (images, labels) of each part.
    """
    service, hosts = tf.data.experimental.service, len(addresses)

    def from_host(host):
        own = order.filter(lambda position, *_: position // step_size % hosts == host)
        return make(own).apply(
            service.distribute(
                processing_mode=service.ShardingPolicy.OFF,
                service=f"grpc://{addresses[host]}",
                max_outstanding_requests=2,
            )
        )

    turns = starts.map(lambda position: position // step_size % hosts)
    made = [from_host(host) for host in range(hosts)]
    chosen = tf.data.Dataset.choose_from_datasets(made, turns, stop_on_empty_dataset=True)

    @tf.autograph.experimental.do_not_convert
    def checked(element, position):
        positions, images, labels = element
        message = "a data service has more than one worker"
        with tf.control_dependencies([tf.debugging.assert_equal(positions[0], position, message)]):
            return tf.identity(images), labels

    return tf.data.Dataset.zip((chosen, starts)).map(checked)

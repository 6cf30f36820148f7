"""tf.data service: other hosts make the training examples (Audibert et al. 2023, arXiv:2210.14826).

Each of n hosts makes the examples of every n-th step. It runs a dispatcher of its own with a single
worker, because only then do elements keep their order. So a run reads exactly the batches that it
would make itself.

A host runs the graph that the trainer sends: anybody who can reach its port can run code there.
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
# What a client raises if a host was restarted and no longer knows the client, or lacks a file.
_FAILED = (tf.errors.NotFoundError, tf.errors.FailedPreconditionError, tf.errors.DataLossError)
# What it raises if a host has ended; the end of another training worker may raise these too.
_LOST = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError)


def serve(port: int, host: str) -> None:
    """Makes examples for trainers until the process ends.

    Args:
      port: port of the dispatcher; the worker takes the next one. 0 takes any two free ports.
      host: name under which trainers reach this host.
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
    while dispatcher and worker:  # joining the servers would ignore Ctrl-C
        time.sleep(3600)


def answers(address: str) -> bool:
    """Whether a gRPC server answers at HOST:PORT."""
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
      UserError: if one does not answer within `patience` seconds.
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

    This tests what `wait_for` does not: a host sends its examples under its own host name and from
    another port than the one in its address.

    Raises:
      UserError: if the number does not arrive within `patience` seconds.
    """

    def fetch(numbers):
        with contextlib.suppress(tf.errors.OpError):  # training will run into it and report it
            list(numbers)

    for address in addresses:
        number = tf.data.Dataset.range(1).apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                service=f"grpc://{address}",
            )
        )
        # TensorFlow keeps trying for an hour, so it gets a thread that ends with the process.
        thread = threading.Thread(target=fetch, args=[number], daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            raise UserError(
                f"The data service at {address} answers, but no examples came from there within "
                f"{patience:.0f} s; its --host must be a name that this host knows, and the port "
                "after its --port must be open."
            )


@contextlib.contextmanager
def watched(addresses: Sequence[str], *, patience: float = 60) -> Iterator[None]:
    """Ends the process with an error once a host has not answered for `patience` seconds.

    TensorFlow would keep trying for an hour and ignore signals. What has been saved stays.
    """
    is_over = threading.Event()

    def look():
        last_answer = dict.fromkeys(addresses, time.monotonic())
        while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
            for address in addresses:
                if answers(address):
                    last_answer[address] = time.monotonic()
                elif time.monotonic() - last_answer[address] > patience and not is_over.is_set():
                    print(_failed(address, f"no answer for {patience:.0f} s"), file=sys.stderr)
                    for stream in filter(None, (sys.stdout, sys.stderr)):
                        stream.flush()
                    os._exit(1)

    if addresses:
        threading.Thread(target=look, daemon=True).start()

    try:
        yield
    except (*_FAILED, *_LOST) as error:
        # While all hosts answer, a _LOST error comes from the end of another training worker.
        silent = [address for address in addresses if not answers(address)]
        if not addresses or (isinstance(error, _LOST) and not silent):
            raise
        raise UserError(_failed(" or ".join(silent or addresses), _reason_of(error))) from None
    finally:
        is_over.set()


def _reason_of(error: tf.errors.OpError) -> str:
    """Returns the first line of an error, without the names of graph nodes before it."""
    return re.sub(r"^({{.*?}} )+", "", str(error).splitlines()[0])


def _failed(address: str, reason: str) -> str:
    """Returns the error message for a host that failed."""
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
    """Lets the hosts of the service make the parts of batches, and takes a step from each in turn.

    Args:
      order: (position, ...) of each example.
      make: runs on a host: turns its share of `order` into parts (positions [part], images,
        labels).
      step_size: number of positions in a step.
      starts: first position of each part.
    Yields:
      (images, labels) of each part.
    """
    service, hosts = tf.data.experimental.service, len(addresses)

    def from_host(host):
        share = order.filter(lambda position, *_: position // step_size % hosts == host)
        return make(share).apply(
            service.distribute(
                processing_mode=service.ShardingPolicy.OFF,
                service=f"grpc://{addresses[host]}",
                max_outstanding_requests=2,
            )
        )

    turns = starts.map(lambda position: position // step_size % hosts)
    parts = [from_host(host) for host in range(hosts)]
    chosen = tf.data.Dataset.choose_from_datasets(parts, turns, stop_on_empty_dataset=True)

    # With several workers a host sends its parts in any order.
    @tf.autograph.experimental.do_not_convert
    def checked(element, position):
        positions, images, labels = element
        message = "a data service has more than one worker"
        with tf.control_dependencies([tf.debugging.assert_equal(positions[0], position, message)]):
            return tf.identity(images), labels

    return tf.data.Dataset.zip((chosen, starts)).map(checked)

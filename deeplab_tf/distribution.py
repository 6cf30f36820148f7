"""Which devices and hosts share a run, and what they must agree on.

One process is one worker: a host with one or several replicas of the model. All workers run the
same command; TF_CONFIG tells them of each other. Only the first, the chief, writes files.
"""

import contextlib
import faulthandler
import functools
import json
import os
import re
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.config import TrainConfig, require
from deeplab_tf.messages import UserError

# What collectives raise once a worker is gone: at once, or when its heartbeat is missed.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class LostWorkerError(UserError):
    """Another worker has ended or no longer answers."""


def choose_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Returns the strategy of --distribution_strategy on --num_gpus GPUs, else on the CPU.

    With several hosts it must be called before any TensorFlow operation, and waits for all hosts;
    one that does not come ends the process after --worker_timeout_secs.

    Raises:
      UserError: if there are not so many GPUs, or TF_CONFIG does not describe the hosts.
    """
    workers, _ = _cluster()
    if config.distribution_strategy == "multi_worker_mirrored":
        _use_gpus(config.num_gpus)
        return _connected(config)
    if workers > 1:
        raise UserError(
            f"TF_CONFIG names {workers} workers, but --distribution_strategy="
            f"{config.distribution_strategy} trains on one host; give multi_worker_mirrored, or "
            "unset TF_CONFIG."
        )
    return on_this_host(config.num_gpus, mirrored=config.distribution_strategy == "mirrored")


def on_this_host(num_gpus: int, *, mirrored: bool = True) -> tf.distribute.Strategy:
    """Returns the strategy of so many GPUs, or of the first; of the CPU where there is none.

    Raises:
      UserError: if there are not so many GPUs.
    """
    _use_gpus(num_gpus)
    if not mirrored and num_gpus and tf.config.list_physical_devices("GPU"):
        _use_gpus(1)  # TensorFlow takes the memory of all that it sees
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if mirrored and len(gpus) > 1:
        return tf.distribute.MirroredStrategy(gpus)
    if gpus:
        return tf.distribute.OneDeviceStrategy(gpus[0])
    # The default strategy. Others fetch ahead through an iterator that tunes itself in a thread. At
    # the end TensorFlow wakes that thread just before it marks it as cancelled (tsl/framework/
    # cancellation.cc), so that it may sleep again, for as long as it ran so far, up to a minute.
    return tf.distribute.get_strategy()


def devices_of(strategy: tf.distribute.Strategy, hosts: int) -> str:
    """Says what computes: the devices of this host, and on how many hosts."""
    devices = _replica_devices(strategy)
    gpus = tf.config.get_visible_devices("GPU")
    if all("GPU" in device for device in devices) and gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        text = f"{len(devices)} x {name}" if len(devices) > 1 else name
    else:
        replicas = f", {len(devices)} replicas" if len(devices) > 1 else ""
        text = f"CPU, {os.cpu_count()} cores{replicas}"
    return f"{text} on each of {hosts} hosts" if hosts > 1 else text


def require_even_batch(batch_size: int, replicas: int, *, parts: int = 1) -> None:
    """Raises UserError unless every part of every replica gets the same number of images."""
    shares = replicas * parts
    if batch_size % shares:
        near = max(1, round(batch_size / shares)) * shares
        in_parts = f" in --gradient_accumulation_steps={parts} parts each" if parts > 1 else ""
        raise UserError(
            f"--train_batch_size={batch_size} cannot be shared by {replicas} replicas{in_parts}; "
            f"the nearest that can is {near}."
        )


def on_gpus() -> bool:
    """Whether each replica of the strategy in scope has a GPU."""
    return all("GPU" in device for device in _replica_devices(tf.distribute.get_strategy()))


def _replica_devices(strategy: tf.distribute.Strategy) -> Sequence[str]:
    """Returns the device of each replica of this process."""
    try:
        return strategy.extended.worker_devices
    except RuntimeError:  # the default strategy does not say; TensorFlow prefers the first GPU
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [devices[0].name]


def require_gpus(flag: str) -> None:
    """Raises UserError unless each replica of the strategy in scope has a GPU."""
    if not on_gpus():
        raise UserError(
            f"{flag} cannot be given with several replicas on CPUs; leave it out, or give "
            "--distribution_strategy=one_device."
        )


def _use_gpus(number: int) -> None:
    found = tf.config.list_physical_devices("GPU")
    allowed = f"0 to {len(found)}, the GPUs that TensorFlow sees, or -1 for all"
    require(number <= len(found), "num_gpus", number, allowed)
    if 0 <= number < len(found):
        tf.config.set_visible_devices(found[:number], "GPU")


def _cluster() -> tuple[int, int]:
    """Returns the number of workers in TF_CONFIG and which of them this process is."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1, 0
    try:
        content = json.loads(text)
        hosts = [*content["cluster"].get("chief", []), *content["cluster"].get("worker", [])]
        kind, index = content["task"]["type"], int(content["task"]["index"])
        if kind not in ("chief", "worker") or not 0 <= index < len(content["cluster"][kind]):
            raise ValueError(f"the task is {kind} {index}")
        for host in hosts:
            if not re.fullmatch(r".+:\d+", host):
                raise ValueError(f"{host!r} has no port")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG cannot be used ({type(error).__name__}: {error}); it must read like "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", '
            '"index": 0}}.'
        ) from None
    before = len(content["cluster"].get("chief", [])) if kind == "worker" else 0
    return len(hosts), before + index


def _connected(config: TrainConfig) -> tf.distribute.Strategy:
    """Waits for the other hosts; TensorFlow would wait for ever and ignore SIGTERM."""
    workers, worker = _cluster()
    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            "--distribution_strategy=multi_worker_mirrored needs the environment variable "
            "TF_CONFIG, which names all hosts and this process' place among them."
        )
    patience = config.worker_timeout_secs
    if workers > 1:
        print(
            f"Worker {worker} waits for the other {workers - 1} of TF_CONFIG, and ends if one has "
            f"not come after {patience} s; start all of them, with their ports open to each other.",
            flush=True,
        )
    # A timer of Python's own would not run: TensorFlow keeps the interpreter's lock.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
        try:
            # Without its own timeout_seconds: each collective would keep a thread for so long.
            return tf.distribute.MultiWorkerMirroredStrategy()
        finally:
            faulthandler.cancel_dump_traceback_later()
            # TensorFlow swallows the signal; until steps run there is nothing to save.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True)
class Workers:
    """This process' place among the workers of a strategy; on one host it is the only one."""

    strategy: tf.distribute.Strategy
    count: int
    index: int

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> "Workers":
        """Returns the workers of the strategy that `choose_strategy` made."""
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        return cls(strategy, *(_cluster() if several else (1, 0)))

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes the run's files."""
        return self.index == 0

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        """Errors that tell of the loss of another worker."""
        return _LOST if self.count > 1 else ()

    @property
    def local_replicas(self) -> int:
        """Replicas of the model in this process."""
        return self.strategy.num_replicas_in_sync // self.count

    def total(self, values: np.ndarray | int) -> np.ndarray:
        """Adds up the values of all workers, each of which must call this at the same point."""
        if self.count == 1:
            return np.asarray(values)
        parts = [np.asarray(values), *[np.zeros_like(values)] * (self.local_replicas - 1)]
        return self._sum(self.spread(parts)).numpy()

    @functools.cached_property
    def _sum(self) -> Callable[[Any], tf.Tensor]:
        # A graph: an eager sum that fails leaves a thread pool, which prints a traceback later on.
        @tf.function(autograph=False)
        def sum_of(parts):
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        return sum_of

    def require_equal(self, what: str, value: str, advice: str) -> None:
        """Raises UserError with the advice on all workers unless they all have the same value."""
        sums = np.zeros(self.count, np.int64)
        sums[self.index] = zlib.crc32(value.encode())
        sums = self.total(sums)
        others = [str(index) for index in range(self.count) if sums[index] != sums[0]]
        if others:
            raise UserError(
                f"{what} of worker {', '.join(others)} are not those of worker 0; {advice}."
            )

    def of_chief(self, value: int) -> int:
        """Returns the chief's value on all workers, each of which must call this."""
        return int(self.total(value if self.is_chief else 0))

    def wait_for_all(self) -> None:
        """Returns once all workers have come this far, or one is lost.

        A worker that ended earlier would be lost to those that still read its last values.
        """
        with contextlib.suppress(*self.lost):
            self.total(0)

    def spread(self, values: Sequence[Any]) -> Any:
        """Gives each replica of this process one of the values."""
        first = self.index * self.local_replicas
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(values[context.replica_id_in_sync_group - first])
        )

    @contextlib.contextmanager
    def explained_loss(self) -> Iterator[None]:
        """Turns the failure of a collective into a LostWorkerError."""
        try:
            yield
        except self.lost as error:
            reason = re.sub(r"^{{.*?}} ?", "", str(error).splitlines()[0])
            raise LostWorkerError(
                f"Worker {self.index} of {self.count} lost contact with another, or failed itself "
                f"({type(error).__name__}: {reason}); see why the other ended, then start all "
                "workers again with the same command: they continue from the newest checkpoint."
            ) from None

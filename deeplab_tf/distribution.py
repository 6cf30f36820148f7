"""Which devices and hosts share a run, and what they must agree on.

A worker is one process on one host, with one or several replicas of the model. All workers run the
same command; TF_CONFIG tells each of them about the others. Only the first worker, the chief,
writes files.
"""

import contextlib
import faulthandler
import functools
import os
import re
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf import json_files
from deeplab_tf.config import TrainConfig, require
from deeplab_tf.json_files import keyed, listed, text
from deeplab_tf.messages import UserError, counted, warn
from deeplab_tf.startup import gpus as host_gpus

# What a collective operation raises when another worker has gone, at once or after missed
# heartbeats.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

_CLUSTER = keyed(
    {
        "cluster": keyed({}, {"chief": listed(text(), most=1), "worker": listed(text())}),
        "task": keyed({"type": text()}),
    }
)


class LostWorkerError(UserError):
    """Another worker has ended or no longer answers."""


def choose_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Returns the strategy that --distribution_strategy names, on --num_gpus GPUs or on the CPU.

    With several hosts, call it before any TensorFlow operation. It waits for all hosts, and ends
    the process if one of them has not come after --worker_timeout_secs.

    Raises:
      UserError: if there are fewer GPUs, or TF_CONFIG does not describe the hosts.
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
    """Returns a strategy for this host's GPUs, or for its CPU if there are none.

    Args:
      num_gpus: how many GPUs to use; -1 for all, 0 for the CPU.
      mirrored: whether to use all of these GPUs, or only the first.
    Raises:
      UserError: if there are fewer GPUs.
    """
    _use_gpus(num_gpus)
    if not mirrored and num_gpus and tf.config.list_physical_devices("GPU"):
        _use_gpus(1)  # else TensorFlow would take the memory of the other GPUs too

    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if mirrored and len(gpus) > 1:
        return tf.distribute.MirroredStrategy(gpus)
    if gpus:
        return tf.distribute.OneDeviceStrategy(gpus[0])
    # The default strategy. Other strategies prefetch through an iterator that a thread tunes. At
    # the end of the program, TensorFlow wakes that thread just before it marks it as cancelled
    # (tsl/framework/cancellation.cc), so the thread may go to sleep again and delay the exit, for
    # as long as it has run so far, up to a minute.
    return tf.distribute.get_strategy()


def devices_of(strategy: tf.distribute.Strategy, hosts: int) -> str:
    """Describes what trains: the devices of this host, and the number of hosts."""
    devices = _replica_devices(strategy)
    gpus = tf.config.get_visible_devices("GPU")
    if all("GPU" in device for device in devices) and gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        text = f"{len(devices)} x {name}" if len(devices) > 1 else name
    else:
        replicas = f", {len(devices)} replicas" if len(devices) > 1 else ""
        text = f"CPU, {counted(os.cpu_count() or 1, 'core')}{replicas}"
    return f"{text} on each of {hosts} hosts" if hosts > 1 else text


def require_even_batch(batch_size: int, replicas: int, *, parts: int = 1) -> None:
    """Raises UserError unless each part of each replica's batch gets the same number of images.

    Args:
      parts: --gradient_accumulation_steps.
    """
    shares = replicas * parts
    if batch_size % shares:
        nearest = max(1, round(batch_size / shares)) * shares
        in_parts = f" in --gradient_accumulation_steps={parts} parts each" if parts > 1 else ""
        raise UserError(
            f"--train_batch_size={batch_size} cannot be shared by "
            f"{counted(replicas, 'replica')}{in_parts}; the nearest that can is {nearest}."
        )


def on_gpus() -> bool:
    """Whether each replica of the strategy in scope has a GPU."""
    return all("GPU" in device for device in _replica_devices(tf.distribute.get_strategy()))


def _replica_devices(strategy: tf.distribute.Strategy) -> Sequence[str]:
    """Returns the device of each replica in this process."""
    try:
        return strategy.extended.worker_devices
    except RuntimeError:  # of the default strategy, which runs on the first GPU if there is one
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [devices[0].name]


def require_gpus(flag: str) -> None:
    """Raises UserError unless each replica of the strategy in scope has a GPU.

    Args:
      flag: the flag that needs GPUs, as the user gave it.
    """
    if not on_gpus():
        raise UserError(
            f"{flag} cannot be given with several replicas on CPUs; leave it out, or give "
            "--distribution_strategy=one_device."
        )


def _use_gpus(number: int) -> None:
    """Hides all GPUs but the first `number` from TensorFlow; -1 hides none.

    Warns if TensorFlow cannot use the host's GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if number:
        _warn_of_unusable_gpus()

    allowed = f"0 to {len(gpus)}, the GPUs that TensorFlow sees, or -1 for all"
    require(number <= len(gpus), "num_gpus", number, allowed)
    if 0 <= number < len(gpus):
        tf.config.set_visible_devices(gpus[:number], "GPU")


@functools.cache  # once in a process
def _warn_of_unusable_gpus() -> None:
    """Warns of each GPU that is there but that TensorFlow cannot use, and says why."""
    build = tf.sysconfig.get_build_info()
    found = tf.config.list_physical_devices("GPU")
    if not found:
        reason = host_gpus.why_unused(
            host_gpus.on_host(),
            os.environ,
            version=tf.__version__,
            has_cuda=bool(build.get("is_cuda_build")),
            has_libraries=host_gpus.has_cuda_libraries(),
        )
        if reason:
            warn(reason)

    for gpu in found:
        details = tf.config.experimental.get_device_details(gpu)
        reason = host_gpus.why_too_old(
            details.get("compute_capability", (99, 0)),
            build.get("cuda_compute_capabilities", ()),
        )
        if reason:
            warn(f"{details.get('device_name', gpu.name)} {reason}")


def _cluster() -> tuple[int, int]:
    """Returns the number of workers in TF_CONFIG, and the number of this process among them."""
    description = os.environ.get("TF_CONFIG", "")
    if not description:
        return 1, 0

    try:
        content = json_files.parse(description, _CLUSTER)
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

    # A chief counts as worker 0, before the hosts of type "worker".
    before = len(content["cluster"].get("chief", [])) if kind == "worker" else 0
    return len(hosts), before + index


def _connected(config: TrainConfig) -> tf.distribute.Strategy:
    """Returns the strategy of all hosts, once all of them have come.

    Ends the process after --worker_timeout_secs, and lets SIGTERM end it. TensorFlow on its own
    would wait for ever and ignore the signal.
    """
    workers, worker = _cluster()
    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            "--distribution_strategy=multi_worker_mirrored needs the environment variable "
            "TF_CONFIG, which names all hosts and says which of them this process is."
        )

    patience = config.worker_timeout_secs
    if workers > 1:
        print(
            f"Worker {worker} waits for the other {workers - 1} of TF_CONFIG, and ends if one has "
            f"not come after {patience} s; start all of them, with their ports open to each other.",
            flush=True,
        )

    # faulthandler's timer runs in C and can end the process. A timer in Python would not run, since
    # TensorFlow holds the interpreter's lock while it waits.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
        try:
            # Without TensorFlow's own timeout_seconds: with it, each collective operation keeps a
            # thread for that long.
            return tf.distribute.MultiWorkerMirroredStrategy()
        finally:
            faulthandler.cancel_dump_traceback_later()
            # TensorFlow has installed a handler that swallows SIGTERM. Until steps run there is
            # nothing to save, so the signal may end the process.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True)
class Workers:
    """The workers of a strategy, and which of them this process is; one host has one worker.

    count: number of workers. index: number of this process among them; 0 is the chief.
    """

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
        """Errors that mean that another worker was lost; empty on one host."""
        return _LOST if self.count > 1 else ()

    @property
    def local_replicas(self) -> int:
        """Number of replicas of the model in this process."""
        return self.strategy.num_replicas_in_sync // self.count

    def total(self, values: np.ndarray | int) -> np.ndarray:
        """Adds up the values of all workers; each worker must call this at the same point."""
        if self.count == 1:
            return np.asarray(values)
        # The strategy adds over replicas: the first one of each worker has its values.
        parts = [np.asarray(values), *[np.zeros_like(values)] * (self.local_replicas - 1)]
        return self._sum(self.spread(parts)).numpy()

    @functools.cached_property
    def _sum(self) -> Callable[[Any], tf.Tensor]:
        # In a graph: an eager sum that fails leaves a thread pool behind, which prints a traceback
        # later.
        @tf.function(autograph=False)
        def sum_of(parts):
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        return sum_of

    def require_equal(self, what: str, value: str, advice: str) -> None:
        """Raises UserError on all workers unless all of them have the same value.

        Args:
          what: what is compared, in the plural, for the error: "The settings".
          value: compared by its checksum.
          advice: what the user should do.
        """
        checksums = np.zeros(self.count, np.int64)
        checksums[self.index] = zlib.crc32(value.encode())
        checksums = self.total(checksums)
        others = [str(index) for index in range(self.count) if checksums[index] != checksums[0]]
        if others:
            raise UserError(
                f"{what} of worker {', '.join(others)} differ from worker 0's; {advice}."
            )

    def of_chief(self, value: int) -> int:
        """Returns the chief's value on all workers; each worker must call this."""
        return int(self.total(value if self.is_chief else 0))

    def wait_for_all(self) -> None:
        """Returns once all workers have called this, or one is lost.

        If a worker ended earlier, the workers that still read its last values would lose it.
        """
        with contextlib.suppress(*self.lost):
            self.total(0)

    def spread(self, values: Sequence[Any]) -> Any:
        """Gives each replica of this process one of the values, in their order."""
        first = self.index * self.local_replicas
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(values[context.replica_id_in_sync_group - first])
        )

    @contextlib.contextmanager
    def reports_lost_workers(self) -> Iterator[None]:
        """Turns the failure of a collective operation into a LostWorkerError."""
        try:
            yield
        except self.lost as error:
            reason = re.sub(r"^{{.*?}} ?", "", str(error).splitlines()[0])
            raise LostWorkerError(
                f"Worker {self.index} of {self.count} lost contact with another, or failed itself "
                f"({type(error).__name__}: {reason}); find out why the other ended, then start all "
                "workers again with the same command: they continue from the newest checkpoint."
            ) from None

"""Encodes raw files with several workers at a time, which are threads or processes."""

import collections
import concurrent.futures.process
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deeplab_tf.conversion.encoding import BadFile, FilePair
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.messages import UserError

_CHUNK = 4  # pairs that a worker takes at a time


@dataclass
class _Chunk:
    """Some pairs and their outcomes.

    future: the worker's result.
    outcomes: set instead if the calling thread has encoded the pairs itself.
    """

    pairs: Sequence[FilePair]
    future: concurrent.futures.Future
    outcomes: list[EncodedExample | BadFile] | None = None


def encode_all(
    pairs: Sequence[FilePair],
    encode: Callable[[FilePair], EncodedExample],
    *,
    num_processes: int = 0,
    skip_bad: bool = False,
) -> Iterator[EncodedExample | BadFile]:
    """Encodes pairs in their order, several at a time.

    Args:
      pairs: what to encode.
      encode: picklable function of one pair, such as functools.partial(encode_pair, coding=...).
      num_processes: number of workers, including the calling thread; 0 takes one per core.
      skip_bad: whether to yield a BadFile for a pair that cannot be encoded, instead of raising.
    Raises:
      UserError: the error of the first pair that cannot be encoded, unless `skip_bad`.
    """
    encode_some = functools.partial(_encode_some, encode=encode)
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    num_processes = min(num_processes or os.cpu_count() or 1, len(chunks))
    if num_processes <= 1:
        for pair in pairs:
            yield from _checked(encode_some([pair]), skip_bad)
        return

    with _pool(pairs, num_processes - 1) as pool:
        # The queue is bounded, since the encoded images of a whole data set do not fit into memory.
        waiting: collections.deque[_Chunk] = collections.deque()
        try:
            for chunk in chunks:
                waiting.append(_Chunk(chunk, pool.submit(encode_some, chunk)))
                if len(waiting) >= 4 * num_processes:
                    yield from _checked(_take_first(waiting, encode_some), skip_bad)
            while waiting:
                yield from _checked(_take_first(waiting, encode_some), skip_bad)
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "A converting process was killed, probably for lack of memory; give a smaller "
                "--num_processes. The same command goes on where this one stopped."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _take_first(
    waiting: collections.deque[_Chunk], encode_some: Callable
) -> list[EncodedExample | BadFile]:
    """Removes the first chunk and returns its outcomes; encodes other chunks until it is done.

    If the calling thread only waited, there would be one more thread than cores. The system might
    then suspend it while it writes and holds the interpreter's lock, which would stop all others.
    """
    while not waiting[0].future.done():
        # A chunk can be cancelled, and encoded here, as long as no worker has begun with it.
        chunk = next((c for c in waiting if not c.outcomes and c.future.cancel()), None)
        if chunk is None:
            break
        chunk.outcomes = encode_some(chunk.pairs)
    first = waiting.popleft()
    return first.outcomes or first.future.result()


def _checked(
    outcomes: list[EncodedExample | BadFile], skip_bad: bool
) -> Iterator[EncodedExample | BadFile]:
    """Yields the outcomes; raises the error of a BadFile unless `skip_bad`."""
    for outcome in outcomes:
        if isinstance(outcome, BadFile) and not skip_bad:
            raise UserError(outcome.reason)
        yield outcome


def _pool(pairs: Sequence[FilePair], workers: int) -> concurrent.futures.Executor:
    """Returns threads, which start at once, or processes if much of the work is done in Python.

    Pillow and zlib let other threads run while they decode; the reader of .mat files does not.
    """
    if not any(pair.mask_path and pair.mask_path.suffix == ".mat" for pair in pairs):
        return concurrent.futures.ThreadPoolExecutor(workers)
    # Spawned, not forked: the parent may run TensorFlow's threads, which a fork would break.
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_live_with_parent,
    )


def _live_with_parent() -> None:
    """Leaves Ctrl-C to the parent process, and ends this process when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs only in the processes of a pool

    def end_with_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _encode_some(
    pairs: Sequence[FilePair], encode: Callable[[FilePair], EncodedExample]
) -> list[EncodedExample | BadFile]:
    """Encodes pairs; runs in a worker, from which errors return as BadFile."""
    outcomes: list[EncodedExample | BadFile] = []
    for pair in pairs:
        try:
            outcomes.append(encode(pair))
        except UserError as error:
            outcomes.append(BadFile.after(error, pair.name))
    return outcomes

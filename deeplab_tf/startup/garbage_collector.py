"""Spares Python's garbage collector useless work while a program starts."""

import contextlib
import gc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def resting_collector() -> Iterator[Callable[[], None]]:
    """Turns the garbage collector off during the start, and hides the start's objects from it.

    TensorFlow's import and the model make many objects, and all of them stay: searching them again
    and again takes 0.8 s of a start. Yields the function to call when the start is over. On leaving
    the context, the collector is as it was before.
    """
    was_enabled = gc.isenabled()
    gc.disable()

    def start_is_over() -> None:
        gc.freeze()
        if was_enabled:
            gc.enable()

    try:
        yield start_is_over
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()

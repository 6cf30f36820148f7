"""Keeps the memory of predicting images of many sizes near that of the largest.

glibc keeps freed blocks for later ones. Each new size of image leaves small blocks between them
(oneDNN makes and keeps convolutions for each size), the next image's tensors do not fit between
them, and the process grows to more than twice what it uses.
"""

import ctypes
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_SECONDS = 5.0  # as seldom as this, getting the memory back costs nothing measurable
Item = TypeVar("Item")


def trimmed(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, and between two of them returns freed memory to the system at times."""
    last = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - last > _SECONDS:
            trim()
            last = time.monotonic()


def trim() -> None:
    """Returns the memory that is allocated and not in use, where the C library is glibc."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)

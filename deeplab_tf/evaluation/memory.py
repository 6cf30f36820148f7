"""Returns freed memory to the system when image sizes vary.

glibc keeps freed memory for later allocations. With each new image size, some small blocks stay in
use between the freed ones, since oneDNN makes and keeps convolutions for each size. The tensors of
the next image do not fit into the gaps, and the process grows to more than twice the memory that
it uses.
"""

import ctypes
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_SECONDS = 5.0  # at this interval, returning the memory takes no measurable time
Item = TypeVar("Item")


def trimmed(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, and every few seconds returns freed memory to the system between two."""
    last = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - last > _SECONDS:
            trim()
            last = time.monotonic()


def trim() -> None:
    """Returns freed memory to the system, if the C library is glibc."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)

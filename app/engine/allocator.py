"""Memory that the C library keeps for later goes back to the system now and then.

Batches of many sizes leave gaps in the heap, and a process keeps the size that its largest batch needed. Without
trimming, a worker's resident memory grows with every batch that is larger than all before.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator

EVERY = 20.0  # seconds: a trim takes some milliseconds, and what it gave back has to be fetched again


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE, _WEIGHTS, _KEPT = 1 << 20, 1 << 17, 1 << 24


def return_large_blocks() -> None:
    """Have blocks of 1 MiB and more go back to the system when they are freed.

    glibc's own threshold grows with the largest block freed: after one large body the next ones would lie in the heap,
    below later allocations, and could not be given back.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGE)


@contextlib.contextmanager
def returning_weights() -> Iterator[None]:
    """While a model is loaded, have weights that are copied and let go of leave no gaps in the heap: blocks of 128 KiB
    and more go back to the system. After it, blocks of up to 16 MiB are kept for the next ones, which is about what
    glibc comes to by itself: a batch's would be fetched again and again."""
    _mallopt(_M_MMAP_THRESHOLD, _WEIGHTS)
    try:
        yield
    finally:
        _mallopt(_M_MMAP_THRESHOLD, _KEPT)
        _mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT)


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # a C library without it
        ctypes.CDLL(None).mallopt(parameter, value)


def find_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None where the C library has none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


class Trimmer:
    """Call it after each piece of work; it trims when it is time."""

    def __init__(self, every: float = EVERY, trim: Callable[[int], int] | None = None) -> None:
        self._every, self._trim = every, trim or find_trim()
        self._next = time.monotonic() + every

    def __call__(self) -> None:
        """A piece of work is done."""
        if self._trim is not None and time.monotonic() >= self._next:
            self._trim(0)
            self._next = time.monotonic() + self._every

"""Threads that decode images. What takes much memory is decoded few at once, and holds up nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from model.interface import Pixels

LARGE_AT_ONCE = max(1, (os.cpu_count() or 1) // 4)
"""Large images that the process decodes at once, whatever for."""
large_places = threading.BoundedSemaphore(LARGE_AT_ONCE)
"""Whoever holds a large image in memory has one of these."""


class Later(Exception):
    """Raised by an image's ``load`` where decoding it takes much memory: ``load`` does it, in the threads for that."""

    def __init__(self, load: Callable[[], Pixels]) -> None:
        super().__init__()
        self.load = load


class Decoders:
    """Two groups of threads: ``most`` for most images, ``large`` for those whose ``load`` raised `Later`."""

    def __init__(self, most: int) -> None:
        self.most = ThreadPoolExecutor(most, thread_name_prefix="decode")
        self.large = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="decode-large")

    def close(self) -> None:
        """Begin no more."""
        for threads in (self.most, self.large):
            threads.shutdown(wait=False, cancel_futures=True)

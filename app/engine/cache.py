"""Which encoded images a worker keeps: bounded in bytes, the least recently used evicted first, those in use never.

The bytes themselves lie in the worker; this is the parent's index of them. What is evicted here, the worker is told to
forget.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.interface import Geometry


@dataclass(eq=False, slots=True)
class Entry:
    """One image. ``loading`` is the task that decodes and encodes it, shared by all who wait for it (single flight).
    ``error`` is why that was given up; ``geometry`` is set when it is done. ``users`` are requests that hold it,
    ``last_used`` is `time.perf_counter`, ``scopes`` are the API keys that sent its bytes."""

    key: str
    loading: asyncio.Task[None] | None = None
    error: Exception | None = None
    geometry: Geometry | None = None
    nbytes: int = 0
    users: int = 0
    last_used: float = 0.0
    scopes: set[str] = field(default_factory=set)

    @property
    def ready(self) -> bool:
        """Whether the worker keeps the image."""
        return self.geometry is not None


class ImageCache:
    """Entries by key, in order of their last use.

    ``capacity`` is in bytes, ``lifetime`` in seconds since the last use. Entries in use may exceed the capacity for as
    long as they are in use.
    """

    def __init__(self, capacity: int, lifetime: float) -> None:
        self.capacity = capacity
        self.lifetime = lifetime
        self.nbytes = 0
        self.evictions = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def peek(self, key: str) -> Entry | None:
        """The entry, without counting as a use."""
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        """Take a new entry, still loading."""
        self._entries[entry.key] = entry

    def fill(self, entry: Entry, *, nbytes: int, geometry: Geometry) -> None:
        """The worker keeps this image from now on."""
        entry.nbytes, entry.geometry = nbytes, geometry
        self.nbytes += nbytes

    def pin(self, entry: Entry, now: float) -> None:
        """Keep the entry until it is released."""
        entry.users += 1
        entry.last_used = now
        self._entries.move_to_end(entry.key)

    def release(self, entry: Entry) -> None:
        """One user fewer."""
        entry.users -= 1

    def drop(self, entry: Entry) -> None:
        """Forget one entry, in use or not."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            self.nbytes -= entry.nbytes

    def clear(self) -> None:
        """Forget all: their worker is gone."""
        self._entries.clear()
        self.nbytes = 0

    def shrink(self, now: float) -> tuple[str, ...]:
        """Evict what is too old or too much. Returns the keys that the worker must forget."""
        evicted = []
        for entry in list(self._entries.values()):
            if self.nbytes <= self.capacity and now - entry.last_used <= self.lifetime:
                break  # all that follow were used later
            if entry.users == 0 and entry.ready:
                self.drop(entry)
                evicted.append(entry.key)
        self.evictions += len(evicted)
        return tuple(evicted)

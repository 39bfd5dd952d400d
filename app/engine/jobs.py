"""What waits for the model: an image to encode, the texts of a request, and the batch that goes to the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.engine.cache import Entry
from app.engine.messages import Encode, Encoded, Failure, Packed, Run, RunItem
from app.engine.stages import Stages
from app.errors import RequestError
from model.interface import ItemError, Pixels, Task


def worker_failed() -> RequestError:
    """The error of a request whose worker died while it held it."""
    return RequestError("worker_failed", "The worker died while it held this request.")


class _Waits:
    """A job whose request awaits ``future``."""

    __slots__ = ()
    future: asyncio.Future[Any]

    def settle(self, result: object) -> None:
        """Hand the worker's result to the request, if it still waits."""
        if isinstance(result, Failure):
            if result.out_of_memory:
                self.fail(RequestError("overloaded", "The device has too little memory for this request."))
            else:
                self.fail(RequestError("internal_error", "The model failed on this request."))
        elif isinstance(result, ItemError):
            self.fail(result)
        elif not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in the request, if it still waits. One `RequestError` may fail many jobs: each raises a copy
        of its own."""
        if not self.future.done():
            self.future.set_exception(error.copy() if isinstance(error, RequestError) else error)


@dataclass(eq=False, slots=True)
class EncodeJob(_Waits):
    """The image of ``entry``, to be encoded. ``arrival`` is when its request came, ``queued`` when the job was put
    (both `time.perf_counter`)."""

    entry: Entry
    pixels: Pixels
    arrival: float
    future: asyncio.Future[Encoded]
    stages: Stages = field(default_factory=Stages)
    queued: float = 0.0


@dataclass(eq=False, slots=True)
class RunJob(_Waits):
    """Texts of one request about the image of ``entry``, which go to the worker together. ``queued`` is None while the
    image is not encoded: a job that waits for its image may go to the worker with it."""

    task: Task
    item: RunItem
    entry: Entry
    arrival: float
    future: asyncio.Future[Packed]
    stages: Stages = field(default_factory=Stages)
    queued: float | None = None

    @property
    def group(self) -> Hashable:
        """Jobs of one group may share a call. Maps of some kinds need a second pass over the batch: they run apart."""
        maps = self.item.maps
        second_pass = maps.kind if maps is not None and maps.kind in ("gradient", "rollout") else None
        return (self.task, second_pass)

    @property
    def bucket(self) -> int:
        """Jobs of one bucket cause each other little padding: log2 of the longest text's characters, 6 at least."""
        longest = max(len(text) for text in self.item.texts)
        return max(6, longest.bit_length())


Job = EncodeJob | RunJob


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes to the worker in one message: images, texts, or images and then texts."""

    encodes: Sequence[EncodeJob] = ()
    runs: Sequence[RunJob] = ()

    @property
    def jobs(self) -> list[Job]:
        """All of them, images first."""
        return [*self.encodes, *self.runs]

    def wanted(self) -> bool:
        """Whether anybody still waits for any of it."""
        return not all(job.future.done() for job in self.jobs)

    def message(self, evict: tuple[str, ...]) -> Encode | Run:
        """What the worker is sent; it forgets the images of the keys ``evict`` first."""
        items = tuple(job.item for job in self.runs)
        if not self.encodes:
            return Run(self.runs[0].task, items, evict)
        run = Run(self.runs[0].task, items) if items else None
        return Encode(tuple((job.entry.key, job.pixels) for job in self.encodes), evict, run)

"""What the model does next: jobs waiting, and the choice of those that share a call.

A call starts as soon as the worker is free, so an idle server adds no wait and a busy one fills its batches by itself.
Texts go before images, so that requests are finished before others are begun; and the texts that wait for an image go
to the worker with it, so that nothing comes between. But while many images wait, `GATHER` of them are encoded between
one run and the next: a run costs little more for four texts than for one. And no image waits for more than `GATHER`
runs of texts about others. Among texts the first to come goes first; others join it where they cost least.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from app.engine.cache import Entry
from app.engine.stages import Stages
from app.engine.worker import Encode, Encoded, Failure, Run, RunItem
from app.errors import RequestError
from model.interface import ItemError, Output, Pixels, Task


class _Waits:
    """What somebody waits for."""

    __slots__ = ()
    future: asyncio.Future[Any]

    def settle(self, result: object) -> None:
        """Tell who waits, if anyone still does, what the worker's reply has for this job."""
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
        """Tell who waits that nothing comes."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class EncodeJob(_Waits):
    """The image of ``entry``, to be encoded; texts may wait for it there. ``arrival`` is when its request came,
    ``queued`` when it was put (both `time.perf_counter`)."""

    entry: Entry
    pixels: Pixels
    arrival: float
    future: asyncio.Future[Encoded]
    stages: Stages = field(default_factory=Stages)
    queued: float = 0.0


@dataclass(eq=False, slots=True)
class RunJob(_Waits):
    """One request's texts against one image; never split. ``queued`` is None until it is put: a job that waits for its
    image may go with that."""

    task: Task
    item: RunItem
    arrival: float
    future: asyncio.Future[Output]
    stages: Stages = field(default_factory=Stages)
    queued: float | None = None

    @property
    def group(self) -> Hashable:
        """Jobs of one group may share a call."""
        maps = self.item.maps
        second_pass = maps.kind if maps is not None and maps.kind in ("gradient", "rollout") else None
        return (self.task, second_pass)

    @property
    def bucket(self) -> int:
        """Texts of one bucket pad each other little: the power of two above the longest text's characters, 64 up."""
        longest = max(len(text) for text in self.item.texts)
        return max(6, longest.bit_length())


Job = EncodeJob | RunJob

GATHER = 4
"""While as many images wait, they are encoded before the texts that wait too are run; no text waits for more, and no
image for more runs than that."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes to the worker in one message: images, texts, or images and then texts."""

    encodes: Sequence[EncodeJob] = ()
    runs: Sequence[RunJob] = ()

    @property
    def jobs(self) -> list[Job]:
        return [*self.encodes, *self.runs]

    def message(self, evict: tuple[str, ...]) -> Encode | Run:
        """What the worker is sent; ``evict`` names the images that it should forget first."""
        items = tuple(job.item for job in self.runs)
        if not self.encodes:
            return Run(self.runs[0].task, items, evict)
        run = Run(self.runs[0].task, items) if items else None
        return Encode(tuple((job.entry.key, job.pixels) for job in self.encodes), evict, run)


class Batcher:
    """Two queues, images to encode and texts to run, and the choice of the next batch."""

    def __init__(self, *, encode_batch: int, run_batch: int, on_drop: Callable[[Job], None]) -> None:
        self.encode_batch = encode_batch
        self.run_batch = run_batch
        self._on_drop = on_drop
        self._encode: deque[EncodeJob] = deque()
        self._run: deque[RunJob] = deque()
        self._arrived = asyncio.Event()
        self._since_run = 0  # images encoded since the last run
        self._since_encode = 0  # runs since the last encode, while an image waits

    def put(self, job: Job) -> None:
        """Queue a job. The image of a `RunJob` is encoded."""
        job.queued = perf_counter()
        if isinstance(job, EncodeJob):
            self._encode.append(job)
        else:
            self._run.append(job)
        self._arrived.set()

    @property
    def encodes(self) -> int:
        return len(self._encode)

    @property
    def texts(self) -> int:
        return sum(len(job.item.texts) for job in self._run)

    async def wait(self, seconds: float) -> None:
        """Until another job is put, or for ``seconds``."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    def take(self) -> Batch | None:
        """The next batch, taken from the queues; None when nothing waits. Abandoned jobs are dropped on the way."""
        self._encode = self._living(self._encode)
        self._run = self._living(self._run)
        if not self._run and not self._encode:
            return None
        encodes: list[EncodeJob] = []
        waiting: list[RunJob] = []
        if not self._run or self._gathering() or self._since_encode >= GATHER:
            encodes = [self._encode.popleft() for _ in range(min(self.encode_batch, len(self._encode)))]
            self._since_run += len(encodes)
            self._since_encode = 0
            waiting = [job for encode in encodes for job in encode.entry.waiting]
            if self._gathering() or not (waiting or self._run):
                return Batch(encodes)
        self._since_run = 0
        self._since_encode = self._since_encode + 1 if self._encode and not encodes else 0
        runs = self._choose([*self._run, *waiting])
        taken = set(map(id, runs))
        self._run = deque(job for job in self._run if id(job) not in taken)
        for encode in encodes:
            encode.entry.waiting = [job for job in encode.entry.waiting if id(job) not in taken]
        return Batch(encodes, runs)

    def full(self, batch: Sequence[Job]) -> bool:
        """Whether jobs of one kind are as many as a call may have."""
        texts = sum(len(job.item.texts) for job in batch if isinstance(job, RunJob))
        return texts >= self.run_batch if texts else len(batch) >= self.encode_batch

    def encode_is_next(self) -> bool:
        """Whether `take` would return encodes, and fewer than a full batch of them."""
        return bool(self._encode) and not self._run and len(self._encode) < self.encode_batch

    def _gathering(self) -> bool:
        return len(self._encode) >= GATHER and self._since_run < GATHER

    def _choose(self, jobs: Sequence[RunJob]) -> list[RunJob]:
        """The first job and those that share its call."""
        first = jobs[0]

        def rank(job: RunJob) -> int:  # the same image costs least, then the same length
            return 0 if job.item.key == first.item.key else 1

        fitting = [
            job
            for job in jobs
            if job.group == first.group and (job.item.key == first.item.key or job.bucket == first.bucket)
        ]
        fitting.sort(key=rank)  # stable: first come, first served within a rank
        batch, texts = [first], len(first.item.texts)
        for job in fitting[1:]:
            if texts + len(job.item.texts) <= self.run_batch:
                batch.append(job)
                texts += len(job.item.texts)
        return batch

    def drain(self) -> list[Job]:
        """All waiting jobs, taken out: their worker is gone."""
        jobs: list[Job] = [*self._encode, *self._run]
        self._encode.clear()
        self._run.clear()
        return jobs

    def _living(self, queue: deque[Any]) -> deque[Any]:
        """The jobs that somebody still waits for: the rest were cancelled or ran out of time."""
        living: deque[Any] = deque()
        for job in queue:
            if job.future.done():
                self._on_drop(job)
            else:
                living.append(job)
        return living

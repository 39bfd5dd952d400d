"""Puts the engine's batches together: which waiting jobs go to the model next, and which of them share a call.

A call starts as soon as the worker is free: an idle server adds no wait, and a busy one fills its batches by itself.
Texts go before images, so that requests finish before others start. Texts that wait for an image go to the worker
together with it. But while many images wait, `GATHER` of them are encoded between two runs, because a run of four texts
costs little more than a run of one. No image waits for more than `GATHER` runs of texts about other images. Among
texts, the oldest goes first; others join it where they cost least.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from app.engine.cache import Entry
from app.engine.jobs import Batch, EncodeJob, Job, RunJob

GATHER = 4
"""While at least so many images wait, that many are encoded before the next texts are run. No text waits for more
images than that, and no image for more runs."""


class Batcher:
    """All that waits: images to encode, texts to run, texts whose image is not encoded yet. Nothing else touches it."""

    def __init__(self, *, encode_batch: int, run_batch: int, on_drop: Callable[[Job], None]) -> None:
        self.encode_batch = encode_batch
        self.run_batch = run_batch
        self._on_drop = on_drop
        self._encode: deque[EncodeJob] = deque()
        self._run: deque[RunJob] = deque()
        self._waiting: dict[Entry, list[RunJob]] = {}
        self._arrived = asyncio.Event()
        self._since_run = 0  # images encoded since the last run
        self._since_encode = 0  # runs since the last encode, while an image waits

    def put(self, job: Job) -> None:
        """Queue a job. Texts wait until their image is `encoded`."""
        if isinstance(job, RunJob) and not job.entry.ready:
            self._waiting.setdefault(job.entry, []).append(job)
            return
        job.queued = perf_counter()
        if isinstance(job, EncodeJob):
            self._encode.append(job)
        else:
            self._run.append(job)
        self._arrived.set()

    def encoded(self, entry: Entry) -> None:
        """The image is encoded: queue the texts that waited for it and did not go with it."""
        for job in self._waiting.pop(entry, ()):
            self.put(job)

    def drop(self, entry: Entry, error: BaseException) -> None:
        """The image will not be encoded: fail the texts that wait for it with ``error``."""
        for job in self._waiting.pop(entry, ()):
            job.fail(error)

    def withdraw(self, job: RunJob) -> None:
        """The job's request no longer waits. One that still waits for its image is let go of at once."""
        waiting = self._waiting.get(job.entry, [])
        if job in waiting:
            waiting.remove(job)
            if not waiting:
                del self._waiting[job.entry]

    @property
    def encodes(self) -> int:
        """Images that wait for the vision encoder."""
        return len(self._encode)

    @property
    def texts(self) -> int:
        """Texts that wait for the model, their images encoded."""
        return sum(len(job.item.texts) for job in self._run)

    async def wait(self, seconds: float) -> None:
        """Until another job is put, or for ``seconds``."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    def wake(self) -> None:
        """End `wait`: there is something to do that is not in these queues."""
        self._arrived.set()

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
            waiting = [job for encode in encodes for job in self._waiting.get(encode.entry, ())]
            if self._gathering() or not (waiting or self._run):
                return Batch(encodes)
        self._since_run = 0
        self._since_encode = self._since_encode + 1 if self._encode and not encodes else 0
        runs = self._choose([*self._run, *waiting])
        taken = set(runs)
        self._run = deque(job for job in self._run if job not in taken)
        for job in taken.intersection(waiting):
            self.withdraw(job)
        return Batch(encodes, runs)

    def full(self, batch: Sequence[Job]) -> bool:
        """Whether jobs of one kind are as many as a call may have."""
        cost = sum(job.item.cost for job in batch if isinstance(job, RunJob))
        return cost >= self.run_batch if cost else len(batch) >= self.encode_batch

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
        batch, cost = [first], first.item.cost
        for job in fitting[1:]:
            if cost + job.item.cost <= self.run_batch:
                batch.append(job)
                cost += job.item.cost
        return batch

    def drain(self, error: BaseException) -> None:
        """Fail all that waits: the worker is gone."""
        jobs = [*self._encode, *self._run, *(job for waiting in self._waiting.values() for job in waiting)]
        self._encode.clear()
        self._run.clear()
        self._waiting.clear()
        for job in jobs:
            job.fail(error)

    def _living(self, queue: deque[Any]) -> deque[Any]:
        """The jobs that somebody still waits for: the rest were cancelled or ran out of time."""
        living: deque[Any] = deque()
        for job in queue:
            if job.future.done():
                self._on_drop(job)
            else:
                living.append(job)
        return living

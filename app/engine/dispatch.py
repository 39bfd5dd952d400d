"""Gives a replica's worker one batch after the other, and hands each result to the request that waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.jobs import Batch, Job, RunJob, worker_failed
from app.engine.loading import ImageLoader
from app.engine.messages import Encoded, Reply
from app.engine.options import Observer, ReplicaOptions
from app.engine.protocol import Worker
from app.engine.writing import Writers

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Dispatcher:
    """Takes what waits in ``batcher`` and ``writers`` to the worker. ``on_lost`` is called as soon as a call fails,
    before its requests are told."""

    options: ReplicaOptions
    batcher: Batcher
    writers: Writers
    images: ImageLoader
    admission: Admission
    observer: Observer
    on_lost: Callable[[], None]
    call: tuple[float, float] | None = None
    """When the worker's call began, and how many seconds it is expected to take; None while it has nothing to do."""

    async def run(self, worker: Worker) -> None:
        """Send batch after batch to ``worker``, until cancelled.

        Raises: `WorkerDied`; the requests that it held have failed by then.
        """
        while True:
            writing = self.writers.busy
            if writing:
                await self._write(worker)
            pause = self.options.batch_wait
            waited = bool(self.images.decoding and self.batcher.encode_is_next() and pause and not writing)
            if waited:
                await self.batcher.wait(pause)  # images on their way may share the call
            batch = self.batcher.take()
            if batch is None and writing:
                continue
            if batch is None:
                await self.batcher.wait(5.0)  # now and then even when idle, for images past their time
                self.images.shrink()
                continue
            evict = self.images.evicted()
            start = perf_counter()
            cost = sum(job.item.cost for job in batch.runs)
            self.call = (start, self.admission.seconds(len(batch.encodes), cost))
            try:
                reply = await worker.call(batch.message(evict), seconds=self.options.call_seconds, wanted=batch.wanted)
            except BaseException:
                self.on_lost()  # before anyone is told, so that nobody comes back too soon
                for job in batch.jobs:
                    job.fail(worker_failed())
                raise
            finally:
                self.call = None
            self._settle(batch, reply, start, waited)

    async def _write(self, worker: Worker) -> None:
        """One more token for all that is being written. Raises: `WorkerDied`."""
        waiting = len(self.writers.waiting)
        message = self.writers.message(self.images.evicted())
        try:
            reply = await worker.call(message, seconds=self.options.call_seconds)
        except BaseException:
            self.on_lost()  # before anyone is told, so that nobody comes back too soon
            self.writers.drain(worker_failed())
            raise
        end = perf_counter()
        together = max(1, len(self.writers.running))
        if message.join:
            reason = "full" if len(self.writers.waiting) and waiting else "free"
            self.observer.batch("run", reason, sum(len(item.texts) for _, _, item in message.join), reply.seconds)
        for job in self.writers.settle(reply.results):
            began = end if job.began is None else job.began
            self.admission.run.observe(job.item.cost, (end - began) / together)
            self.observer.waited("run", began - job.arrival)
            start, seconds = job.stages.spans.get("encode", (job.arrival, 0.0))
            job.stages.end("shared", began)
            job.stages.add("run_wait", min(began, start + seconds), began)
            job.stages.add("run", began, end)

    def _settle(self, batch: Batch, reply: Reply, start: float, waited: bool) -> None:
        """Tell everyone. What the call took beyond the model's own time is counted where it began."""
        end = perf_counter()
        ran = reply.run if batch.encodes else reply
        between = end - ran.seconds if batch.encodes and ran is not None else (end if batch.encodes else start)
        if batch.encodes:
            self._observe("encode", batch.encodes, reply, start, between, waited)
            for encode, result in zip(batch.encodes, reply.results, strict=True):
                if isinstance(result, Encoded):
                    self.images.keep(encode, result.nbytes)
                encode.settle(result)
        if ran is not None:
            self._observe("run", batch.runs, ran, between, end, waited)
            for job, result in zip(batch.runs, ran.results, strict=True):
                job.settle(result)

    def _observe(
        self, kind: Literal["encode", "run"], jobs: Sequence[Job], reply: Reply, start: float, end: float, waited: bool
    ) -> None:
        """Note what one call of the model did, and where its requests' time went."""
        count = sum(len(job.item.texts) if isinstance(job, RunJob) else 1 for job in jobs)
        cost = sum(job.item.cost if isinstance(job, RunJob) else 1 for job in jobs)
        if not reply.abandoned:
            (self.admission.encode if kind == "encode" else self.admission.run).observe(cost, end - start)
        reason = "full" if self.batcher.full(jobs) else ("waited" if waited else "free")
        self.observer.batch(kind, reason, count, reply.seconds)
        if reply.batch_that_fits is not None:
            self._fit(kind, reply.batch_that_fits)
        for job in jobs:
            self.observer.waited(kind, start - job.arrival)
            queued = start if job.queued is None else job.queued
            job.stages.end("shared", queued)
            job.stages.add(f"{kind}_wait", queued, start)
            job.stages.add(kind, start, end)

    def _fit(self, kind: str, size: int) -> None:
        logger.warning("out of memory: %s batches are now at most %d", kind, size)
        if kind == "encode":
            self.batcher.encode_batch = min(self.batcher.encode_batch, size)
        else:
            self.batcher.run_batch = min(self.batcher.run_batch, size)

"""The images of a replica: each is decoded and encoded once for all who ask for it, and kept for those who come back.

A thread decodes the image, then it waits in the batcher for the vision encoder. While anybody holds it, it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from app.engine.batcher import Batcher
from app.engine.cache import Entry, ImageCache
from app.engine.decoders import Decoders, Later
from app.engine.jobs import EncodeJob, worker_failed
from app.engine.stages import Stages
from app.engine.writing import Writers
from app.errors import RequestError
from model.interface import Pixels


@dataclass(eq=False, slots=True)
class ImageLoader:
    """Gets images into ``cache``, by way of ``decoders`` and ``batcher``; at most ``decode_ahead`` are decoded and wait
    for the encoder. ``batcher`` and ``writers`` have the texts that wait for an image, and are told when there will be
    none."""

    cache: ImageCache
    decoders: Decoders
    batcher: Batcher
    writers: Writers
    decode_ahead: int
    loading: int = 0
    """Images asked for and not encoded yet; ``decoding`` of them are in the decoders."""
    decoding: int = 0
    encoded: int = 0
    """Images that went through the vision encoder since the start."""
    _ahead: asyncio.Semaphore = field(init=False)
    _forget: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ahead = asyncio.Semaphore(self.decode_ahead)

    @asynccontextmanager
    async def hold(self, key: str, load: Callable[[], Pixels] | None, stages: Stages) -> AsyncIterator[Entry]:
        """The image ``key``, kept until the block ends. It may still be loading: see `loaded`. Requests for one image
        share its loading, which is given up when nobody waits any more.

        Raises: `RequestError` ``image_not_found`` when ``load`` is None and the image unknown.
        """
        entry = self.cache.peek(key)
        if entry is None:
            if load is None:
                raise RequestError("image_not_found", f"No image {key} is kept here; send its bytes.", param="image_id")
            entry = Entry(key)
            self.cache.add(entry)
            self.loading += 1
            entry.loading = asyncio.create_task(self._load(entry, load, stages))
            entry.loading.add_done_callback(self._finished)
        elif not entry.ready:
            stages.add("shared", perf_counter(), perf_counter())  # when it ends is noted where it ends
        self.cache.pin(entry, perf_counter())
        try:
            yield entry
        finally:
            self.cache.release(entry)
            if not entry.ready:
                if entry.users == 0:
                    self.cache.drop(entry)
                    if entry.loading is not None:
                        entry.loading.cancel()
            else:
                self.shrink()

    def _finished(self, loading: asyncio.Task[None]) -> None:
        self.loading -= 1
        if not loading.cancelled():
            loading.exception()  # seen: each request that waited raises it for itself

    async def loaded(self, entry: Entry, stages: Stages) -> None:
        """Until an image that is held is encoded.

        Raises: `RequestError`: what its ``load`` raises.
        """
        if entry.loading is None or entry.ready:
            return
        try:
            await asyncio.shield(entry.loading)
            stages.end("shared", perf_counter())
        except RequestError as error:
            raise error.copy() from None  # the task's own is raised in all who wait
        except asyncio.CancelledError:
            if not entry.loading.cancelled() or entry.error is None:
                raise  # it was this request that was cancelled
            raise worker_failed() from entry.error

    async def _load(self, entry: Entry, load: Callable[[], Pixels], stages: Stages) -> None:
        arrival = perf_counter()
        try:
            try:
                async with self._ahead:
                    await self._load_in(self.decoders.most, entry, load, stages, arrival)
            except Later as later:  # it waits for its like, and for no place that others need
                await self._load_in(self.decoders.large, entry, later.load, stages, arrival)
        except BaseException as error:
            self.cache.drop(entry)  # who comes next tries again
            self.batcher.drop(entry, entry.error or error)
            self.writers.drop(entry, entry.error or error)
            raise

    async def _load_in(
        self, threads: Executor, entry: Entry, load: Callable[[], Pixels], stages: Stages, arrival: float
    ) -> None:
        self.decoding += 1
        start = perf_counter()
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(threads, load)
        finally:
            self.decoding -= 1
        stages.add("decode", start, perf_counter())
        job = EncodeJob(entry, pixels, arrival, asyncio.get_running_loop().create_future(), stages)
        self.batcher.put(job)
        await job.future

    def keep(self, job: EncodeJob, nbytes: int) -> None:
        """The worker has encoded the image of ``job``, which takes ``nbytes`` bytes there: it stays, unless nobody
        waits for it any more."""
        self.encoded += 1
        if job.future.done():
            self._forget.append(job.entry.key)
        else:
            self.cache.fill(job.entry, nbytes=nbytes, geometry=job.pixels.geometry)
            self.batcher.encoded(job.entry)

    def shrink(self) -> None:
        """Evict what is too old or too much."""
        self._forget.extend(self.cache.shrink(perf_counter()))

    def evicted(self) -> tuple[str, ...]:
        """The keys that the worker must forget. Each is told once."""
        keys = tuple(self._forget)
        self._forget.clear()
        return keys

    def fail(self, error: RequestError) -> None:
        """The worker's images are gone: what is loading fails with ``error``."""
        for entry in list(self.cache):
            if entry.loading is not None and not entry.ready:
                entry.error = error
                entry.loading.cancel()
        self.cache.clear()
        self._forget.clear()

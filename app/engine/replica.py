"""One worker with its cache and its queues, kept alive.

There is a replica for each device (on a CPU, for a share of the cores). Replicas share nothing, so one that fails takes
only its own requests with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.cache import Entry, ImageCache
from app.engine.decoders import Decoders, Later
from app.engine.jobs import Batch, EncodeJob, Job, RunJob
from app.engine.messages import Encoded, Reply, RunItem
from app.engine.options import Observer, ReplicaOptions
from app.engine.protocol import ModelNotLoaded, Worker, WorkerDied
from app.engine.stages import Stages
from app.engine.writing import DEFAULT_TOKENS, WriteJob, Writers
from app.errors import RequestError
from model.interface import ItemError, ModelInfo, Output, Pixels, Progress, Task

logger = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
_LONGEST_PAUSE = 30.0
_GPU_ENCODE_BATCH = 8
_DIED = "The worker died while it held this request."


@dataclass(eq=False, slots=True)
class Replica:
    """A worker, supervised: replaced when it dies, after longer and longer pauses. ``make_worker`` is given ``index``,
    which tells the replicas apart."""

    index: int
    make_worker: Callable[[int], Worker]
    options: ReplicaOptions
    admission: Admission
    decoders: Decoders
    observer: Observer
    on_change: Callable[[], None]
    state: State = "starting"
    info: ModelInfo | None = None
    failure: str | None = None
    """Why the model could not be loaded, in the state ``failed``."""
    encoded: int = 0
    """Images that went through the vision encoder since the start."""
    restarts: int = 0
    loading: int = 0
    """Images asked for and not encoded yet; ``decoding`` of them are in the decoders."""
    decoding: int = 0
    asked: int = 0
    """Texts asked for and not answered yet."""
    worker: Worker = field(init=False)
    cache: ImageCache = field(init=False)
    batcher: Batcher = field(init=False)
    writers: Writers = field(init=False)
    _ahead: asyncio.Semaphore = field(init=False)
    _call: tuple[float, float] | None = None
    """When the worker's call began, and how many seconds it is expected to take; None while it has nothing to do."""
    _forget: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = self.make_worker(self.index)
        self.cache = ImageCache(self.options.cache_bytes, self.options.cache_seconds)
        self.batcher = Batcher(
            encode_batch=self.options.encode_batch or 1, run_batch=self.options.run_batch, on_drop=self._dropped
        )
        self.writers = Writers(self.options.generation_tokens)
        self._ahead = asyncio.Semaphore(self.options.decode_ahead)

    def estimated_wait(self, now: float) -> float:
        """Estimated seconds until the worker would begin what comes ``now`` (`time.perf_counter`). With each request
        sent where this is least, replicas answer as soon as one queue for all of them would."""
        seconds = self.admission.seconds(self.loading, self.asked)
        if self._call is None:
            return seconds
        began, expected = self._call
        # A call past its expected time may hang: the longer it has taken, the longer it is expected to take.
        return max(0.0, seconds - expected) + abs(expected - (now - began))

    # -- life ---------------------------------------------------------------------------------------------------

    async def supervise(self) -> None:
        """Keep a worker running and its queue moving, until cancelled."""
        pause = 0.0
        try:
            while True:
                began = perf_counter()
                try:
                    await self._one_life()
                except ModelNotLoaded as error:
                    if self.info is None:
                        self.failure = str(error)  # said once, by whoever ends the server for it
                        self._enter("failed")
                        return
                    # It could be loaded before: memory or a disk may be short for a while.
                    logger.error("the model cannot be loaded: %s", error)
                except (WorkerDied, OSError) as error:
                    logger.error("worker lost: %s", error)
                except Exception:  # a fault of our own must not end the service
                    logger.exception("the dispatcher failed")
                self._enter("restarting")
                self.restarts += 1
                self.observer.restarted()
                self._fail_all(RequestError("worker_failed", _DIED))
                await self.worker.stop(grace=0.0)
                self.worker = self.make_worker(self.index)
                if perf_counter() - began > 60.0:
                    pause = 0.0
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause + 0.5)
        finally:
            if self.state != "failed":
                self._enter("stopped")
            self._fail_all(RequestError("shutting_down", "This server is shutting down."))
            await self.worker.stop()

    async def _one_life(self) -> None:
        """One worker's life. Raises when it ends: `WorkerDied`, `ModelNotLoaded`."""
        options = self.options
        ready = await self.worker.start(options.load, seconds=options.load_seconds)
        self.info = ready.info
        # On a CPU, the activations of one image fill the cache: two take longer than one after the other.
        self.batcher.encode_batch = options.encode_batch or (_GPU_ENCODE_BATCH if ready.gpu else 1)
        self.batcher.run_batch = options.run_batch
        self._enter("ready")
        dispatching = asyncio.create_task(self._dispatch())
        ended = asyncio.create_task(self.worker.ended())
        try:
            await asyncio.wait((dispatching, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            dispatching.cancel()
            await asyncio.wait((dispatching,))
        if not dispatching.cancelled():
            dispatching.result()  # raises what ended it
        raise WorkerDied(await self.worker.ended())

    def _enter(self, state: State) -> None:
        self.state = state
        self.on_change()

    def _fail_all(self, error: RequestError) -> None:
        """The worker's images are gone, and with them whatever waits for them."""
        self.batcher.drain(error)
        self.writers.drain(error)
        for entry in list(self.cache):
            if entry.loading is not None and not entry.ready:
                entry.error = error
                entry.loading.cancel()
        self.cache.clear()
        self._forget.clear()

    def _dropped(self, job: Job) -> None:
        self.observer.dropped("encode" if isinstance(job, EncodeJob) else "run")

    # -- the worker's side of the queue ---------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Send batch after batch. Raises: `WorkerDied`."""
        while True:
            writing = self.writers.busy
            if writing:
                await self._write()
            waited = bool(self.decoding and self.batcher.encode_is_next() and self.options.batch_wait and not writing)
            if waited:
                await self.batcher.wait(self.options.batch_wait)  # images on their way may share the call
            batch = self.batcher.take()
            if batch is None and writing:
                continue
            if batch is None:
                await self.batcher.wait(5.0)  # now and then even when idle, for images past their time
                self._shrink()
                continue
            evict = tuple(self._forget)
            self._forget.clear()
            start = perf_counter()
            cost = sum(job.item.cost for job in batch.runs)
            self._call = (start, self.admission.seconds(len(batch.encodes), cost))
            try:
                reply = await self.worker.call(
                    batch.message(evict), seconds=self.options.call_seconds, wanted=batch.wanted
                )
            except BaseException:
                self._enter("restarting")  # before anyone is told, so that nobody comes back too soon
                for job in batch.jobs:
                    job.fail(RequestError("worker_failed", _DIED))
                raise
            finally:
                self._call = None
            self._settle(batch, reply, start, waited)

    async def _write(self) -> None:
        """One more token for all that is being written. Raises: `WorkerDied`."""
        waiting = len(self.writers.waiting)
        message = self.writers.message(tuple(self._forget))
        self._forget.clear()
        try:
            reply = await self.worker.call(message, seconds=self.options.call_seconds)
        except BaseException:
            self._enter("restarting")  # before anyone is told, so that nobody comes back too soon
            self.writers.drain(RequestError("worker_failed", _DIED))
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
                self._settle_encode(encode, result)
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

    def _settle_encode(self, job: EncodeJob, result: object) -> None:
        if isinstance(result, Encoded):
            self.encoded += 1
            if job.future.done():  # nobody waits any more
                self._forget.append(job.entry.key)
            else:
                self.cache.fill(job.entry, nbytes=result.nbytes, geometry=job.pixels.geometry)
                self.batcher.encoded(job.entry)
        job.settle(result)

    def _fit(self, kind: str, size: int) -> None:
        logger.warning("out of memory: %s batches are now at most %d", kind, size)
        if kind == "encode":
            self.batcher.encode_batch = min(self.batcher.encode_batch, size)
        else:
            self.batcher.run_batch = min(self.batcher.run_batch, size)

    def _shrink(self) -> None:
        self._forget.extend(self.cache.shrink(perf_counter()))

    # -- the requests' side ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def hold_image(self, key: str, load: Callable[[], Pixels] | None, stages: Stages) -> AsyncIterator[Entry]:
        """The image ``key``, kept until the block ends. It may still be loading: see `loaded` and `run`. Requests for
        one image share its loading, which is given up when nobody waits any more.

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
            elif self.state == "ready":
                self._shrink()

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
            raise RequestError("worker_failed", _DIED) from entry.error

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

    async def run(
        self,
        task: Task,
        item: RunItem,
        entry: Entry,
        arrival: float,
        stages: Stages,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Output:
        """Run texts against an image that is held, as soon as it is encoded: more than `Batcher.run_batch` in parts,
        between which others' texts may run.

        Raises: `ItemError`, `RequestError`: also what the image's ``load`` raises.
        """
        if self.info is not None and self.info.streams and task in ("answer", "caption") and item.candidates is None:
            self.asked += item.cost
            try:
                return await self._write_out(task, item, entry, arrival, stages, on_progress)
            finally:
                self.asked -= item.cost
        size = len(item.texts) if task == "match" else self.batcher.run_batch  # matches are scored over all texts
        outputs: list[Output] = []
        self.asked += item.cost
        try:
            for part in item.parts(size):
                if outputs and self.cache.peek(entry.key) is not entry:
                    raise RequestError("worker_failed", _DIED)  # between two parts
                outputs.append(await self._run_part(task, part, entry, arrival, stages))
        except ItemError as error:
            raise error.moved(size * len(outputs)) from None
        finally:
            self.asked -= item.cost
        return outputs[0] if len(outputs) == 1 else Output(sum((o.texts for o in outputs), ()), outputs[0].maps)

    async def _write_out(
        self,
        task: Task,
        item: RunItem,
        entry: Entry,
        arrival: float,
        stages: Stages,
        on_progress: Callable[[Progress], None] | None,
    ) -> Output:
        """Texts whose answers are written token by token, among others'."""
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        told = {} if self.info is None else self.info.generation_defaults
        usual = int(told.get("max_new_tokens", DEFAULT_TOKENS))
        self.writers.put(WriteJob(task, item, entry, arrival, future, stages, on_progress, usual=usual))
        self.batcher.wake()
        try:
            return await future
        finally:
            future.cancel()  # where the request is gone, it leaves at the next token

    async def _run_part(self, task: Task, item: RunItem, entry: Entry, arrival: float, stages: Stages) -> Output:
        job = RunJob(task, item, entry, arrival, asyncio.get_running_loop().create_future(), stages)
        self.batcher.put(job)
        try:
            return await job.future
        finally:
            self.batcher.withdraw(job)

"""One worker with its images and its queues, kept alive.

There is a replica for each device (on a CPU, for a share of the cores). Replicas share nothing, so one that fails takes
only its own requests with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.cache import Entry, ImageCache
from app.engine.decoders import Decoders
from app.engine.dispatch import Dispatcher
from app.engine.jobs import EncodeJob, Job, RunJob, worker_failed
from app.engine.loading import ImageLoader
from app.engine.messages import RunItem
from app.engine.options import Observer, ReplicaOptions
from app.engine.protocol import ModelNotLoaded, Worker, WorkerDied
from app.engine.stages import Stages
from app.engine.writing import DEFAULT_TOKENS, WriteJob, Writers
from app.errors import RequestError
from model.interface import ItemError, ModelInfo, Output, Progress, Task

logger = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
_LONGEST_PAUSE = 30.0
_GPU_ENCODE_BATCH = 8


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
    restarts: int = 0
    asked: int = 0
    """Texts asked for and not answered yet."""
    worker: Worker = field(init=False)
    cache: ImageCache = field(init=False)
    batcher: Batcher = field(init=False)
    writers: Writers = field(init=False)
    images: ImageLoader = field(init=False)
    dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        self.worker = self.make_worker(self.index)
        self.cache = ImageCache(options.cache_bytes, options.cache_seconds)
        self.batcher = Batcher(
            encode_batch=options.encode_batch or 1, run_batch=options.run_batch, on_drop=self._dropped
        )
        self.writers = Writers(options.generation_tokens)
        self.images = ImageLoader(self.cache, self.decoders, self.batcher, self.writers, options.decode_ahead)
        self.dispatcher = Dispatcher(
            options,
            self.batcher,
            self.writers,
            self.images,
            self.admission,
            self.observer,
            on_lost=lambda: self._enter("restarting"),
        )

    def estimated_wait(self, now: float) -> float:
        """Estimated seconds until the worker would begin what comes ``now`` (`time.perf_counter`). With each request
        sent where this is least, replicas answer as soon as one queue for all of them would."""
        seconds = self.admission.seconds(self.images.loading, self.asked)
        if self.dispatcher.call is None:
            return seconds
        began, expected = self.dispatcher.call
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
                self._fail_all(worker_failed())
                try:
                    await self.worker.stop(grace=0.0)
                except Exception:  # nor may one here
                    logger.exception("the lost worker cannot be stopped")
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
        dispatching = asyncio.create_task(self.dispatcher.run(self.worker))
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
        self.images.fail(error)

    def _dropped(self, job: Job) -> None:
        self.observer.dropped("encode" if isinstance(job, EncodeJob) else "run")

    # -- requests -------------------------------------------------------------------------------------------------

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
                    raise worker_failed()  # between two parts
                outputs.append(await self._run_part(task, part, entry, arrival, stages))
        except ItemError as error:
            raise error.moved(size * len(outputs)) from None
        finally:
            self.asked -= item.cost
        if len(outputs) == 1:
            return outputs[0]
        return Output([text for one in outputs for text in one.texts], outputs[0].maps)

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
            return (await job.future).unpack()
        finally:
            self.batcher.withdraw(job)

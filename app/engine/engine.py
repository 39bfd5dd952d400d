"""The engine as the routes see it. This side never imports torch."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from app.engine.admission import Admission
from app.engine.batcher import GATHER
from app.engine.cache import Entry
from app.engine.decoders import Decoders
from app.engine.devices import can_share, default_workers, device_environment
from app.engine.jobs import worker_failed
from app.engine.local import ForkServer, LocalWorker
from app.engine.messages import Load, RunItem, cost_of
from app.engine.options import Observer, ReplicaOptions
from app.engine.replica import Replica
from app.engine.stages import Stages
from app.errors import RequestError
from app.settings import Settings
from model.interface import Generation, Geometry, MapRequest, ModelInfo, Output, Pixels, Preprocess, Progress, Task

logger = logging.getLogger(__name__)

LOADER = "model.registry:load_model"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of a request: its ``content`` hash and how to get pixels (called in a thread, only if it must be), or
    the ``image_id`` of an image sent before. ``scope`` tells whose ids may be used: the API key's name. ``param`` is
    the request's field that the image came in, for errors."""

    content: bytes = b""
    load: Callable[[Preprocess], Pixels] | None = None
    image_id: str | None = None
    scope: str = ""
    param: str = "image"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An encoded image. ``cache`` is ``hit``, ``shared`` (joined another request's encode) or ``miss``."""

    image_id: str
    geometry: Geometry
    cache: str
    stages: Stages


@dataclass(frozen=True, slots=True)
class Answered(Uploaded):
    """An encoded image, and what the model says of it."""

    output: Output


class Engine:
    """The model as a service. One event loop; `start` and `stop` once each."""

    def __init__(self, settings: Settings, *, loader: str = LOADER, observer: Observer | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = settings.workers or default_workers(settings.device, cores)
        threads = settings.threads or max(1, cores // workers)
        decoders = settings.decode_threads or cores
        self.settings = settings
        self.draining = False
        self.info: ModelInfo | None = None
        self.admission = Admission(settings.queue_items, settings.queue_bytes, settings.queue_seconds, replicas=workers)
        self._observer = observer or Observer()
        self._decoders = Decoders(decoders)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        arguments = {
            "device": settings.device,
            "threads": threads,
            "kernel": settings.kernel,
            "dtype": settings.dtype,
            "allow_pickle": settings.allow_pickle,
            "image_bytes": settings.cache_bytes // workers // 2 or None,  # else one would drive out all others
        }
        load = Load(loader, {"name": settings.model, **arguments}, settings.log_level, settings.log_format)
        options = ReplicaOptions(
            load=load,
            cache_bytes=settings.cache_bytes // workers,
            cache_seconds=settings.cache_seconds,
            encode_batch=settings.encode_batch,
            run_batch=settings.run_batch,
            generation_tokens=settings.generation_tokens,
            batch_wait=settings.batch_wait,
            decode_ahead=decoders + 2 * (settings.encode_batch or GATHER),
            call_seconds=settings.worker_seconds,
            load_seconds=settings.load_seconds,
        )

        # A worker's idle threads must not spin on cores that other processes need. NumPy, which does little there,
        # would start some of its own when it is imported.
        threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
        shares = workers > 1 and can_share(settings.device)
        self._forks = ForkServer(threading) if shares else None

        def make_worker(index: int) -> LocalWorker:
            return LocalWorker(threading | device_environment(index, settings.device), self._forks)

        shared = (options, self.admission, self._decoders, self._observer, self._on_change)
        self.replicas = [Replica(index, make_worker, *shared) for index in range(workers)]

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers. Returns at once; `ready` tells when the first of them can answer."""
        self._tasks = [asyncio.create_task(self._supervise(index)) for index in range(len(self.replicas))]

    async def _supervise(self, index: int) -> None:
        """Start one worker after the other: the first is ready sooner where they do not load at once."""
        while index and self.replicas[index - 1].state == "starting":
            self._changed.clear()
            await self._changed.wait()
        await self.replicas[index].supervise()

    @property
    def ready(self) -> bool:
        """Whether a request that comes now can be answered."""
        return not self.draining and any(replica.state == "ready" for replica in self.replicas)

    @property
    def failure(self) -> str | None:
        """Why the model could not be loaded, if so."""
        return next((replica.failure for replica in self.replicas if replica.failure is not None), None)

    @property
    def failed(self) -> bool:
        """Whether no worker can load the model: waiting will not help."""
        return all(replica.state == "failed" for replica in self.replicas)

    @property
    def encoded(self) -> int:
        """Images that went through the vision encoder since the start."""
        return sum(replica.images.encoded for replica in self.replicas)

    def _on_change(self) -> None:
        self.info = next((replica.info for replica in self.replicas if replica.info is not None), None)
        self._changed.set()

    def wait(self) -> float:
        """Estimated seconds until a request about a new image would reach the model."""
        now = perf_counter()
        ready = [replica.estimated_wait(now) for replica in self.replicas if replica.state == "ready"]
        return min(ready) if ready else self.admission.wait()

    async def wait_ready(self) -> bool:
        """Until a worker is ready (True) or all have failed (False)."""
        while not self.ready and not self.failed:
            self._changed.clear()
            await self._changed.wait()
        return self.ready

    async def stop(self) -> None:
        """Refuse new work, finish what was accepted (for ``drain_seconds`` at most), end the workers."""
        self.draining = True
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self.admission.idle.wait()
        except TimeoutError:
            logger.warning("%d items were not finished in time", self.admission.items)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._forks is not None:
            await self._forks.stop()
        self._decoders.close()

    # -- requests -------------------------------------------------------------------------------------------------

    def image_id(self, content: bytes, scope: str = "") -> str:
        """The id of an image: its bytes, the model and preprocessing that encode it, and whose it is. Callers share
        nothing: else a caller could tell by the cache, or by the time, that another has sent the same image.

        Raises: `RequestError` ``not_ready``.
        """
        info = self.require_info()
        key = hashlib.sha256(content + info.revision.encode() + scope.encode()).digest()
        return "img_" + base64.urlsafe_b64encode(key[:24]).decode()

    def require_info(self) -> ModelInfo:
        """What the model can do.

        Raises: `RequestError` ``not_ready``, ``shutting_down``.
        """
        if self.draining:
            raise RequestError("shutting_down", "This server is shutting down.", retry_after=5.0)
        if self.info is None:
            raise RequestError("not_ready", "The model is starting.", retry_after=5.0)
        return self.info

    def _replica(self, key: str) -> Replica:
        """Where the image is, or else the least busy worker."""
        ready = [replica for replica in self.replicas if replica.state == "ready"]
        if not ready:
            raise RequestError("not_ready", "The worker is starting.", retry_after=5.0)
        for replica in ready:
            if replica.cache.peek(key) is not None:
                return replica
        now = perf_counter()
        return min(ready, key=lambda replica: (replica.estimated_wait(now), replica.images.loading + replica.asked))

    async def encode(self, image: ImageSource) -> Uploaded:
        """Encode an image, if it is not encoded yet, and keep it. Cancelled, it leaves the queue.

        Raises: `RequestError`.
        """
        stages = Stages()
        async with self._hold(image, 0, stages) as (replica, held, cache):
            await replica.images.loaded(held, stages)
            return Uploaded(held.key, _geometry(held), cache, stages)

    async def run(
        self,
        task: Task,
        image: ImageSource,
        texts: Sequence[str],
        *,
        candidates: Sequence[str] | None = None,
        top_k: int = 5,
        language: str | None = None,
        maps: MapRequest | None = None,
        generation: Generation | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Answered:
        """Run one or more texts against an image. Cancelled, it leaves the queue, and writes no further. A model that
        streams tells ``on_progress`` of each token.

        Raises: `ItemError` for a text that the model cannot take, `RequestError` for anything else; ValueError without
        texts.
        """
        if not texts:
            raise ValueError("no texts to run; Engine.encode is for images alone")
        arrival, stages = perf_counter(), Stages()
        async with self._hold(image, cost_of(texts, candidates), stages) as (replica, held, cache):
            chosen = None if candidates is None else tuple(candidates)
            item = RunItem(held.key, tuple(texts), chosen, top_k, maps, generation, language)
            output = await replica.run(task, item, held, arrival, stages, on_progress)
            return Answered(held.key, _geometry(held), cache, stages, output)

    @asynccontextmanager
    async def _hold(self, image: ImageSource, texts: int, stages: Stages) -> AsyncIterator[tuple[Replica, Entry, str]]:
        """The image, admitted to the queue with ``texts`` texts and held by a replica: that, its entry there, and
        `Uploaded.cache`. It may still be loading."""
        info = self.require_info()
        key = image.image_id or self.image_id(image.content, image.scope)
        replica = self._replica(key)
        entry = replica.cache.peek(key)
        known = entry is not None and (image.load is not None or image.scope in entry.scopes)
        if image.load is None and not known:
            raise RequestError("image_not_found", "No such image is kept here; send its bytes.", param="image_id")
        cache = "miss" if entry is None else ("hit" if entry.ready else "shared")
        load = image.load
        pixels = None if load is None else lambda: load(info.preprocess)
        # All that is asked about one image goes to one worker, however idle the others are.
        wait = replica.estimated_wait(perf_counter())
        with self.admission.hold(images=int(cache == "miss"), texts=texts, wait=wait):
            async with replica.images.hold(key, pixels, stages) as held:
                held.scopes.add(image.scope)
                yield replica, held, cache


def _geometry(entry: Entry) -> Geometry:
    if entry.geometry is None:
        raise worker_failed()
    return entry.geometry

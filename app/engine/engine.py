"""The engine as the routes see it. This side never imports torch."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from app.engine.admission import Admission
from app.engine.batcher import GATHER
from app.engine.replica import Observer, Replica, ReplicaOptions
from app.engine.stages import Stages
from app.engine.worker import Load, RunItem
from app.errors import RequestError
from app.settings import Settings
from model.interface import Geometry, MapRequest, ModelInfo, Output, Pixels, Preprocess, Task

logger = logging.getLogger(__name__)

LOADER = "model.registry:load_model"


def default_workers(device: str, cores: int) -> int:
    """How many workers an operator wants who did not say. On a CPU two of one thread each answer twice as much as one
    of two threads: small operations do not divide. More would cost memory that nobody asked for."""
    gpu = device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())
    return 1 if gpu else min(2, cores)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of a request: its ``content`` hash and how to get pixels (called in a thread, only if it must be), or
    the ``image_id`` of an image sent before. ``scope`` tells whose ids may be used: the API key's name."""

    content: bytes = b""
    load: Callable[[Preprocess], Pixels] | None = None
    image_id: str | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one request. ``cache`` is ``hit``, ``shared`` (joined another request's encode) or ``miss``."""

    output: Output | None
    image_id: str
    geometry: Geometry
    cache: str
    stages: Stages


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
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        arguments = {
            "device": settings.device,
            "threads": threads,
            "kernel": settings.kernel,
            "dtype": settings.dtype,
            "allow_pickle": settings.allow_pickle,
        }
        load = Load(loader, {"name": settings.model, **arguments}, settings.log_level, settings.log_format)
        options = ReplicaOptions(
            load=load,
            # Threads of a worker that wait must not spin on cores that other processes need.
            environment={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
            cache_bytes=settings.cache_bytes // workers,
            cache_seconds=settings.cache_seconds,
            encode_batch=settings.encode_batch,
            run_batch=settings.run_batch,
            batch_wait=settings.batch_wait,
            decode_ahead=decoders + 2 * (settings.encode_batch or GATHER),
            call_seconds=settings.worker_seconds,
            load_seconds=settings.load_seconds,
        )
        self.replicas = [
            Replica(options, self.admission, self._decoders, self._observer, self._on_change) for _ in range(workers)
        ]

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers. Returns at once; `ready` tells when the first of them can answer."""
        self._tasks = [asyncio.create_task(self._live(index)) for index in range(len(self.replicas))]

    async def _live(self, index: int) -> None:
        """Start one worker after the other: the first is ready sooner where they do not load at once."""
        while index and self.replicas[index - 1].state == "starting":
            self._changed.clear()
            await self._changed.wait()
        await self.replicas[index].live()

    @property
    def ready(self) -> bool:
        """Whether a request that comes now can be answered."""
        return not self.draining and any(replica.state == "ready" for replica in self.replicas)

    @property
    def failed(self) -> bool:
        """Whether no worker can load the model: waiting will not help."""
        return all(replica.state == "failed" for replica in self.replicas)

    @property
    def encoded(self) -> int:
        """Images that went through the vision encoder since the start."""
        return sum(replica.encoded for replica in self.replicas)

    def _on_change(self) -> None:
        self.info = next((replica.info for replica in self.replicas if replica.info is not None), None)
        self._changed.set()

    def wait(self) -> float:
        """Estimated seconds until a request about a new image would reach the model."""
        now = perf_counter()
        ready = [replica.work(now) for replica in self.replicas if replica.state == "ready"]
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
        self._decoders.shutdown(wait=False, cancel_futures=True)

    # -- requests -------------------------------------------------------------------------------------------------

    def image_id(self, content: bytes) -> str:
        """The id of an image: its bytes, and the model and preprocessing that encode it.

        Raises: `RequestError` ``not_ready``.
        """
        info = self.require_info()
        key = hashlib.sha256(content + info.revision.encode()).digest()
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
        return min(ready, key=lambda replica: (replica.work(now), replica.loading + replica.asked))

    async def run(
        self,
        task: Task,
        image: ImageSource,
        texts: Sequence[str],
        *,
        candidates: Sequence[str] | None = None,
        top_k: int = 5,
        maps: MapRequest | None = None,
    ) -> Answered:
        """Run texts against an image; no texts only encodes it. Cancelled, it leaves the queue.

        Raises: `ItemError` for a text that the model cannot take, `RequestError` for anything else.
        """
        info = self.require_info()
        arrival = perf_counter()
        key = image.image_id or self.image_id(image.content)
        replica = self._replica(key)
        entry = replica.cache.peek(key)
        known = entry is not None and (image.load is not None or image.scope in entry.scopes)
        if image.load is None and not known:
            raise RequestError("image_not_found", "No such image is kept here; send its bytes.", param="image_id")
        cache = "miss" if entry is None else ("hit" if entry.ready else "shared")
        load = image.load
        pixels = None if load is None else lambda: load(info.preprocess)
        stages = Stages()
        # All that is asked about one image goes to one worker, however idle the others are.
        with self.admission.hold(images=int(cache == "miss"), texts=len(texts), wait=replica.work(arrival)):
            async with replica.hold(key, pixels, stages) as held:
                held.scopes.add(image.scope)
                output = None
                if not texts:
                    await replica.loaded(held, stages)
                else:
                    chosen = None if candidates is None else tuple(candidates)
                    item = RunItem(key, tuple(texts), chosen, top_k, maps)
                    output = await replica.run(task, item, held, arrival, stages)
                geometry = held.geometry
        if geometry is None:
            raise RequestError("worker_failed", "The worker died while it held this request.")
        return Answered(output, key, geometry, cache, stages)

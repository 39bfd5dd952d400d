"""Where maps are drawn over images: few at once and none larger than need be, so that drawing starves nothing else."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from PIL import Image

from app.engine.admission import Admission
from app.settings import Settings
from model.interface import Geometry

SIDE = 2048
"""Pixels of a drawing's longer side at most: beyond, it would cost seconds and say nothing more."""


class Drawing:
    """Threads that draw, half as many as cores, and what waits for them: refused as the model's queue refuses."""

    def __init__(self, settings: Settings) -> None:
        self.threads = threads = max(1, (os.cpu_count() or 1) // 2)
        self.admission = Admission(settings.queue_items, settings.queue_bytes, settings.queue_seconds, replicas=threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="draw")

    async def draw(self, work: Callable[[], Image.Image]) -> bytes:
        """The PNG of what ``work`` draws, which is not begun when the waiting for a thread is cancelled. Once begun, it
        keeps its thread to the end, whether anybody waits or not: no more are drawn at once than there are threads."""

        def png() -> bytes:
            start = perf_counter()
            buffer = io.BytesIO()
            work().save(buffer, "PNG", compress_level=4)  # much of the default's time saved, little size lost
            self.admission.encode.observe(1, perf_counter() - start)
            return buffer.getvalue()

        return await asyncio.get_running_loop().run_in_executor(self._threads, png)

    def close(self) -> None:
        """Begin no more drawings."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def fitted(geometry: Geometry) -> tuple[int, int]:
    """Width and height of the drawing of an image: its own, or with `SIDE` as the longer one."""
    longer = max(geometry.width, geometry.height)
    if longer <= SIDE:
        return geometry.width, geometry.height
    return max(1, round(geometry.width * SIDE / longer)), max(1, round(geometry.height * SIDE / longer))

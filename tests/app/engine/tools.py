"""An engine without HTTP: the real replicas and worker process on the stand-in model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from app.engine.engine import Answered, Engine, ImageSource
from app.engine.options import Observer
from app.errors import RequestError
from app.settings import Settings
from model.interface import Pixels, Preprocess
from tests.fakes import model as standin

_shades = itertools.count()


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, str, int]] = []
        self.dropped: list[str] = []
        self.restarts = 0

    def observer(self) -> Observer:
        """To hand to an engine."""

        def restarted() -> None:
            self.restarts += 1

        return Observer(
            batch=lambda kind, reason, size, seconds: self.batches.append((kind, reason, size)),
            dropped=self.dropped.append,
            restarted=restarted,
        )

    def sizes(self, kind: str) -> list[int]:
        """Sizes of the batches of one kind."""
        return [size for name, _, size in self.batches if name == kind]


@asynccontextmanager
async def engine(*, loader: str = standin.LOADER, **settings: Any) -> AsyncIterator[tuple[Engine, Recorder]]:
    """A ready engine."""
    recorder = Recorder()
    made = Engine(Settings(_env_file=None, **{"workers": 1, **settings}), loader=loader, observer=recorder.observer())
    made.start()
    try:
        assert await made.wait_ready()
        yield made, recorder
    finally:
        await made.stop()


def source(
    *, colour: tuple[int, int, int] | None = None, name: bytes | None = None, delay: float = 0.0, scope: str = ""
) -> ImageSource:
    """An image of one colour, by default one that no test has used; ``delay`` makes its decoding slow."""
    number = next(_shades)
    shade = colour or (number % 250, number // 250 % 250, 9)

    def load(preprocess: Preprocess) -> Pixels:
        time.sleep(delay)
        return preprocess(Image.new("RGB", (24, 16), shade))

    return ImageSource(name or f"{shade} {number}".encode(), load, scope=scope)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for a condition; fails after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds have no common event
            await asyncio.sleep(0.005)


def said(answered: Answered) -> list[str]:
    """The answers."""
    return [text.ranking[0].answer for text in answered.output.texts]


async def refused(work: asyncio.Future[Answered] | asyncio.Task[Answered]) -> str:
    """The code with which a run fails."""
    with pytest.raises(RequestError) as caught:
        await work
    return caught.value.code


async def busy(made: Engine, seconds: float) -> asyncio.Task[Answered]:
    """Keep the worker at work for some seconds."""
    task = asyncio.create_task(made.run("answer", source(), [f"!slow {seconds}"]))
    await until(
        lambda: any(replica.admission.texts for replica in made.replicas) and made.replicas[0].batcher.texts == 0
    )
    await asyncio.sleep(0.1)
    return task

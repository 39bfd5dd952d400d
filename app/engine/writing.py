"""Answers that are written token by token: which requests join the model's batch, and which leave it.

Between two tokens the replica sends one `Write`: new requests join while the others go on, those that nobody waits for
leave, and each of the rest gets one more token. A bound on tokens says how much is under way; what does not fit waits,
first come first served.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter

from app.engine.cache import Entry
from app.engine.jobs import _Waits
from app.engine.messages import RunItem, Write
from app.engine.stages import Stages
from model.interface import Output, Progress, Task, Written

DEFAULT_TOKENS = 128
"""What an answer counts for that neither its request nor its model limits."""


@dataclass(eq=False, slots=True)
class WriteJob(_Waits):
    """One request's texts about the image of ``entry``, to be answered token by token; ``on_progress`` is told of each
    step."""

    task: Task
    item: RunItem
    entry: Entry
    arrival: float
    future: asyncio.Future[Output]
    stages: Stages
    on_progress: Callable[[Progress], None] | None = None
    began: float | None = None
    usual: int = DEFAULT_TOKENS
    """How many tokens an answer may have where the request does not say."""

    @property
    def tokens(self) -> int:
        """The most tokens that its texts and answers may come to: a character is at most one or so."""
        generation = self.item.generation
        asked = None if generation is None else generation.max_new_tokens
        return sum(len(text) + (asked or self.usual) for text in self.item.texts)


@dataclass(eq=False, slots=True)
class Writers:
    """What waits to be written, and what is under way by its number."""

    tokens: int
    waiting: deque[WriteJob] = field(default_factory=deque)
    running: dict[int, WriteJob] = field(default_factory=dict)
    _numbers: Iterable[int] = field(default_factory=itertools.count)

    def put(self, job: WriteJob) -> None:
        """Queue a job. It joins once its image is encoded and there is room."""
        self.waiting.append(job)

    @property
    def busy(self) -> bool:
        """Whether there is anything to tell the worker."""
        return bool(self.running) or any(job.entry.ready and not job.future.done() for job in self.waiting)

    def message(self, evict: tuple[str, ...]) -> Write:
        """The next step: who joins and who leaves. An empty batch takes a request of any size."""
        leave = tuple(number for number, job in self.running.items() if job.future.done())
        for number in leave:
            del self.running[number]
        used = sum(job.tokens for job in self.running.values())
        join: list[tuple[int, Task, RunItem]] = []
        left: deque[WriteJob] = deque()
        full = False
        for job in self.waiting:
            if job.future.done():
                continue
            if not job.entry.ready:
                left.append(job)
            elif full or (used and used + job.tokens > self.tokens):
                full = True  # none may overtake it for ever
                left.append(job)
            else:
                used += job.tokens
                number = next(iter(self._numbers))
                job.began = perf_counter()
                self.running[number] = job
                join.append((number, job.task, job.item))
        self.waiting = left
        return Write(tuple(join), leave, evict)

    def settle(self, results: Iterable[tuple[int, object]]) -> list[WriteJob]:
        """Tell the requests what the step did. The jobs that are over."""
        over = []
        for number, result in results:
            job = self.running[number]
            if isinstance(result, Written):
                for progress in result.progress:
                    if job.on_progress is not None and not job.future.done():
                        job.on_progress(progress)
                if result.output is None:
                    continue
                job.settle(result.output)
            else:
                job.settle(result)
            del self.running[number]
            over.append(job)
        return over

    def drop(self, entry: Entry, error: BaseException) -> None:
        """The image will not be encoded: fail the texts that wait for it."""
        for job in self.waiting:
            if job.entry is entry:
                job.fail(error)

    def drain(self, error: BaseException) -> None:
        """Fail all: the worker is gone."""
        for job in (*self.waiting, *self.running.values()):
            job.fail(error)
        self.waiting.clear()
        self.running.clear()

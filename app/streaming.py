"""Answers sent while they are written: server-sent events.

The response begins with the first token (or with the answer, where a model does not write token by token), so what is
wrong with a request has its status as ever. A fault after that is an event of its own, and the last one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.responses import StreamingResponse

from app.engine.engine import Answered
from app.errors import RequestError, error_response
from app.intake import bodies
from model.interface import Progress

Run = Callable[[Callable[[Progress], None]], Coroutine[Any, Any, Answered]]
"""Starts a request's run, which tells the function that it is given of its progress."""


class Followed:
    """A run whose progress is read while it goes on."""

    def __init__(self, run: Run) -> None:
        self._queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._first: Progress | None = None
        self._task = asyncio.create_task(run(self._queue.put_nowait))
        self._task.add_done_callback(lambda _: self._queue.put_nowait(None))
        self._task.add_done_callback(bodies.heed)

    @classmethod
    async def begin(cls, run: Run) -> Followed:
        """Start a run and wait for its first progress, or its end. Raises: what ends it before that."""
        followed = cls(run)
        try:
            followed._first = await followed._queue.get()
        except asyncio.CancelledError:
            followed._task.cancel()
            raise
        if followed._first is None:
            await followed._task  # raises what it raised
        return followed

    async def progress(self) -> AsyncIterator[Progress]:
        """Each step, until the run has ended."""
        step = self._first
        while step is not None:
            yield step
            step = await self._queue.get()

    async def answered(self) -> Answered:
        """The answer, once the run has ended. Raises: what the run raises."""
        return await self._task

    def cancel(self) -> None:
        """Nobody reads on: the model writes no further."""
        self._task.cancel()


def event(data: object, name: str | None = None) -> str:
    """One server-sent event: JSON, or a text that is JSON already."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "") + f"data: {text}\n\n"


def error_event(error: RequestError, request_id: str | None, name: str | None = None) -> str:
    """A fault in the middle of an answer, in the one shape of errors."""
    return event(bytes(error_response(error, request_id).body).decode(), name)


def respond(followed: Followed, events: AsyncIterator[str], fault: Callable[[RequestError], str]) -> StreamingResponse:
    """The response that sends ``events``, and ends with the ``fault`` where the run fails. When the client leaves, the
    run ends."""

    async def content() -> AsyncIterator[str]:
        try:
            async for one in events:
                yield one
        except RequestError as error:
            yield fault(error)
        except bodies.ClientGone:
            return
        finally:
            followed.cancel()

    # Proxies that buffer would take the point from it.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)

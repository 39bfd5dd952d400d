"""Bounds on what one client may send: bytes of a body, questions a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.queue import Backlog
from app.errors import RequestError, error_response


class BodyLimit:
    """Middleware: refuses bodies that are too large, by their header before a byte is read and by count after that,
    and counts the bytes that all requests hold together."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, backlog: Callable[[], Backlog]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.backlog = backlog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope.get("state", {}).get("request_id")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            await error_response(self._too_large(), request_id)(scope, receive, send)
            return
        backlog = self.backlog()
        held = 0

        async def receive_counted() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            if held + size > self.max_bytes:
                raise self._too_large()
            if size:
                backlog.take_bytes(size)
                held += size
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            backlog.give_bytes(held)

    def _too_large(self) -> RequestError:
        message = f"The request body has more than {self.max_bytes} bytes."
        return RequestError("body_too_large", message, detail={"max_bytes": self.max_bytes})


class RateLimiter:
    """A bucket of questions for each caller: filled at ``per_minute``, holding a minute's worth at most.

    A request of more questions than the bucket holds passes when it is full, and leaves a debt.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, caller: str, cost: int) -> None:
        """Take ``cost`` from the caller's bucket.

        Raises: `RequestError` ``rate_limited``, with the seconds until there is enough.
        """
        if not self.per_minute:
            return
        now = self._clock()
        level, then = self._buckets.get(caller, (float(self.per_minute), now))
        level = min(float(self.per_minute), level + (now - then) * self.per_minute / 60.0)
        missing = min(cost, self.per_minute) - level
        if missing > 0:
            self._buckets[caller] = (level, now)
            message = f"This key may ask {self.per_minute} questions a minute."
            detail: dict[str, object] = {"questions_per_minute": self.per_minute}
            raise RequestError("rate_limited", message, detail=detail, retry_after=missing * 60.0 / self.per_minute)
        self._buckets[caller] = (level - cost, now)

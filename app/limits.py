"""Bounds on what one client may send: bytes of a body and the time that it takes, questions a minute."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.admission import Admission
from app.errors import RequestError

TIMEOUT_HEADER = "X-Request-Timeout"
_LEAST_FOR_BODY = 0.5  # seconds


def time_allowed(headers: Headers, most: float) -> float:
    """The seconds that a request may take: ``most``, or fewer if the client says so.

    Raises: `RequestError` ``invalid_request`` for a header that is no positive number.
    """
    asked = headers.get(TIMEOUT_HEADER)
    if asked is None:
        return most
    try:
        wanted = float(asked)
    except ValueError:
        wanted = math.nan
    if not (wanted > 0 and math.isfinite(wanted)):
        message = f"{TIMEOUT_HEADER} must be a positive number of seconds."
        raise RequestError("invalid_request", message, param=TIMEOUT_HEADER)
    return min(most, wanted)


class BodyLimit:
    """Middleware: refuses bodies that are too large, by their header before a byte is read and by count after that,
    and those that have not arrived by the request's deadline; counts the bytes that all requests hold together.

    ``seconds`` is the server's own deadline. In the request's state it leaves ``hold_bytes``, for what a request
    brings in by other ways.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float, admission: Callable[[], Admission]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        too_large = declared.isdecimal() and int(declared) > self.max_bytes
        admission = self.admission()
        held = 0
        try:
            seconds = time_allowed(headers, self.seconds)
        except RequestError:  # for the route to say
            seconds = self.seconds
        # A client that asks for next to no time gets its 504, not the blame for a body that is on its way.
        seconds = max(seconds, _LEAST_FOR_BODY)
        deadline = scope.get("state", {}).get("began", time.monotonic()) + seconds
        coming = True

        async def receive_counted() -> Message:
            nonlocal coming
            if too_large:  # said when the body is asked for, so that metrics know the route
                raise self._too_large()
            if not coming:  # what is left to come is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                late = f"The request's body did not arrive within {seconds:.3g} s."
                raise RequestError("request_incomplete", late) from None
            coming = message.get("more_body", False)
            size = len(message.get("body", b""))
            if held + size > self.max_bytes:
                raise self._too_large()
            if size:
                hold(size)
            return message

        def hold(size: int) -> None:
            nonlocal held
            admission.take_bytes(size)
            held += size

        scope.setdefault("state", {})["hold_bytes"] = hold
        try:
            await self.app(scope, receive_counted, send)
        finally:
            admission.give_bytes(held)

    def _too_large(self) -> RequestError:
        message = f"The request body has more than {self.max_bytes} bytes."
        return RequestError("body_too_large", message, detail={"max_bytes": self.max_bytes})


class Limiter(Protocol):
    """Who may ask how much."""

    async def spend(self, caller: str, cost: int) -> None:
        """Take ``cost`` questions from what the caller may ask.

        Raises: `RequestError` ``rate_limited``, with the seconds until there is enough.
        """

    async def close(self) -> None:
        """Hang up on whatever counts."""


def rate_limited(per_minute: int, seconds: float) -> RequestError:
    """The error for a caller who has to wait so many seconds."""
    message = f"This key may ask {per_minute} questions a minute."
    return RequestError("rate_limited", message, detail={"questions_per_minute": per_minute}, retry_after=seconds)


class RateLimiter:
    """A bucket of questions for each caller: filled at ``per_minute``, holding a minute's worth at most.

    A request of more questions than the bucket holds passes when it is full, and leaves a debt.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    async def spend(self, caller: str, cost: int) -> None:
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
            raise rate_limited(self.per_minute, missing * 60.0 / self.per_minute)
        self._buckets[caller] = (level - cost, now)

    async def close(self) -> None:
        """Nothing: it counts by itself."""

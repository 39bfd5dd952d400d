"""Connections that send nothing: uvicorn waits for a request's head for ever, this does not."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose next request's head is not complete within ``header_seconds``
    of its first byte, or of the connection's start.

    A connection that is kept alive between requests is uvicorn's own to close. A request whose head comes in one piece
    costs no timer, so the usual one is a connection's first.
    """

    def __init__(self, *args: Any, header_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_seconds = header_seconds
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Await the first head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Await a head when no request is under way now: the data began one, or was the rest of a refused body, of
        which uvicorn would read the trickle for ever too."""
        super().data_received(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is there; its body has the request's deadline."""
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self._header_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def closing_late_heads(header_seconds: float) -> Any:
    """`Connection` with its time, in the form that ``uvicorn.Config(http=...)`` takes."""
    return partial(Connection, header_seconds=header_seconds)

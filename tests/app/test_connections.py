"""A connection by itself: who is hung up on first, and what it needs of uvicorn. The rest is in tests/faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app import connections
from app.connections import Connection, connection_class
from app.settings import Settings


class Unread(asyncio.Transport):
    """The transport of a client that has not read so many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.closed = False

    def get_write_buffer_size(self) -> int:
        """All of them."""
        return self.size

    def is_closing(self) -> bool:
        """Whether it was hung up on."""
        return self.closed

    def abort(self) -> None:
        """Hang up."""
        self.closed = True


async def nothing(scope: object, receive: Callable[[], Awaitable[object]], send: object) -> None:
    """An application that is never asked."""


async def test_those_who_have_most_unread_are_hung_up_on_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not one who has been reading for long, but little; nor more of them than it takes."""
    monkeypatch.setattr(connections, "MOST_UNREAD", 100)
    make = connection_class(Settings(_env_file=None), lambda _: None)
    clients: list[tuple[Connection, Unread]] = []
    for size in (10, 40, 30, 35):
        connection = make(Config(nothing, ws="none", lifespan="off", log_config=None), ServerState(), {})
        transport = Unread(size)
        connection.connection_made(transport)
        connection.pause_writing()
        clients.append((connection, transport))
    assert [transport.size for _, transport in clients if transport.closed] == [40]
    for connection, _ in clients:
        connection.connection_lost(ConnectionResetError())


def test_uvicorn_has_what_is_overridden_here() -> None:
    """These are names of its own, which another version may have dropped: then ours would never be called."""
    for name in ("_start_asgi_task", "_should_upgrade", "_unset_keepalive_if_required"):
        assert name in vars(HttpToolsProtocol)

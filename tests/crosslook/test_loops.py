"""One `AsyncClient` in several event loops."""

from __future__ import annotations

import asyncio
import gc
import http.server
import threading
from collections.abc import Iterator

import pytest

import crosslook


class Server(http.server.ThreadingHTTPServer):
    """Counts its connections. They are kept open, as those of a crosslook server are."""

    opened = 0
    closed = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.opened += 1

    def finish(self) -> None:
        super().finish()
        self.server.closed += 1

    def do_GET(self) -> None:
        body = b'{"status": "ready"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_several_runs_each_with_several_tasks(server: Server) -> None:
    client = crosslook.AsyncClient(address(server))

    async def ask() -> bool:
        first = await client.health()
        found = await asyncio.gather(*(client.health() for _ in range(4)))
        return all(health.ready for health in (first, *found))

    for _ in range(4):
        assert asyncio.run(ask())
    gc.collect()  # a connection that was left open would warn now, which is an error here
    assert server.opened >= 4


def test_a_loop_that_nobody_shuts_down(server: Server) -> None:
    """As `loop.run_until_complete` leaves them."""
    client = crosslook.AsyncClient(address(server))
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for loop in (*loops, *loops):
        assert loop.run_until_complete(client.health()).ready
    assert server.opened == 2  # each loop kept its connection
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_loops_in_threads(server: Server) -> None:
    client = crosslook.AsyncClient(address(server))
    found: list[bool] = []

    async def ask() -> None:
        for _ in range(5):
            found.append((await client.health()).ready)

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def test_closed_is_closed(server: Server) -> None:
    client = crosslook.AsyncClient(address(server))

    async def ask() -> None:
        async with client:
            assert (await client.health()).ready
        await client.close()

    asyncio.run(ask())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(ask())

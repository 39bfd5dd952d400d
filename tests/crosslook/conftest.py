"""Fixtures of the client's tests: golden files, and one set of tests for `Client` and `AsyncClient`."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from crosslook import AsyncClient, Client, RetryPolicy

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


class Blocking:
    """An `AsyncClient` that is called like a `Client`, so that both go through the same tests."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._client, name)(*args, **kwargs)
            return self._loop.run_until_complete(result) if inspect.isawaitable(result) else result

        return call


Handler = Callable[[httpx.Request], httpx.Response]
Connect = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A function that makes a client, blocking or not, for a URL or for a handler that plays the server."""
    loop = asyncio.new_event_loop()
    made: list[Any] = []

    def make(handler: Handler | None = None, **options: Any) -> Any:
        options.setdefault("retries", RetryPolicy(first=0.001))
        if request.param == "sync":
            http = httpx.Client(transport=httpx.MockTransport(handler)) if handler else None
            client: Any = Client(http_client=http, **options)
        else:
            transport = httpx.MockTransport(handler) if handler else None
            http_async = httpx.AsyncClient(transport=transport) if transport else None
            client = Blocking(AsyncClient(http_client=http_async, **options), loop)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

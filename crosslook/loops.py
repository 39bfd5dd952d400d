"""One HTTP client for each event loop: its connections cannot be used in another one.

So one `AsyncClient` serves several ``asyncio.run``, as scripts, notebooks, task queues and tests have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """What is made for each loop."""

    async def aclose(self) -> None:
        """Close all connections."""


C = TypeVar("C", bound=Closes)


class LoopClients(Generic[C]):
    """Makes a client for each loop in which it is asked for one, and closes it when that loop ends."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._kept: dict[asyncio.AbstractEventLoop, tuple[C, AsyncGenerator[None]]] = {}
        self._closed = False

    async def get(self) -> C:
        """The client of the running loop.

        Raises: RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        if loop not in self._kept:
            for ended in [each for each in self._kept if each.is_closed()]:
                del self._kept[ended]
            client = self._make()
            keeper = _closing(client)
            self._kept[loop] = client, keeper
            await anext(keeper)  # from here on the loop knows it, and closes it at its end: asyncio.run does
        return self._kept[loop][0]

    async def close(self) -> None:
        """Close the running loop's client. Those of other loops are closed by these."""
        self._closed = True
        client, keeper = self._kept.pop(asyncio.get_running_loop(), (None, None))
        if client is not None and keeper is not None:
            await keeper.aclose()


async def _closing(client: Closes) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await client.aclose()

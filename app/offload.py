"""Work that would hold up the event loop, done beside it.

Threads share the interpreter's lock: the loop goes on only where what runs here returns to Python often, so large work
is done in pieces of `PIECE` bytes. The threads are few, and not asyncio's own: there names are looked up, and a slow
name server would stop what others sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SMALL = 100_000
"""Bytes of a text that is handled on the event loop: within a millisecond or so."""
PIECE = 1 << 18

_threads = ThreadPoolExecutor(2, thread_name_prefix="offload")


async def offload(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread; raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(function, *args, **kwargs))


async def by_size(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` here, or in a thread where it works on more than `SMALL` bytes."""
    if size <= SMALL:
        return function(*args, **kwargs)
    return await offload(function, *args, **kwargs)

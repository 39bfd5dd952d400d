"""One deadline for a whole blocking request.

httpx has a limit for each read and write alone, so a server that sends a byte now and then is waited for without end.
asyncio can cancel; blocking sockets cannot, so each wait gets what is left of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_PIECE = 16 * 1024  # bytes written under one timeout

_now = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Requests that this thread sends in the block, through a client that keeps to deadlines, end by then."""
    _now.deadline = time.monotonic() + seconds
    try:
        yield
    finally:
        _now.deadline = None


def keep_deadlines(transports: Iterable[object]) -> None:
    """Make httpx's transports keep to `within`. They have no such option, so this reaches into them."""
    for transport in transports:
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)


def _left(timeout: float | None) -> float | None:
    deadline = getattr(_now, "deadline", None)
    if deadline is None:
        return timeout
    left: float = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(timeout, left)


class _Stream:
    """A connection as httpcore has it (`httpcore.NetworkStream`), whose waits end with the deadline."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        left = _left(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend:
    """What makes connections (`httpcore.NetworkBackend`)."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        left = _left(timeout)
        return _Stream(self._backend.connect_tcp(host, port, left, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        left = _left(timeout)
        return _Stream(self._backend.connect_unix_socket(path, left, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)

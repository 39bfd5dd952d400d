"""The one module that knows httpx: carries requests over the network, blocking or not."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from crosslook.core import Response, Send
from crosslook.deadline import keep_deadlines, within
from crosslook.environment import certificates, find_proxy
from crosslook.errors import BadResponse, ConnectionFailed, TimedOut
from crosslook.loops import LoopClients

HTTPClient = httpx.Client
AsyncHTTPClient = httpx.AsyncClient

LARGEST = 64 * 1024 * 1024
"""Bytes of a response, decompressed: ten times what 32 questions with maps have."""

_CONNECT_SECONDS = 5.0
_SLACK = 0.1  # seconds by which httpx's own limits come before the deadline, for they say more


class Transport:
    """Sends requests and waits for the responses."""

    def __init__(self, base_url: str, timeout: float, client: HTTPClient | None = None) -> None:
        self._address, self._timeout = _Address(base_url), timeout
        self._own = client is None
        self._client = client or httpx.Client(**_options(self._address.url))
        if self._own:
            keep_deadlines((self._client._transport, *self._client._mounts.values()))

    def send(self, request: Send) -> Response:
        """Raises: ConnectionFailed, TimedOut, BadResponse."""
        deadline = time.monotonic() + self._timeout
        with (
            _translated(self._address, request, self._timeout),
            within(self._timeout),
            self._client.stream(**_arguments(self._address, request, self._timeout)) as response,
        ):
            body = _Body(response)
            if not body.complete:
                for chunk in response.iter_raw():
                    body.add(chunk)
                    _keep_to(deadline, request, self._timeout)
            return body.response()

    def close(self) -> None:
        """Close the connections, unless the httpx client came from outside."""
        if self._own:
            self._client.close()


class AsyncTransport:
    """`Transport` for asyncio."""

    def __init__(self, base_url: str, timeout: float, client: AsyncHTTPClient | None = None) -> None:
        self._address, self._timeout = _Address(base_url), timeout
        self._given = client
        options = {} if client else _options(self._address.url)
        self._own = LoopClients(lambda: httpx.AsyncClient(**options))

    async def send(self, request: Send) -> Response:
        """Raises: ConnectionFailed, TimedOut, BadResponse."""
        client = self._given or await self._own.get()
        with _translated(self._address, request, self._timeout):
            async with (
                asyncio.timeout(self._timeout + _SLACK),
                client.stream(**_arguments(self._address, request, self._timeout)) as response,
            ):
                body = _Body(response)
                if not body.complete:
                    async for chunk in response.aiter_raw():
                        body.add(chunk)
                return body.response()

    async def close(self) -> None:
        """Close the connections, unless the httpx client came from outside."""
        if self._given is None:
            await self._own.close()


def _options(base_url: str) -> dict[str, Any]:
    """Arguments for a client that talks to ``base_url`` alone, as the environment says.

    Raises: BadEnvironment.
    """
    url = httpx.URL(base_url)
    with certificates():
        options: dict[str, Any] = {"verify": httpx.create_ssl_context(), "trust_env": False}
    proxy = find_proxy(url.scheme, url.host, url.port)
    if proxy is not None:
        options["proxy"] = proxy.url
        try:
            httpx.Client(**options).close()
        except (ValueError, ImportError, httpx.InvalidURL, UnicodeError) as error:
            raise proxy.unusable(error) from None
    return options


class _Body:
    """The body of a response while it comes: never more than `LARGEST`, whatever it is compressed to."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._body = bytearray()
        self._gzip: Any = None
        self.complete = response.is_stream_consumed  # as those are that a user's own transport makes up
        if self.complete:
            self._body += response.content
            return
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding == "gzip":
            self._gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
        elif encoding not in ("", "identity"):
            raise BadResponse(f"the response is compressed as {encoding[:100]!r}, which was not asked for")

    def add(self, chunk: bytes) -> None:
        """Take the next bytes from the network."""
        room = LARGEST + 1 - len(self._body)
        try:
            self._body += chunk[:room] if self._gzip is None else self._gzip.decompress(chunk, room)
        except zlib.error as error:
            raise BadResponse(f"the response is no gzip: {error}") from error
        if len(self._body) > LARGEST:
            raise BadResponse(f"the response has more than {LARGEST} bytes")

    def response(self) -> Response:
        """What came, when all has come."""
        if self._gzip is not None and not self._gzip.eof:
            raise BadResponse("the response ends before its compressed body does")
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return Response(self._response.status_code, headers, bytes(self._body))


class _Address:
    """Where the server is; a user and a password in its URL are kept apart, so that nobody logs or shows them."""

    def __init__(self, base_url: str) -> None:
        if not base_url.lower().startswith(("http://", "https://")):
            raise ValueError(f"a server's URL begins with http:// or https://, not {base_url.rpartition('@')[2]!r}")
        try:
            url = httpx.URL(base_url)
            host = url.host
        except (httpx.InvalidURL, UnicodeError):  # they quote a part of the URL, which may be a password's
            url, host = httpx.URL(), ""
        if not host or (url.port or 0) > 65535:
            raise ValueError(f"a server's URL is like http://127.0.0.1:8080, not {base_url.rpartition('@')[2]!r}")
        self.auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        self.url = str(url.copy_with(userinfo=b"")).rstrip("/")


def _arguments(address: _Address, request: Send, timeout: float) -> dict[str, Any]:
    arguments = {
        "method": request.method,
        "url": address.url + request.path,
        "headers": {"accept-encoding": "gzip", **request.headers},
        "content": request.body,
        "timeout": httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout)),
    }
    return arguments if address.auth is None else arguments | {"auth": address.auth}


def _keep_to(deadline: float, request: Send, timeout: float) -> None:
    """For a client from outside, which does not keep to deadlines."""
    if time.monotonic() > deadline:
        raise TimedOut(f"{request.method} {request.path}: the response was not complete after {timeout:g} s")


@contextmanager
def _translated(address: _Address, request: Send, timeout: float) -> Iterator[None]:
    what = f"{request.method} {request.path}"
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ConnectionFailed(f"{what}: cannot reach {address.url}: no connection in time") from error
    except httpx.ConnectError as error:
        raise ConnectionFailed(f"{what}: cannot reach {address.url}: {error or 'no connection'}") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise TimedOut(f"{what}: no complete response after {timeout:g} s") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"{what}: {error or type(error).__name__}") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last two: of a redirect's target
        raise BadResponse(f"{what}: {error or type(error).__name__}") from error

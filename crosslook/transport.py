"""The one module that knows httpx: carries requests over the network, blocking or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from crosslook.core import Response, Send
from crosslook.environment import certificates, find_proxy
from crosslook.errors import BadResponse, ConnectionFailed, TimedOut
from crosslook.loops import LoopClients

HTTPClient = httpx.Client
AsyncHTTPClient = httpx.AsyncClient

_CONNECT_SECONDS = 5.0


class Transport:
    """Sends requests and waits for the responses."""

    def __init__(self, base_url: str, timeout: float, client: HTTPClient | None = None) -> None:
        self._base_url, self._timeout = _checked(base_url), timeout
        self._own = client is None
        self._client = client or httpx.Client(**_options(self._base_url))

    def send(self, request: Send) -> Response:
        """Raises: ConnectionFailed, TimedOut, BadResponse."""
        deadline = time.monotonic() + self._timeout
        with (
            _translated(self._base_url, request, self._timeout),
            self._client.stream(**_arguments(self._base_url, request, self._timeout)) as response,
        ):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                _keep_to(deadline, request, self._timeout)
            return _response(response, body)

    def close(self) -> None:
        """Close the connections, unless the httpx client came from outside."""
        if self._own:
            self._client.close()


class AsyncTransport:
    """`Transport` for asyncio."""

    def __init__(self, base_url: str, timeout: float, client: AsyncHTTPClient | None = None) -> None:
        self._base_url, self._timeout = _checked(base_url), timeout
        self._given = client
        options = {} if client else _options(self._base_url)
        self._own = LoopClients(lambda: httpx.AsyncClient(**options))

    async def send(self, request: Send) -> Response:
        """Raises: ConnectionFailed, TimedOut, BadResponse."""
        deadline = time.monotonic() + self._timeout
        client = self._given or await self._own.get()
        with _translated(self._base_url, request, self._timeout):
            async with client.stream(**_arguments(self._base_url, request, self._timeout)) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    _keep_to(deadline, request, self._timeout)
                return _response(response, body)

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


def _checked(base_url: str) -> str:
    if not base_url.lower().startswith(("http://", "https://")):
        raise ValueError(f"a server's URL begins with http:// or https://, not {base_url.rpartition('@')[2]!r}")
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, UnicodeError):  # they quote a part of the URL, which may be a password's
        url = httpx.URL()
    if not url.host or (url.port or 0) > 65535:
        raise ValueError(f"a server's URL is like http://127.0.0.1:8080, not {base_url.rpartition('@')[2]!r}")
    return base_url.rstrip("/")


def _arguments(base_url: str, request: Send, timeout: float) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": base_url + request.path,
        "headers": dict(request.headers),
        "content": request.body,
        "timeout": httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout)),
    }


def _keep_to(deadline: float, request: Send, timeout: float) -> None:
    """httpx limits the wait for each piece; a server that drips its response would never end."""
    if time.monotonic() > deadline:
        raise TimedOut(f"{request.method} {request.path}: the response was not complete after {timeout:g} s")


def _response(response: httpx.Response, body: bytearray) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, bytes(body))


@contextmanager
def _translated(base_url: str, request: Send, timeout: float) -> Iterator[None]:
    what = f"{request.method} {request.path}"
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ConnectionFailed(f"{what}: cannot reach {_shown(base_url)}: no connection in time") from error
    except httpx.ConnectError as error:
        raise ConnectionFailed(f"{what}: cannot reach {_shown(base_url)}: {error or 'no connection'}") from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{what}: no response after {timeout:g} s") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"{what}: {error or type(error).__name__}") from error
    except httpx.DecodingError as error:
        raise BadResponse(f"{what}: {error}") from error


def _shown(base_url: str) -> str:
    """The address without what a user may have put before its host: a name and a password."""
    url = httpx.URL(base_url)
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path.rstrip('/')}"

"""One connection as uvicorn serves it, with bounds on what comes outside of a request's body and on how long a client
may leave it waiting.

uvicorn reads heads, URLs and trailers of any size, waits for ever for a head that does not come and for a client that
does not read its answer, and takes what follows an offered upgrade for another request. None of that here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import RequestError, error_response
from app.settings import Settings
from app.telemetry import SECURITY_HEADERS, new_request_id

logger = logging.getLogger(__name__)

URL_BYTES = 8 * 1024
HEAD_BYTES = 64 * 1024
"""Of a request's head, and of what comes with a body that is none of it: trailers, extensions of chunks."""
HEAD_FIELDS = 100
"""Header lines of a request, its trailers among them."""
PIPELINED = 16
"""Requests that a connection may send ahead of the answers."""
LEAST_READ = 32 * 1024
"""Bytes a second that a client must take of an answer that waits for it."""

MOST_UNREAD = 128 << 20
"""Bytes of answers that wait for their clients to read them, of all connections together."""

_LINGER = 2.0  # seconds for a refused client to read why, and for a request that is on its way as the server ends
_DISCARDED = 1 << 20  # bytes that it may send meanwhile
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")

Refused = Callable[[RequestError], None]


class _Transport:
    """A connection's transport that does nothing once it is closed, as asyncio's own: uvloop's raises RuntimeError, and
    a request may not know yet that its client is gone."""

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        if not self._inner.is_closing():
            self._inner.write(data)

    def write_eof(self) -> None:
        if not self._inner.is_closing():
            self._inner.write_eof()

    def pause_reading(self) -> None:
        if not self._inner.is_closing():
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        if not self._inner.is_closing():
            self._inner.resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with these differences.

    * What exceeds `URL_BYTES`, `HEAD_BYTES` or `HEAD_FIELDS` is answered 414 or 431, what is no HTTP 400, in the one
      shape of errors; then the connection ends.
    * A connection whose next request's head is not complete ``header_seconds`` after its first byte (or after the
      connection's start) is closed. One that is kept alive between requests is uvicorn's own to close.
    * A client that does not read its answer is hung up on: see `LEAST_READ`, averaged over ``write_seconds``. Where all
      that is not read is more than `MOST_UNREAD`, so are those who have most of it. ``unread`` are the connections with
      such answers, of the whole server.
    * An offered upgrade (``h2c``, ``websocket``) is ignored and the request answered, as RFC 9110 (7.8) allows.
    * No more than ``most`` connections are open at once.

    ``refused`` is told of every request that is refused here, before any route.
    """

    def __init__(
        self,
        *args: Any,
        header_seconds: float,
        write_seconds: float,
        most: int,
        refused: Refused,
        unread: dict[Connection, None],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._header_seconds = header_seconds
        self._write_seconds = write_seconds
        self._most = most
        self._on_refused = refused
        self._waiting = unread
        self._running: Any = None  # the request that is being answered
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._ending = False  # the server is, after this connection's next answer
        self._outside = 0  # bytes since the last byte of a body, or since the head began
        self._fields = 0
        self._error: RequestError | None = None  # why the request was refused
        self._discarded = 0
        self._unread = 0  # bytes of the answer when they were last looked at

    # -- the connection's life ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Await the first head; hang up at once where too many are connected."""
        super().connection_made(cast(asyncio.Transport, _Transport(transport)))
        if len(self.connections) > self._most:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._waiting.pop(self, None)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells the latest request alone, which may wait for this one
            self._running.message_event.set()
        self._stop_head_timer()
        for timer in (self._write_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close when the server ends, but not under a request that is on its way: that one is answered first, if its
        head is there within `_LINGER` seconds. uvicorn would hang up on it."""
        if self._head_timer is None:
            super().shutdown()
            return
        self._stop_head_timer()
        self._ending = True
        self._head_timer = self.loop.call_later(_LINGER, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its client has read the last answer."""
        super().timeout_keep_alive_handler()
        self._end_soon()

    def on_response_complete(self) -> None:
        """The same for one that is not kept alive."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()

    def _end_soon(self) -> None:
        """End for good what is closed already but still has bytes to send."""
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(self._write_seconds, self.transport.abort)

    def _await_head(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self._header_seconds, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # -- what comes -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse received data, within the bounds. When no request is under way, await a head: the data began one, or
        was the rest of a refused body, which uvicorn would go on reading for ever."""
        if self._error is not None:
            self._discarded += len(data)
            if self._discarded > _DISCARDED:
                self.transport.pause_reading()
            return
        self._unset_keepalive_if_required()
        self._outside += len(data)
        try:
            self._parse(data)
            if self._outside > HEAD_BYTES:
                self._refuse(_too_large())
        except httptools.HttpParserError:
            self._refuse(self._error or RequestError("malformed_request", "The request is not HTTP/1.1."))
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offered:
                if self.scope["method"] == "CONNECT":
                    self._error = RequestError("method_not_allowed", "This server is no proxy.")
                    raise httptools.HttpParserError from None
                data = self._without_upgrade() + data[offered.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            else:
                return

    def _without_upgrade(self) -> bytes:
        """The head without its offer of another protocol: with the offer, the parser would skip the body."""
        lines = [b"%s %s HTTP/%s" % (self._method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name in _UPGRADE_HEADERS:
                continue
            if name == b"connection":
                kept = [part for part in value.split(b",") if part.strip().lower() not in _UPGRADE_HEADERS]
                value = b",".join(kept)
            lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    @property
    def _method(self) -> bytes:
        return bytes(self.parser.get_method())

    def _should_upgrade(self) -> bool:
        return True  # so that uvicorn begins no request: `_parse` does, without the offer

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._outside, self._fields = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Raise for a URL that is too long."""
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            message = f"The request's URL has more than {URL_BYTES} bytes."
            self._stop(RequestError("url_too_long", message, detail={"max_bytes": URL_BYTES}))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raise for one too many. Trailers are counted, and dropped: nobody asks for them."""
        self._fields += 1
        if self._fields > HEAD_FIELDS:
            self._stop(_too_large())
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; its body has the request's deadline."""
        if sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._stop(_too_large())
        self._in_head, self._outside = False, 0
        self._stop_head_timer()
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False
        if len(self.pipeline) > PIPELINED:
            self._stop(RequestError("malformed_request", "Too many requests sent ahead of their answers."))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """What belongs to the body is counted by `app.limits`."""
        self._outside = 0
        super().on_body(body)

    # -- what is refused, and what is not read --------------------------------------------------------------------

    def _stop(self, error: RequestError) -> None:
        """Make the parser stop."""
        self._error = error
        raise ValueError(error.code)

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error, for which there is no route yet, and end the connection."""
        self._error = error
        self._stop_head_timer()
        self._on_refused(error)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline or self._in_head:
                self.transport.abort()  # what was written now would be taken for another request's answer
                return
        self.transport.write(_response(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # A socket that is closed before all was read resets the connection: the client would never see why.
        self._end_timer = self.loop.call_later(_LINGER, self.transport.abort)

    def pause_writing(self) -> None:
        """The client is slower than the server: look at it from time to time."""
        super().pause_writing()
        self._waiting[self] = None
        self._make_room()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._waiting.pop(self, None)
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _make_room(self) -> None:
        """Hang up on others, while too much waits: on those first for whom most does."""
        sizes = {each: each.transport.get_write_buffer_size() for each in self._waiting}
        total = sum(sizes.values())
        for each in sorted([*sizes][:-1], key=sizes.__getitem__, reverse=True):
            if total <= MOST_UNREAD:
                return
            logger.info("too many bytes of answers are not read: hung up on a slow client")
            del self._waiting[each]
            total -= sizes[each]
            each.transport.abort()

    def _await_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._write_seconds, self._check_reader)

    def _check_reader(self) -> None:
        if self._unread - self.transport.get_write_buffer_size() < LEAST_READ * self._write_seconds:
            logger.info("a client does not read its answer: hung up")
            self.transport.abort()
        else:
            self._await_reader()


def _too_large() -> RequestError:
    message = f"The request's headers are more than {HEAD_FIELDS} or have more than {HEAD_BYTES} bytes."
    detail: dict[str, object] = {"max_bytes": HEAD_BYTES, "max_fields": HEAD_FIELDS}
    return RequestError("head_too_large", message, detail=detail)


def _response(error: RequestError) -> bytes:
    """The bytes of the response for an error."""
    request_id = new_request_id()
    response = error_response(error, request_id)
    response.headers.update({"Connection": "close", "X-Request-ID": request_id, **SECURITY_HEADERS})
    status = HTTPStatus(error.status)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *(b": ".join(pair) for pair in response.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


def connection_class(settings: Settings, refused: Refused) -> Any:
    """`Connection` with its bounds, in the form that ``uvicorn.Config(http=...)`` takes."""
    return partial(
        Connection,
        header_seconds=settings.header_seconds,
        write_seconds=settings.write_seconds,
        most=settings.connections,
        refused=refused,
        unread={},
    )

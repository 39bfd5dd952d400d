"""Both clients against a server that breaks HTTP on real sockets: retried or raised, as `RetryPolicy` documents."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import logging
import socket
import struct
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from crosslook import RetryPolicy, errors
from crosslook.core import Send
from tests.crosslook.conftest import Connect, golden

Behaviour = Callable[[socket.socket], None]


def http(status: int, body: bytes, *headers: str, connection: str = "close") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", f"Connection: {connection}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answered(connection: str = "close") -> bytes:
    body = json.dumps(golden("answer_one")).encode()
    return http(200, body, "Content-Type: application/json", connection=connection)


def failed(code: str, *headers: str) -> bytes:
    case = golden("errors")[code]
    return http(case["status"], json.dumps(case["body"]).encode(), "Content-Type: application/json", *headers)


def say(data: bytes) -> Behaviour:
    return lambda connection: connection.sendall(data)


def reset(connection: socket.socket) -> None:
    """Close with RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drip(connection: socket.socket) -> None:
    """A complete and correct response, a byte at a time, so that no single wait is long."""
    for byte in answered():
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def stall(connection: socket.socket) -> None:
    connection.recv(1)  # until the client hangs up


class Server:
    """Treats each connection as the next behaviour says; a healthy one follows the last. Keeps what was sent to it."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            length = int(lines[0].split(b":")[1]) if lines else 0
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append(body)
            behaviour = self.behaviours.pop(0) if self.behaviours else say(answered())
            behaviour(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


HALF = answered()[: len(answered()) // 2]
REPEATED = {
    "reset at once": reset,
    "closed without a word": lambda _: None,
    "half of the headers": say(answered()[:20]),
    "half of the body": say(HALF),
    "not HTTP at all": say(b"220 smtp.example.org ESMTP\r\n"),
    "429 without Retry-After": say(failed("rate_limited")),
    "429, seconds": say(failed("rate_limited", "Retry-After: 0")),
    "429, a fraction of a second": say(failed("rate_limited", "Retry-After: 0.01")),
    "429, milliseconds": say(failed("rate_limited", "Retry-After-Ms: 5")),
    "429, a date": say(failed("rate_limited", f"Retry-After: {formatdate(time.time() - 5, usegmt=True)}")),
    "429, nonsense": say(failed("rate_limited", "Retry-After: later")),
    "503 of ours": say(failed("overloaded", "Retry-After: 0")),
    "503 of a proxy": say(http(503, b"<html>busy</html>", "Content-Type: text/html", "Retry-After: 0")),
    "502 of a proxy": say(http(502, b"", "Content-Type: text/plain")),
    "504 of ours": say(failed("deadline_exceeded", "Retry-After: 0")),
}


@pytest.mark.parametrize("name", REPEATED)
def test_repeated_with_the_same_body_until_it_works(server: Server, connect: Connect, name: str) -> None:
    server.behaviours = [REPEATED[name]] * 2
    client = connect(url=server.url)
    first = client.answer(b"image", "a?")
    assert len(server.requests) == 3
    assert len(set(server.requests)) == 1
    assert client.answer(b"image", "a?").raw == first.raw


@pytest.mark.parametrize("name", REPEATED)
def test_repeated_and_at_last_raised(server: Server, connect: Connect, name: str) -> None:
    server.behaviours = [REPEATED[name]] * 3
    with pytest.raises((errors.ConnectionFailed, errors.RateLimited, errors.Unavailable, errors.DeadlineExceeded)):
        connect(url=server.url).answer(b"image", "a?")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (stall, errors.TimedOut),
        (drip, errors.TimedOut),
        (say(http(200, b"<html>welcome</html>", "Content-Type: text/html")), errors.BadResponse),
        (say(http(200, b'{"model": {"id": "x"', "Content-Type: application/json")), errors.BadResponse),
        (say(http(200, b"{}", "Content-Type: application/json", "Content-Encoding: gzip")), errors.BadResponse),
        (say(http(301, b"", "Location: https://example.org/")), errors.BadResponse),
        (say(http(404, b"nginx", "Content-Type: text/html")), errors.NotFound),
        (say(http(413, b"nginx", "Content-Type: text/html")), errors.BodyTooLarge),
        (say(failed("internal_error")), errors.ServerFailed),
        (say(failed("question_empty", "Retry-After: 0")), errors.QuestionEmpty),
        (say(failed("overloaded", "Retry-After: 3600")), errors.Overloaded),
    ],
    ids=["stall", "drip", "html", "cut", "gzip", "301", "404", "413", "500", "422", "503 for an hour"],
)
def test_raised_at_once(
    server: Server, connect: Connect, behaviour: Behaviour, expected: type[errors.CrosslookError]
) -> None:
    server.behaviours = [behaviour]
    with pytest.raises(expected):
        connect(url=server.url, timeout=0.5).answer(b"image", "a?")
    assert len(server.requests) == 1


def test_nobody_listens(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    retries = RetryPolicy(1, first=0.001)
    with pytest.raises(errors.ConnectionFailed, match="POST /v1/answer") as caught:
        connect(url=f"http://me:secret@127.0.0.1:{port}/vqa/", retries=retries).answer(b"image", "a?")
    assert f"cannot reach http://127.0.0.1:{port}/vqa:" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_name_that_does_not_exist(connect: Connect) -> None:
    with pytest.raises(errors.ConnectionFailed):
        connect(url="http://no-such-host.invalid", retries=0).models()


def test_connections_are_reused(server: Server, connect: Connect) -> None:
    """After a failure the client goes on with a fresh connection, and a healthy one is kept."""

    def twice(connection: socket.socket) -> None:
        connection.sendall(answered("keep-alive"))
        server._serve(connection)

    server.behaviours = [reset, twice]
    client = connect(url=server.url)
    client.answer(b"image", "a?")
    client.answer(b"image", "b?")
    assert len(server._threads) == 3  # the listener and two connections for three requests
    assert len(server.requests) == 3


@functools.cache
def zeros(size: int) -> bytes:
    """So many, by gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def bomb(size: int, *codings: str) -> bytes:
    """A response of zeros, compressed; the first coding by gzip, the rest only said."""
    return http(200, zeros(size), "Content-Type: application/json", f"Content-Encoding: {', '.join(codings)}")


def head_drips(connection: socket.socket) -> None:
    """A head that comes for ever, a byte at a time."""
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def informs(connection: socket.socket) -> None:
    """An interim response now and then, never the last one."""
    for _ in range(1000):
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize("behaviour", [head_drips, informs])
def test_the_time_is_for_all_of_a_request(server: Server, connect: Connect, behaviour: Behaviour) -> None:
    """Also for the head of its response; they would take a minute."""
    server.behaviours = [behaviour]
    with pytest.raises(errors.TimedOut):
        connect(url=server.url, timeout=0.5).answer(b"image", "a?")


def test_the_time_is_for_the_request_too(connect: Connect) -> None:
    """A server that takes the body of a request a little at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepted: list[socket.socket] = []

        def sip() -> None:
            connection, _ = listener.accept()
            accepted.append(connection)
            with contextlib.suppress(OSError):
                while connection.recv(1024):
                    time.sleep(0.05)

        thread = threading.Thread(target=sip)
        thread.start()
        with pytest.raises(errors.TimedOut):
            connect(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5).answer(bytes(20_000_000), "a?")
        accepted[0].close()
        thread.join(10)


@pytest.mark.parametrize("codings", [("gzip",), ("gzip", "gzip"), ("br",), ("zstd",), ("deflate",)])
def test_a_response_is_bounded_whatever_it_is_compressed_to(
    server: Server, connect: Connect, codings: tuple[str, ...]
) -> None:
    """A small one that becomes a large one, and codings that nobody asked for."""
    server.behaviours = [say(bomb(300 << 20, *codings))]
    with pytest.raises(errors.BadResponse, match=r"bytes|asked"):
        connect(url=server.url, timeout=20).answer(b"image", "a?")


def test_a_compressed_response_is_read(server: Server, connect: Connect) -> None:
    body = gzip.compress(json.dumps(golden("answer_one")).encode())
    kind = ("Content-Type: application/json", "Content-Encoding: gzip")
    server.behaviours = [say(http(200, body, *kind)), say(http(200, body[:-20], *kind))]
    client = connect(url=server.url)
    assert client.answer(b"image", "a?").answer == golden("answer_one")["results"][0]["answer"]
    with pytest.raises(errors.BadResponse, match="ends before"):
        client.answer(b"image", "a?")


def without(name: str, value: object) -> bytes:
    """A response whose ``name`` is another."""
    return http(200, json.dumps(golden("answer_one") | {name: value}).encode(), "Content-Type: application/json")


NONSENSE = {
    "deep JSON": http(200, b"[" * 200_000, "Content-Type: application/json"),
    "a zone of 10^17 hours": http(503, b"{}", "Retry-After: Wed, 1 Jan 2020 00:00:00 +99999999999999999"),
    "the year 9999": http(503, b"{}", "Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"),
    "Retry-After: 1e300": http(503, b"{}", "Retry-After: 1e300"),
    "no IDNA": http(302, b"", "Location: http://xn--a/"),
    "no URL": http(302, b"", "Location: javascript:1"),
    "a port of 10^9": http(302, b"", "Location: http://a:1000000000/"),
    "no results": without("results", []),
    "a status of 999": http(999, b"{}", "Content-Type: application/json"),
    "no cells": without("attention", golden("answer_one")["attention"] | {"grid": {"rows": 10**30, "columns": 10**30}}),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("call", ["answer", "models", "health", "upload"])
def test_nonsense_is_an_error_of_ours(server: Server, connect: Connect, name: str, call: str) -> None:
    """Whatever comes, whatever was asked for: a CrosslookError, or an answer where that much of it was sound."""
    server.behaviours = [say(NONSENSE[name])] * 3
    arguments = {"answer": (b"image", "a?"), "upload": (b"image",)}.get(call, ())
    client = connect(url=server.url, retries=RetryPolicy(1, first=0.001))
    with contextlib.suppress(errors.CrosslookError):
        assert getattr(client, call)(*arguments)


def test_no_secret_is_shown(server: Server, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor a password in the URL: not by repr, in no log, in no traceback with its causes."""
    caplog.set_level(logging.DEBUG)
    url = server.url.replace("http://", "http://me:pa55word@")
    server.behaviours = [say(b"nonsense\r\n\r\n"), reset, say(http(302, b"", "Location: http://xn--a/"))]
    client = connect(url=url, api_key="ck_SECRET", retries=0)
    shown = [repr(client), repr(vars(client))]
    for _ in range(3):
        with pytest.raises(errors.CrosslookError) as caught:
            client.answer(b"image", "a?")
        shown.append("".join(traceback.format_exception(caught.value)))
    client.answer(b"image", "a?")
    shown += [caplog.text, repr(Send("GET", "/", {"authorization": "Bearer ck_SECRET"}))]
    for text in shown:
        assert "SECRET" not in text
        assert "pa55word" not in text

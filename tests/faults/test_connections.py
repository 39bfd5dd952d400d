"""What comes outside of a body: bounded, whatever it is; upgrades; answers that nobody reads."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crosslook.types import ErrorBody
from tests.app.servers import Server, serving, wait_for
from tests.faults.test_faults import body
from tests.faults.test_hostile import memory
from tests.faults.test_slow_clients import connect, one_response, until_closed

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def error_of(response: bytes) -> str:
    """The code of an error that ends its connection, after checking its shape and the headers of every answer."""
    head, _, content = response.partition(b"\r\n\r\n")
    error = ErrorBody.model_validate_json(content).error
    assert f"x-error-code: {error.code}\r\n".encode() in head.lower() + b"\r\n"
    assert f"x-request-id: {error.request_id}".encode() in head.lower()
    assert re.search(rb"(?im)^connection: close", head)
    return error.code


def flood(server: Server, start: bytes, piece: bytes, size: int) -> bytes:
    """Send ``start`` and then ``piece`` up to ``size`` bytes, for as long as the server takes them; what it says."""
    with connect(server) as connection:
        connection.sendall(start)
        sent = 0
        try:
            while sent < size:
                sent += connection.send(piece)
        except OSError:
            pass
        try:
            return until_closed(connection)[0]
        except OSError:
            return b""


OUTSIDE = [
    (LIVE + b"X-A: ", b"a" * 60_000, "head_too_large"),
    (LIVE, b"a:b\r\n" * 1000, "head_too_large"),
    (LIVE + b"X", b"a" * 60_000, "head_too_large"),
    (b"GET /", b"a" * 60_000, "url_too_long"),
    (CHUNKED + b"1\r\n{\r\n0\r\n", b"a:b\r\n" * 1000, "head_too_large"),
    (CHUNKED + b"1\r\n{\r\n0\r\nX-A: ", b"a" * 60_000, "head_too_large"),
    (CHUNKED + b"1;", b"a" * 60_000, "head_too_large"),
    (b"\0\1\2\3", b"\4" * 60_000, "malformed_request"),
    (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"a" * 60_000, "method_not_allowed"),
]


@pytest.mark.parametrize(("start", "piece", "code"), OUTSIDE)
def test_what_is_outside_of_a_body_is_refused(server: Server, start: bytes, piece: bytes, code: str) -> None:
    """In the one shape of errors after some 64 KiB, without a key being asked for."""
    assert error_of(flood(server, start, piece, 300_000)) == code
    with server.client() as client:
        assert f'crosslook_errors_total{{code="{code}"}}' in client.get("/metrics").text


def test_what_is_outside_of_a_body_is_not_kept(server: Server) -> None:
    """All at once, for each waits for the server to hang up."""
    before = most = memory(server.process.pid)
    with ThreadPoolExecutor(len(OUTSIDE)) as pool:
        futures = [pool.submit(flood, server, start, piece, 20_000_000) for start, piece, _ in OUTSIDE]
        while not all(future.done() for future in futures):
            most = max(most, memory(server.process.pid))
            time.sleep(0.02)
    assert most - before < 10
    with server.client() as client:
        assert client.get("/health/live").status_code == 200


def test_heads_that_are_just_small_enough(server: Server) -> None:
    """A hundred headers, a cookie of 60 kB, a URL of 8 kB, a trailer, and all of it in small pieces."""
    many = LIVE + b"".join(b"x-%d: 1\r\n" % n for n in range(99)) + b"\r\n"
    cookie = LIVE + b"Cookie: " + b"a" * 60_000 + b"\r\n\r\n"
    url = LIVE.replace(b"/live", b"/live?" + b"a" * 8000) + b"\r\n"
    with connect(server) as connection:
        for request in (many, cookie, url):
            for at in range(0, len(request), 7000):
                connection.sendall(request[at : at + 7000])
                time.sleep(0.01)
            assert one_response(connection).startswith(b"HTTP/1.1 200")
        content = json.dumps(body("trailer?")).encode()
        connection.sendall(CHUNKED + b"%x\r\n%b\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(content), content))
        assert one_response(connection).startswith(b"HTTP/1.1 200")


def test_requests_sent_ahead(server: Server) -> None:
    """A few are answered in their order; thousands end the connection."""
    with connect(server) as connection:
        connection.sendall((LIVE + b"\r\n") * 5)
        received = b""
        while received.count(b'{"status":"live"}') < 5:
            received += connection.recv(65536)
    with connect(server) as connection:
        connection.sendall((LIVE + b"\r\n") * 5000)
        try:
            received = until_closed(connection)[0]
        except ConnectionError:
            received = b""
        assert received.count(b"HTTP/1.1 200") < 100


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_an_offered_upgrade_is_ignored(server: Server, protocol: bytes, pause: float) -> None:
    """The request is answered, its body is its body and no request of its own, and the connection goes on."""
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    content = json.dumps(body("upgrade?")).encode()
    head = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + UPGRADE % protocol
    with connect(server) as connection:
        for data, status in ((inner, b"400"), (content, b"200"), (content, b"200")):
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data))
            time.sleep(pause)
            connection.sendall(data)
            assert one_response(connection).startswith(b"HTTP/1.1 " + status)
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + LIVE + UPGRADE % protocol + b"\r\n")
        received = b""
        while b'{"status":"live"}' not in received:
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200")
        assert received.count(b"HTTP/1.1") == 2
        connection.sendall(LIVE + b"\r\n")
        assert b'{"status":"live"}' in one_response(connection)


def test_answers_that_nobody_reads(tmp_path: Path) -> None:
    """The connection is ended and its memory comes back; one that reads slowly but steadily gets all of it."""
    with serving(tmp_path / "log", write_seconds=0.5, log_level="info") as server:
        request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        deaf = [small(server) for _ in range(8)]
        for connection in deaf:
            connection.sendall(request * 8)
        with small(server) as slow:
            slow.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received = 0
            while data := slow.recv(65536):
                received += len(data)
                time.sleep(len(data) / 600_000)  # in all five times `write_seconds`
            assert received > 1_000_000
        assert wait_for(lambda: server.log.read_text().count("does not read its answer") == 8, 20.0)
        for connection in deaf:
            connection.close()


def read_all(connection: socket.socket) -> int:
    """How many bytes come until the server hangs up. Raises: ConnectionError where it waits for nothing."""
    received = 0
    while data := connection.recv(65536):
        received += len(data)
    return received


def small(server: Server) -> socket.socket:
    """A connection whose client has little room for what it does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    host, port = server.url.removeprefix("http://").split(":")
    connection.connect((host, int(port)))
    return connection


def test_files_are_served_without_descriptors(tmp_path: Path) -> None:
    """Where connections have taken all of them, those that are open still get the page."""
    with serving(tmp_path / "log") as server, server.client() as client:
        assert client.get("/health/live").status_code == 200
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft >= 1200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        for path in ("/", "/web/main.js", "/examples/cat.jpg", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        assert client.post("/v1/answer", json=body("still?")).status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_connections(tmp_path: Path) -> None:
    """One more than allowed is closed at once; when one has gone there is room again."""
    with serving(tmp_path / "log", connections=5) as server:
        held = [connect(server) for _ in range(5)]
        for connection in held:
            connection.sendall(LIVE)
        time.sleep(0.2)
        with connect(server) as one_more:
            try:
                one_more.sendall(LIVE + b"\r\n")
                assert one_more.recv(100) == b""
            except ConnectionError:
                pass
        held.pop().close()
        time.sleep(0.2)
        with server.client() as client:
            assert client.get("/health/live").status_code == 200
        for connection in held:
            connection.close()


def test_many_who_read_slowly(tmp_path: Path) -> None:
    """Each may have its time; together they may keep so many bytes waiting, and no more."""
    before = "import app.connections; app.connections.MOST_UNREAD = 200_000"
    with serving(tmp_path / "log", before=before, write_seconds=20, log_level="info") as server:
        request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        slow = [small(server) for _ in range(8)]
        for connection in slow:
            connection.sendall(request * 8)  # the system's own buffers take some
        assert wait_for(lambda: "too many bytes of answers" in server.log.read_text(), 10.0)
        with server.client() as client:
            assert len(client.get("/docs/swagger-ui-bundle.js").content) > 1_000_000
        assert 4 <= server.log.read_text().count("too many bytes of answers") <= 8
        slow[0].settimeout(1)
        assert read_all(slow[0]) < 8_000_000  # what was on its way, and no more
        # What is written in the moment in which a connection ends is written to nobody, and is no fault.
        assert "Traceback" not in server.log.read_text()
        for connection in slow:
            connection.close()


def test_a_request_ends_with_its_client_though_another_was_sent_behind_it(tmp_path: Path) -> None:
    """uvicorn tells the last one alone, which waits for the first."""
    content = json.dumps(body("!slow 1.5")).encode()
    request = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    with serving(tmp_path / "log") as server:
        with connect(server) as connection:
            connection.sendall(request % (len(content), content) + LIVE + b"\r\n")
            time.sleep(0.3)
        assert wait_for(lambda: "POST /v1/answer" in server.log.read_text(), 10.0)
        assert "POST /v1/answer 499" in server.log.read_text()

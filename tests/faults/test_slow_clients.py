"""Clients that begin and do not go on: none of them may hold a connection for ever."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslook.types import ErrorBody
from tests.app.servers import Server, serving
from tests.faults.test_faults import body

HEAD = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for half a second for a head."""
    with serving(tmp_path_factory.mktemp("server") / "log", header_seconds=0.5) as server:
        yield server


def connect(server: Server) -> socket.socket:
    """A connection that gives up after ten seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def until_closed(connection: socket.socket) -> tuple[bytes, float]:
    """What the server still sends, and the seconds until it hangs up."""
    start, received = time.monotonic(), b""
    while data := connection.recv(65536):
        received += data
    return received, time.monotonic() - start


def one_response(connection: socket.socket) -> bytes:
    """A response that says its length, whole."""
    received = b""
    while not (found := re.search(rb"(?is)content-length: (\d+).*?\r\n\r\n", received)) or (
        len(received) < found.end() + int(found[1])
    ):
        data = connection.recv(65536)
        assert data, received
        received += data
    return received


def is_incomplete(response: bytes) -> bool:
    """Whether it is a 408 of the one shape that announces the end of the connection."""
    head, _, content = response.partition(b"\r\n\r\n")
    assert ErrorBody.model_validate_json(content).error.code == "request_incomplete"
    return head.startswith(b"HTTP/1.1 408") and re.search(rb"(?im)^connection: close", head) is not None


def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    """Announced and not sent, sent in a trickle, and with a deadline of the client's own: 408, then the end."""
    with serving(tmp_path / "log", request_seconds=2.0) as server:
        for header, low, high in ((b"", 1.7, 10.0), (b"X-Request-Timeout: 0.6\r\n", 0.5, 1.7)):
            with connect(server) as connection:
                connection.sendall(HEAD + header + b"\r\n{")
                response, seconds = until_closed(connection)
                assert is_incomplete(response)
                assert low < seconds < high
        with connect(server) as connection:
            connection.sendall(HEAD + b"\r\n{")
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                connection.sendall(b" ")
                time.sleep(0.1)
            assert is_incomplete(until_closed(connection)[0])
        with server.client() as client:
            assert client.post("/v1/answer", json=body("fine?")).status_code == 200
            assert "crosslook_queue_bytes 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("sent", [b"", HEAD[:20], HEAD])
def test_a_head_that_does_not_come(impatient: Server, sent: bytes) -> None:
    """Nothing, half a line, headers without their end."""
    with connect(impatient) as connection:
        connection.sendall(sent)
        assert until_closed(connection)[1] < 8.0  # 10 unless it is set


def test_the_rest_of_a_refused_body(impatient: Server) -> None:
    """It is not awaited for ever either."""
    with connect(impatient) as connection:
        connection.sendall(HEAD.replace(b"application/json", b"text/plain") + b"\r\n{")
        assert b" 415 " in connection.recv(65536)
        connection.sendall(b"{")
        assert until_closed(connection)[1] < 8.0  # 10 unless it is set


def test_connections_that_are_kept_alive_are_left_alone(impatient: Server) -> None:
    """Longer than a head may take, between requests and within a slow one."""
    with connect(impatient) as connection:
        for question in ("a?", "!slow 1", "b?"):
            data = json.dumps(body(question)).encode()
            head = HEAD.replace(b"5000", str(len(data)).encode())
            connection.sendall(head[:30])
            time.sleep(0.1)
            connection.sendall(head[30:] + b"\r\n" + data)
            assert one_response(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)

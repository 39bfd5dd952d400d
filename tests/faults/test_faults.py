"""Faults, each with a real server process: whatever happens to it, nothing accepted is lost without an error."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from crosslook.errors import CODES
from crosslook.types import ErrorBody
from tests.app.conftest import encoded
from tests.app.servers import Server, serving, wait_for


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a server logs."""
    return tmp_path / "log"


def body(*questions: str, shade: int = 1) -> dict[str, object]:
    """A request about an image of one shade."""
    image = base64.b64encode(encoded(Image.new("RGB", (20, 20), (shade % 250, shade // 250, 5)))).decode()
    return {"image": image, "questions": list(questions), "maps": "none"}


def code_of(response: httpx.Response) -> str:
    """``ok`` or the error's code, after checking that the error has the one shape and its status."""
    if response.status_code == 200:
        return "ok"
    error = ErrorBody.model_validate_json(response.content).error
    assert response.status_code == CODES[error.code].status
    assert ("retry-after" in response.headers) is CODES[error.code].retry
    return error.code


def ask(server: Server, *questions: str, shade: int = 1, timeout: float = 30.0) -> str:
    """One request on a connection of its own: ``ok``, an error's code, or ``unreachable``."""
    try:
        with server.client(timeout) as client:
            return code_of(client.post("/v1/answer", json=body(*questions, shade=shade)))
    except httpx.ConnectError:
        return "unreachable"


def ready(server: Server) -> bool:
    """What the probe says."""
    with server.client() as client:
        return client.get("/health/ready").status_code == 200


def test_worker_killed_in_the_middle_of_a_batch(log: Path) -> None:
    """Its requests get worker_failed with a Retry-After, readiness drops, another worker takes over."""
    with serving(log) as server, ThreadPoolExecutor(8) as pool:
        assert ask(server, "warm?") == "ok"
        busy = [pool.submit(ask, server, "!slow 20", shade=n) for n in range(4)]
        time.sleep(1.0)
        os.kill(server.workers()[-1], signal.SIGKILL)
        assert [future.result() for future in busy] == ["worker_failed"] * 4
        assert f"worker lost: worker {server.workers()[-1]} was ended by SIGKILL" in log.read_text()
        assert wait_for(lambda: ready(server))
        assert ask(server, "again?") == "ok"
        assert len(server.workers()) == 2


def test_worker_that_kills_itself_again_and_again(log: Path) -> None:
    """A question that crashes the worker each time: the server comes back each time."""
    with serving(log) as server:
        for _ in range(3):
            assert ask(server, "!die") == "worker_failed"
            assert wait_for(lambda: ready(server))
        assert ask(server, "fine?") == "ok"


def test_hung_worker(log: Path) -> None:
    """A call that never ends: the worker is killed after its time, readiness told the truth meanwhile."""
    with serving(log, worker_seconds=1.0) as server, ThreadPoolExecutor(2) as pool:
        hung = pool.submit(ask, server, "!hang")
        time.sleep(0.5)
        behind = pool.submit(ask, server, "behind?", shade=2)
        assert hung.result() == "worker_failed"
        assert behind.result() in ("worker_failed", "not_ready")
        assert wait_for(lambda: ready(server))
        assert ask(server, "again?") == "ok"


def test_stopped_worker(log: Path) -> None:
    """A worker that the kernel has stopped is as good as hung."""
    with serving(log, worker_seconds=1.0) as server:
        os.kill(server.workers()[-1], signal.SIGSTOP)
        assert ask(server, "what?") == "worker_failed"
        assert wait_for(lambda: ready(server))
        assert ask(server, "again?") == "ok"


def test_model_that_raises_in_a_full_batch(log: Path) -> None:
    """The guilty get 500, everyone else in the batch is answered, the worker lives on."""
    with serving(log) as server, ThreadPoolExecutor(16) as pool:
        first = pool.submit(ask, server, "!slow 1")
        time.sleep(0.5)
        guilty = [pool.submit(ask, server, "!raise", shade=n) for n in range(3)]
        good = [pool.submit(ask, server, "fine?", shade=n) for n in range(8)]
        assert first.result() == "ok"
        assert [future.result() for future in guilty] == ["internal_error"] * 3
        assert [future.result() for future in good] == ["ok"] * 8
        assert len(server.workers()) == 1


def test_clients_that_leave(log: Path) -> None:
    """Clients that hang up in mid-body and in mid-wait; the rest are answered and nothing stays behind."""
    with serving(log) as server, ThreadPoolExecutor(2) as pool:
        host, port = server.url.removeprefix("http://").split(":")
        head = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        for cut in (head[:20], head, head + b"{" * 500):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(cut)
        assert ask(server, "warm?") == "ok"
        busy = pool.submit(ask, server, "!slow 6")
        assert wait_for(lambda: figure(server, "queue_items") == 1 and figure(server, "queue_texts") == 0)
        leaving = [socket.create_connection((host, int(port))) for _ in range(10)]
        for shade, connection in enumerate(leaving, start=2):
            data = json.dumps(body("left?", shade=shade)).encode()
            connection.sendall(head.replace(b"9999", str(len(data)).encode()) + data)
        assert wait_for(lambda: figure(server, "queue_encodes") == 10)
        for connection in leaving:
            connection.close()
        assert wait_for(lambda: figure(server, "abandoned_total") == 10)
        assert busy.result() == "ok"
        assert ask(server, "next?") == "ok"
        assert figure(server, "queue_items") == figure(server, "queue_bytes") == 0
        assert figure(server, 'dropped_total{kind="encode"}') == 10


def figure(server: Server, name: str) -> float:
    """One of the server's metrics."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"crosslook_{name} "))


def overload(server: Server, seconds: float, *, clients: int) -> Counter[str]:
    """More clients than the server can serve, for some seconds; what they got."""
    end = time.monotonic() + seconds

    def hammer(n: int) -> Counter[str]:
        codes: Counter[str] = Counter()
        with server.client() as client:
            while time.monotonic() < end:
                codes[code_of(client.post("/v1/answer", json=body("!slow 0.02", shade=n)))] += 1
        return codes

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(hammer, range(clients)), Counter())


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_overload(log: Path, seconds: float) -> None:
    """Ten times more clients than fit: 503 for the rest, 200 for those accepted, nothing else, and calm afterwards."""
    with serving(log, queue_items=4, run_batch=1) as server:
        codes = overload(server, seconds, clients=40)
        assert set(codes) == {"ok", "overloaded"}
        with server.client() as client:
            assert code_of(client.post("/v1/answer", json=body("calm?"))) == "ok"
            assert "crosslook_queue_items 0.0" in client.get("/metrics").text
        assert len(server.workers()) == 1


def test_sigterm_under_load(log: Path) -> None:
    """Every accepted request is answered, new ones are refused, the exit status is 0 and no process stays."""
    with serving(log) as server:
        stop, codes, lock = threading.Event(), Counter[str](), threading.Lock()

        def client(n: int) -> None:
            while not stop.is_set():
                try:
                    result = ask(server, "!slow 0.05", shade=n)
                except httpx.ReadError as error:
                    # The kernel resets what it had connected when the port closes before the server accepted it.
                    result = "unreachable" if "reset" in str(error) else f"lost: {error}"
                except httpx.RemoteProtocolError as error:
                    result = f"lost: {error}"
                with lock:
                    codes[result] += 1
                if result == "unreachable":
                    return

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: codes["ok"] >= 20)
        status = server.terminate()
        stop.set()
        for thread in threads:
            thread.join()
        assert status == 0
        assert codes["unreachable"] > 0
        assert set(codes) <= {"ok", "unreachable", "shutting_down"}, codes
        assert not any(_alive(pid) for pid in server.workers())


@pytest.mark.parametrize("begun", [b"", b"GET /v1/models HT"], ids=["connected", "in its head"])
def test_sigterm_under_a_request_on_its_way(log: Path, begun: bytes) -> None:
    """A client that has connected before the signal, and whose request comes after it, is answered, then let go."""
    with serving(log) as server:
        assert ask(server, "warm?") == "ok"
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port or 80), timeout=20.0) as client:
            client.sendall(begun)
            assert ask(server, "later?") == "ok"  # it came after that connection, which has been accepted too by now
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.0)  # uvicorn is waiting for the connections to end by now
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"[len(begun) :])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"connection: close" in answer.lower()
        assert server.process.wait(20.0) == 0


def test_the_time_to_drain_is_over(log: Path) -> None:
    """Requests that a stopped worker holds get shutting_down, not a plain 500, and the server ends soon after."""
    with serving(log, drain_seconds=1) as server, ThreadPoolExecutor(4) as pool:
        assert ask(server, "warm?") == "ok"
        os.kill(server.workers()[-1], signal.SIGSTOP)
        held = [pool.submit(ask, server, "held?", shade=n) for n in range(2, 6)]
        assert wait_for(lambda: figure(server, "queue_items") == 8, 10.0)
        start = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - start < 15.0  # 30 unless it is set
        assert [future.result() for future in held] == ["shutting_down"] * 4
        assert "Traceback" not in log.read_text()
        assert "Exception in ASGI" not in log.read_text()


@pytest.mark.parametrize("workers", [1, 2])  # two are forks
def test_the_server_is_killed(log: Path, workers: int) -> None:
    """With the parent gone, no worker stays behind, not even in the middle of a call."""
    with serving(log, workers=workers, threads=1, device="cpu") as server, ThreadPoolExecutor(1) as pool:
        assert wait_for(lambda: len(server.workers()) == workers, 20.0)
        hung = pool.submit(_lost, server)
        time.sleep(0.5)
        server.process.kill()
        server.process.wait()
        assert hung.result()
        assert wait_for(lambda: not any(map(_alive, server.workers())), 10.0)


def _lost(server: Server) -> bool:
    try:
        ask(server, "!slow 30")
    except httpx.TransportError:
        return True
    return False


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _no_process_left(log: Path) -> Iterator[None]:
    yield
    if log.exists():
        pids = [int(part.split()[0]) for part in log.read_text().split("worker ")[1:] if part.split()[0].isdigit()]
        assert wait_for(lambda: not any(_alive(pid) for pid in pids), 10.0)

"""Requests that nobody should send, by the thousand: none is a fault of the server's, and others do not notice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.app.servers import Server, serving
from tests.faults.requests_made_up import PNG, Sent, request, send
from tests.faults.test_hostile import memory


@pytest.mark.parametrize("seconds", [4.0, pytest.param(1200.0, marks=pytest.mark.long)])
def test_requests_made_up(tmp_path: Path, seconds: float) -> None:
    """No 500, no worker lost, every good request right, and the memory comes back. What others waited is printed."""
    seed = int(time.time()) if seconds > 60 else 1
    with serving(tmp_path / "log", header_seconds=2.0, request_seconds=5.0, cors_origins="http://x") as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        end = time.monotonic() + seconds
        statuses: Counter[str] = Counter()
        faults: list[Sent] = []

        def attack(n: int) -> None:
            rng = random.Random(seed * 1000 + n)
            while time.monotonic() < end:
                sent = request(rng)
                received = send(address, sent)
                status = received[9:12].decode("ascii", "replace")
                statuses[status] += 1
                if status == "500" or (received and not received.startswith(b"HTTP/1.1 ")):
                    faults.append(sent)

        waited: list[float] = []
        largest = [0.0]
        watching = threading.Thread(target=watch, args=(server, end, waited, largest))
        watching.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(attack, range(4)))
        watching.join()
        with server.client() as client:
            assert client.get("/health/ready").status_code == 200
            assert 'code="internal_error"' not in client.get("/metrics").text, failure(server)  # also those not read
        assert not faults, (seed, [(fault.name, fault.pieces[0][:300]) for fault in faults[:3]])
        assert sum(statuses.values()) > 20
        assert len(server.workers()) == 1
        assert not failure(server)
        assert largest[0] < 600
        waited.sort()
        p99 = 1000 * waited[int(0.99 * (len(waited) - 1))]
        print(f"seed {seed}: {dict(statuses)}; live p99 {p99:.0f} ms of {len(waited)}; parent {largest[0]:.0f} MiB")  # noqa: T201


def failure(server: Server) -> str:
    """What the log says of the first fault of the server's own: the lines around its traceback."""
    before, found, behind = server.log.read_text().partition("Traceback")
    return before[-500:] + found + behind[:6000] if found else ""


def watch(server: Server, end: float, waited: list[float], largest: list[float]) -> None:
    """Another client's probe and questions, while it lasts; each is answered, and right."""
    with httpx.Client(base_url=server.url, timeout=30.0, verify=False) as client:  # noqa: S501
        while time.monotonic() < end:
            start = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            waited.append(time.perf_counter() - start)
            largest[0] = max(largest[0], memory(server.process.pid))
            answer = client.post("/v1/answer", data={"question": "what?", "maps": "none"}, files={"image": PNG})
            assert answer.status_code == 200, answer.text
            assert answer.json()["results"][0]["answer"] == "8"
            time.sleep(0.05)

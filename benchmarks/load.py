"""A lean load generator: raw HTTP/1.1 over kept connections, one process, its own CPU time measured.

``python -m benchmarks.load`` reads one JSON object from standard input (see `Plan`) and prints one (see `Outcome`).
With a rate, arrivals are open-loop: they come at random (Poisson) times whatever the server does, and latency counts
from when a request should have been sent. Without, each connection sends as soon as it has its answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Plan:
    """What to send. ``fresh``: random bytes behind each JPEG, so that no two images are alike, in any run. ``seed`` is
    that of the arrivals. ``expect``: a text without which an answer counts as failed."""

    url: str
    image: str
    questions: list[str]
    seconds: float
    connections: int
    rate: float | None = None
    maps: str = "float"
    fresh: bool = True
    seed: int = 0
    expect: str = ""


@dataclass(slots=True)
class Outcome:
    """What came back. ``latencies``: milliseconds, of answers with status 200 as expected, in order; ``cpu``: the
    generator's own seconds."""

    sent: int
    ok: int
    refused: int
    failed: int
    seconds: float
    cpu: float
    latencies: list[float]

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.ok / self.seconds

    @property
    def goodput(self) -> float:
        """Answers within 300 ms, a second."""
        return sum(value <= 300 for value in self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency that ``share`` of the answers did not exceed; NaN when there is no answer."""
        return self.latencies[min(self.ok - 1, int(share * self.ok))] if self.ok else float("nan")

    @classmethod
    def joined(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Several rounds as one."""
        sums = {key: sum(getattr(one, key) for one in outcomes) for key in cls.__slots__ if key != "latencies"}
        return cls(**sums, latencies=sorted(value for one in outcomes for value in one.latencies))


def pieces(plan: Plan) -> tuple[bytes, bytes]:
    """A whole multipart request, cut behind the image's last byte. ``fresh`` requests have 16 bytes in between."""
    host = plan.url.removeprefix("http://")
    before = _head("image", '; filename="a.jpg"') + Path(plan.image).read_bytes()
    fields = [("question", question) for question in plan.questions] + [("maps", plan.maps)]
    after = b"".join(b"\r\n" + _head(name) + value.encode() for name, value in fields) + b"\r\n--x--\r\n"
    length = len(before) + len(after) + (16 if plan.fresh else 0)
    head = f"POST /v1/answer HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return head.encode() + f"Content-Length: {length}\r\n\r\n".encode() + before, after


def _head(name: str, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()


class Connection:
    """One kept connection, opened again when the server closes it."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.host, self.port = host, int(port)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, request: bytes, expect: bytes = b"") -> int:
        """Send one request; its status, 0 for a broken connection or a 200 without ``expect`` in it."""
        try:
            if self.streams is not None and self.streams[0].at_eof():
                self.close()  # the server hung up on an idle connection; that is no failure
            if self.streams is None:
                self.streams = await asyncio.open_connection(self.host, self.port, limit=1 << 22)
            reader, writer = self.streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if b"connection: close" in head:
                self.close()
            status = int(head.split(b" ", 2)[1])
            return 0 if status == 200 and expect not in body else status
        except (OSError, asyncio.IncompleteReadError, IndexError):
            self.close()
            return 0

    def close(self) -> None:
        """Hang up."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def run(plan: Plan) -> Outcome:
    """Carry out one plan."""
    before, after = pieces(plan)
    rng = random.Random(plan.seed)
    connections = [Connection(plan.url) for _ in range(plan.connections)]
    latencies: list[float] = []
    codes: dict[int, int] = {}
    sent = 0

    async def one(connection: Connection, due: float) -> None:
        nonlocal sent
        request = before + (os.urandom(16) if plan.fresh else b"") + after  # random, not of the seed: no run repeats
        sent += 1
        code = await connection.post(request, plan.expect.encode())
        codes[code] = codes.get(code, 0) + 1
        if code == 200:
            latencies.append(time.perf_counter() - due)

    usage = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    end = start + plan.seconds
    if plan.rate is None:

        async def busy(connection: Connection) -> None:
            while time.perf_counter() < end:
                await one(connection, time.perf_counter())

        await asyncio.gather(*map(busy, connections))
    else:
        free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()  # those in use stay warm
        for connection in connections:
            free.put_nowait(connection)
        tasks = []
        due = start

        async def when_free(due: float) -> None:
            connection = await free.get()
            await one(connection, due)
            free.put_nowait(connection)

        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(when_free(due)))
            due += rng.expovariate(plan.rate)
        await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    for connection in connections:
        connection.close()
    cpu = used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime
    return Outcome(
        sent=sent,
        ok=codes.get(200, 0),
        refused=codes.get(503, 0) + codes.get(429, 0),
        failed=sum(count for code, count in codes.items() if code not in (200, 503, 429)),
        seconds=seconds,
        cpu=cpu,
        latencies=sorted(1000 * latency for latency in latencies),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Plan(**json.load(sys.stdin)))))))

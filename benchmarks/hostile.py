"""Good clients beside hostile ones: ``python -m benchmarks.hostile``.

The service at its default settings is measured alone first (its capacity, closed loop). Then good requests come at half
of that, at random times, while hostile clients send without rest: requests made up over all routes
(`tests.faults.requests_made_up`) and floods of every kind: heads and trailers without end, lists
by the hundred thousand, answers that nobody reads, long candidates, 32 questions with maps, whitespace for base64,
images of 50 million pixels in a few kB and of millions of chunks.

Reported: good requests by what came of them (right: the answer that the server gives before the attack), their
latency, that of ``GET /health/live`` for another client (a process of its own), the parent's memory and the workers
that were lost. Appends to ``benchmarks/results/hostile.md``.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from benchmarks.clients import ROOT
from benchmarks.load import Outcome, Plan
from benchmarks.machine import append_result, describe_machine, load_average, table
from tests.app.servers import serving, wait_for
from tests.faults.hostile import png
from tests.faults.requests_made_up import Sent, request, send
from tests.faults.test_hostile import memory

CAT = ROOT / "examples" / "cat.jpg"
PROBE = """
import http.client, json, sys, time
waited, end = [], time.monotonic() + float(sys.argv[2])
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
while time.monotonic() < end:
    start = time.perf_counter()
    connection.request("GET", "/health/live")
    assert connection.getresponse().read() == b'{"status":"live"}'
    waited.append(1000 * (time.perf_counter() - start))
    time.sleep(0.02)
print(json.dumps(sorted(waited)))
"""


@cache
def images() -> dict[str, bytes]:
    """Files that once held a decoder for seconds, or took a gigabyte."""
    width, height = 16_384, 3051
    runs = b"\1\0\0\0" * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    bmp = b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs
    rows = zlib.compressobj(1)
    pixels = b"".join(rows.compress(bytes(4 * 7000 + 1)) for _ in range(7000)) + rows.flush()
    chunk = b"\0\0\0\0abCd" + struct.pack("!I", zlib.crc32(b"abCd"))
    return {
        "a BMP of 50 million pixels": bmp,
        "a PNG of 49 million pixels with alpha": png(7000, 7000, pixels, colour=6),
        "a PNG of 1.7 million chunks": png(64, 64, zlib.compress(bytes(64 * 193)), extra=chunk * 1_700_000),
    }


def floods(rng: random.Random) -> Iterator[tuple[str, Sent]]:
    """One request of each kind that once stopped others."""
    json_head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"

    def post(path: str, content: bytes) -> tuple[bytes, ...]:
        return (json_head.format(path, len(content)).encode() + content,)

    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
    chunked = b"POST /v1/answer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    questions = [f"{'what colour is the big old dog on the small red chair ' * 3} {n}?"[-190:] for n in range(32)]
    candidates = [f"{rng.random()} {'some long words of little use ' * 6}"[:200] for _ in range(200)]
    image = base64.b64encode(CAT.read_bytes() + rng.randbytes(8)).decode()
    yield "a header without end", Sent("head", (live + b"X: ", *([b"a" * 65536] * 100)))
    yield "header lines without end", Sent("head", (live, *([b"a:b\r\n" * 10_000] * 100)))
    yield "trailers without end", Sent("head", (chunked, *([b"a:b\r\n" * 10_000] * 100)))
    yield "a URL without end", Sent("head", (b"GET /", *([b"a" * 65536] * 100)))
    yield "a list of numbers", Sent("json", post("/v1/answer", b'{"questions":[' + b"0," * 300_000 + b"0]}"))
    yield "the largest list", Sent("json", post("/v1/answer", b'{"layers":[' + b"1," * 14_000_000 + b"1]}"))
    yield "messages of numbers", Sent("json", post("/v1/chat/completions", b'{"messages":[' + b"0," * 90_000 + b"0]}"))
    yield "a long name", Sent("json", post("/v1/answer", b'{"' + b"A" * 26_000_000 + b'":1}'), hang_up=True)
    yield "whitespace", Sent("json", post("/v1/images", b'{"image":"' + b"A " * 13_000_000 + b'"}'))
    yield (
        "32 questions",
        Sent("json", post("/v1/answer", json.dumps({"image": image, "questions": questions}).encode())),
    )
    many = json.dumps({"image": image, "questions": ["what?"], "candidates": candidates}).encode()
    yield "long candidates", Sent("json", post("/v1/answer", many))
    for name, data in images().items():
        text = base64.b64encode(data + rng.randbytes(8))
        yield name, Sent("json", post("/v1/answer", b'{"questions":["what?"],"maps":"none","image":"' + text + b'"}'))


def attack(address: tuple[str, int], end: float, seed: int, kind: Callable[[random.Random], Iterator[Sent]]) -> None:
    """Send without rest."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        for sent in kind(rng):
            if time.monotonic() < end:
                send(address, sent)


def made_up(rng: random.Random) -> Iterator[Sent]:
    """One request of the generator's."""
    yield request(rng)


def all_floods(rng: random.Random) -> Iterator[Sent]:
    """Every flood once."""
    return (sent for _, sent in floods(rng))


def load(plan: Plan) -> subprocess.Popen[str]:
    """The load generator, begun in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    process.stdin.write(json.dumps(plan.__dict__))
    process.stdin.close()
    process.stdin = None
    return process


def finished(process: subprocess.Popen[str]) -> Outcome:
    """What it found."""
    out, _ = process.communicate()
    return Outcome(**json.loads(out))


def measure(seconds: float) -> str:
    """Capacity alone, then the good ones among the hostile ones: a table."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log", loader=None, workers=2) as server:
        assert wait_for(lambda: len(server.workers()) == 2)
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        plan = Plan(server.url, str(CAT), ["What animal is this?"], seconds / 3, connections=4, maps="none")
        with server.client() as client:
            first = client.post("/v1/answer", data={"question": plan.questions}, files={"image": CAT.read_bytes()})
        plan.expect = f'"answer":{json.dumps(first.json()["results"][0]["answer"])},'
        alone = finished(load(plan))
        before = server.workers()
        good = load(Plan(**{**plan.__dict__, "seconds": seconds, "rate": alone.throughput / 2, "connections": 32}))
        end = time.monotonic() + seconds
        probe = subprocess.Popen(
            [sys.executable, "-c", PROBE, str(address[1]), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        hostile = [threading.Thread(target=attack, args=(address, end, 1, all_floods))]
        hostile += [threading.Thread(target=attack, args=(address, end, seed, made_up)) for seed in (2, 3)]
        deaf = socket.create_connection(address)  # asks, and never reads
        deaf.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        for thread in hostile:
            thread.start()
        largest = 0.0
        while any(thread.is_alive() for thread in hostile):
            largest = max(largest, memory(server.process.pid))
            time.sleep(0.05)
        outcome, waited = finished(good), json.loads(probe.communicate()[0])
        deaf.close()
        lost = len(set(before) - set(server.workers()))
        with server.client() as client:
            assert client.get("/health/ready").status_code == 200
    rows = [
        ["capacity alone, answers a second", f"{alone.throughput:.1f}"],
        ["good requests sent", str(outcome.sent)],
        ["of them right", str(outcome.ok)],
        ["refused (503)", str(outcome.refused)],
        ["failed", str(outcome.failed)],
        ["their p50 and p99, ms (alone, four at once)", _pair(outcome, alone)],
        ["`/health/live` p50, ms", f"{waited[len(waited) // 2]:.0f}"],
        ["`/health/live` p99, ms", f"{waited[int(0.99 * (len(waited) - 1))]:.0f}"],
        ["`/health/live` longest, ms", f"{waited[-1]:.0f}"],
        ["the parent's memory at most, MiB", f"{largest:.0f}"],
        ["workers lost", str(lost)],
    ]
    return table(["what", "figure"], rows)


def _pair(outcome: Outcome, alone: Outcome) -> str:
    shown = [f"{one.quantile(0.5):.0f} and {one.quantile(0.99):.0f}" for one in (outcome, alone)]
    return f"{shown[0]} ({shown[1]})"


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    before = load_average()
    text = f"{describe_machine()}; {before}; {options.seconds:.0f} s of attack.\n\n{measure(options.seconds)}"
    print(text)
    if not options.no_record:
        append_result("hostile", "Good clients beside hostile ones", text)


if __name__ == "__main__":
    main()

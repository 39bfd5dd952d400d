"""A soak: steady load with the cache already full. No error, and memory that does not grow."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.engine.engine import LOADER
from model.compact.model import EMBEDDED
from tests.app.conftest import encoded
from tests.app.servers import Server, serving, wait_for
from tests.fakes import model as standin
from tests.faults.test_hostile import memory

NOISE = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
JPEG = encoded(Image.fromarray(NOISE).resize((64, 48)).resize((640, 480)), "JPEG", quality=85)


def one(server: Server) -> int:
    """One request about an image that no request had before (bytes behind the end of a JPEG change nothing else)."""
    with server.client(60.0) as client:
        files = {"image": JPEG + random.randbytes(16)}
        data = {"question": ["What is this?", "How many are there?"], "maps": random.choice(("float", "u8", "none"))}
        return client.post("/v1/answer", files=files, data=data).status_code


def closed_loop(server: Server, seconds: float) -> float:
    """Requests a second with four clients that never rest."""
    end, done = time.monotonic() + seconds, [0] * 4

    def client(n: int) -> None:
        while time.monotonic() < end:
            assert one(server) == 200
            done[n] += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))
    return sum(done) / seconds


def open_loop(server: Server, rate: float, seconds: float) -> Counter[int]:
    """Requests at a steady rate, whatever the answers do; the statuses."""
    codes: Counter[int] = Counter()
    lock = threading.Lock()

    def client() -> None:
        code = one(server)
        with lock:
            codes[code] += 1

    end = time.monotonic() + seconds
    with ThreadPoolExecutor(32) as pool:
        while time.monotonic() < end:
            pool.submit(client)
            time.sleep(random.expovariate(rate))
    return codes


def processes(server: Server) -> list[float]:
    """Resident memory of the server and of each worker, in MiB."""
    return [memory(pid) for pid in (server.process.pid, *server.workers())]


@pytest.mark.parametrize("minutes", [0.1, pytest.param(30.0, marks=pytest.mark.long)])
def test_soak(tmp_path: Path, minutes: float) -> None:
    """The short form runs the stand-in and checks that nothing fails and the cache stays within its bound; the long one
    runs the default model and fits a line through the memory: under 1 MiB a minute."""
    long = minutes > 1
    real = long and (EMBEDDED / "config.json").exists()
    settings: dict[str, object] = {
        "model": "compact" if real else "tiny",
        "cache_bytes": 100_000_000 if real else 20_000,
        "workers": 2 if long else 1,  # as by default
    }
    with serving(tmp_path / "log", loader=LOADER if long else standin.LOADER, **settings) as server:
        assert wait_for(lambda: len(server.workers()) == settings["workers"])
        capacity = closed_loop(server, 60.0 if long else 2.0)
        while cached(server, "images") < 15 or not cached(server, "evictions_total"):
            assert one(server) == 200
        samples: list[tuple[float, list[float]]] = []
        stop = threading.Event()

        def watch() -> None:
            start = time.monotonic()
            while not stop.wait(5.0 if long else 0.5):
                samples.append(((time.monotonic() - start) / 60, processes(server)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        codes = open_loop(server, 0.7 * capacity, 60 * minutes)
        stop.set()
        watcher.join()
        assert set(codes) == {200}, codes
        assert len(server.workers()) == settings["workers"]
        assert cached(server, "bytes") <= int(str(settings["cache_bytes"]))
        times, each = (np.array(column) for column in zip(*samples, strict=True))
        values = each.sum(1)
        slope = float(np.polyfit(times, values, 1)[0])
        rate, growth = f"{sum(codes.values())} requests at {0.7 * capacity:.1f}/s", f"{slope:+.2f} MiB a minute"
        tenths = [part.mean(0).round().astype(int).tolist() for part in np.array_split(each, 10)]
        print(f"{rate}, {values[0]:.0f} to {values[-1]:.0f} MiB, {growth}; server and workers by tenths: {tenths}")  # noqa: T201
        if long:
            assert slope < 1.0
        else:
            assert values.max() - values.min() < 200


def cached(server: Server, what: str) -> float:
    """A figure of the cache."""
    with server.client() as client:
        text = client.get("/metrics").text
    found = re.search(rf"^crosslook_cache_{what} (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])

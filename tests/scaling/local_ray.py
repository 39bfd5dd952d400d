"""A real Ray on this machine for tests and measurements, and the load that is put on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from crosslook import Client
from tests.app.servers import ROOT
from tests.scaling.made import made_image


@dataclass
class Ray:
    """A running Ray."""

    process: subprocess.Popen[str]
    url: str

    def do(self, what: str, **options: Any) -> dict[str, Any]:
        """Give a command of `tests.scaling.ray_cluster` and read what came of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, "options": options}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def has(self, replicas: int) -> bool:
        """Whether as many run now."""
        return bool(self.do("replicas")["replicas"] == replicas)


@contextmanager
def running_ray(log: Path, **environment: str) -> Iterator[Ray]:
    """A Ray of its own, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(ROOT),
        "CROSSLOOK_LOG_FORMAT": "text",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # the default, 15, starves on a machine that has other work
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.scaling.ray_cluster", str(port)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            yield Ray(process, f"http://127.0.0.1:{port}")
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(120)


@dataclass
class Seen:
    """What came back, of one client's requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    caches: Counter[str] = field(default_factory=Counter)
    request_ids: Counter[int] = field(default_factory=Counter)
    lock: Any = field(default_factory=threading.Lock)

    def note(self, response: httpx.Response) -> None:
        """Count one response."""
        with self.lock:
            self.statuses[response.status_code] += 1
            self.request_ids[len(response.headers.get_list("x-request-id"))] += 1
            if cache := response.headers.get("x-cache"):
                self.caches[cache] += 1


@contextmanager
def watched(ray: Ray, seen: Seen) -> Iterator[Client]:
    """A client whose responses are noted."""
    with httpx.Client(event_hooks={"response": [seen.note]}, timeout=120) as http:
        yield Client(ray.url, http_client=http, timeout=120)


def of_replicas(ray: Ray, sample: str) -> list[float]:
    """One figure of each replica, which stays as it is meanwhile; asked until sessions have led to all. Replicas are
    told apart by when their process began, to 10 ms, and by the figure."""
    found = set()
    for number in range(60):
        text = httpx.get(f"{ray.url}/metrics", headers={"X-Session-ID": f"s{number}"}, timeout=60).text
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        found.add((samples["process_start_time_seconds"], float(samples.get(sample, 0.0))))
    return [figure for _, figure in found]


def brightness(number: int) -> str:
    """What the stand-in says of `made_image`."""
    return f"{(number % 251 + number // 251 % 251 + 7) / 3:.0f}"


class Load:
    """Questions about images from number ``first`` on, one after the other in some threads, until it ends."""

    def __init__(
        self, ray: Ray, first: int, *, threads: int = 4, images: int = 40, question: str = "how bright?"
    ) -> None:
        self.answers: list[tuple[int, str, str]] = []
        """Of each answer the image's number, what was said, and the model's id."""
        self.errors: list[Exception] = []
        self._ray, self._question = ray, question
        self._numbers, self._step = range(first, first + images), threads
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]

    def _ask(self, turn: int) -> None:
        with Client(self._ray.url, retries=10, timeout=60) as client:
            while not self._end.is_set():
                number = self._numbers[turn % len(self._numbers)]
                try:
                    answer = client.answer(made_image(number), self._question, maps="none")
                    self.answers.append((number, answer.answer, answer.model.id))
                except Exception as error:
                    self.errors.append(error)
                turn += self._step

    @property
    def wrong(self) -> list[tuple[int, str, str]]:
        """Answers that are not the stand-in's."""
        return [each for each in self.answers if each[1] != brightness(each[0])]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

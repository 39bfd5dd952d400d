"""A real Ray on this machine: affinity, a replica that is killed, drain, a new model, more and fewer replicas."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from crosslook import Client
from tests.app.servers import ROOT, wait_for
from tests.fakes import model as standin
from tests.fakes import reference_server
from tests.scaling.made import made_image

pytestmark = pytest.mark.long
IMAGES = 24
FIXED = {"replicas": 2, "num_cpus": 1, "loader": standin.LOADER}


@dataclass
class Ray:
    """A running Ray."""

    process: subprocess.Popen[str]
    url: str

    def do(self, what: str, **options: Any) -> dict[str, Any]:
        """Give a command and read what came of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, "options": options}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def has(self, replicas: int) -> bool:
        """Whether as many run now."""
        return bool(self.do("replicas")["replicas"] == replicas)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """One Ray for all tests of this module."""
    pytest.importorskip("ray")
    with running_ray(tmp_path_factory.mktemp("ray") / "log") as found:
        yield found


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
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
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


def by_replica(ray: Ray, sample: str) -> dict[str, float]:
    """One figure of each replica, by when its process began; asked until sessions have led to all."""
    found = {}
    for number in range(40):
        text = httpx.get(f"{ray.url}/metrics", headers={"X-Session-ID": f"s{number}"}, timeout=60).text
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        found[samples["process_start_time_seconds"]] = float(samples.get(sample, 0.0))
    return found


def test_an_images_questions_go_to_its_replica(ray: Ray) -> None:
    """By bytes and by id: each image is encoded once in all, and none is asked for where it is not."""
    assert ray.do("deploy", **FIXED)["replicas"] == 2
    seen, images = Seen(), [made_image(n) for n in range(IMAGES)]
    with watched(ray, seen) as client:
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda image: client.answer(image, "how bright?", maps="none"), images))
        for reference in [client.upload(image) for image in images]:
            client.answer(reference, "how bright?", maps="none")
    assert seen.statuses == {200: 5 * IMAGES}
    assert seen.caches == {"miss": IMAGES, "hit": 4 * IMAGES}
    assert seen.request_ids == {1: 5 * IMAGES}, "Ray's, and not the service's again"
    encoded = by_replica(ray, "crosslook_images_encoded_total")
    assert len(encoded) == 2
    assert sum(encoded.values()) == IMAGES
    assert min(encoded.values()) > 0


def test_errors_and_routes_pass_through(ray: Ray) -> None:
    """As the service says them, with its own body and headers."""
    response = httpx.post(f"{ray.url}/v1/answer", json={"image": "?", "questions": ["a?"]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_base64")
    assert httpx.get(f"{ray.url}/health/ready").json() == {"status": "ready"}
    assert httpx.get(f"{ray.url}/-/healthz").status_code == 200
    assert "crosslook" in httpx.get(ray.url).text


class Load:
    """Questions about many images, one after the other in some threads, until it ends."""

    def __init__(self, ray: Ray, first: int, *, threads: int = 4) -> None:
        self.answers: list[tuple[int, str, str]] = []
        self.errors: list[Exception] = []
        self._ray, self._first, self._end = ray, first, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]

    def _ask(self, thread: int) -> None:
        client, number = Client(self._ray.url, retries=10, timeout=60), self._first + thread
        while not self._end.is_set():
            try:
                answer = client.answer(made_image(number), "how bright?", maps="none")
                self.answers.append((number, answer.answer, answer.model.id))
            except Exception as error:
                self.errors.append(error)
            number = self._first + (number + 4 - self._first) % 40
        client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def brightness(number: int) -> str:
    """What the stand-in says of `made_image`."""
    return f"{(number % 251 + number // 251 % 251 + 7) / 3:.0f}"


def test_a_replica_is_killed_under_load(ray: Ray) -> None:
    """Every request is answered at last, none wrong, and there are two replicas again."""
    with Load(ray, 1000) as load:
        assert wait_for(lambda: len(load.answers) > 20)
        assert ray.do("kill")["killed"]
        count = len(load.answers)
        assert wait_for(lambda: ray.has(2) and len(load.answers) > count + 40)
    assert load.errors == []
    assert [each for each in load.answers if each[1] != brightness(each[0])] == []


def test_a_new_model_is_rolled_out_under_load(ray: Ray) -> None:
    """Every request is answered, by the old or by the new one; in the end only by the new."""
    with Load(ray, 2000) as load:
        assert wait_for(lambda: len(load.answers) > 20)
        assert ray.do("deploy", **{**FIXED, "loader": reference_server.LOADER})["replicas"] == 2
        count = len(load.answers)
        assert wait_for(lambda: len(load.answers) > count + 40)
    assert load.errors == []
    models = [model for _, _, model in load.answers]
    assert set(models) == {"stand-in", "colours"}
    assert set(models[-20:]) == {"colours"}


def test_what_was_accepted_is_answered_when_it_is_taken_down(ray: Ray) -> None:
    """Questions of a second each, of which most still wait when the application is deleted."""
    ray.do("deploy", **FIXED)
    with Client(ray.url, retries=0, timeout=60) as client, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.answer, made_image(3000 + n), "!slow 0.5", maps="none") for n in range(12)]
        time.sleep(1.0)
        ray.do("delete")
        assert [each.result().answer for each in asked] == [brightness(3000 + n) for n in range(12)]
    assert httpx.get(f"{ray.url}/health/ready").status_code == 404


def test_replicas_come_and_go_with_the_wait(ray: Ray, tmp_path: Path) -> None:
    """One, then more while requests wait for seconds, then one again."""
    scaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "upscale_delay_s": 1,
        "downscale_delay_s": 4,
        "look_back_period_s": 2,
    }
    ray.do("deploy", autoscaling=scaling, num_cpus=1, loader=standin.LOADER)
    assert ray.has(1)
    end, client = threading.Event(), Client(ray.url, retries=10, timeout=60)

    def ask(thread: int) -> None:
        number = 4000 + 100 * thread
        while not end.is_set():
            client.answer(made_image(number), "!slow 0.4", maps="none")
            number += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    try:
        assert wait_for(lambda: ray.do("replicas")["replicas"] >= 2, 120)
    finally:
        end.set()
        for thread in threads:
            thread.join()
        client.close()
    assert wait_for(lambda: ray.has(1), 120)

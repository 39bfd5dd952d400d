"""One, two and four replicas: one server with as many workers, servers behind nginx, and Ray Serve, beside the model of
`benchmarks.queueing`: ``python -m benchmarks.scale [--ray]``.

The model that is served sleeps for the time of an answer, so that four replicas do not share two cores: what is
measured is where requests go and how long they wait, not how fast the machine is. Arrivals are open-loop at 60% of
what the replicas can do; the images are many, and each request carries its image's session. Needs nginx; ``--ray`` Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.queueing import Case, simulate
from tests.app.servers import serving
from tests.fakes import model as standin
from tests.scaling.made import made_image
from tests.scaling.test_nginx import RECIPE, nginx
from tests.scaling.test_ray import running_ray

SECONDS = 0.05
IMAGES = 200
LOAD = 0.6


@dataclass(frozen=True)
class Measured:
    """What came back: latencies in seconds, in order, the images that were known, and what was not answered."""

    latencies: list[float]
    hits: int
    failed: int
    seconds: float


async def ask(url: str, rate: float, seconds: float, seed: int) -> Measured:
    """Questions at random times for ``seconds`` seconds."""
    chance = random.Random(seed)
    images = [made_image(seed * 1000 + number) for number in range(IMAGES)]
    latencies: list[float] = []
    hits = failed = 0
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def one(number: int, due: float) -> None:
            nonlocal hits, failed
            fields = {"question": f"!slow {SECONDS}", "maps": "none"}
            headers = {"X-Session-ID": f"{seed}-{number}"}
            try:
                response = await client.post(
                    "/v1/answer", data=fields, files={"image": images[number]}, headers=headers
                )
            except httpx.HTTPError:
                failed += 1
                return
            if response.status_code != 200:
                failed += 1
                return
            hits += response.headers["x-cache"] == "hit"
            latencies.append(time.perf_counter() - due)

        began = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(rate)) < began + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(chance.randrange(IMAGES), due))
        took = time.perf_counter() - began
    return Measured(sorted(latencies), hits, failed, took)


@contextmanager
def plain(replicas: int, folder: Path) -> Iterator[str]:
    """One server with as many workers."""
    with serving(folder / "log", loader=standin.LOADER, workers=replicas, threads=1, run_batch=1) as server:
        yield server.url


@contextmanager
def behind_nginx(replicas: int, folder: Path) -> Iterator[str]:
    """As many servers of one worker."""
    with ExitStack() as stack:
        urls = [
            stack.enter_context(
                serving(folder / f"log{n}", loader=standin.LOADER, workers=1, threads=1, run_batch=1)
            ).url
            for n in range(replicas)
        ]
        yield stack.enter_context(nginx(folder, RECIPE, *urls))


@contextmanager
def on_ray(replicas: int, folder: Path) -> Iterator[str]:
    """As many replicas of Ray Serve."""
    with running_ray(folder / "log", CROSSLOOK_RUN_BATCH="1") as ray:
        ray.do("deploy", replicas=replicas, num_cpus=1, loader=standin.LOADER)
        yield ray.url


def main() -> None:
    """Measure and append the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", action="store_true", help="with Ray Serve")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    kinds = {"one server": plain, "nginx": behind_nginx} | ({"Ray Serve": on_ray} if options.ray else {})
    rows = []
    for replicas in options.replicas:
        rate = LOAD * replicas / SECONDS
        for name, kind in kinds.items():
            with tempfile.TemporaryDirectory() as folder, kind(replicas, Path(folder)) as url:
                asyncio.run(ask(url, rate, 2.0, seed=1))
                found = asyncio.run(ask(url, rate, options.seconds, seed=2))
            count = len(found.latencies)
            rows.append(
                (
                    f"{replicas} {name}",
                    f"{count / found.seconds:.0f}",
                    f"{1000 * found.latencies[count // 2]:.0f}",
                    f"{1000 * found.latencies[int(0.99 * count)]:.0f}",
                    f"{100 * found.hits / count:.0f}",
                    str(found.failed),
                )
            )
        paper = simulate(Case(replicas, rate, IMAGES, encode=0.0, answer=SECONDS, requests=50_000))
        rows.append(
            (f"{replicas} on paper", f"{rate:.0f}", f"{1000 * paper.median:.0f}", f"{1000 * paper.p99:.0f}", "", "")
        )
    head = ("replicas", "answers/s", "p50 ms", "p99 ms", "hits %", "not answered")
    text = f"{describe_machine()}, {load_average()} at the start. A model that sleeps {1000 * SECONDS:.0f} ms.\n\n"
    print(text + table(head, rows))
    append_result("scale", "Replicas", text + table(head, rows))


if __name__ == "__main__":
    main()

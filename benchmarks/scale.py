"""One, two and four replicas: one server with as many workers, servers behind nginx, and Ray Serve, beside the model of
`benchmarks.queueing`: ``python -m benchmarks.scale``.

Two models are served. One sleeps for the time of an answer, so that four replicas do not share two cores: that shows
where requests go, how long they wait, and how many replicas a form can keep busy. Arrivals are open-loop at 60% of what
the replicas can do, then closed-loop at all that they can. The other is the default model, which needs the cores: that
shows what each form costs where the machine is the limit. Each request carries its image's session. Needs nginx and
Ray; ``--forms`` leaves some out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.queueing import Case, simulate
from tests.app.servers import serving
from tests.fakes import model as standin
from tests.scaling.local_ray import running_ray
from tests.scaling.made import made_image
from tests.scaling.test_nginx import RECIPE, nginx

SECONDS = 0.05
IMAGES = 200
KNOWN = 20  # images, of the default model
LOAD = 0.6
SEEDS = 10


@dataclass
class Measured:
    """What came back: latencies in seconds, how many of the images were known, and what was not answered."""

    latencies: list[float] = field(default_factory=list)
    hits: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> str:
        """Answers a second."""
        return f"{len(self.latencies) / self.seconds:.0f}"

    def percentile(self, share: float) -> str:
        """Of the latencies, in ms."""
        ordered = sorted(self.latencies)
        return f"{1000 * ordered[int(share * len(ordered))]:.0f}" if ordered else "-"


class Asker:
    """Asks one question about made images. ``run`` sets its images apart from those of other runs."""

    def __init__(self, url: str, question: str, run: int, seconds: float) -> None:
        self._url, self._question, self._run = url, question, run
        self.seconds, self.found = seconds, Measured()

    async def one(self, client: httpx.AsyncClient, number: int, due: float) -> None:
        """Ask about an image; the time counts from when it was ``due``."""
        fields = {"question": self._question, "maps": "none"}
        headers = {"X-Session-ID": f"{self._run}-{number}"}
        files = {"image": made_image(self._run * 10_000 + number)}
        try:
            response = await client.post("/v1/answer", data=fields, files=files, headers=headers)
        except httpx.HTTPError:
            self.found.failed += 1
            return
        if response.status_code != 200:
            self.found.failed += 1
            return
        self.found.hits += response.headers["x-cache"] == "hit"
        self.found.latencies.append(time.perf_counter() - due)

    def client(self) -> httpx.AsyncClient:
        """One with connections for all that may be under way."""
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
        return httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits)

    async def steady(self, rate: float) -> Measured:
        """Open-loop: at random times, ``rate`` a second, about one of `IMAGES` images each."""
        chance = random.Random(self._run)
        async with self.client() as client:
            began = due = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                while (due := due + chance.expovariate(rate)) < began + self.seconds:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    group.create_task(self.one(client, chance.randrange(IMAGES), due))
            self.found.seconds = time.perf_counter() - began
        return self.found

    async def once(self, images: int) -> Measured:
        """Each of so many images once, all together."""
        async with self.client() as client, asyncio.TaskGroup() as group:
            for number in range(images):
                group.create_task(self.one(client, number, time.perf_counter()))
        return self.found

    async def full(self, at_once: int, images: int) -> Measured:
        """Closed-loop: so many at once, about so many images in turn."""
        numbers = itertools.cycle(range(images))
        async with self.client() as client:
            began = time.perf_counter()

            async def ask() -> None:
                while time.perf_counter() < began + self.seconds:
                    await self.one(client, next(numbers), time.perf_counter())

            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(ask())
            self.found.seconds = time.perf_counter() - began
        return self.found


Form = Callable[[int, Path, str | None], AbstractContextManager[str]]
"""So many replicas of a model (a loader; None: the default model), with a folder for logs. Yields their one URL."""


@contextmanager
def one_server(replicas: int, folder: Path, loader: str | None) -> Iterator[str]:
    """One server (uvicorn) with as many workers."""
    with serving(folder / "log", loader=loader, workers=replicas, **_settings(loader)) as server:
        yield server.url


@contextmanager
def behind_nginx(replicas: int, folder: Path, loader: str | None) -> Iterator[str]:
    """As many servers of one worker, and the recipe of docs/scaling.md."""
    with ExitStack() as stack:
        urls = [
            stack.enter_context(serving(folder / f"log{n}", loader=loader, workers=1, **_settings(loader))).url
            for n in range(replicas)
        ]
        yield stack.enter_context(nginx(folder, RECIPE, *urls))


@contextmanager
def on_ray(replicas: int, folder: Path, loader: str | None) -> Iterator[str]:
    """As many replicas of Ray Serve."""
    settings = {f"CROSSLOOK_{name.upper()}": str(value) for name, value in _settings(loader).items()}
    with running_ray(folder / "log", **settings) as ray:
        ray.do("deploy", replicas=replicas, num_cpus=1, **({} if loader is None else {"loader": loader}))
        yield ray.url


def _settings(loader: str | None) -> dict[str, Any]:
    """A thread each; a model that sleeps answers one at a time."""
    return {"threads": 1, "log_level": "warning"} | ({} if loader is None else {"run_batch": 1})


FORMS: dict[str, Form] = {"one server": one_server, "nginx": behind_nginx, "Ray Serve": on_ray}


def memory_mib() -> float:
    """What the processes that this one started hold, in MiB: their proportional set size. Linux only."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    ours, total = {os.getpid()}, 0
    while more := {each for each, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for each in ours - {os.getpid()}:
        with suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024


def sleeping(forms: dict[str, Form], counts: list[int], seconds: float) -> str:
    """The table of a model that sleeps, with what theory says."""
    rows, question = [], f"!slow {SECONDS}"
    for replicas in counts:
        rate = LOAD * replicas / SECONDS
        for name, form in forms.items():
            with tempfile.TemporaryDirectory() as folder, form(replicas, Path(folder), standin.LOADER) as url:
                asyncio.run(Asker(url, question, 1, 2.0).steady(rate))
                steady = asyncio.run(Asker(url, question, 2, seconds).steady(rate))
                full = asyncio.run(Asker(url, question, 3, seconds / 3).full(16 * replicas, IMAGES))
                shown = (steady.rate, steady.percentile(0.5), steady.percentile(0.99))
                hits = f"{100 * steady.hits / max(1, len(steady.latencies)):.0f}"
                failed = str(steady.failed + full.failed)
                rows.append((f"{replicas} {name}", *shown, hits, full.rate, failed, f"{memory_mib():.0f}"))
                print(rows[-1], flush=True)
        made = [simulate(Case(replicas, rate, IMAGES, 0.0, SECONDS, requests=20_000, seed=n)) for n in range(SEEDS)]
        median, p99 = (1000 * sum(getattr(each, name) for each in made) / SEEDS for name in ("median", "p99"))
        rows.append(
            (
                f"{replicas} on paper",
                f"{rate:.0f}",
                f"{median:.0f}",
                f"{p99:.0f}",
                "",
                f"{replicas / SECONDS:.0f}",
                "",
                "",
            )
        )
    return table(
        ("replicas", "answers/s at 60%", "p50 ms", "p99 ms", "hits %", "answers/s when full", "not answered", "MiB"),
        rows,
    )


def working(forms: dict[str, Form], counts: list[int], seconds: float) -> str:
    """The table of the default model."""
    rows, question = [], "What color is it?"
    for replicas in counts:
        for name, form in forms.items():
            with tempfile.TemporaryDirectory() as folder, form(replicas, Path(folder), None) as url:
                warm = asyncio.run(Asker(url, question, 1, 0.0).once(KNOWN))
                one = asyncio.run(Asker(url, question, 2, seconds / 2).full(1, 10_000))
                new = asyncio.run(Asker(url, question, 3, seconds).full(8, 10_000))
                known = asyncio.run(Asker(url, question, 1, seconds / 2).full(8, KNOWN))
                failed = str(warm.failed + one.failed + new.failed + known.failed)
                shown = (one.percentile(0.5), new.rate, new.percentile(0.99), known.rate, known.percentile(0.99))
                rows.append((f"{replicas} {name}", *shown, failed, f"{memory_mib():.0f}"))
                print(rows[-1], flush=True)
    return table(
        ("replicas", "one at a time, ms", "new images/s", "p99 ms", "known images/s", "p99 ms", "not answered", "MiB"),
        rows,
    )


def main(forms: dict[str, Form] = FORMS) -> None:
    """Measure and append the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--forms", nargs="+", choices=list(forms), default=list(forms))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement; half for some")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2, 4], help="of the model that sleeps")
    parser.add_argument("--default-model", type=int, nargs="*", default=[1, 2], help="replicas of the default model")
    options = parser.parse_args()
    chosen = {name: forms[name] for name in options.forms}
    text = f"{describe_machine()}, {load_average()} at the start.\n\n"
    if options.replicas:
        text += f"**A model that sleeps {1000 * SECONDS:.0f} ms**, {IMAGES} images\n\n"
        text += sleeping(chosen, options.replicas, options.seconds)
    if options.default_model:
        text += "\n**The default model**, closed-loop, eight at once; its replicas share the cores\n\n"
        text += working(chosen, options.default_model, options.seconds / 2)
    print(text)
    append_result("scale", "Replicas", text)


if __name__ == "__main__":
    main()

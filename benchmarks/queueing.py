"""What replicas do to waiting and to the cache, on paper: a simulation of a few lines, held against real servers.

``python -m benchmarks.queueing`` writes the tables of docs/scaling.md. Requests come at random times (Poisson), each
with a question about one image of many, the popular ones more often (Zipf). An image belongs to one replica (consistent
hashing), which serves in the order of coming, one request at a time; a request costs the encoding too unless the
replica's cache, which drops what was not used for the longest time, has its image. Left out: batches (which make a full
replica faster), the network, and what Python does between.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from benchmarks.machine import table


@dataclass(frozen=True)
class Case:
    """What is simulated. ``rate``: requests a second; ``encode`` and ``answer``: a replica's seconds; ``cache``: images
    that each replica keeps; ``affinity``: requests go to their image's replica, else to one at random; ``skew``: the
    exponent of Zipf's law, 0 for images that are all asked for alike."""

    replicas: int
    rate: float
    images: int
    encode: float
    answer: float
    cache: int = 1000
    affinity: bool = True
    skew: float = 0.0
    requests: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class Figures:
    """What came of it: mean, median and 99th percentile of seconds from coming to answer, the share of requests whose
    image was known, and how busy the busiest replica was."""

    mean: float
    median: float
    p99: float
    hits: float
    busiest: float


def simulate(case: Case) -> Figures:
    """Run one case."""
    chance = random.Random(case.seed)
    popular = [*accumulate(1.0 / (rank + 1) ** case.skew for rank in range(case.images))]
    home = [chance.randrange(case.replicas) for _ in range(case.images)]
    free = [0.0] * case.replicas  # when each has done what it has
    busy = [0.0] * case.replicas
    kept: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(case.replicas)]
    now, hits, times = 0.0, 0, []
    for _ in range(case.requests):
        now += chance.expovariate(case.rate)
        image = bisect(popular, chance.random() * popular[-1])
        replica = home[image] if case.affinity else chance.randrange(case.replicas)
        known = image in kept[replica]
        hits += known
        kept[replica][image] = None
        kept[replica].move_to_end(image)
        if len(kept[replica]) > case.cache:
            kept[replica].popitem(last=False)
        cost = case.answer if known else case.encode + case.answer
        free[replica] = max(free[replica], now) + cost
        busy[replica] += cost
        times.append(free[replica] - now)
    times.sort()
    return Figures(
        sum(times) / len(times),
        times[len(times) // 2],
        times[int(0.99 * len(times))],
        hits / len(times),
        max(busy) / max(now, max(free)),
    )


def expected(encode: float, answer: float) -> str:
    """Waiting and hits by the number of replicas, with and without affinity."""
    rows = []
    for replicas in (1, 2, 4, 8):
        for affinity in (True, False):
            made = simulate(
                Case(replicas, 20.0 * replicas, 2000, encode, answer, cache=200, affinity=affinity, skew=0.8)
            )
            shown = (100 * made.hits, 1000 * made.mean, 1000 * made.p99, 100 * made.busiest)
            rows.append((f"{replicas}{'' if affinity else ', no affinity'}", *(f"{figure:.0f}" for figure in shown)))
    return table(("replicas", "hits %", "mean ms", "p99 ms", "busiest one %"), rows)


def needed(encode: float, answer: float) -> str:
    """Replicas for so many questions an hour, of which so many are about one image."""
    rows = []
    for an_hour in (1_000, 100_000, 1_000_000):
        for asked in (1, 10):
            rate = an_hour / 3600
            work = rate * (encode / asked + answer)
            replicas = max(1, math.ceil(work / 0.6))
            hour = replicas * CORES * PRICE
            shown = (f"{rate:.1f}", f"{work:.2f}", str(replicas), f"{hour:.2f}", f"{hour * 1e6 / an_hour:,.2f}")
            rows.append((f"{an_hour:,}, {asked} an image", *shown))
    head = ("questions an hour", "a second", "replicas' time in one", "replicas at 60%", "$ an hour", "$ a million")
    return table(head, rows)


ENCODE, ANSWER = 0.037, 0.003
"""Seconds of a replica of two workers: of distinct images 24.8 answers a second, of one image 340, without maps."""

CORES, PRICE = 2, 0.04
"""Of a replica, and assumed US dollars for a core and hour: about what large clouds ask for machines of general use."""

TABLES = {"expected": expected, "replicas": needed}


def render(page: str) -> str:
    """The page with its tables made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, rest = page.split(begin)
        page = before + begin + make(ENCODE, ANSWER) + end + rest.split(end)[1]
    return page


if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")

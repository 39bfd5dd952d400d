"""crosslook against a plain FastAPI endpoint and LitServe, all with the same model: ``python -m benchmarks.serve``.

One run, one machine. The other two are compared at their best over a printed sweep of workers, threads and batch
settings, crosslook as it comes (its sweep shows whether that is a good choice). The load generator's own share of the
CPU is printed with every row, and it never repeats an image unless it is meant to. What is measured:

1. *distinct images*: saturation throughput (closed loop), then latency and goodput (answers within 300 ms) with
   open-loop arrivals at 70% of the slowest server's capacity;
2. *one image, many questions*: saturation throughput, one question a request;
3. *maps*: crosslook with maps as floats, as u8 and without, in turns;
4. *overhead*: one request at a time, beyond decoding and the model's own time in it;
5. *cached*: `benchmarks.cached`, and the server's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass

from app.engine.devices import default_workers
from benchmarks import cached
from benchmarks.load import Outcome, Plan
from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.model import example_jpeg
from benchmarks.servers import ROOT, Candidate, load, running

QUESTION = cached.QUESTION


def candidates(cores: int) -> list[Candidate]:
    """The sweep. ``{port}`` is filled in."""
    found = []
    plain, lit = ((sys.executable, "-m", f"benchmarks.{name}", "{port}") for name in ("rivals", "lit"))
    for workers, threads in sorted({(1, cores), (cores, 1), (cores, cores)}):
        name = f"{workers} processes x {threads} threads"
        found.append(Candidate("FastAPI", name, (*plain, str(threads), str(workers))))
        for batch, wait in ((1, 0.0), (4, 0.005), (8, 0.01)):
            more = (str(threads), str(workers), str(batch), str(wait))
            name_batch = f"{name}, batches of {batch}, wait {1000 * wait:.0f} ms"
            found.append(Candidate("LitServe", name_batch, (*lit, *more)))
    command = (sys.executable, "-m", "app.cli", "serve", "--port", "{port}")
    found.append(Candidate("crosslook", "as it comes", command, {"CROSSLOOK_LOG_LEVEL": "warning"}))
    for workers, threads, batch in ((1, cores, 1), (cores, cores, 1), (cores, 1, 4)):
        environment = {
            "CROSSLOOK_WORKERS": str(workers),
            "CROSSLOOK_THREADS": str(threads),
            "CROSSLOOK_ENCODE_BATCH": str(batch),
            "CROSSLOOK_LOG_LEVEL": "warning",
        }
        name = f"{workers} workers x {threads} threads, encode batches of {batch}"
        found.append(Candidate("crosslook", name, command, environment))
    return found


def saturate(url: str, image: str, seconds: float, *, fresh: bool, maps: str = "float", warm: float = 2.0) -> Outcome:
    """Closed loop with sixteen connections, after a warm-up that does not count."""
    if warm:
        load(Plan(url, image, [QUESTION], warm, 16, fresh=fresh, maps=maps))
    return load(Plan(url, image, [QUESTION], seconds, 16, fresh=fresh, maps=maps))


def row(name: str, outcome: Outcome) -> list[str]:
    """One line of a table."""
    latencies = [outcome.quantile(share) for share in (0.5, 0.95, 0.99)]
    numbers = [outcome.throughput, *latencies, outcome.goodput, 100 * outcome.cpu / outcome.seconds]
    return [name, *(f"{number:.1f}" for number in numbers), str(outcome.refused + outcome.failed)]


ROUNDS = 5
HEAD = ["", "answers/s", "p50 ms", "p95 ms", "p99 ms", "within 300 ms/s", "generator's CPU %", "not answered"]

MODEL_ALONE = """
import json, statistics, sys, time
from benchmarks.rivals import load_model, pixels
from model.interface import Item, MapRequest
data, repeats, question = open(sys.argv[1], "rb").read(), int(sys.argv[2]), sys.argv[3]
model = load_model(int(sys.argv[4]))
times = []
for n in range(-5, repeats):
    start = time.perf_counter()
    image = model.encode([pixels(model, data)])[0]
    model.run("answer", [Item(image, (question,), maps=MapRequest())])
    if n >= 0:
        times.append(1000 * (time.perf_counter() - start))
print(json.dumps(statistics.median(times)))
"""


@dataclass
class Overhead:
    """Milliseconds of one request at a time. ``over``: over HTTP, ``served``: what decoding and the model took of that
    by the server's own clocks, means of the same requests. ``alone``: decoding and the model in one process without a
    server, the median: there nothing lies between the requests that would cool the caches."""

    over: float
    served: float
    alone: float


def overhead(url: str, image: str, repeats: int, threads: int) -> Overhead:
    """Three rounds, in turns; the one with the median cost of serving, beside the median of ``alone``."""
    command = [sys.executable, "-c", MODEL_ALONE, image, str(repeats), QUESTION, str(threads)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    rounds: list[Overhead] = []
    for _ in range(3):
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        alone = float(json.loads(result.stdout))
        before = model_seconds(url)
        outcome = load(Plan(url, image, [QUESTION], repeats * alone / 1000, 1))
        spent = model_seconds(url) - before
        rounds.append(Overhead(1000 * outcome.seconds / outcome.ok, 1000 * spent / outcome.ok, alone))
    middle = sorted(rounds, key=lambda one: one.over - one.served)[1]
    return Overhead(middle.over, middle.served, statistics.median(one.alone for one in rounds))


def model_seconds(url: str) -> float:
    """Seconds that a crosslook server has decoded images and run its model so far, from its metrics."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:  # noqa: S310 - our own server
        lines = response.read().decode().splitlines()
    wanted = ("crosslook_batch_seconds_sum", 'crosslook_stage_seconds_sum{stage="decode"}')
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted))


def main(argv: list[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each measurement; of a round of the open loop: 4 times that"
    )
    parser.add_argument("--image", help="a JPEG; default: an example as 640x480")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(example_jpeg())
        file.flush()
        text = measure(options.image or file.name, options.seconds, options.repeats, cores)
    print(text)
    if not options.no_save:
        append_result("serve", "Serving", text)
    return 0


def measure(image: str, seconds: float, repeats: int, cores: int) -> str:
    """The whole run, as Markdown."""
    start = time.monotonic()
    out = [f"{describe_machine()}, {load_average()} at the start.\n"]
    sweep: list[tuple[Candidate, Outcome]] = []
    for candidate in candidates(cores):
        with running(candidate) as server:
            sweep.append((candidate, saturate(server.url, image, seconds, fresh=True)))
        print(candidate.server, candidate.name, f"{sweep[-1][1].throughput:.1f}/s", file=sys.stderr, flush=True)
    chosen = {
        server: max((pair for pair in sweep if pair[0].server == server), key=lambda pair: pair[1].throughput)
        for server in ("FastAPI", "LitServe")
    }
    chosen["crosslook"] = next(pair for pair in sweep if pair[0].name == "as it comes")
    rows = [row(f"{c.server}: {c.name}{' **compared**' if chosen[c.server][0] is c else ''}", o) for c, o in sweep]
    out.append("**Sweep: distinct images, sixteen connections that never rest**\n\n" + table(HEAD, rows))

    rate = 0.7 * min(outcome.throughput for _, outcome in chosen.values())
    steady = steadily({server: candidate for server, (candidate, _) in chosen.items()}, image, rate, 4 * seconds)
    many: dict[str, Outcome] = {}
    for name, (candidate, _) in chosen.items():
        with running(candidate) as server:
            load(Plan(server.url, image, [QUESTION], 2.0, 16))
            many[name] = saturate(server.url, image, seconds, fresh=False)
            if name == "crosslook":
                maps, costs = cost_of_maps(server.url, image, seconds)
                cost = overhead(server.url, image, repeats, cores // default_workers("auto", cores))
    title = f"**Open loop at {rate:.1f} requests/s (70% of the slowest), {ROUNDS} rounds taken together**\n\n"
    out.append(title + table(HEAD, [row(server, outcome) for server, outcome in steady.items()]))
    title = "**One image, one question a request**\n\n"
    out.append(title + table(HEAD, [row(server, outcome) for server, outcome in many.items()]))
    out.append("**crosslook: what maps cost** (medians of three rounds)\n\n" + table(["", "answers/s", "cost"], maps))

    def against(figures: dict[str, float]) -> list[str]:
        return [f"{figures['crosslook'] / figures[server]:.2f}" for server in ("FastAPI", "LitServe")]

    compared = [
        ["distinct images, answers/s", *against({s: o.throughput for s, (_, o) in chosen.items()})],
        ["distinct images, p99 at 70% (less is better)", *against({s: o.quantile(0.99) for s, o in steady.items()})],
        ["many questions on one image, answers/s", *against({s: o.throughput for s, o in many.items()})],
    ]
    out.append("**crosslook against the others, as ratios**\n\n" + table(["", "FastAPI", "LitServe"], compared))
    out.append(f"The cost of u8 maps: {costs}.\n")
    out.append(
        f"One request at a time over HTTP: {cost.over:.1f} ms; decoding and the model in it, by the server's clocks: "
        f"{cost.served:.1f} ms; so {cost.over - cost.served:+.1f} ms for serving. Decoding and the model in one "
        f"process, without a server: {cost.alone:.1f} ms.\n"
    )
    out.append(cached.measure(image, min(cached.THREADS, cores)))
    out.append(f"\n{seconds:g} seconds a measurement; {(time.monotonic() - start) / 60:.1f} minutes in all.\n")
    return "\n".join(out)


def steadily(servers: dict[str, Candidate], image: str, rate: float, seconds: float) -> dict[str, Outcome]:
    """Each server under open-loop arrivals, in turns so that a change of the machine's speed meets all alike. A round
    has arrivals of its own, the same for all: a p99 is made by the few moments when many come at once, and those of one
    round would be chance."""
    rounds: dict[str, list[Outcome]] = {server: [] for server in servers}
    with ExitStack() as stack:  # all at once: one that is asked nothing does nothing, and starting takes seconds
        urls = {name: stack.enter_context(running(candidate)).url for name, candidate in servers.items()}
        for seed in range(ROUNDS):
            for name, url in urls.items():
                load(Plan(url, image, [QUESTION], 1.0, 16))
                outcome = load(Plan(url, image, [QUESTION], seconds, 256, rate=rate, seed=seed))
                rounds[name].append(outcome)
                print(f"{name} at {rate:.1f}/s: p99 {outcome.quantile(0.99):.0f} ms", file=sys.stderr, flush=True)
    return {server: Outcome.joined(found) for server, found in rounds.items()}


def cost_of_maps(url: str, image: str, seconds: float) -> tuple[list[list[str]], str]:
    """Throughput with each encoding of maps, in turns so that a change of the machine's speed meets all alike: rows of
    a table, and the cost of u8 in a sentence."""
    rows, sentence = [], []
    for fresh, name in ((True, "distinct images"), (False, "one image")):
        rounds: dict[str, list[float]] = {"none": [], "u8": [], "float": []}
        saturate(url, image, 1.0, fresh=fresh)
        for _ in range(3):
            for choice, figures in rounds.items():
                figures.append(saturate(url, image, seconds, fresh=fresh, maps=choice, warm=0.0).throughput)
        medians = {choice: statistics.median(figures) for choice, figures in rounds.items()}
        for choice, median in medians.items():
            rows.append([f"{name}, maps={choice}", f"{median:.1f}", f"{100 - 100 * median / medians['none']:.1f}%"])
        sentence.append(f"{100 - 100 * medians['u8'] / medians['none']:.1f}% of the throughput on {name}")
    return rows, ", ".join(sentence)


if __name__ == "__main__":
    sys.exit(main())

"""crosslook against a plain FastAPI endpoint and LitServe, all with the same model: ``python -m benchmarks.serve``.

One run, one machine, each server at its best over a printed sweep of workers, threads and batch settings; the load
generator's own share of the CPU is printed with every row. What is measured:

1. *distinct photographs*: saturation throughput (closed loop), then latency and goodput (answers within 300 ms) with
   open-loop arrivals at 70% of the slowest server's capacity;
2. *one photograph, many questions*: saturation throughput, one question a request;
3. *maps*: crosslook with maps as floats, as u8 and without, on one photograph and on distinct ones;
4. *overhead*: one request at a time, beyond decoding and the model's own time in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.load import Outcome, Plan
from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.model import example_jpeg

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is in the cup?"


@dataclass(frozen=True)
class Candidate:
    """One server with one choice of settings."""

    server: str
    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)


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
    for workers, threads in sorted({(1, cores), (cores, 1), (cores, cores)}):
        for batch in (1, 4, 8):
            environment = {
                "CROSSLOOK_WORKERS": str(workers),
                "CROSSLOOK_THREADS": str(threads),
                "CROSSLOOK_ENCODE_BATCH": str(batch),
                "CROSSLOOK_LOG_LEVEL": "warning",
            }
            name = f"{workers} workers x {threads} threads, encode batches of {batch}"
            command = (sys.executable, "-m", "app.cli", "serve", "--port", "{port}")
            found.append(Candidate("crosslook", name, command, environment))
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(candidate: Candidate) -> Iterator[str]:
    """A server that is ready; its whole process group is ended afterwards."""
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in candidate.command]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **candidate.environment}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            try:
                _wait(process, url)
            except RuntimeError:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace")[-2000:])
                raise
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as response:  # noqa: S310 - our own server
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(url)


def load(plan: Plan) -> Outcome:
    """Run the generator in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    result = subprocess.run(
        command, cwd=ROOT, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=True
    )
    return Outcome(**json.loads(result.stdout))


def saturate(url: str, image: str, seconds: float, *, fresh: bool, maps: str = "float") -> Outcome:
    """Closed loop with sixteen connections, after a warm-up that does not count."""
    warm = Plan(url, image, [QUESTION], min(3.0, seconds), 16, fresh=fresh, maps=maps)
    load(warm)
    return load(Plan(url, image, [QUESTION], seconds, 16, fresh=fresh, maps=maps, seed=1))


def row(name: str, outcome: Outcome) -> list[str]:
    """One line of a table."""
    numbers = [outcome.throughput, outcome.p50, outcome.p95, outcome.p99, outcome.goodput, 100 * outcome.cpu_share]
    return [name, *(f"{number:.1f}" for number in numbers), str(outcome.refused + outcome.failed)]


HEAD = ["", "answers/s", "p50 ms", "p95 ms", "p99 ms", "within 300 ms/s", "generator's CPU %", "not answered"]

MODEL_ALONE = """
import json, statistics, sys, time
from benchmarks.rivals import answer, load_model, pixels
data, repeats, question = open(sys.argv[1], "rb").read(), int(sys.argv[2]), sys.argv[3]
model = load_model(int(sys.argv[4]))
times = []
for n in range(-5, repeats):
    start = time.perf_counter()
    image = pixels(model, data)
    answer(model, [(image, [question], "float")])
    if n >= 0:
        times.append(1000 * (time.perf_counter() - start))
print(json.dumps(statistics.median(times)))
"""


def overhead(url: str, image: str, repeats: int, threads: int) -> tuple[float, float]:
    """Milliseconds of one request over HTTP, and of decoding, model and formatting in one process (medians)."""
    command = [sys.executable, "-c", MODEL_ALONE, image, str(repeats), QUESTION, str(threads)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    alone = float(json.loads(result.stdout))
    over = []
    for seed in range(3):
        over.append(load(Plan(url, image, [QUESTION], repeats * alone / 1000 * 1.5, 1, fresh=True, seed=seed)).p50)
    return statistics.median(over), alone


def main(argv: list[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of the sweep; others: twice")
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
    out = [f"{describe_machine()}, {load_average()} at the start.\n"]
    sweep: list[tuple[Candidate, Outcome]] = []
    for candidate in candidates(cores):
        with running(candidate) as url:
            sweep.append((candidate, saturate(url, image, seconds, fresh=True)))
        print(candidate.server, candidate.name, f"{sweep[-1][1].throughput:.1f}/s", file=sys.stderr, flush=True)
    best = {
        server: max((pair for pair in sweep if pair[0].server == server), key=lambda pair: pair[1].throughput)
        for server in ("FastAPI", "LitServe", "crosslook")
    }
    rows = [row(f"{c.server}: {c.name}{' **best**' if best[c.server][0] is c else ''}", o) for c, o in sweep]
    out.append("**Sweep: distinct photographs, sixteen connections that never rest**\n\n" + table(HEAD, rows))

    capacity = min(outcome.throughput for _, outcome in best.values())
    steady, many, maps, extra = [], [], [], ""
    for server, (candidate, _) in best.items():
        with running(candidate) as url:
            load(Plan(url, image, [QUESTION], 3.0, 16))
            steady.append(row(server, load(Plan(url, image, [QUESTION], 2 * seconds, 256, rate=0.7 * capacity))))
            many.append(row(server, saturate(url, image, seconds, fresh=False)))
            if server == "crosslook":
                for fresh in (True, False):
                    for choice in ("float", "u8", "none"):
                        name = f"{'distinct' if fresh else 'one photograph'}, maps={choice}"
                        maps.append(row(name, saturate(url, image, seconds, fresh=fresh, maps=choice)))
                threads = int(candidate.environment["CROSSLOOK_THREADS"])
                over, alone = overhead(url, image, repeats, threads)
                extra = (
                    f"One request at a time over HTTP: {over:.1f} ms; decoding, model and formatting in one process: "
                )
                extra += f"{alone:.1f} ms; so {over - alone:+.1f} ms for serving.\n"
    out.append(f"**Open loop at {0.7 * capacity:.1f} requests/s (70% of the slowest)**\n\n" + table(HEAD, steady))
    out.append("**One photograph, one question a request**\n\n" + table(HEAD, many))
    out.append("**crosslook: what maps cost**\n\n" + table(HEAD, maps))
    out.append(extra)
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())

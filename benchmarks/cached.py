"""A question about an image that the server has seen, over HTTP, one at a time, and the memory that the server holds:
``python -m benchmarks.cached``.

One worker of two threads. Times are medians over two hundred requests by the client's clock, which upload the image
each time as `benchmarks.serve` does; memory is that of all of the server's processes after them.
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.load import Plan
from benchmarks.machine import table
from benchmarks.servers import Candidate, load, memory_mib, report, running

QUESTION = "What is in the cup?"
THREADS, REQUESTS = 2, 200


def measure(image: str, threads: int = THREADS) -> str:
    """The table, as Markdown."""
    environment = {"CROSSLOOK_WORKERS": "1", "CROSSLOOK_THREADS": str(threads), "CROSSLOOK_LOG_LEVEL": "warning"}
    command = (sys.executable, "-m", "app.cli", "serve", "--port", "{port}")
    with running(Candidate("crosslook", "cached", command, environment)) as server:
        rows = []
        for maps in ("none", "u8", "float"):
            outcome = None
            latencies: list[float] = []
            load(Plan(server.url, image, [QUESTION], 1.0, 1, fresh=False, maps=maps))
            while len(latencies) < REQUESTS:
                outcome = load(Plan(server.url, image, [QUESTION], 1.0, 1, fresh=False, maps=maps))
                if not outcome.ok:
                    raise RuntimeError(f"no answers with maps={maps}")
                latencies += outcome.latencies
            latencies.sort()
            rows.append(
                [
                    f"maps={maps}",
                    f"{latencies[len(latencies) // 2]:.1f}",
                    f"{latencies[len(latencies) * 95 // 100]:.1f}",
                ]
            )
        memory = memory_mib(server.group)
    title = f"**A cached question over HTTP, one at a time** (one worker of {threads} threads)\n\n"
    return (
        title
        + table(["", "p50 ms", "p95 ms"], rows)
        + f"\nMemory of the server's processes after it: {memory:.0f} MiB.\n"
    )


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cached")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    threads = min(THREADS, os.cpu_count() or 1)
    report("serve", "Serving", lambda image: measure(image, threads), save=not options.no_save)
    return 0


if __name__ == "__main__":
    sys.exit(main())

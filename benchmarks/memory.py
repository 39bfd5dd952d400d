"""What a server's processes hold, at rest and under load: ``python -m benchmarks.memory``.

Two workers and 100 MB of cache, which the load fills: sixteen connections with new images and with one, with maps and
without, then three questions an image. ``--tree DIR`` measures another checkout of this repository by the same rules,
such as a git worktree of an older commit. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks import servers
from benchmarks.load import Plan
from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.model import QUESTIONS, example_jpeg

ENVIRONMENT = {"CROSSLOOK_LOG_LEVEL": "warning", "CROSSLOOK_WORKERS": "2", "CROSSLOOK_CACHE_BYTES": "100000000"}


class Process(NamedTuple):
    """What a process holds in MiB: its share of what is in memory, what is its own, and the most it ever held."""

    worker: bool
    share: float
    own: float
    peak: float


def processes(group: int) -> list[Process]:
    """All of a process group, the workers last."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # processes come and go
            if os.getpgid(int(folder.name)) != group:
                continue
            text = (folder / "smaps_rollup").read_text() + (folder / "status").read_text()
            kib = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
            worker = b"app.engine.worker" in (folder / "cmdline").read_bytes()
            own = kib["Private_Dirty"] + kib["Private_Clean"]
            found.append(Process(worker, kib["Pss"] / 1024, own / 1024, kib["VmHWM"] / 1024))
    return sorted(found)


def row(name: str, group: int) -> list[str]:
    """One line of the table."""
    parent, *workers = processes(group)
    whole = parent.share + sum(worker.share for worker in workers)
    cells = [whole, parent.share]
    parts = [" + ".join(f"{x:.0f}" for x in column) for column in zip(*(worker[1:] for worker in workers), strict=True)]
    return [name, *(f"{cell:.0f}" for cell in cells), *parts]


def _grew(before: list[Process], after: list[Process]) -> bool:
    return any(abs(b.own - a.own) > 1 for a, b in zip(before, after, strict=True))


def measure(tree: Path, image: str, seconds: float) -> str:
    """The table, as Markdown."""
    command = (sys.executable, "-m", "app.cli", "serve", "--port", "{port}")
    candidate = servers.Candidate("crosslook", "memory", command, ENVIRONMENT)
    with servers.running(candidate, tree) as server:
        before: list[Process] = []  # the second worker loads after the first, which already serves
        while len(found := processes(server.group)) < 3 or len(before) < 3 or _grew(before, found):
            before = found
            time.sleep(2.0)
        rows = [row("ready", server.group)]
        servers.load(Plan(server.url, image, [QUESTIONS[0]], 1.0, 1))
        rows.append(row("one at a time", server.group))
        for maps in ("float", "u8", "none"):
            for fresh in (True, False):
                servers.load(Plan(server.url, image, [QUESTIONS[0]], seconds / 2, 16, fresh=fresh, maps=maps))
        answered = servers.load(Plan(server.url, image, list(QUESTIONS[:3]), 2 * seconds, 16, maps="u8"))
        if not answered.ok:
            raise RuntimeError("no answers")
        rows.append(row("under load", server.group))
    return table(["MiB", "server", "parent", "workers", "of it their own", "at most"], rows)


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="What a server holds.")
    parser.add_argument("--tree", type=Path, default=servers.ROOT, help="a checkout to serve from (default: this one)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each kind of load")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(example_jpeg())
        file.flush()
        name = f" (another checkout: {options.tree.name})" if options.tree != servers.ROOT else ""
        text = f"{describe_machine()}, {load_average()} at the start{name}.\n\n"
        text += measure(options.tree.resolve(), file.name, options.seconds)
    print(text)
    if not options.no_save:
        append_result("memory", "Memory", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

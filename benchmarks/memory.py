"""What a server's processes hold, at rest and under load: ``python -m benchmarks.memory``.

Two workers and 100 MB of cache, which the load fills: sixteen connections with new images and with one, with maps and
without, then three questions an image. *Others* are the workers, behind the process that they are forks of where there
is one. ``--tree DIR`` measures another checkout of this repository by the same rules, such as a git worktree of an
older commit. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks import servers
from benchmarks.load import Plan
from benchmarks.machine import table
from benchmarks.model import QUESTIONS

ENVIRONMENT = {"CROSSLOOK_LOG_LEVEL": "warning", "CROSSLOOK_WORKERS": "2", "CROSSLOOK_CACHE_BYTES": "100000000"}


class Process(NamedTuple):
    """What a process holds in MiB: its share of what is in memory, what is its own, and the most it ever held, with
    what it shares."""

    share: float
    own: float
    peak: float


def processes(group: int) -> list[Process]:
    """All of a process group, the parent first, then in the order of their start."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # processes come and go
            if os.getpgid(int(folder.name)) != group:
                continue
            text = (folder / "smaps_rollup").read_text() + (folder / "status").read_text()
            kib = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
            own = kib["Private_Dirty"] + kib["Private_Clean"]
            began = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
            found.append((began, int(folder.name), Process(kib["Pss"] / 1024, own / 1024, kib["VmHWM"] / 1024)))
    return [process for *_, process in sorted(found)]


def row(name: str, group: int) -> list[str]:
    """One line of the table."""
    parent, *others = processes(group)
    whole = parent.share + sum(other.share for other in others)
    parts = [" + ".join(f"{x:.0f}" for x in column) for column in zip(*others, strict=True)]
    return [name, f"{whole:.0f}", f"{parent.share:.0f}", *parts]


class _Most(threading.Thread):
    """Looks four times a second what the processes of a group hold in all."""

    def __init__(self, group: int) -> None:
        super().__init__(daemon=True)
        self._group, self._most, self._over = group, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.25):
            self._most = max(self._most, servers.memory_mib(self._group))

    def stop(self) -> float:
        """The most that it saw, in MiB."""
        self._over.set()
        self.join()
        return self._most


def _grew(before: list[Process], after: list[Process]) -> bool:
    return any(abs(b.own - a.own) > 1 for a, b in zip(before, after, strict=True))


def measure(tree: Path, image: str, seconds: float) -> str:
    """The table, as Markdown."""
    command = (sys.executable, "-m", "app.cli", "serve", "--port", "{port}")
    candidate = servers.Candidate("crosslook", "memory", command, ENVIRONMENT)
    with servers.running(candidate, tree) as server:
        before: list[Process] = []  # the second worker may load after the first, which already serves
        while len(found := processes(server.group)) < 3 or len(before) != len(found) or _grew(before, found):
            before = found
            time.sleep(2.0)
        rows = [row("ready", server.group)]
        most = _Most(server.group)
        servers.load(Plan(server.url, image, [QUESTIONS[0]], 1.0, 1))
        rows.append(row("one at a time", server.group))
        for maps in ("float", "u8", "none"):
            for fresh in (True, False):
                servers.load(Plan(server.url, image, [QUESTIONS[0]], seconds / 2, 16, fresh=fresh, maps=maps))
        answered = servers.load(Plan(server.url, image, list(QUESTIONS[:3]), 2 * seconds, 16, maps="u8"))
        if not answered.ok:
            raise RuntimeError("no answers")
        rows.append(row("under load", server.group))
        rows.append(["the most meanwhile", f"{most.stop():.0f}", "", "", "", ""])
    return table(["MiB", "server", "parent", "others", "of it their own", "at most, shared and own"], rows)


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="What a server holds.")
    parser.add_argument("--tree", type=Path, default=servers.ROOT, help="a checkout to serve from (default: this one)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each kind of load")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    about = f" (another checkout: {options.tree.name})" if options.tree != servers.ROOT else ""

    def measured(image: str) -> str:
        return measure(options.tree.resolve(), image, options.seconds)

    servers.report("memory", "Memory", measured, save=not options.no_save, about=about)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Servers as processes of their own, started for a measurement, and what their processes hold in memory."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Outcome, Plan
from benchmarks.machine import append_result, describe_machine, load_average
from benchmarks.model import example_jpeg

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Candidate:
    """One server with one choice of settings."""

    server: str
    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)


class Running(NamedTuple):
    """A server that answers at ``url``; all its processes are in one ``group``."""

    url: str
    group: int


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(candidate: Candidate, tree: Path = ROOT) -> Iterator[Running]:
    """A server of a checkout ``tree`` that is ready; its whole process group is ended afterwards."""
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in candidate.command]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **candidate.environment}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            try:
                _wait(process, url)
            except RuntimeError:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace")[-2000:])
                raise
            yield Running(url, process.pid)
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


def report(name: str, title: str, measure: Callable[[str], str], *, save: bool, about: str = "") -> None:
    """Print what ``measure`` says, given the example image's file, and ``save`` it as `append_result` does. ``about``:
    what was measured, where that is not this checkout."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(example_jpeg())
        file.flush()
        text = f"{describe_machine()}, {load_average()} at the start{about}.\n\n" + measure(file.name)
    print(text)
    if save:
        append_result(name, title, text)


def memory_mib(group: int) -> float:
    """What the processes of a group hold, in MiB: their proportional set size, where each has its part of what is
    shared. Linux only."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # processes come and go
            if os.getpgid(int(folder.name)) == group:
                found = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                total += int(found[1]) if found else 0
    return total / 1024

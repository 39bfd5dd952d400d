"""A real server: its own process, its own worker, a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.fakes import model as standin

ROOT = Path(__file__).resolve().parents[2]
_START = 180.0


@dataclass
class Server:
    """A running server and what it logs."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self, timeout: float = 30.0) -> httpx.Client:
        """A client for it."""
        return httpx.Client(base_url=self.url, timeout=timeout, verify=False)  # noqa: S501 - loads no certificates

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        text = self.log.read_text()
        return [int(pid) for pid in re.findall(r"worker (\d+) ready", text)]

    def terminate(self, seconds: float = 30.0) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def wait_for(condition: object, seconds: float = _START) -> bool:
    """Until a callable returns something true, or time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if callable(condition) and condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def serving(
    log: Path, *, loader: str | None = standin.LOADER, before: str = "", **settings: object
) -> Iterator[Server]:
    """A server that is ready. ``loader`` None serves what ``settings`` name, as the command line does; else ``before``
    is run in the server's process first."""
    environment = {**os.environ, "CROSSLOOK_PORT": "0", "CROSSLOOK_LOG_FORMAT": "text", "PYTHONPATH": str(ROOT)}
    environment |= {f"CROSSLOOK_{name.upper()}": str(value) for name, value in {"workers": 1, **settings}.items()}
    command = [sys.executable, "-m", "app.cli", "serve"]
    if loader is not None:
        start = f"import sys, app.cli, app.settings; sys.exit(app.cli.run(app.settings.Settings(), loader={loader!r}))"
        command = [sys.executable, "-c", f"{before}\n{start}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        pattern = re.compile(r"crosslook is up: (\S+)")
        assert wait_for(lambda: pattern.search(log.read_text()) or process.poll() is not None), log.read_text()
        found = pattern.search(log.read_text())
        assert found, log.read_text()
        yield Server(process, found[1], log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""The process that workers on a CPU are forks of: it has loaded the model, and answers nobody.

A fork shares what this process holds (weights, PyTorch, modules) for as long as it does not write there, so another
worker costs what it computes with and the images that it keeps, and is ready at once. Only a process of one thread can
be forked in safety: a lock that another thread held would never be released in the fork.

The parent (`app.engine.local.ForkServer`) starts it with one end of a socket pair, and sends a `Load` as to a worker.
After the `Ready`, it sends a socket for each worker that it wants, and gets a `PID`: 0 where there are other threads.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.engine import worker
from app.engine.messages import PID, LoadFailed, receive, send
from app.engine.protocol import how_it_ended

logger = logging.getLogger("app.engine.fork_server")  # __name__ is __main__ where it counts


def has_one_thread() -> bool:
    """Whether nothing else runs in this process (Linux)."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _reap(*_: object) -> None:
    """Say how workers ended. The parent sees that they did, but is not told how."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[1]:
                logger.error("%s", how_it_ended(ended[0], os.waitstatus_to_exitcode(ended[1])))


def _reseed() -> None:
    """Let a fork draw other random numbers than the other forks."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def main(fd: int) -> int:
    """Fork workers until the parent hangs up. Returns in each of the forks too, when it is done."""
    worker.ignore_signals()
    own = os.getpid()
    with socket.socket(fileno=fd) as control:
        with control.makefile("rb") as incoming, control.makefile("wb") as out:
            message = receive(incoming)
            if message is None:
                return 0
            prepared = worker.prepare(message)
            send(out, prepared if isinstance(prepared, LoadFailed) else prepared[1])
        if isinstance(prepared, LoadFailed):
            return 1
        gc.collect()
        gc.freeze()  # a search for garbage writes to each object that it looks at
        signal.signal(signal.SIGCHLD, _reap)
        while True:
            wanted, sockets, *_ = socket.recv_fds(control, 1, 1)
            if not wanted:
                return 0
            pid = os.fork() if has_one_thread() else None
            if pid == 0:
                break
            control.sendall(PID.pack(pid or 0))
            os.close(sockets[0])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _reseed()
    model, ready = prepared
    return worker.main(sockets[0], own, (model, replace(ready, seconds=0.0)))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

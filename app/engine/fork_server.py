"""The process that workers on a CPU are forks of: it has loaded what they share, and answers nobody.

A fork shares what this process holds for as long as it does not write there. Workers of one thread share all: the
model, PyTorch, modules. Another one costs what it computes with and the images that it keeps, and is ready at once. For
workers of more threads, which the model starts as it is loaded, nothing is loaded here but modules: only a process of
one thread can be forked in safety, since a lock that another thread held would never be released in the fork.

The parent (`app.engine.local.ForkServer`) starts it with one end of a socket pair, and sends a `Load` as to a worker.
After the `CanFork`, it sends a socket for each worker that it wants, and gets a `PID`: 0 where there are other threads,
`NO_ROOM` where the system has no room for another process. The parent confirms each with a byte: until
then no worker is reaped, whose number might become another process's.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from app.engine import worker
from app.engine.messages import NO_ROOM, PID, CanFork, Load, LoadFailed, Ready, receive, send
from app.engine.protocol import how_it_ended
from app.logs import configure_logging
from model.interface import Model

logger = logging.getLogger("app.engine.fork_server")  # __name__ is __main__ where it counts

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); a fork does not inherit it


def has_one_thread(tasks: Path = Path("/proc/self/task")) -> bool:
    """Whether it is known that nothing else runs in this process (Linux)."""
    try:
        return len(list(tasks.iterdir())) == 1
    except OSError:  # no /proc
        return False


def _prepare(message: Load) -> tuple[Model, Ready] | LoadFailed | None:
    """What a fork is given: a model that is ready, or nothing but the modules that it needs."""
    if message.arguments.get("threads") != 1:
        configure_logging(message.log_level, message.log_format)
        gc.disable()  # see `app.engine.worker.load`
        with suppress(Exception):  # a worker will say what is wrong
            importlib.import_module(message.loader.partition(":")[0])
        gc.enable()
        return None
    found = worker.prepare(message)
    return found if isinstance(found, LoadFailed) else (found[0], replace(found[1], seconds=0.0))


def _reap(*_: object) -> None:
    """Say how workers ended. The parent sees that they did, but is not told how; it may have killed them itself."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[1]:
                logger.warning("%s", how_it_ended(ended[0], os.waitstatus_to_exitcode(ended[1])))


def _end_with(parent: int) -> None:
    """Have the system end this process when its parent is gone, also while it loads: it listens to nobody then. A
    thread that watched, as a worker's does, would make it unsafe to fork."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os._exit(1)


def main(fd: int, parent: int) -> int:
    """Fork workers until ``parent``, this process's, hangs up or is gone. Returns in each of the forks too, when it is
    done."""
    worker.ignore_signals()
    _end_with(parent)
    own = os.getpid()
    with socket.socket(fileno=fd) as control:
        with control.makefile("rb") as incoming, control.makefile("wb") as out:
            message = receive(incoming)
            if message is None:
                return 0
            start = time.perf_counter()
            prepared = _prepare(message)
            send(out, prepared if isinstance(prepared, LoadFailed) else CanFork(time.perf_counter() - start))
        if isinstance(prepared, LoadFailed):
            return 1
        gc.collect()
        gc.freeze()  # a search for garbage writes to each object that it looks at
        signal.signal(signal.SIGCHLD, _reap)
        while True:
            wanted, sockets, *_ = socket.recv_fds(control, 1, 1)
            if not wanted:
                return 0
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            try:
                pid = os.fork() if has_one_thread() else None
            except OSError as error:  # too many processes or too little memory: the forks that there are go on
                logger.error("no worker can be forked: %s", error)
                pid = NO_ROOM
            if pid == 0:
                break
            control.sendall(PID.pack(pid or 0))
            os.close(sockets[0])
            control.recv(1)  # the parent holds the process now, and not its number alone: it may be reaped
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return worker.main(sockets[0], own, prepared)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))

"""The seam between a replica and the process, or processes, that compute for it.

`app.engine.local.LocalWorker` is a process on this machine. Anything else that keeps these promises may take its
place: `app.engine.replica.Replica` knows only the `Worker` of this module.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from app.engine.messages import Encode, Load, Ready, Reply, Run, Write


class WorkerDied(Exception):
    """The worker is gone or had to be killed; what it held is lost."""


class ModelNotLoaded(Exception):
    """The worker says that its model cannot be loaded; a second try gives the same."""


class Worker(Protocol):
    """One model, loaded once, and the encoded images that it keeps. A worker that has ended is not started again: the
    replica makes a new one."""

    async def start(self, message: Load, *, seconds: float) -> Ready:
        """Start it, load the model and warm it up.

        Raises: `WorkerDied` when it ends or takes more than ``seconds`` seconds; `ModelNotLoaded`.
        """

    async def call(self, message: Encode | Run | Write, *, seconds: float, wanted: Callable[[], bool] = ...) -> Reply:
        """Send one message and await its reply. Calls are serial: await one before you make the next. Where ``wanted``
        says no, the worker may end the work early; its reply is `Reply.abandoned` then.

        Raises: `WorkerDied`; a worker that says nothing for more than ``seconds`` seconds, not even that it is at work,
        is killed first.
        """

    async def ended(self, *, grace: float | None = None) -> str:
        """Wait until it has ended, and say how in words. After ``grace`` seconds (None: never) it is killed."""

    def kill(self) -> None:
        """End it at once."""

    async def stop(self, *, grace: float = 5.0) -> None:
        """Hang up and wait until it has ended; kill it after ``grace`` seconds. Safe to call twice."""


def how_it_ended(pid: int, status: int) -> str:
    """How a worker ended, in words. ``status``: its exit status, or a signal's number, negative."""
    if status >= 0:
        return f"worker {pid} ended with exit status {status}"
    with suppress(ValueError):
        return f"worker {pid} was ended by {signal.Signals(-status).name}"
    return f"worker {pid} was ended by signal {-status}"

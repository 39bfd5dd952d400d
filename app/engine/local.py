"""A worker on this machine: the parent's end of one process, which runs `app.engine.worker`.

The process is spawned by command, never forked: the parent must stay free of torch and of its threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.engine.messages import (
    HEADER,
    Abandon,
    Encode,
    Load,
    LoadFailed,
    Ready,
    Reply,
    Run,
    Working,
    Write,
    pack,
    unpack,
)
from app.engine.protocol import ModelNotLoaded, WorkerDied

logger = logging.getLogger(__name__)

_ROOT = str(Path(__file__).resolve().parents[2])
_BUFFER = 16 * 1024 * 1024


class LocalWorker:
    """A `app.engine.protocol.Worker`: one spawned process. ``environment`` is added to the parent's."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, message: Load, *, seconds: float) -> Ready:
        """Spawn the process, load the model and warm it up.

        Raises: `WorkerDied` when the process ends or takes more than ``seconds`` seconds, `ModelNotLoaded`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            path = os.pathsep.join(part for part in (_ROOT, os.environ.get("PYTHONPATH")) if part)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "app.engine.worker", str(theirs.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment, "PYTHONPATH": path},
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER)
        answer = await self._exchange(message, seconds)
        if isinstance(answer, LoadFailed):
            await self.stop()
            raise ModelNotLoaded(answer.message)
        if not isinstance(answer, Ready):
            raise WorkerDied(f"the worker said {type(answer).__name__}")
        logger.info("worker %d ready in %.1f s with %s", self.pid, answer.seconds, answer.info.id)
        return answer

    async def call(
        self, message: Encode | Run | Write, *, seconds: float, wanted: Callable[[], bool] = lambda: True
    ) -> Reply:
        """Send one message and await its reply; see `app.engine.protocol.Worker.call`.

        Raises: `WorkerDied`; when it said nothing for more than ``seconds`` seconds, the worker is killed first.
        """
        reply = await self._exchange(message, seconds, wanted)
        if not isinstance(reply, Reply):
            raise WorkerDied(f"the worker said {type(reply).__name__}")
        return reply

    async def _exchange(self, message: object, seconds: float, wanted: Callable[[], bool] = lambda: True) -> Any:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            raise WorkerDied("the worker was never started")
        try:
            async with asyncio.timeout(seconds) as silence:
                for part in pack(message):
                    writer.write(part)
                await writer.drain()
                told = False
                while True:
                    head = await reader.readexactly(HEADER.size)
                    answer = unpack(await reader.readexactly(HEADER.unpack(head)[0]))
                    if not isinstance(answer, Working):
                        return answer
                    silence.reschedule(asyncio.get_running_loop().time() + seconds)
                    if not told and not wanted():
                        told = True
                        writer.writelines(pack(Abandon()))
        except TimeoutError:
            logger.error("worker %s said nothing for %g s and is killed", self.pid, seconds)
            self.kill()
            raise WorkerDied(f"worker {self.pid} was stuck") from None
        except (OSError, EOFError) as error:  # IncompleteReadError is an EOFError
            raise WorkerDied(await self.ended(grace=1.0)) from error
        except asyncio.CancelledError:
            self.kill()  # its reply would be taken for that of the next call
            raise

    async def ended(self, *, grace: float | None = None) -> str:
        """Wait until it has ended, and say how in words. After ``grace`` seconds (None: never) it is killed."""
        if self._process is None:
            return "the worker was never started"
        try:
            async with asyncio.timeout(grace):
                status = await self._process.wait()
        except TimeoutError:
            self.kill()
            status = await self._process.wait()
        if status >= 0:
            return f"worker {self.pid} ended with exit status {status}"
        with suppress(ValueError):
            return f"worker {self.pid} was ended by {signal.Signals(-status).name}"
        return f"worker {self.pid} was ended by signal {-status}"

    def kill(self) -> None:
        """End the process at once."""
        if self.alive and self._process is not None:
            self._process.kill()

    async def stop(self, *, grace: float = 5.0) -> None:
        """Hang up and wait until the process has ended; kill it after ``grace`` seconds. Safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._writer = self._reader = None
        await self.ended(grace=grace)

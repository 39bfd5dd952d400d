"""A worker on this machine: the parent's end of one process, which runs `app.engine.worker`.

The process is spawned by command, or forked by one that was: never by the parent, which must stay free of torch and of
its threads.
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
    NO_ROOM,
    PID,
    Abandon,
    CanFork,
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
from app.engine.protocol import ModelNotLoaded, WorkerDied, how_it_ended

logger = logging.getLogger(__name__)

_ROOT = str(Path(__file__).resolve().parents[2])
_BUFFER = 16 * 1024 * 1024


class Forked:
    """A fork, which is no child of this process: what `LocalWorker` needs to know of it (Linux)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = asyncio.Event()
        self._fd = os.pidfd_open(pid)  # the number alone may be another process's by the time that it is killed
        asyncio.get_running_loop().add_reader(self._fd, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self.ended.set()

    def kill(self) -> None:
        """End it at once."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):  # it was reaped, of which the loop has not heard yet
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)


class LocalWorker:
    """A `app.engine.protocol.Worker`: one process, spawned, or forked by ``forks``. ``environment`` is added to the
    parent's."""

    module = "app.engine.worker"

    def __init__(self, environment: Mapping[str, str] | None = None, forks: ForkServer | None = None) -> None:
        self._environment = dict(environment or {})
        self._forks = forks
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._socket: socket.socket | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        if isinstance(self._process, Forked):
            return not self._process.ended.is_set()
        return self._process is not None and self._process.returncode is None

    async def start(self, message: Load, *, seconds: float) -> Ready:
        """Start the process, load the model and warm it up.

        Raises: `WorkerDied` when the process ends or takes more than ``seconds`` seconds, `ModelNotLoaded`;
        OSError when none can be started.
        """
        answer = await self._begin(message, seconds)
        if not isinstance(answer, Ready):
            raise WorkerDied(f"the worker said {type(answer).__name__}")
        logger.info("worker %d ready in %.1f s with %s", self.pid, answer.seconds, answer.info.id)
        return answer

    async def _begin(self, message: Load, seconds: float) -> object:
        """Start the process; its reply to the message. Raises as `start`."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                if self._forks is not None:
                    self._process = await self._forks.fork(message, theirs, seconds=seconds)
                if self._process is None:
                    self._process = await self._spawn(theirs)
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER)
        answer = await self._exchange(message, seconds)
        if isinstance(answer, LoadFailed):
            await self.stop()
            raise ModelNotLoaded(answer.message)
        return answer

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        path = os.pathsep.join(part for part in (_ROOT, os.environ.get("PYTHONPATH")) if part)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self.module, str(theirs.fileno()), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **self._environment, "PYTHONPATH": path},
        )

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
                return await self._end()
        except TimeoutError:
            self.kill()
            return await self._end()

    async def _end(self) -> str:
        if isinstance(self._process, Forked):
            await self._process.ended.wait()
            return f"worker {self.pid} ended"  # how, `app.engine.fork_server` says
        assert self._process is not None  # noqa: S101
        return how_it_ended(self._process.pid, await self._process.wait())

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


class _Loaded(LocalWorker):
    """A process that runs `app.engine.fork_server`: started as a worker is, it forks others."""

    module = "app.engine.fork_server"

    async def load(self, message: Load, *, seconds: float) -> None:
        """Start it. Raises: as `LocalWorker.start`."""
        answer = await self._begin(message, seconds)
        if not isinstance(answer, CanFork):
            raise WorkerDied(f"the fork server said {type(answer).__name__}")
        logger.info("loaded what workers share in %.1f s", answer.seconds)

    async def fork(self, theirs: socket.socket, *, seconds: float) -> Forked | None:
        """Have a worker serve ``theirs``. None where the process cannot be forked.

        Raises: `WorkerDied`, OSError: either also where the system has no room for another process.
        """
        if self._socket is None or self._reader is None:
            raise WorkerDied("the fork server was never started")
        try:
            async with asyncio.timeout(seconds):
                socket.send_fds(self._socket, [b"+"], [theirs.fileno()])
                pid = int(PID.unpack(await self._reader.readexactly(PID.size))[0])
        except (OSError, EOFError, TimeoutError) as error:
            self.kill()
            raise WorkerDied(f"the fork server {self.pid} is gone") from error
        except asyncio.CancelledError:
            self.kill()  # its reply would be taken for that of the next call
            raise
        try:
            if pid == NO_ROOM:
                raise WorkerDied("no worker can be forked now")
            return Forked(pid) if pid else None
        finally:
            self._socket.send(b"!")  # from now on the fork may be reaped


class ForkServer:
    """Starts workers as forks of one process that has loaded what they share, and starts that where there is none.
    ``environment``: theirs."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = asyncio.Lock()
        self._loaded: _Loaded | None = None
        self._forks = True

    async def fork(self, message: Load, theirs: socket.socket, *, seconds: float) -> Forked | None:
        """A worker for the other end of ``theirs``; None where the model has threads of its own, so that no fork of it
        would be safe.

        Raises: as `LocalWorker.start`.
        """
        async with self._lock:
            if not self._forks:
                return None
            if self._loaded is None or not self._loaded.alive:
                await self.stop()
                self._loaded = _Loaded(self._environment)
                await self._loaded.load(message, seconds=seconds)
            forked = await self._loaded.fork(theirs, seconds=seconds)
            if forked is not None:
                return forked
            logger.warning("%s has threads of its own: its workers share no memory", message.arguments.get("name"))
            self._forks = False
            await self.stop()
            return None

    async def stop(self) -> None:
        """End the process. Forks that are left end with it."""
        if self._loaded is not None:
            await self._loaded.stop()

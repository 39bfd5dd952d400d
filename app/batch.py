"""``crosslook-server batch``: answers a file of requests, in its own process, by a server or on Ray.

A line of the input is a JSON object, in the form of OpenAI's batches (``{"custom_id", "method", "url", "body"}``) or
the body of ``POST /v1/answer`` alone. A line of the output has ``custom_id`` (the number of the input's line where it
has none), ``response`` with ``status_code``, ``request_id`` and ``body``, and ``error`` where no response came. An
``image`` may be a path, relative to the input.

The output is written line by line as answers come, in their order of coming. A run that was broken off goes on where it
was: what has an answer is not asked again; what failed for want of room or of the server is.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from app.main import create_app
from app.settings import Settings
from crosslook.retry import parse_retry_after

_NATIVE = "/v1/answer"
_TRIES = 8  # of a request that may be tried again
_LONGEST_PATH = 1024  # characters
_LONGEST_WAIT = 30.0  # seconds between two tries
_UNLIMITED = 86_400.0  # seconds
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class BadInput(Exception):
    """The input, or what is there of the output, cannot be used; says which line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request of the input."""

    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(slots=True)
class Progress:
    """What has been done, of how much."""

    total: int
    done: int = 0
    failed: int = 0

    def text(self, seconds: float) -> str:
        """One line for people."""
        rate = self.done / seconds if seconds > 0 else 0.0
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total}, {rate:.1f} a second{failed}"

    def count(self, made: dict[str, Any]) -> None:
        """One more line of the output."""
        self.done += 1
        self.failed += made["response"] is None or made["response"]["status_code"] >= 400

    def end(self, before: int) -> str:
        """The last line for people; ``before`` had been done by earlier runs."""
        return f"{self.done - before} answered now, {before} before, {self.failed} with errors, of {self.total}"


def read_lines(path: Path) -> list[Line]:
    """All requests of a file.

    Raises: `BadInput`, OSError.
    """
    lines: list[Line] = []
    seen: set[str] = set()
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{path}:{number}: no JSON: {error}") from None
        if not isinstance(found, dict):
            raise BadInput(f"{path}:{number}: must be an object")
        custom_id = str(found.pop("custom_id", number))
        if custom_id in seen:
            raise BadInput(f"{path}:{number}: custom_id {custom_id} comes twice")
        seen.add(custom_id)
        url, body = found.get("url", _NATIVE), found.get("body", found)
        if "body" in found and found.get("method", "POST") != "POST":
            raise BadInput(f"{path}:{number}: method must be POST")
        if not (isinstance(body, dict) and isinstance(url, str) and url.startswith("/")):
            raise BadInput(f"{path}:{number}: url must begin with / and body be an object")
        lines.append(Line(custom_id, url, body))
    return lines


def keep_answered(path: Path) -> set[str]:
    """The ids of what an earlier run has answered. What else is in its output, failures that may be tried again and a
    last line without its end, is taken out.

    Raises: `BadInput` for a file that is no output of a batch, OSError.
    """
    if not path.exists():
        return set()
    kept: dict[str, str] = {}
    text = path.read_text(encoding="utf-8")
    *whole, rest = text.split("\n")
    for number, line in enumerate(whole, start=1):
        try:
            found = json.loads(line)
            custom_id, response = str(found["custom_id"]), found["response"]
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}:{number}: no line of a batch's output; name another file") from None
        if response is not None and response["status_code"] not in _AGAIN:
            kept[custom_id] = line
    if len(kept) < len(whole) or rest:
        fresh = path.with_name(path.name + ".new")
        fresh.write_text("".join(f"{line}\n" for line in kept.values()), encoding="utf-8")
        os.replace(fresh, path)
    return set(kept)


def begin(source: Path, target: Path) -> tuple[list[Line], Progress]:
    """What is still to be asked, and how much that is of all.

    Raises: `BadInput`, OSError.
    """
    lines = read_lines(source)
    known = keep_answered(target)
    left = [line for line in lines if line.custom_id not in known]
    return left, Progress(len(lines), len(lines) - len(left))


def with_files(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The body with the file in the place of its path.

    Raises: OSError for a file that cannot be read.
    """
    image = body.get("image")
    if not isinstance(image, str) or len(image) > _LONGEST_PATH or "://" in image or image[:5].lower() == "data:":
        return body
    path = folder / image
    if not os.path.isfile(path):
        return body  # base64, or the server will say what it is not
    return {**body, "image": base64.b64encode(path.read_bytes()).decode()}


@asynccontextmanager
async def in_process(settings: Settings, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this very process, without sockets. ``options`` go to `create_app`.

    Raises: RuntimeError where the model cannot be loaded.
    """
    patient = {"queue_seconds": _UNLIMITED, "request_seconds": _UNLIMITED, "rate_per_minute": 0, "api_keys": []}
    app = create_app(settings.model_copy(update=patient), **options)
    async with app.router.lifespan_context(app):
        if not await app.state.engine.wait_ready():
            raise RuntimeError(f"the model cannot be loaded: {app.state.engine.failure}")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=_UNLIMITED) as client:
            yield client


async def answer(client: httpx.AsyncClient, line: Line, folder: Path) -> dict[str, Any]:
    """The line of the output for one of the input."""
    made: dict[str, Any] = {"custom_id": line.custom_id, "response": None, "error": None}
    for attempt in range(_TRIES):
        try:
            body = await asyncio.to_thread(with_files, line.body, folder)
            response = await client.post(line.url, json=body)
        except (OSError, httpx.HTTPError) as error:
            made["error"] = {"code": type(error).__name__, "message": str(error)}
            if isinstance(error, OSError):
                return made
            pause = None
        else:
            made |= {"response": _response(response), "error": None}
            if response.status_code not in _AGAIN:
                return made
            pause = parse_retry_after(response.headers)
        if attempt + 1 < _TRIES:
            await asyncio.sleep(min(pause if pause is not None else 0.5 * 2.0**attempt, _LONGEST_WAIT))
    return made


def _response(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = response.text
    return {
        "status_code": response.status_code,
        "request_id": response.headers.get("x-request-id"),
        "body": body,
    }


async def answer_all(
    client: httpx.AsyncClient, lines: list[Line], output: IO[str], folder: Path, *, concurrency: int, progress: Progress
) -> None:
    """Ask all, at most ``concurrency`` at once, and write each answer when it comes."""
    todo: Iterator[Line] = iter(lines)

    async def work() -> None:
        for line in todo:  # shared: each takes the next
            made = await answer(client, line, folder)
            output.write(json.dumps(made, ensure_ascii=False) + "\n")
            output.flush()
            progress.count(made)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


async def run(
    settings: Settings,
    source: Path,
    target: Path,
    *,
    url: str | None,
    key: str | None,
    concurrency: int,
    **options: Any,
) -> int:
    """Answer ``source`` into ``target``: 0 when every line has an answer, 1 when some have an error.

    ``url`` names a server to ask in place of this process, ``key`` is for it.

    Raises: `BadInput`, OSError, RuntimeError.
    """
    left, progress = begin(source, target)
    began, before = time.monotonic(), progress.done

    async def report() -> None:
        while True:
            await asyncio.sleep(5)
            print(progress.text(time.monotonic() - began), file=sys.stderr, flush=True)

    async with AsyncExitStack() as stack:
        if url is None:
            client = await stack.enter_async_context(in_process(settings, **options)) if left else httpx.AsyncClient()
        else:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            client = httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=settings.request_seconds + 5)
            await stack.enter_async_context(client)
        reporting = asyncio.create_task(report())
        try:
            with target.open("a", encoding="utf-8") as output:
                await answer_all(client, left, output, source.parent, concurrency=concurrency, progress=progress)
        finally:
            reporting.cancel()
    print(progress.end(before), file=sys.stderr)
    return 1 if progress.failed else 0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says."""

    source: Path
    target: Path
    url: str | None
    concurrency: int
    ray: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own; every other setting is a variable of the environment."""
    parser.add_argument("source", type=Path, help="JSONL: OpenAI's batch lines, or bodies of POST /v1/answer")
    parser.add_argument("target", type=Path, help="JSONL of answers; a run that was broken off goes on in it")
    parser.add_argument("--url", help="ask this server, in place of a model in this process (key: CROSSLOOK_API_KEY)")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once (16)")
    parser.add_argument("--ray", type=int, metavar="N", help="on N actors of Ray (RAY_ADDRESS: of a cluster)")
    parser.add_argument("--model", help="compact, tiny, a folder or a hub name")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")


def take_arguments(options: dict[str, Any]) -> Arguments:
    """The command's own out of ``options``; what is left are settings."""
    return Arguments(**{name: options.pop(name) for name in ("source", "target", "url", "concurrency", "ray")})


def main(settings: Settings, arguments: Arguments, **options: Any) -> int:
    """Run the command; returns the exit status."""

    def work() -> int:
        key = os.environ.get("CROSSLOOK_API_KEY")
        source, target, url = arguments.source, arguments.target, arguments.url
        return asyncio.run(
            run(settings, source, target, url=url, key=key, concurrency=arguments.concurrency, **options)
        )

    return status_of(arguments, work)


def status_of(arguments: Arguments, work: Callable[[], int]) -> int:
    """What ``work`` returns; 2, and a message, for arguments or files that cannot be used (`BadInput`, OSError,
    RuntimeError)."""
    try:
        for name, count in (("concurrency", arguments.concurrency), ("ray", arguments.ray)):
            if count is not None and count < 1:
                raise BadInput(f"--{name} must be at least 1")
        if arguments.ray is not None and arguments.url is not None:
            raise BadInput("--url asks a server, --ray asks none: give one of them")
        return work()
    except (BadInput, OSError, RuntimeError) as error:
        print(f"crosslook: {error}", file=sys.stderr)
        return 2

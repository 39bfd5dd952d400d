"""``crosslook-server batch --ray N``: a file's lines on Ray Data, over N actors that have the service inside.

Ray Data hands out blocks of lines, on one machine or on the cluster that RAY_ADDRESS names, and asks a block again
whose actor was lost. Answers are written when their block is done. Needs the extra ``ray-data``; images by path must
lie where the actors run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray.data
from ray.exceptions import RayError

from app.batch import Arguments, Line, answer, begin, in_process, status_of
from app.settings import Settings

_BLOCK = 64  # lines; an actor asks 16 at once
_PROGRESS = 5.0  # seconds between two words about it


class Answerer:
    """One actor: a service with an event loop of its own, since Ray Data blocks that of its coroutines."""

    def __init__(self, settings: Settings, folder: Path, options: dict[str, Any]) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._service = in_process(settings, **options)
        self._client = self._start(self._service.__aenter__()).result()

    def _start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """A row with a line's fields -> one with the output's line as ``answer``."""
        line = Line(row["custom_id"], row["url"], json.loads(row["body"]))
        made = await asyncio.wrap_future(self._start(answer(self._client, line, self._folder)))
        return {"answer": json.dumps(made, ensure_ascii=False)}


def answers(lines: list[Line], folder: Path, settings: Settings, actors: int, options: dict[str, Any]) -> Iterator[str]:
    """The output's lines, block by block. An actor has one worker of one thread where ``settings`` say nothing.

    Raises: RuntimeError where the model cannot be loaded, or Ray not started.
    """
    workers, threads = settings.workers or 1, settings.threads or 1
    ours = settings.model_copy(update={"workers": workers, "threads": threads})
    rows = [{"custom_id": line.custom_id, "url": line.url, "body": json.dumps(line.body)} for line in lines]
    ray.data.DataContext.get_current().enable_progress_bars = False
    asked = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // _BLOCK)).map(
        Answerer,
        fn_constructor_args=(ours, folder.resolve(), options),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=workers * threads,
    )
    try:
        for row in asked.iter_rows():
            yield row["answer"]
    except RayError as error:
        raise RuntimeError(f"Ray: {error}") from None


def run(settings: Settings, source: Path, target: Path, *, actors: int, **options: Any) -> int:
    """`app.batch.run` on Ray Data.

    Raises: `BadInput`, OSError, RuntimeError.
    """
    left, progress = begin(source, target)
    began = said = time.monotonic()
    before = progress.done
    with target.open("a", encoding="utf-8") as output:
        for text in answers(left, source.parent, settings, actors, options) if left else ():
            output.write(text + "\n")
            output.flush()
            progress.count(json.loads(text))
            if time.monotonic() > said + _PROGRESS:
                said = time.monotonic()
                print(progress.text(said - began), file=sys.stderr, flush=True)
    print(progress.end(before), file=sys.stderr)
    return 1 if progress.failed else 0


def main(settings: Settings, arguments: Arguments, **options: Any) -> int:
    """`app.batch.main` on Ray Data."""

    def work() -> int:
        return run(settings, arguments.source, arguments.target, actors=arguments.ray or 1, **options)

    return status_of(arguments, work)

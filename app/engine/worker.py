"""The worker: a process of its own that holds one model and a dict of encoded images, and does what it is told.

The parent (`app.engine.local`) starts it with one end of a socket pair; nothing imports it. What is said over the
socket is in `app.engine.messages`.

An item may not fail its batch: on an error the batch is halved down to the guilty item, which gets a `Failure`.
No question and no image is ever logged.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar, cast

from PIL import Image

from app.engine.allocator import Trimmer, find_trim
from app.engine.messages import (
    Encode,
    Encoded,
    Failure,
    Load,
    LoadFailed,
    Ready,
    Reply,
    Run,
    RunItem,
    Working,
    Write,
    receive,
    send,
)
from app.logs import configure_logging
from model.interface import (
    EncodedImage,
    Generation,
    Item,
    ItemError,
    MapRequest,
    Model,
    Output,
    Pixels,
    Task,
    Writing,
    WritingModel,
)
from model.progress import Abandoned, listening

logger = logging.getLogger("app.engine.worker")  # __name__ is __main__ where it counts

T = TypeVar("T")
R = TypeVar("R")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the batch was too large (torch's class is known by name: no import here)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class Server:
    """Obeys messages against one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.images: dict[str, EncodedImage] = {}
        self.batch_that_fits: int | None = None
        self.too_large_alone = False
        self.writing: Writing | None = None

    def handle(self, message: Encode | Run | Write) -> Reply:
        """Carry out one message."""
        start = time.perf_counter()
        self.batch_that_fits, self.too_large_alone = None, False
        for key in message.evict:
            self.images.pop(key, None)
        if isinstance(message, Write):
            return Reply(self._write(message), time.perf_counter() - start)
        results: list[Any]
        try:
            if isinstance(message, Encode):
                results = self._attempt(message.items, self._encode)
            else:
                task = message.task
                together = task == "match"  # scores are over the texts of the item: halves would have other ones
                results = self._attempt(message.items, lambda items: self._run(task, items), together=together)
        except Abandoned:
            results = [Failure(False, "nobody waits")] * len(message.items)
            return Reply(results, time.perf_counter() - start, abandoned=True)
        # Where an item did not fit alone either, it was that item and not the batch that was too large.
        fits = None if self.too_large_alone else self.batch_that_fits
        reply = Reply(results, time.perf_counter() - start, fits)
        if isinstance(message, Encode) and message.run is not None:
            pairs = zip(message.items, results, strict=True)
            failed = {key: result for (key, _), result in pairs if isinstance(result, Failure)}
            return replace(reply, run=self._run_unless(failed, message.run))
        return reply

    def _write(self, message: Write) -> list[tuple[int, object]]:
        """One step of all that is being written; see `Write`."""
        if self.writing is None:
            self.writing = cast(WritingModel, self.model).writing()
        join = [(number, task, self._item(item)) for number, task, item in message.join]
        results: list[tuple[int, object]] = []
        for number, found in self.writing.advance(join, message.leave).items():
            if isinstance(found, Exception) and not isinstance(found, ItemError):
                logger.error("the model failed on one item", exc_info=found)
                results.append((number, Failure(out_of_memory(found), type(found).__name__)))
            else:
                results.append((number, found))
        if any(isinstance(found, Failure) and found.out_of_memory for _, found in results):
            free_memory()
        return results

    def _item(self, item: RunItem) -> Item:
        """The model's item: the kept image in place of its key."""
        image = self.images[item.key]
        return Item(image, item.texts, item.candidates, item.top_k, item.maps, item.generation, item.language)

    def _run_unless(self, failed: dict[str, Failure], message: Run) -> Reply:
        """The reply to ``message``, with their failures for the texts whose images could not be encoded."""
        reply = self.handle(replace(message, items=tuple(item for item in message.items if item.key not in failed)))
        ran = iter(reply.results)
        return replace(reply, results=[failed.get(item.key) or next(ran) for item in message.items])

    def _encode(self, items: Sequence[tuple[str, Pixels]]) -> list[Encoded]:
        images = self.model.encode([pixels for _, pixels in items])
        self.images.update((key, image) for (key, _), image in zip(items, images, strict=True))
        return [Encoded(image.nbytes) for image in images]

    def _run(self, task: Task, items: Sequence[RunItem]) -> list[Output | ItemError]:
        """Requests about one image run as one item where nothing but their texts differs: the model then puts these
        side by side and goes over the image once."""
        groups: dict[Hashable, list[int]] = {}
        for index, item in enumerate(items):
            alone = index if task == "match" else None  # scores are over the texts of the request
            asked = (item.key, item.candidates, item.top_k, item.maps, item.generation, item.language, alone)
            groups.setdefault(asked, []).append(index)
        joined = [replace(items[g[0]], texts=sum((items[i].texts for i in g), ())) for g in groups.values()]
        results: dict[int, Output | ItemError] = {}
        again: list[int] = []
        for group, result in zip(groups.values(), self._run_whole(task, joined), strict=True):
            if isinstance(result, ItemError) and len(group) > 1:
                again += group  # a text of one of them is at fault: each finds out by itself
                continue
            start = 0
            for index in group:
                end = start + len(items[index].texts)
                results[index] = (
                    replace(result, texts=result.texts[start:end]) if isinstance(result, Output) else result
                )
                start = end
        if again:
            results.update(zip(again, self._run_whole(task, [items[i] for i in again]), strict=True))
        return [results[index] for index in range(len(items))]

    def _run_whole(self, task: Task, items: Sequence[RunItem]) -> list[Output | ItemError]:
        """One call of the model for each batch key."""
        calls: dict[Hashable, list[int]] = {}
        for index, item in enumerate(items):
            calls.setdefault(self.images[item.key].batch_key, []).append(index)
        results: dict[int, Output | ItemError] = {}
        for call in calls.values():
            given = [self._item(items[index]) for index in call]
            results.update(zip(call, self.model.run(task, given), strict=True))  # raises where a result is missing
        return [results[index] for index in range(len(items))]

    def _attempt(
        self, items: Sequence[T], call: Callable[[Sequence[T]], list[R]], *, together: bool = False
    ) -> list[R | Failure]:
        """``call`` on all the items; when that raises, on halves, down to single items, and where memory is short
        down to single texts, unless those must stay ``together``."""
        failure: Failure | None = None
        try:
            return list(call(items))
        except Exception as error:
            memory = out_of_memory(error)
            if len(items) == 1:
                logger.exception("the model failed on one item")
            failure = Failure(memory, type(error).__name__)
        # Out of the except block, so that the traceback no longer holds the tensors of the failed attempt.
        if failure.out_of_memory:
            free_memory()
            self.batch_that_fits = max(1, _size(items) // 2)
        if len(items) > 1:
            middle = len(items) // 2
            halves = (items[:middle], items[middle:])
            return [result for half in halves for result in self._attempt(half, call, together=together)]
        if failure.out_of_memory and not together and isinstance(items[0], RunItem) and len(items[0].texts) > 1:
            return self._split_texts(items[0], call)
        self.too_large_alone |= failure.out_of_memory
        return [failure]

    def _split_texts(self, item: RunItem, call: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        """One request whose texts do not fit together: half of them at a time."""
        middle = len(item.texts) // 2
        parts = [replace(item, texts=item.texts[:middle]), replace(item, texts=item.texts[middle:])]
        first, second = (self._attempt([part], call)[0] for part in parts)
        if isinstance(first, Output) and isinstance(second, Output):
            return [Output(first.texts + second.texts, first.maps)]
        if isinstance(first, Output) and isinstance(second, ItemError):
            return [second.moved(middle)]
        return [second if isinstance(first, Output) else first]


class Pulse:
    """Listens to the model (`model.progress`): tells the parent that the work goes on, and hears from it whether
    anybody still waits. ``connection`` is the socket under ``incoming`` and ``out``."""

    SECONDS = 0.5
    """Between two words to the parent."""

    def __init__(self, connection: socket.socket, incoming: BinaryIO, out: BinaryIO) -> None:
        self._connection, self._incoming, self._out = connection, incoming, out
        self._next = 0.0
        self.start()

    def start(self) -> None:
        """A call begins."""
        self._next = time.monotonic() + self.SECONDS

    def __call__(self) -> None:
        """The model has come on. Raises: `Abandoned`."""
        if time.monotonic() < self._next:
            return
        self.start()
        send(self._out, Working())
        if select.select([self._connection], [], [], 0)[0]:
            receive(self._incoming)  # in the middle of a call it can only be `Abandon`, or the end
            raise Abandoned


def _size(items: Sequence[object]) -> int:
    """How many images, or texts of all the requests: what the bounds of batches count."""
    return sum(len(item.texts) if isinstance(item, RunItem) else 1 for item in items)


def free_memory() -> None:
    """Give cached device memory back, after an out-of-memory error."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def uses_gpu() -> bool:
    """Whether torch has been used on a GPU in this process (torch is looked up, never imported here)."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def warm_up(model: Model) -> None:
    """One image and one text through every task, so that the first request does not pay for lazy set-up.

    Raises: ValueError where what comes out are no numbers: a model so damaged must not serve.
    """
    info = model.info
    pixels = info.preprocess(Image.new("RGB", (64, 48), (127, 127, 127)))
    for size in (1, 2):
        images = model.encode([pixels] * size)
        for task in info.tasks:
            maps = None if info.default_map_kind is None else MapRequest()
            short = Generation(max_new_tokens=2) if info.generation else None
            items = [Item(image, ("what is this?",), maps=maps, generation=short) for image in images]
            results = model.run(task, items)
            for result in results:
                if isinstance(result, Exception):
                    raise result
                if not all(map(math.isfinite, _figures(result))):
                    raise ValueError(f"what {info.id} gives are no finite numbers: its weights or config are damaged")


def _figures(output: Output) -> Iterator[float]:
    """The scores of an output, and the sum of each of its maps."""
    for text in output.texts:
        yield from (ranked.score for ranked in text.ranking)
        for found in (text.answer_map, *(token.map for token in text.tokens)):
            if found is not None:
                yield float(found.values.sum())


def load(message: Load) -> Model:
    """Import and call the loader."""
    module, _, function = message.loader.partition(":")
    # PyTorch brings some hundred thousand objects that live as long as the process. To search them for garbage again
    # and again while they come takes a third of the time of loading; to search them later, part of every answer's.
    gc.disable()
    try:
        loaded: Model = getattr(importlib.import_module(module), function)(**message.arguments)
        gc.freeze()
    finally:
        gc.enable()
    return loaded


def settle(model: Model) -> None:
    """Let a model go of what only training and evaluation need, where it has a ``keep_what_serves``, and give back what
    loading it took."""
    if (keep := getattr(model, "keep_what_serves", None)) is not None:
        keep()
    gc.collect()
    if (trim := find_trim()) is not None:
        trim(0)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a call."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(fd: int, parent: int) -> int:
    """Serve the parent at the other end of socket ``fd`` until it hangs up."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent drains, then hangs up
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with (
        socket.socket(fileno=fd) as connection,
        connection.makefile("rb") as incoming,
        connection.makefile("wb") as out,
    ):
        message = receive(incoming)
        if message is None:
            return 0
        configure_logging(message.log_level, message.log_format)
        start = time.perf_counter()
        try:
            model = load(message)
            warm_up(model)
            settle(model)
        except Exception as error:
            # These two are messages for the operator, which the parent logs; anything else is a fault.
            expected = isinstance(error, ValueError | OSError)
            logger.log(logging.DEBUG if expected else logging.ERROR, "the model cannot be loaded", exc_info=True)
            send(out, LoadFailed(str(error) if expected else f"{type(error).__name__}: {error}"))
            return 1
        send(out, Ready(model.info, time.perf_counter() - start, gpu=uses_gpu()))
        server, trim, pulse = Server(model), Trimmer(), Pulse(connection, incoming, out)
        with listening(pulse):
            while (message := receive(incoming)) is not None:
                if isinstance(message, Encode | Run | Write):  # not an `Abandon` that came too late
                    pulse.start()
                    send(out, server.handle(message))
                    trim()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

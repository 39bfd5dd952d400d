"""Carries out what a worker is told against its model: keeps encoded images, puts items into calls, and saves what it
can of a batch in which something fails.

An item may not fail its batch: on an error the batch is halved down to the guilty item, which gets a `Failure`.
No question and no image is ever logged.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from app.engine.messages import Encode, Encoded, Failure, Reply, Run, RunItem, Write
from model.interface import EncodedImage, Item, ItemError, Model, Output, Pixels, Task, Writing, WritingModel
from model.progress import Abandoned

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class ModelRunner:
    """One model, and the images that it has encoded by their keys."""

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
            return [Output((*first.texts, *second.texts), first.maps)]
        if isinstance(first, Output) and isinstance(second, ItemError):
            return [second.moved(middle)]
        return [second if isinstance(first, Output) else first]


def _size(items: Sequence[object]) -> int:
    """How many images, or texts of all the requests: what the bounds of batches count."""
    return sum(len(item.texts) if isinstance(item, RunItem) else 1 for item in items)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the batch was too large (torch's class is known by name: no import here)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def free_memory() -> None:
    """Give cached device memory back, after an out-of-memory error."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

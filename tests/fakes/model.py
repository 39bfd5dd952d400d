"""A model in numpy that obeys `model.interface.Model`, loads in a blink and can be told to misbehave.

For tests of the engine: what they test is batching, caching and failing, for which torch would only be slow. A question
that begins with ``!`` is a command to the worker: ``!raise``, ``!hang``, ``!die``, ``!memory N`` (out of memory for
batches of more than N texts), ``!slow SECONDS``, ``!work SECONDS`` (slow, and says that it comes on). A question
``?count`` is answered with the number of images encoded so far, ``?batch`` with the number of texts that ran with it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    ItemError,
    Map,
    MapInfo,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    Region,
    Task,
    TextOutput,
    Token,
    Word,
)
from model.progress import step

ROWS, COLUMNS = 4, 6


def preprocess(image: Image.Image) -> Pixels:
    """Each cell's mean colour."""
    values = np.asarray(image.resize((COLUMNS, ROWS), Image.Resampling.BOX))
    region = Region(0.0, 0.0, float(image.width), float(image.height))
    return Pixels(values, Geometry(image.width, image.height, ROWS, COLUMNS, region))


@dataclass
class Encoded:
    """Brightness of each cell."""

    brightness: Any
    geometry: Geometry
    batch_key: str = "one"
    nbytes: int = 1000


class StandIn:
    """Answers with the brightness of the image; every token looks at the bright cells."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.encoded = 0
        self.info = ModelInfo(
            id="stand-in",
            revision="sha256:0",
            tasks=("answer",),
            map_kinds=("raw",),
            default_map_kind="raw",
            layers=(0, 1),
            rows=ROWS,
            columns=COLUMNS,
            max_tokens=16,
            preprocess=preprocess,
        )

    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Means; a purple image is poison."""
        for pixels in images:
            if tuple(pixels.values[0, 0]) == (255, 0, 255):
                raise RuntimeError("poison")
        self.encoded += len(images)
        return [Encoded(p.values.mean(axis=2, dtype=np.float32), p.geometry) for p in images]

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """One answer a text."""
        texts = [text for item in items for text in item.texts]
        for text in texts:
            command(text, len(texts))
        return [self._one(item, len(texts)) for item in items]

    def _one(self, item: Item, together: int) -> Output | ItemError:
        image = item.image
        assert isinstance(image, Encoded)
        outputs = []
        for index, text in enumerate(item.texts):
            if "xyzzy" in text:
                return ItemError("question_not_understood", "Unknown words.", index, {"unknown": 1})
            answer = f"{image.brightness.mean():.0f}"
            if text == "?count":
                answer = str(self.encoded)
            if text == "?batch":
                answer = str(together)
            weights = image.brightness + 1.0
            weights = 0.75 * weights / weights.sum()
            looked = None if item.maps is None else Map(weights.astype(np.float32), 0.25)
            tokens: tuple[Token, ...] = ()
            words: tuple[Word, ...] = ()
            if item.maps is not None:
                tokens = (Token("[CLS]", None, True, looked), Token(text, (0, len(text)), False, looked))
                words = (Word(text, (0, len(text)), (1,)),)
            ranking = (Ranked(answer, 0.75), Ranked("other", 0.125))[: item.top_k]
            rest = 1.0 - sum(r.score for r in ranking)
            outputs.append(TextOutput(ranking, "vocabulary", rest, tokens, words, looked))
        return Output(tuple(outputs), None if item.maps is None else MapInfo("raw", (0, 1)))


def command(text: str, together: int) -> None:
    """Misbehave as told."""
    if text.startswith("!raise"):
        raise RuntimeError("told to")
    if text.startswith("!hang"):
        time.sleep(3600)
    if text.startswith("!die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("!memory") and together > int(text.split()[1]):
        raise MemoryError
    if text.startswith("!slow"):
        time.sleep(float(text.split()[1]))
    if text.startswith("!work"):
        end = time.monotonic() + float(text.split()[1])
        while time.monotonic() < end:
            time.sleep(0.02)
            step()


def load(**options: Any) -> StandIn:
    """The loader to name in ``create_app(settings, loader=...)``."""
    return StandIn(**options)


def fail(**options: Any) -> StandIn:
    """A loader that cannot load."""
    raise FileNotFoundError("no weights here")


def load_but_once(name: str, **options: Any) -> StandIn:
    """A loader that has no memory the second time; it counts in the file ``name``."""
    with Path(name).open("a+") as file:
        file.write("+")
        file.seek(0)
        if len(file.read()) == 2:
            raise MemoryError
    return StandIn(**options)


def load_counted(name: str, **options: Any) -> StandIn:
    """A loader that adds a sign to the file ``name``."""
    with Path(name).open("a") as file:
        file.write("+")
    return StandIn(**options)


def load_endlessly(name: str, **options: Any) -> StandIn:
    """A loader that does not end; it leaves its process id in the file ``name``."""
    Path(name + ".part").write_text(str(os.getpid()))
    Path(name + ".part").rename(name)
    while True:
        time.sleep(60)


def load_heavy(**options: Any) -> StandIn:
    """A loader of a model of 64 MiB."""
    return StandIn(weights=np.ones(1 << 26, np.uint8), **options)


def load_threaded(name: str, **options: Any) -> StandIn:
    """As `load_counted`, of a model that has a thread."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return load_counted(name, **options)


def load_crowded(name: str, **options: Any) -> StandIn:
    """A loader in a system that has no room for another process while the file ``name`` is there."""
    fork = os.fork

    def fork_in_room() -> int:
        if Path(name).exists():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    mock.patch.object(os, "fork", fork_in_room).start()
    return StandIn(**options)


def load_ending(name: str, **options: Any) -> StandIn:
    """A loader in a process whose first fork ends before anybody is told of it, and leaves a file ``name``."""
    fork = os.fork

    def fork_and_wait() -> int:
        first, pid = not Path(name).exists(), fork()
        if first and pid == 0:
            Path(name).touch()
            os._exit(3)
        if first:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    mock.patch.object(os, "fork", fork_and_wait).start()
    return StandIn(**options)


LOADER = "tests.fakes.model:load"
FAILING = "tests.fakes.model:fail"
FAILING_ONCE = "tests.fakes.model:load_but_once"
COUNTED = "tests.fakes.model:load_counted"
ENDLESS = "tests.fakes.model:load_endlessly"
HEAVY = "tests.fakes.model:load_heavy"
THREADED = "tests.fakes.model:load_threaded"
CROWDED = "tests.fakes.model:load_crowded"
ENDING = "tests.fakes.model:load_ending"

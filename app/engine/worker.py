"""The worker: a process of its own that holds one model and does what it is told (`app.engine.model_runner`).

The parent (`app.engine.local`) starts it with one end of a socket pair, or has `app.engine.fork_server` fork it. What
is said over the socket is in `app.engine.messages`. No question and no image is ever logged.
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
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

from app.engine.allocator import Trimmer, find_trim, returning_weights
from app.engine.messages import Encode, Load, LoadFailed, Ready, Run, Working, Write, receive, send, with_packed
from app.engine.model_runner import ModelRunner
from app.logs import configure_logging
from model.interface import Generation, Item, MapRequest, Model, Output
from model.progress import Abandoned, listening

logger = logging.getLogger("app.engine.worker")  # __name__ is __main__ where it counts


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
    give_back()


def give_back() -> None:
    """Give the system back the memory that is free."""
    gc.collect()
    if (trim := find_trim()) is not None:
        trim(0)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a call."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def prepare(message: Load) -> tuple[Model, Ready] | LoadFailed:
    """Load a model, warm it up, and let go of what that took."""
    configure_logging(message.log_level, message.log_format)
    start = time.perf_counter()
    try:
        with returning_weights():
            model = load(message)
            settle(model)
        warm_up(model)
        give_back()
    except Exception as error:
        # These two are messages for the operator, which the parent logs; anything else is a fault.
        expected = isinstance(error, ValueError | OSError)
        logger.log(logging.DEBUG if expected else logging.ERROR, "the model cannot be loaded", exc_info=True)
        return LoadFailed(str(error) if expected else f"{type(error).__name__}: {error}")
    return model, Ready(model.info, time.perf_counter() - start, gpu=uses_gpu())


def ignore_signals() -> None:
    """SIGINT and SIGTERM are sent to the whole group; the parent drains, then hangs up."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)


def main(fd: int, parent: int, prepared: tuple[Model, Ready] | None = None) -> int:
    """Serve the process at the other end of socket ``fd`` until it hangs up, or ``parent``, this one's, is gone.
    ``prepared``: what a fork has from `app.engine.fork_server`; else the model is loaded here."""
    ignore_signals()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with (
        socket.socket(fileno=fd) as connection,
        connection.makefile("rb") as incoming,
        connection.makefile("wb") as out,
    ):
        message = receive(incoming)
        if message is None:
            return 0
        found = prepared or prepare(message)
        if isinstance(found, LoadFailed):
            send(out, found)
            return 1
        model, ready = found
        send(out, ready)
        runner, trim, pulse = ModelRunner(model), Trimmer(), Pulse(connection, incoming, out)
        with listening(pulse):
            while (message := receive(incoming)) is not None:
                if isinstance(message, Encode | Run | Write):  # not an `Abandon` that came too late
                    pulse.start()
                    send(out, with_packed(runner.handle(message)))
                    trim()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))

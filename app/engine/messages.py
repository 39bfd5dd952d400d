"""What the parent and a worker say to each other: dataclasses, pickled behind an 8-byte length.

The parent sends a `Load` and gets a `Ready` or a `LoadFailed`. After that it sends one `Encode` or `Run` at a time and
gets a `Reply` to each, with one result per item. Until the reply comes, the worker says `Working` now and then, and the
parent may answer with `Abandon` once nobody waits for the reply.

A fork server gets a `Load` too, and says `CanFork` or `LoadFailed`. What it replies after that is a `PID`, not pickled:
see `app.engine.fork_server`.

The parent alone decides which images are kept: a message names the keys to forget, and the worker forgets them before
it does anything else.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from model.interface import Generation, MapRequest, ModelInfo, Output, Pixels, Task

HEADER = struct.Struct("!Q")
"""The length of a pickled message in bytes, in front of it."""

PID = struct.Struct("!q")
"""What a fork server replies with: the fork's process id, 0 where it cannot fork, `NO_ROOM` where it cannot now."""
NO_ROOM = -1


@dataclass(frozen=True, slots=True)
class Load:
    """First message: ``loader`` is ``module:function``, called with ``arguments``; it returns a `Model`."""

    loader: str
    arguments: dict[str, Any]
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and has answered once; ``gpu`` tells whether it lies on one."""

    info: ModelInfo
    seconds: float
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class CanFork:
    """A fork server has loaded what its workers share, in so many ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be loaded; the process ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the parent must know of a kept image."""

    nbytes: int


CANDIDATE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RunItem:
    """`model.interface.Item` with the key of a kept image in the image's place."""

    key: str
    texts: tuple[str, ...]
    candidates: tuple[str, ...] | None = None
    top_k: int = 5
    maps: MapRequest | None = None
    generation: Generation | None = None
    language: str | None = None

    @property
    def cost(self) -> int:
        """See `cost_of`."""
        return cost_of(self.texts, self.candidates)

    def parts(self, size: int) -> list[RunItem]:
        """The same in items of ``size`` texts at most, in order."""
        if len(self.texts) <= size:
            return [self]
        starts = range(0, len(self.texts), size)
        return [replace(self, texts=self.texts[start : start + size]) for start in starts]


def cost_of(texts: Sequence[str], candidates: Sequence[str] | None) -> int:
    """What a request costs the model, in questions: candidates are embedded too, and `CANDIDATE_CHARACTERS` of them
    count as one more. Rates, the queue's bounds and the sizes of batches are in this unit."""
    return len(texts) + sum(map(len, candidates or ())) // CANDIDATE_CHARACTERS


@dataclass(frozen=True, slots=True)
class Run:
    """Run items of one task. The reply has one `Packed` (its `Output`), `ItemError` or `Failure` each."""

    task: Task
    items: tuple[RunItem, ...]
    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode images and keep them under their keys, then ``run``: texts about these or about images kept before. Reply:
    one `Encoded` or `Failure` each, and the reply to the run. A text whose image failed gets that failure."""

    items: tuple[tuple[str, Pixels], ...]
    evict: tuple[str, ...] = ()
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One step of writing: items ``join`` under numbers of the parent's, others ``leave``, and each that was under way
    gets one more token. Reply: pairs of a number and a `Written`, `ItemError` or `Failure`, one for each item that is
    under way. One with an output or an error is so no more."""

    join: tuple[tuple[int, Task, RunItem], ...] = ()
    leave: tuple[int, ...] = ()
    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Working:
    """The worker has come on with the call that it is at: it is not stuck."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody waits for the call's reply: it may be short. One that comes after the reply means nothing."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The model raised on this very item, also when it was tried alone."""

    out_of_memory: bool
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Results of one message in order, and how many images or texts a batch may have to fit in memory (None: nothing
    was learned of that). ``seconds`` are without those of ``run``, the reply to the run that went with an encode.
    ``abandoned``: the call was ended before its work was done, and all results are `Failure`."""

    results: list[Any] = field(repr=False)
    seconds: float
    batch_that_fits: int | None = None
    run: Reply | None = None
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """An `Output` as bytes, which the request that it is for unpacks: the worker need not wait for that to get its next
    call."""

    body: bytes = field(repr=False)

    def unpack(self) -> Output:
        """The output."""
        found: Output = unpack(self.body)
        return found


def with_packed(reply: Reply) -> Reply:
    """``reply`` with each `Output`, also of its ``run``, as a `Packed`."""
    results = [Packed(pack(one)[1]) if isinstance(one, Output) else one for one in reply.results]
    return replace(reply, results=results, run=None if reply.run is None else with_packed(reply.run))


def pack(message: object) -> tuple[bytes, bytes]:
    """The header and the body of one message."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)), body


def send(stream: BinaryIO, message: object) -> None:
    """Write one message."""
    stream.writelines(pack(message))
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; None at the end of the stream. Only our own parent is at the other end."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    return unpack(stream.read(HEADER.unpack(head)[0]))


def unpack(body: bytes) -> Any:
    """The message of a body. For bytes of our own processes only: a pickle can run code."""
    return pickle.loads(body)  # noqa: S301

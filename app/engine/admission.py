"""How much is accepted: bounds in items, bytes and estimated wait; and when the refused may come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import RequestError

_KEPT = 0.9  # of what is known, at each new batch


@dataclass(slots=True)
class CostEstimate:
    """Seconds of the model's time for one item, as a moving average over batches. Each counts by its items: a call for
    one takes much longer an item than one for many, and it is the sum that others wait for."""

    seconds: float = 0.0
    items: float = 0.0
    """How many items the average stands for; older ones count less and less."""

    def observe(self, count: int, seconds: float) -> None:
        """A batch of ``count`` items took ``seconds``."""
        known = _KEPT * self.items
        self.seconds = (known * self.seconds + seconds) / (known + count)
        self.items = known + count


@dataclass(slots=True)
class Admission:
    """What was accepted and is not answered yet. ``replicas`` workers share it."""

    max_items: int
    max_bytes: int
    max_seconds: float
    replicas: int = 1
    images: int = 0
    texts: int = 0
    nbytes: int = 0
    encode: CostEstimate = field(default_factory=CostEstimate)
    run: CostEstimate = field(default_factory=CostEstimate)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def items(self) -> int:
        """Images and texts that are accepted and not answered."""
        return self.images + self.texts

    def seconds(self, images: int, texts: int) -> float:
        """Estimated seconds of the model's time for so many images and texts."""
        return images * self.encode.seconds + texts * self.run.seconds

    def wait(self) -> float:
        """Estimated seconds until a request that comes now reaches the model."""
        return self.seconds(self.images, self.texts) / max(1, self.replicas)

    def check(self, items: int = 1, wait: float | None = None) -> None:
        """Refuse ``items`` more where they would be too many, or their ``wait`` too long (seconds; None: that of all
        replicas together). An empty queue takes a request of any size, so the limits of a request and of the queue
        need not know each other.

        Raises: `RequestError` ``overloaded``.
        """
        if wait is None:
            wait = self.wait()
        if self.items and self.items + items > self.max_items:
            # A tenth of the queue's time: by then there is room for this one, not yet for all that were refused.
            raise overloaded("The queue is full.", max(1.0, wait / 10))
        if wait > self.max_seconds:
            raise overloaded(f"The estimated wait is {wait:.0f} s.", max(1.0, wait - self.max_seconds))

    @contextmanager
    def hold(self, *, images: int = 0, texts: int = 0, wait: float | None = None) -> Iterator[None]:
        """Count accepted items until the block ends; ``wait`` as in `check`.

        Raises: `RequestError` ``overloaded``.
        """
        self.check(images + texts, wait)
        self.images += images
        self.texts += texts
        self.idle.clear()
        try:
            yield
        finally:
            self.images -= images
            self.texts -= texts
            if not self.items:
                self.idle.set()

    def take_bytes(self, count: int) -> None:
        """Count bytes of a body that is being received.

        Raises: `RequestError` ``overloaded``; then nothing was counted.
        """
        if self.nbytes and self.nbytes + count > self.max_bytes:
            raise overloaded("Too many bytes of requests are being received.", max(1.0, self.wait() / 10))
        self.nbytes += count

    def give_bytes(self, count: int) -> None:
        """The bytes of a body are gone."""
        self.nbytes -= count


def overloaded(message: str, retry_after: float) -> RequestError:
    """The 503 of a full queue."""
    return RequestError("overloaded", message, retry_after=min(60.0, retry_after))

"""How a model says in the middle of long work that it is getting on, and learns that nobody waits for it any more.

A model calls `step` between two pieces of work that take up to a second or so; it costs nothing to call it too often.
Whoever runs the model may listen (`listening`), and may end the work by raising `Abandoned` there. A process that says
nothing for long is then known to be stuck, however long its work takes on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Abandoned(BaseException):
    """Nobody waits for this work. No `Exception`, so that whoever tries failed work again does not try this again."""


def _nobody() -> None:
    """No listener."""


_listener: Callable[[], None] = _nobody


def step() -> None:
    """A piece of the work is done, and another follows. Raises: `Abandoned`, where the listener does."""
    _listener()


@contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Have ``listener`` called at every `step` until the block ends."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before

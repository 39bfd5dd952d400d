"""When to try again, and how long to wait before it. Pure functions of what came back: no clock, no sockets."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from crosslook.errors import CODES, APIError, ConnectionFailed, CrosslookError

_MOST_SECONDS = 1e9  # what no clock refuses to sleep
_RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    What is repeated: failed connections, and errors whose code says that trying again may help (for errors of a
    proxy, which have no code of ours: 408, 425, 429, 500, 502, 503, 504; Ray's says 500 where a replica died). A
    response that takes too long is not repeated: the server is at work, and asking again would only add to it.

    The wait doubles from ``first`` to ``ceiling`` seconds, less up to ``jitter`` of itself, so that many clients do not
    come back at once. ``Retry-After`` wins over it. A server that asks for more than ``longest`` seconds is not waited
    for: the error is raised, with its ``retry_after``.
    """

    retries: int = 2
    first: float = 0.5
    ceiling: float = 8.0
    jitter: float = 0.25
    longest: float = 60.0

    def wait(
        self, error: CrosslookError, attempt: int, random_unit: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait before another try after ``error`` in attempt 0, 1, ...; None to raise it."""
        if attempt >= self.retries or not _may_help(error):
            return None
        asked = error.retry_after if isinstance(error, APIError) else None
        if asked is not None:
            return asked if asked <= self.longest else None
        pause = min(self.first * 2.0**attempt, self.ceiling)
        return pause * (1.0 - self.jitter * random_unit())


def _may_help(error: CrosslookError) -> bool:
    if isinstance(error, ConnectionFailed):
        return True
    if not isinstance(error, APIError):
        return False
    known = CODES.get(error.code)
    return known.retry if known else error.status in _RETRY_STATUSES


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait, of ``retry-after-ms`` or of ``retry-after`` as seconds or as an HTTP date; None without one.

    ``headers`` have lower-case names. A value that is none of these counts as absent; the past counts as 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # "-0000" stands for a UTC time of unknown zone
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _MOST_SECONDS)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return min(value, _MOST_SECONDS) if 0.0 <= value < float("inf") else None

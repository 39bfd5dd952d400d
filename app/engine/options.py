"""What a replica is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.engine.messages import Load


@dataclass(slots=True)
class ReplicaOptions:
    """What a replica needs to know; see `app.settings.Settings` for the meanings."""

    load: Load
    cache_bytes: int
    cache_seconds: float
    encode_batch: int | None
    run_batch: int
    generation_tokens: int
    batch_wait: float
    decode_ahead: int
    call_seconds: float
    load_seconds: float


@dataclass(slots=True)
class Observer:
    """Where a replica reports what it does; the telemetry fills the fields that it wants."""

    batch: Callable[[str, str, int, float], None] = lambda kind, reason, size, seconds: None
    waited: Callable[[str, float], None] = lambda kind, seconds: None
    dropped: Callable[[str], None] = lambda kind: None
    restarted: Callable[[], None] = lambda: None

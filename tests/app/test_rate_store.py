"""The shared rate where its package, or its store, is not there; tests/scaling has a real store."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.limits import RateLimiter
from app.rate_store import limiter_of
from app.settings import Settings


def test_without_a_store_each_replica_counts_for_itself() -> None:
    assert isinstance(limiter_of(Settings(_env_file=None, rate_per_minute=5)), RateLimiter)


def test_a_store_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "throttled.asyncio", None)
    with pytest.raises(RuntimeError, match=r"crosslook\[redis\]"):
        limiter_of(Settings(_env_file=None, rate_per_minute=5, rate_store="redis://127.0.0.1:1"))


def test_the_server_imports_neither_redis_nor_ray() -> None:
    """Nor torch, in its parent process."""
    code = "import app.cli, sys; print(sorted({'redis', 'throttled', 'ray', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"

"""One engine for all tests of a module that leave it alive."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.engine.engine import Engine
from tests.app.engine.tools import Recorder, engine


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[tuple[Engine, Recorder]]:
    """An engine with a worker, and what it reports."""
    async with engine(encode_batch=4, run_batch=8) as pair:
        yield pair


@pytest.fixture
def ready(shared: tuple[Engine, Recorder]) -> tuple[Engine, Recorder]:
    """The shared engine with an empty record."""
    shared[1].batches.clear()
    shared[1].dropped.clear()
    return shared

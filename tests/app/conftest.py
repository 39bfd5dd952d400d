"""A running app without a network: the real engine and a real worker process behind httpx's ASGI transport."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from PIL import Image

from app.engine.engine import Engine
from app.main import create_app
from app.settings import Settings
from tests.fakes import model as standin
from tests.fakes.reference_server import COLOURS, LOADER

BASE = "http://crosslook"


@asynccontextmanager
async def running(*, loader: str = standin.LOADER, **settings: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The app with its worker ready, and a client for it."""
    app = create_app(Settings(_env_file=None, **{"workers": 1, **settings}), loader=loader)
    async with app.router.lifespan_context(app):
        assert await app.state.engine.wait_ready()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            yield app, client


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def service() -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """One app on the stand-in model for all tests that do not change it."""
    async with running() as pair:
        yield pair


@pytest.fixture
def client(service: tuple[FastAPI, httpx.AsyncClient]) -> httpx.AsyncClient:
    """The client of `service`."""
    return service[1]


@pytest.fixture
def engine(service: tuple[FastAPI, httpx.AsyncClient]) -> Engine:
    """The engine of `service`."""
    engine: Engine = service[0].state.engine
    return engine


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


_shade = iter(range(1 << 30))


@pytest.fixture
def image_bytes() -> bytes:
    """A small PNG that no other test uses."""
    n = next(_shade)
    return encoded(Image.new("RGB", (40, 30), (n % 256, n // 256 % 256, 7)))


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def colours() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the model whose every answer can be known beforehand: it names colours."""
    async with running(loader=LOADER) as (_, client):
        yield client


def _base64(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


@pytest.fixture
def red() -> str:
    """A red image, as a data URI."""
    return "data:image/png;base64," + _base64(Image.new("RGB", (60, 40), COLOURS["red"]))


@pytest.fixture
def half_red() -> str:
    """60 x 40 pixels, of which the left half is red and the right blue, in base64."""
    image = Image.new("RGB", (60, 40), COLOURS["blue"])
    image.paste(COLOURS["red"], (0, 0, 30, 40))
    return _base64(image)


@pytest.fixture
def uri(image_bytes: bytes) -> str:
    """A small image that no other test uses, as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image_bytes).decode()

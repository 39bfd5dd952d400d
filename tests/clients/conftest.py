"""Two real servers on real sockets, for the clients that people have: an open one, and one that refuses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.app.servers import serving, wait_for
from tests.fakes.reference_server import COLOURS, LOADER

_KEYS = [f"secret-{n}" for n in range(60)]
_unused = iter(_KEYS)


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that answers. It takes images of 100 kB and bodies of 400 kB."""
    log = tmp_path_factory.mktemp("open") / "log"
    with serving(log, loader=LOADER, image_bytes=100_000, body_bytes=400_000) as server:
        yield server.url


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that refuses everybody: without a key with 401; the first question of a key finds the queue full (503),
    for one request hangs in it; the second its rate spent (429)."""
    log = tmp_path_factory.mktemp("guarded") / "log"
    pairs = ",".join(f"k{n}:{hashlib.sha256(key.encode()).hexdigest()}" for n, key in enumerate(_KEYS))
    patience = {"request_seconds": 600, "worker_seconds": 600, "drain_seconds": 1}
    with serving(log, loader=LOADER, api_keys=pairs, queue_items=1, rate_per_minute=1, **patience) as server:
        first = {"image": base64.b64encode(coloured("red")).decode(), "questions": ["!hang"]}

        def hang() -> None:
            with contextlib.suppress(httpx.TransportError):
                authorization = {"Authorization": f"Bearer {next(_unused)}"}
                httpx.post(f"{server.url}/v1/answer", json=first, headers=authorization, timeout=600)

        hanging = threading.Thread(target=hang)
        hanging.start()
        assert wait_for(lambda: "crosslook_queue_items 2.0" in httpx.get(f"{server.url}/metrics").text)
        yield server.url
    hanging.join(10)


@pytest.fixture
def key() -> str:
    """An API key of `guarded` that no other test uses."""
    return next(_unused)


def coloured(name: str, size: tuple[int, int] = (60, 40)) -> bytes:
    """The PNG of an image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def red() -> bytes:
    """A red image."""
    return coloured("red")


@pytest.fixture(scope="session")
def big() -> bytes:
    """An image file of more bytes than `url` takes, in a body that it does take."""
    return coloured("red") + bytes(150_000)


@pytest.fixture(scope="session")
def huge() -> bytes:
    """An image file of more bytes than a body may have."""
    return coloured("red") + bytes(500_000)

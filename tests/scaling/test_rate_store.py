"""A rate that replicas share, in a real Redis."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.auth import make_key
from app.errors import RequestError
from app.limits import RateLimiter
from app.rate_store import SharedRateLimiter, limiter_of
from app.settings import Settings
from crosslook import Client, errors
from tests.app.servers import serving, wait_for
from tests.scaling.made import made_image

pytestmark = pytest.mark.long


@pytest_asyncio.fixture
async def made() -> AsyncIterator[Callable[[str, int], SharedRateLimiter]]:
    """Makes limiters, which are closed in the end."""
    limiters: list[SharedRateLimiter] = []

    def make(url: str, per_minute: int) -> SharedRateLimiter:
        limiters.append(SharedRateLimiter(url, per_minute, RateLimiter(per_minute)))
        return limiters[-1]

    yield make
    for limiter in limiters:
        await limiter.close()


Make = Callable[[str, int], SharedRateLimiter]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a Redis, and its process."""
    pytest.importorskip("throttled")
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no Redis is installed (apt-get install redis-server)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def there() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert wait_for(there, 20)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait()


async def test_two_limiters_count_together(redis: tuple[str, subprocess.Popen[bytes]], made: Make) -> None:
    """One caller does not touch another; what is too much for a bucket passes when it is full."""
    one, two = (made(redis[0], 60) for _ in range(2))
    for limiter in (one, two, one, two, one, two):
        await limiter.spend("ann", 10)
    for limiter in (one, two):
        with pytest.raises(RequestError) as caught:
            await limiter.spend("ann", 10)
        assert caught.value.code == "rate_limited"
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 10
    await two.spend("bob", 1000)
    with pytest.raises(RequestError):
        await one.spend("bob", 1)


async def test_it_refills(redis: tuple[str, subprocess.Popen[bytes]], made: Make) -> None:
    """At the rate, after the time that was said."""
    limiter = made(redis[0], 600)
    await limiter.spend("ann", 600)
    with pytest.raises(RequestError) as caught:
        await limiter.spend("ann", 2)
    await asyncio.sleep((caught.value.retry_after or 0.0) + 0.05)
    await limiter.spend("ann", 2)


async def test_a_store_that_is_gone_does_not_stop_the_service(
    redis: tuple[str, subprocess.Popen[bytes]], made: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Each replica then counts for itself, and says so once."""
    one, two = (made(redis[0], 60) for _ in range(2))
    await one.spend("ann", 60)
    redis[1].kill()
    redis[1].wait()
    with caplog.at_level(logging.WARNING):
        for limiter in (one, two):
            for _ in range(6):
                await limiter.spend("ann", 10)
            with pytest.raises(RequestError):
                await limiter.spend("ann", 10)
    assert caplog.text.count("this replica counts for itself") == 2


def test_two_servers_share_a_rate(redis: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """12 questions a minute, whichever of them is asked."""
    key, pair = make_key("ann")
    settings = {"rate_per_minute": 12, "rate_store": redis[0], "api_keys": pair}
    with serving(tmp_path / "1", **settings) as one, serving(tmp_path / "2", **settings) as two:
        clients = [Client(server.url, api_key=key, retries=0) for server in (one, two)]
        for number in range(12):
            clients[number % 2].answer(made_image(number), "how bright?", maps="none")
        for client in clients:
            with pytest.raises(errors.RateLimited) as caught:
                client.answer(made_image(0), ["how bright?"] * 4, maps="none")
            assert caught.value.retry_after is not None
            client.close()
        assert httpx.get(f"{one.url}/health/ready").status_code == 200


def test_the_store_is_used_only_where_it_is_named() -> None:
    settings = {"_env_file": None, "rate_store": "redis://127.0.0.1:1"}
    assert isinstance(limiter_of(Settings(**settings)), RateLimiter), "no rate, so nothing to count"
    assert isinstance(limiter_of(Settings(_env_file=None, rate_per_minute=5)), RateLimiter)
    assert isinstance(limiter_of(Settings(**settings, rate_per_minute=5)), SharedRateLimiter)

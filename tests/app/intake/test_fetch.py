"""Images by URL: what is refused whatever the trick, and that an allowed server is fetched."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import httpx
import pytest

from app.errors import RequestError
from app.intake.fetch import Address, Fetcher, is_public
from app.settings import Settings
from tests.app.conftest import running
from tests.app.test_limits import leave
from tests.app.test_native import failed

REFUSED = (
    """
http://127.0.0.1/  http://127.0.0.1:8080/x.png  http://127.1/  http://127.255.255.254/  http://0.0.0.0/  http://0/
http://2130706433/  http://0x7f000001/  http://0x7f.0.0.1/  http://0177.0.0.1/  http://017700000001/  http://127.0.1/
http://localhost/  http://LOCALHOST/  http://[::ffff:0:7f00:1]/  http://10.0.0.1/  http://10.255.255.255/  http://167772161/
http://172.16.0.1/  http://172.31.255.255/  http://192.168.0.1/  http://192.168.1.1:443/  http://0xc0a80101/
http://169.254.169.254/latest/meta-data/  http://2852039166/  http://0xa9fea9fe/  http://0251.0376.0251.0376/
http://100.64.0.1/  http://100.127.255.255/  http://100.100.100.200/  http://192.0.0.8/  http://192.0.0.192/
http://192.0.2.1/  http://198.51.100.1/  http://203.0.113.1/  http://198.18.0.1/  http://198.19.255.255/
http://192.88.99.1/  http://224.0.0.1/  http://239.255.255.255/  http://240.0.0.1/  http://255.255.255.255/
http://[::1]/  http://[::]/  http://[0:0:0:0:0:0:0:1]/  http://[::ffff:127.0.0.1]/  http://[::ffff:7f00:1]/
http://[::ffff:8.8.8.8]/  http://[::127.0.0.1]/  http://[::8.8.8.8]/  http://[64:ff9b::7f00:1]/  http://[64:ff9b::10.0.0.1]/
http://[64:ff9b:1::1]/  http://[2002:7f00:1::]/  http://[2002:a00:1::1]/  http://[2001:0:53aa:64c::1]/  http://[2001:db8::1]/
http://[2001:10::1]/  http://[2001:20::1]/  http://[3fff::1]/  http://[100::1]/  http://[fe80::1]/  http://[fe80::1%25eth0]/
http://[fec0::1]/  http://[fc00::1]/  http://[fd00:ec2::254]/  http://[ff02::1]/  http://[2600::5efe:10.0.0.1]/
http://[2600::200:5efe:7f00:1]/  http://[4000::1]/  http://[5f00::1]/
http://user@example.org/  http://user:password@example.org/  http://8.8.8.8@127.0.0.1/  http://127.0.0.1\\@8.8.8.8/
http://8.8.8.8\\@127.0.0.1/  http:\\\\8.8.8.8/  http:///x  http://  http://[::1  http://8.8.8.8:99999/
ftp://8.8.8.8/x  file:///etc/passwd  gopher://8.8.8.8/  data://8.8.8.8/  javascript://8.8.8.8/
http://8.8.8.8/\r\nX:1  http://8.8.8.8/\x00  http://１２７.０.０.１/  http://①②⑦.⓪.⓪.①/  http://127。0。0。1/
""".replace("\\r", "\r")
    .replace("\\n", "\n")
    .replace("\\x00", "\x00")
)
CASES = [case for line in REFUSED.strip("\n").split("\n\n") for case in line.replace("\n", "  ").split("  ") if case]


def fetcher(**settings: object) -> Fetcher:
    """A fetcher with short times."""
    return Fetcher(Settings(_env_file=None, allow_urls=True, url_seconds=2.0, **settings))


def test_the_table_is_long_enough() -> None:
    """At least sixty addresses and tricks."""
    assert len(set(CASES)) >= 60


@pytest.mark.parametrize("url", CASES)
async def test_refused(url: str) -> None:
    """Every form of every address that is not public, and every URL that is not plainly one."""
    with pytest.raises(RequestError) as caught:
        await fetcher().fetch(url)
    assert caught.value.code == "url_not_allowed", url
    assert caught.value.param == "image"


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses_are_public(text: str) -> None:
    """The table does not refuse the internet."""
    assert is_public(ipaddress.ip_address(text))


class Rebinding(Fetcher):
    """A resolver that answers differently each time."""

    def __init__(self, *answers: Sequence[str], **settings: object) -> None:
        super().__init__(Settings(_env_file=None, allow_urls=True, url_seconds=2.0, **settings))
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        return [ipaddress.ip_address(text) for text in self.answers[min(self.asked, len(self.answers)) - 1]]


async def test_a_host_with_one_private_address_among_public_ones_is_refused() -> None:
    """All addresses count, not only the first."""
    with pytest.raises(RequestError) as caught:
        await Rebinding(["93.184.216.34", "127.0.0.1"]).fetch("http://example.org/")
    assert caught.value.code == "url_not_allowed"


@contextlib.asynccontextmanager
async def answering(response: bytes, *, pause: float = 0.0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A small HTTP server on 127.0.0.1: its port and the requests it got."""
    requests: list[bytes] = []
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(response)
            await writer.drain()
            await asyncio.sleep(pause)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def ok(body: bytes, *headers: str) -> bytes:
    """A 200 with a body."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def moved(location: str, status: int = 302) -> bytes:
    """A redirect."""
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def test_the_address_that_was_checked_is_the_one_that_is_dialled() -> None:
    """A name is resolved once: a second answer would never be seen. The Host header keeps the name."""
    async with answering(ok(b"hello")) as (port, requests):
        fetch = Rebinding(["127.0.0.1"], ["10.0.0.1"], url_allow_addresses=["127.0.0.1/32"])
        assert await fetch.fetch(f"http://example.org:{port}/x?y=1") == b"hello"
        assert fetch.asked == 1
        assert requests[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
        assert f"host: example.org:{port}\r\n".encode() in requests[0].lower()
        assert b"cookie" not in requests[0].lower()
        assert b"\r\nuser-agent: crosslook/" in requests[0].lower()


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd", "//10.0.0.1/x"])
async def test_redirects_go_through_the_same_door(target: str) -> None:
    """An allowed server cannot send us where we would not go."""
    async with answering(moved(target)) as (port, _):
        with pytest.raises(RequestError) as caught:
            await fetcher(url_allow_addresses=["127.0.0.1/32"]).fetch(f"http://127.0.0.1:{port}/")
        assert caught.value.code == "url_not_allowed"


async def test_an_allowed_redirect_is_followed_and_a_loop_ends() -> None:
    """A few redirects, no more."""
    allowed = fetcher(url_allow_addresses=["127.0.0.1/32"])
    async with answering(ok(b"hello")) as (port, _), answering(moved(f"http://127.0.0.1:{port}/y")) as (first, _):
        assert await allowed.fetch(f"http://127.0.0.1:{first}/") == b"hello"
    async with answering(moved("/again")) as (port, requests):
        with pytest.raises(RequestError, match="redirects"):
            await allowed.fetch(f"http://127.0.0.1:{port}/")
        assert len(requests) == 4


NO_NAMES = [
    *(
        "xn--a",
        "xn--",
        "xn--\u00e4",
        "\u00ad",
        "ex\u200dample.com",
        "\ud800.example",
        "\u2603\u2603.example",
        "a..b",
        ".",
    ),
    *("a" * 64 + ".example", "a." * 200 + "example", "xn--" + "9" * 200 + ".example", "-.example", "*.example"),
]


@pytest.mark.parametrize("name", NO_NAMES)
async def test_names_that_cannot_be_encoded_or_resolved(name: str) -> None:
    """Refused, also as the target of a redirect, in UTF-8 or as it is."""
    with pytest.raises(RequestError) as caught:
        await fetcher().fetch(f"http://{name}/")
    assert caught.value.status == 422
    location = f"http://{name}/".encode("utf-8", "replace").decode()
    async with answering(moved(location)) as (port, _):
        with pytest.raises(RequestError) as caught:
            await fetcher(url_allow_addresses=["127.0.0.1/32"]).fetch(f"http://127.0.0.1:{port}/")
        assert caught.value.status == 422
        assert caught.value.param == "image"


@pytest.mark.parametrize(
    "location", ["javascript:1", "http://", "//", "http://[", "http://a:b/", "\u00ff://x", "a" * 9000]
)
async def test_redirects_to_no_url(location: str) -> None:
    """Whatever stands in a Location."""
    async with answering(moved(location)) as (port, _):
        with pytest.raises(RequestError) as caught:
            await fetcher(url_allow_addresses=["127.0.0.1/32"]).fetch(f"http://127.0.0.1:{port}/")
        assert caught.value.status == 422


async def test_a_name_is_resolved_as_it_is_written() -> None:
    """Not as it would be decoded and encoded again: the two may be different hosts."""

    class Asked(Fetcher):
        names: ClassVar[list[str]] = []

        async def resolve(self, host: str, port: int) -> Sequence[Address]:
            self.names.append(host)
            return []

    for name in ("xn--zckzah.example", "xn--a.example", "Example.ORG"):
        with pytest.raises(RequestError):
            await Asked(Settings(_env_file=None, allow_urls=True)).fetch(f"http://{name}/")
    assert Asked.names == ["xn--zckzah.example", "xn--a.example", "example.org"]


@pytest.mark.parametrize(
    ("status", "followed"), [(301, 1), (302, 1), (303, 1), (307, 1), (308, 1), (201, 0), (300, 0), (304, 0), (305, 0)]
)
async def test_the_statuses_that_redirect(status: int, followed: int) -> None:
    """Others lead nowhere, though they have a location."""
    allowed = fetcher(url_allow_addresses=["127.0.0.1/32"])
    async with (
        answering(ok(b"hello")) as (port, requests),
        answering(moved(f"http://127.0.0.1:{port}/", status)) as (first, _),
    ):
        if followed:
            assert await allowed.fetch(f"http://127.0.0.1:{first}/") == b"hello"
        else:
            with pytest.raises(RequestError) as caught:
                await allowed.fetch(f"http://127.0.0.1:{first}/")
            assert (caught.value.code, caught.value.detail) == ("url_fetch_failed", {"status": status})
        assert len(requests) == followed


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would reach what we must not, and resolve names by itself."""
    async with answering(ok(b"direct")) as (port, _), answering(ok(b"by proxy")) as (proxy, asked):
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        url = f"http://127.0.0.1:{port}/"
        assert await fetcher(url_allow_addresses=["127.0.0.1/32"]).fetch(url) == b"direct"
        assert not asked
        async with httpx.AsyncClient() as client:  # as it would be
            assert (await client.get(url)).content == b"by proxy"


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "url_fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "url_fetch_failed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "url_fetch_failed"),
        (ok(gzip.compress(bytes(10**6)), "Content-Encoding: gzip"), "url_fetch_failed"),
        (ok(b"x" * 3000), "image_too_large"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 3000, "image_too_large"),
    ],
)
async def test_bad_answers(response: bytes, code: str) -> None:
    """Status, length, protocol, compression, size."""
    async with answering(response) as (port, _):
        with pytest.raises(RequestError) as caught:
            await fetcher(url_allow_addresses=["127.0.0.1/32"], image_bytes=2048).fetch(f"http://127.0.0.1:{port}/")
        assert caught.value.code == code


@pytest.mark.parametrize(("pieces", "code"), [(2, None), (3, "image_too_large"), (6, "image_too_large")])
async def test_a_body_in_small_pieces_is_capped_as_a_whole(pieces: int, code: str | None) -> None:
    """A server that names no length may send as many pieces as it likes, each of them small; none is counted that is
    past the cap."""
    counted: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x" * 1000

    reading = fetcher(image_bytes=2000)._body(httpx.Response(200, content=body()), counted.append)
    if code is None:
        assert await reading == b"x" * 2000
    else:
        with pytest.raises(RequestError) as caught:
            await reading
        assert caught.value.code == code
        assert caught.value.detail == {"max_bytes": 2000}
    assert counted == [1000, 1000]


@pytest.mark.parametrize(
    ("url", "port"), [("http://host.test/", 80), ("https://host.test/", 443), ("https://host.test:8443/", 8443)]
)
async def test_the_port_is_the_schemes_unless_the_url_has_one(url: str, port: int) -> None:
    """It is what the host is resolved with."""
    made, asked = fetcher(), []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        asked.append((host, port))
        return []

    made.resolve = resolve  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="no address"):
        await made.fetch(url)
    assert asked == [("host.test", port)]


async def test_a_slow_server_runs_out_of_time() -> None:
    """The time is for the whole fetch."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", pause=3.0) as (port, _):
        slow = Fetcher(Settings(_env_file=None, url_seconds=0.3, url_allow_addresses=["127.0.0.1/32"]))
        with pytest.raises(RequestError, match="within"):
            await slow.fetch(f"http://127.0.0.1:{port}/")


async def test_nothing_there() -> None:
    """Refused connections and names without an address."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(RequestError) as caught:
        await fetcher(url_allow_addresses=["127.0.0.1/32"]).fetch(f"http://127.0.0.1:{port}/")
    assert caught.value.code == "url_fetch_failed"
    with pytest.raises(RequestError) as caught:
        await Rebinding([]).fetch("http://nowhere.invalid/")
    assert caught.value.code == "url_fetch_failed"


async def test_an_image_by_url_is_answered(image_bytes: bytes) -> None:
    """The whole path, with the operator's permission for the test server's address."""
    async with (
        answering(ok(image_bytes, "Content-Type: image/png")) as (port, _),
        running(allow_urls=True, url_allow_addresses=["127.0.0.1/32"]) as (_, client),
    ):
        body = {"image": f"http://127.0.0.1:{port}/cat.png", "questions": ["what?"]}
        response = await client.post("/v1/answer", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["image"]["width"] == 40
        body["image"] = "http://[::1]/cat.png"
        failed(await client.post("/v1/answer", json=body), "url_not_allowed", "image")


async def test_a_fetch_is_within_the_rate_and_the_bounds_of_the_queue(image_bytes: bytes) -> None:
    """A key without questions left makes the server fetch nothing, a full queue neither; the bytes are counted."""
    local: dict[str, Any] = {"allow_urls": True, "url_allow_addresses": ["127.0.0.1/32"]}
    async with answering(ok(image_bytes)) as (port, requests):
        body = {"image": f"http://127.0.0.1:{port}/cat.png", "questions": ["a?", "b?"]}
        async with running(rate_per_minute=2, **local) as (_, client):
            assert (await client.post("/v1/answer", json=body)).status_code == 200  # the fetch is part of its price
            failed(await client.post("/v1/answer", json=body), "rate_limited")
            assert len(requests) == 1
        async with running(queue_items=1, **local) as (app, client):
            with app.state.engine.admission.hold(images=1):
                failed(await client.post("/v1/answer", json=body), "overloaded")
            assert len(requests) == 1
    async with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000), pause=30.0) as (port, _),
        running(body_bytes=80_000, queue_bytes=80_000, **local) as (app, client),
    ):
        body["image"] = f"http://127.0.0.1:{port}/cat.png"
        admission = app.state.engine.admission
        first = asyncio.create_task(client.post("/v1/answer", json=body))
        async with asyncio.timeout(10.0):
            while admission.nbytes < 50_000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert admission.items == 1
        failed(await client.post("/v1/answer", json=body), "overloaded")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await leave(app, body) == []  # a client that hangs up ends its fetch
        assert (admission.nbytes, admission.items) == (0, 0)

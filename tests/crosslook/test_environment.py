"""Proxies and certificates, as the environment names them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import crosslook
from crosslook.environment import find_proxy, is_direct
from crosslook.errors import BadEnvironment

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("example.org", "", False),
        ("example.org", "*", True),
        ("example.org", "a.org, example.org", True),
        ("a.example.org", "example.org", True),
        ("a.example.org", ".example.org", True),
        ("a.example.org", "*.example.org", True),
        ("badexample.org", "example.org", False),
        ("example.org.evil.net", "example.org", False),
        ("EXAMPLE.org.", "example.ORG", True),
        ("example.org", "example.org:80", True),
        ("example.org", "example.org:8080", False),
        ("example.org", "http://example.org", True),
        ("localhost", "localhost,127.0.0.1", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.9/24", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/8:8080,fd00::/8,example.org", False),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
        ("::1", "[::1]:80", True),
        ("::1", "[::1]:81", False),
        ("::1", "::1/128", True),
        ("fd12::7", "fd00::/8", True),
        ("fd12::7", "[fd00::]/8", True),
        ("fe80::7", "fd00::/8,10.0.0.0/8", False),
        ("2001:db8::1", "[", False),
        ("10.1.2.3", "10.0.0.0/99,,/,.", False),
        ("example.org", "/,.,:80", False),
    ],
)
def test_hosts_that_need_no_proxy(host: str, no_proxy: str, direct: bool) -> None:
    assert is_direct("http", host, None, no_proxy) is direct


def test_the_proxy_of_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_proxy("http", "example.org", None) is None
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    monkeypatch.setenv("https_proxy", "secure:2")
    http_, https = find_proxy("http", "example.org", None), find_proxy("https", "example.org", None)
    assert http_ is not None
    assert https is not None
    assert (http_.url, http_.variable) == ("http://all:1", "ALL_PROXY")
    assert (https.url, https.variable) == ("http://secure:2", "https_proxy")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    assert find_proxy("http", "10.9.9.9", 8080) is None


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers itself, and the targets that it was asked for."""
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"status": "ready"}')

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


async def test_requests_go_through_the_proxy_or_around_it(
    monkeypatch: pytest.MonkeyPatch, proxy: tuple[str, list[str]]
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", url)
    with crosslook.Client("http://nowhere.invalid") as client:
        assert client.health().ready
    async with crosslook.AsyncClient("http://nowhere.invalid") as asynchronous:
        assert (await asynchronous.health()).ready
    assert asked == ["http://nowhere.invalid/health/ready"] * 2
    for around in ("127.0.0.0/8", "[::1],127.0.0.1", "*"):
        monkeypatch.setenv("NO_PROXY", around)
        with crosslook.Client(url) as client:
            assert client.health().ready
        assert asked.pop() == "/health/ready"  # asked itself, not as a proxy


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080", "socksio"),
        ("http_proxy", "ftp://127.0.0.1:21", "no proxy's URL"),
        ("HTTP_PROXY", "http://[::1", "no proxy's URL"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem", "/nowhere/certificates.pem"),
        ("SSL_CERT_FILE", __file__, "cannot be read as certificates"),
        ("SSL_CERT_DIR", "/nowhere", "no folder"),
    ],
)
def test_what_cannot_be_followed_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    for kind in (crosslook.Client, crosslook.AsyncClient):
        with pytest.raises(BadEnvironment) as caught:
            kind("http://127.0.0.1:8080")
        assert str(caught.value).startswith(f"{name} is ")
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_folder_of_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere:{tmp_path}")
    crosslook.Client("https://127.0.0.1:8080").close()

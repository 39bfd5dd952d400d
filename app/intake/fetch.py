"""Images by URL, for operators who allow it: public addresses only, and no way around that.

A host is resolved once, every address it has is checked, and the very address that was checked is dialled (so a name
that changes its mind finds nothing), with the name kept for the Host header and for TLS. Each redirect goes through
the same door. Bytes and time are capped; compressed responses are refused, since they could grow.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable, Sequence

import httpx

import crosslook
from app.errors import RequestError
from app.settings import Settings

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries, written out: `is_global` differs between Python's versions.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that is routed; mapped, NAT64, local and multicast lie outside
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_ISATAP = (0x00005EFE, 0x02005EFE)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_REDIRECTS = {301, 302, 303, 307, 308}


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet. IPv6 forms that carry an IPv4 address never do."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address not in _PUBLIC_V6 or any(address in network for network in _NOT_PUBLIC_V6):
        return False
    return int(address) >> 32 & 0xFFFFFFFF not in _ISATAP


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads every certificate: once is enough


class Fetcher:
    """Fetches images. ``resolve`` is the loop's own resolver unless a test brings another."""

    def __init__(self, settings: Settings) -> None:
        self.max_bytes = settings.image_bytes
        self.seconds = settings.url_seconds
        self.redirects = settings.url_redirects
        self.allowed = [ipaddress.ip_network(text) for text in settings.url_allow_addresses]
        self._tls = _tls()

    async def fetch(
        self, url: str, *, param: str | None = "image", count: Callable[[int], None] = lambda size: None
    ) -> bytes:
        """The bytes behind a URL. ``count`` is told of each piece's size as it comes; what it raises ends the fetch.

        Raises: `RequestError` ``url_not_allowed``, ``url_fetch_failed``, ``image_too_large``.
        """
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(self.redirects + 1):
                    found = await self._step(url, count)
                    if isinstance(found, bytes):
                        return found
                    url = found
            raise RequestError("url_fetch_failed", f"More than {self.redirects} redirects.")
        except TimeoutError:
            message = f"The image URL did not answer within {self.seconds:g} s."
            raise RequestError("url_fetch_failed", message, param=param) from None
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            OSError,
            ValueError,
        ) as error:  # of names that are none: UnicodeError
            logger.info("fetch failed: %s", type(error).__name__)
            raise RequestError("url_fetch_failed", "The image URL could not be fetched.", param=param) from None
        except RequestError as error:
            if error.code != "overloaded":  # which is not the URL's fault
                error.param = param
            raise

    async def _step(self, text: str, count: Callable[[int], None]) -> bytes | str:
        """One request: the body, or where it redirects to."""
        url = self._check(text)
        port = url.port or (443 if url.scheme == "https" else 80)
        name = url.raw_host.decode("ascii")  # as it is in the URL: `host` would decode what may be no IDNA
        addresses = await self.resolve(name, port)
        if not addresses:
            raise RequestError("url_fetch_failed", "The host of the image URL has no address.")
        for address in addresses:
            if not is_public(address) and not any(address in network for network in self.allowed):
                raise RequestError("url_not_allowed", "The image URL leads to an address that is not public.")
        address = addresses[0]
        numeric = f"[{address}]" if address.version == 6 else str(address)
        dialled = url.copy_with(host=numeric)
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": f"crosslook/{crosslook.__version__}",  # some hosts refuse who does not say
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        request = httpx.Request("GET", dialled, headers=headers, extensions={"sni_hostname": name})
        # A transport of its own, without environment, cookies or kept connections: nothing crosses between hosts.
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, retries=0) as transport:
            request.extensions["timeout"] = httpx.Timeout(self.seconds).as_dict()
            response = await transport.handle_async_request(request)
            response.request = request
            try:
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return str(url.join(response.headers["location"]))
                return await self._body(response, count)
            except httpx.InvalidURL:
                raise RequestError("url_not_allowed", "The image URL redirects to no URL.") from None
            finally:
                await response.aclose()

    def _check(self, text: str) -> httpx.URL:
        if _FORBIDDEN.search(text) or len(text) > 4096:
            raise RequestError("url_not_allowed", "The image URL has characters that no URL has.")
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError):
            raise RequestError("url_not_allowed", "The image URL is not a URL.") from None
        if url.scheme not in ("http", "https"):
            raise RequestError("url_not_allowed", "Image URLs must be http or https.")
        if url.userinfo:
            raise RequestError("url_not_allowed", "Image URLs must not carry a user name.")
        if not url.raw_host or b"%" in url.raw_host or not 0 < (url.port or 80) < 65536:
            raise RequestError("url_not_allowed", "The image URL has no sound host or port.")
        return url

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Every address of a host, in the system's order. Numbers in any form (decimal, octal, hexadecimal) are
        resolved like the socket would."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return []
        return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]

    async def _body(self, response: httpx.Response, count: Callable[[int], None]) -> bytes:
        if response.status_code != 200:
            detail: dict[str, object] = {"status": response.status_code}
            raise RequestError("url_fetch_failed", f"The image URL answered {response.status_code}.", detail=detail)
        if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise RequestError("url_fetch_failed", "The image URL answered with a compressed body.")
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > self.max_bytes:
                message = f"The image has more than {self.max_bytes} bytes."
                raise RequestError("image_too_large", message, detail={"max_bytes": self.max_bytes})
            count(len(part))
            parts.append(part)
        return b"".join(parts)

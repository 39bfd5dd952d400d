"""What the environment says of connections: proxies, hosts that need none, and certificates.

httpx reads the same variables, but takes no networks and no brackets in ``NO_PROXY``, and what it raises for a wrong
value does not name the variable.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crosslook.errors import BadEnvironment

_PORTS = {"http": 80, "https": 443}


@contextmanager
def certificates() -> Iterator[None]:
    """For the loading of certificates as ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` say.

    Raises: BadEnvironment where they are not there or are none.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise BadEnvironment(f"SSL_CERT_DIR is {folders}, which is no folder")
    try:
        yield
    except OSError as error:  # what OpenSSL says of a broken one is an OSError too
        raise BadEnvironment(f"SSL_CERT_FILE is {file}, which cannot be read as certificates: {error}") from error


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it."""

    url: str
    variable: str

    def unusable(self, error: Exception) -> BadEnvironment:
        """What to raise where an HTTP client does not take it."""
        said = f"{self.variable} is {_without_password(self.url)}, which"
        if isinstance(error, ImportError):
            return BadEnvironment(f"{said} needs the package socksio: pip install 'httpx[socks]'")
        return BadEnvironment(f"{said} is no proxy's URL: {error}")


def find_proxy(scheme: str, host: str, port: int | None) -> Proxy | None:
    """The proxy between here and a server, if the environment names one."""
    proxies = urllib.request.getproxies()  # those of the system too, where it has a place for them
    if is_direct(scheme, host, port, proxies.get("no", "")):
        return None
    for kind in (scheme, "all"):
        if found := proxies.get(kind, "").strip():
            variable = f"{kind}_proxy"
            names = [name for name in os.environ if name.lower() == variable and os.environ[name].strip() == found]
            return Proxy(found if "://" in found else f"http://{found}", (names or [variable])[0])
    return None


def _without_password(proxy: str) -> str:
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_direct(scheme: str, host: str, port: int | None, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` says that a server is reached without a proxy.

    Its entries are separated by commas: ``*``, a domain with all below it, an address, a network (``10.0.0.0/8``,
    ``fd00::/8``); each may have a port, and IPv6 brackets.
    """
    port = port or _PORTS.get(scheme)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    host = host.lower().rstrip(".")
    for entry in no_proxy.lower().split(","):
        name, wanted = _entry(entry.strip())
        if not name or (wanted is not None and wanted != port):
            continue
        if name == "*":
            return True
        if address is None:
            domain = name.lstrip("*").strip(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
            continue
        try:
            if address in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:  # a domain
            continue
    return False


def _entry(entry: str) -> tuple[str, int | None]:
    """The name and the port of one entry."""
    entry = entry.rpartition("://")[2]
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        size, _, port = rest.partition(":")
        name += size  # [fd00::]/8
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        name, port = entry, ""
    return name, int(port) if port.isdecimal() else None

"""API keys: who is calling. Only hashes of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from app.errors import RequestError

ANYONE = ""
"""The caller's name where no keys are set."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class Keys:
    """The keys of the settings: ``name:sha256-of-the-key`` pairs.

    Raises: ValueError for a pair of another form, or a name given twice.
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        """Read the pairs. Raises: ValueError, as the class says."""
        self._digests: dict[str, bytes] = {}
        for pair in pairs:
            name, _, digest = pair.rpartition(":")
            if not _DIGEST.fullmatch(digest):
                raise ValueError("an API key is set as NAME:SHA256, 64 hexadecimal digits")
            if not _NAME.fullmatch(name):
                raise ValueError("the name of an API key is 1 to 64 letters, digits, dots, dashes and underscores")
            if name in self._digests:
                raise ValueError(f"the API key name {name} is used twice")
            self._digests[name] = bytes.fromhex(digest)

    def caller(self, authorization: str | None) -> str:
        """The name of the key in an Authorization header; `ANYONE` where no keys are set.

        Raises: `RequestError` ``invalid_api_key``.
        """
        if not self._digests:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise RequestError("invalid_api_key", "Send your API key as `Authorization: Bearer KEY`.")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        name = None
        for candidate, digest in self._digests.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, digest):
                name = candidate
        if name is None:
            raise RequestError("invalid_api_key", "The API key is unknown.")
        return name


def make_key(name: str) -> tuple[str, str]:
    """A new key, and the pair to put into the settings.

    Raises: ValueError for a name that settings cannot hold.
    """
    key = f"ck_{secrets.token_urlsafe(32)}"
    pair = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    Keys([pair])
    return key, pair

"""Images that come as text: base64, in any of the spellings that clients have for it, and data URIs."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from app.errors import RequestError
from app.intake.decode import ImageLimits, check_bytes, too_many_bytes
from app.offload import PIECE

_BASE64_DATA = re.compile(r"data:[^,]*;\s*base64\s*,", re.IGNORECASE)  # as browsers read it: spaces may stand there
_LONGEST_HEADER = 1000
_MOST_ESCAPES = 2_000_000  # percent-encoded letters of a data URI: every 14th of the largest that fits
_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"


def is_url(text: str) -> bool:
    """Whether the text of an ``image`` field is a URL that would have to be fetched."""
    return text[:8].lower().startswith(("http://", "https://")) or "://" in text[:32]


def plain_base64(text: str) -> str:
    """The image as base64 in the standard alphabet, padded, without line breaks: one form for all spellings. Text that
    is not base64 stays invalid.

    Accepted are the URL-safe alphabet, missing padding, line breaks, and data URIs, percent-encoded or not.
    """
    text = text.strip()
    data = text.encode("ascii", "replace")
    if text[:5].lower() == "data:":
        found = _BASE64_DATA.match(text, 0, _LONGEST_HEADER)
        if found is None:
            return text
        data = data[found.end() :]
        if b"%" in data:
            if data.count(b"%") > _MOST_ESCAPES:
                return text
            data = b"".join(_unquoted(data))
    data = data.strip()
    spaced = b" " in data
    data = b"".join(piece.translate(_STANDARD, _WHITESPACE) for piece in _pieces(data))
    if not spaced:  # line breaks that a shell made spaces are well; one that was a plus must not be made good
        data = data.rstrip(b"=")
        data += b"=" * (-len(data) % 4)
    return data.decode("latin-1")


def _pieces(data: bytes) -> Iterator[bytes]:
    """All of it in pieces, so that other threads come to run between them."""
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))


def _unquoted(data: bytes) -> Iterator[bytes]:
    """Percent-encoding undone, in pieces; an escape may lie across two."""
    rest = b""
    for piece in _pieces(data):
        rest += piece
        cut = len(rest) - (rest[-2:].find(b"%") != -1) * (2 - rest[-2:].find(b"%"))
        yield unquote_to_bytes(rest[:cut])
        rest = rest[cut:]
    yield unquote_to_bytes(rest)


def _decoded(plain: str) -> bytes:
    """Undo base64. Raises ValueError for what is none."""
    if 0 <= plain.find("=") < len(plain) - 2:  # at the end of a piece it would pass
        raise ValueError("padding in the middle")
    if len(plain) % 4:  # padding that nothing needs would pass at the end of one piece, and not as a piece of its own
        raise ValueError("padding of the wrong length")
    return b"".join(
        binascii.a2b_base64(plain[start : start + PIECE], strict_mode=True) for start in range(0, len(plain), PIECE)
    )


def from_text(text: str, limits: ImageLimits, *, param: str | None = "image") -> bytes:
    """The bytes of base64 or of a base64 data URI; see `plain_base64`.

    Raises: `RequestError` ``invalid_base64``, ``image_too_large``.
    """
    plain = plain_base64(text)
    if plain[:5].lower() == "data:":
        raise RequestError("invalid_base64", "A data URI must be of the form data:...;base64,...", param=param)
    if len(plain) > limits.file_bytes * 4 // 3 + 1024:
        raise too_many_bytes(limits, param)
    try:
        data = _decoded(plain)
    except ValueError:
        message = "The image is neither base64, a data URI nor a URL."
        raise RequestError("invalid_base64", message, param=param) from None
    if not data:
        raise RequestError("invalid_base64", "The image is empty.", param=param)
    check_bytes(len(data), limits, param=param)
    return data

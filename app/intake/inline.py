"""Images that come as text: base64, in any of the spellings that clients have for it, and data URIs."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from app.errors import RequestError
from app.intake.decode import ImageLimits, check_bytes, too_many_bytes

_BASE64_DATA = re.compile(r"data:[^,]*;\s*base64\s*,", re.IGNORECASE)  # as browsers read it: spaces may stand there
_LONGEST_HEADER = 1000
_URL_SAFE = str.maketrans("-_", "+/")


def is_url(text: str) -> bool:
    """Whether the text of an ``image`` field is a URL that would have to be fetched."""
    return text[:8].lower().startswith(("http://", "https://")) or "://" in text[:32]


def plain_base64(text: str) -> str:
    """The image in the standard alphabet, padded, without line breaks: what all spellings of one have in common. Text
    that is no base64 comes out in some form that is none either.

    Taken are the URL-safe alphabet, missing padding, line breaks, and data URIs, percent-encoded or not.
    """
    text = text.strip()
    if text[:5].lower() == "data:":
        found = _BASE64_DATA.match(text, 0, _LONGEST_HEADER)
        if found is None:
            return text
        text = text[found.end() :]
        if "%" in text:
            text = unquote(text)
    spaced = " " in text.strip()
    text = "".join(text.split()).translate(_URL_SAFE)
    if spaced:  # line breaks that a shell made spaces are well; one that was a plus must not be made good
        return text
    text = text.rstrip("=")
    return text + "=" * (-len(text) % 4)


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
        data = base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        message = "The image is neither base64, a data URI nor a URL."
        raise RequestError("invalid_base64", message, param=param) from None
    if not data:
        raise RequestError("invalid_base64", "The image is empty.", param=param)
    check_bytes(len(data), limits, param=param)
    return data

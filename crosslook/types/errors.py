"""What went wrong: the body of every error."""

from __future__ import annotations

from crosslook.types.base import WireModel


class ErrorInfo(WireModel):
    """What went wrong. ``code`` is one of `crosslook.errors.CODES`; ``param`` names the field, with its index."""

    code: str
    message: str
    type: str
    param: str | None
    request_id: str | None
    detail: dict[str, object] | None


class ErrorBody(WireModel):
    """The body of every error of the native and OpenAI routes."""

    error: ErrorInfo

"""Error codes of the wire, and the exceptions that the client raises for them.

The table `CODES` is the only place where a code meets its HTTP status: the server answers from it and the client maps
it back.

The exception tree::

    CrosslookError                    everything this package raises
    ├── ConnectionFailed              no response: refused, reset, DNS, broken in the middle
    ├── TimedOut                      no response in time
    ├── BadResponse                   a response that is not ours (wrong content type, cut short, unknown shape)
    └── APIError                      the server said no: .code .status .param .request_id .detail .retry_after
        ├── BadRequest                400, 405, 413, 415, 422: the request must change
        │   └── ImageRejected         ... because of its image
        ├── AuthenticationFailed      401
        ├── NotFound                  404
        │   └── ImageNotFound         the image_id is unknown here or was evicted: send the bytes again
        ├── RateLimited               429
        ├── Unavailable               503: overloaded, starting, restarting or shutting down
        ├── DeadlineExceeded          504
        └── ServerFailed              500
"""

from __future__ import annotations

from dataclasses import dataclass


class CrosslookError(Exception):
    """Everything that this package raises."""


class ConnectionFailed(CrosslookError):
    """No response: connection refused, reset, name not found, or broken in the middle."""


class TimedOut(CrosslookError):
    """No response in time."""


class BadResponse(CrosslookError):
    """A response that no crosslook server sends: wrong content type, cut short, unknown shape."""


class APIError(CrosslookError):
    """The server said no.

    Attributes: ``code`` (a key of `CODES`), ``status`` (HTTP), ``param`` (the field at fault, with its index),
    ``request_id``, ``detail`` (figures of the case), ``retry_after`` (seconds, or None).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        param: str | None = None,
        request_id: str | None = None,
        detail: dict[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param
        self.request_id = request_id
        self.detail = detail
        self.retry_after = retry_after


class BadRequest(APIError):
    """400, 405, 413, 415 or 422: the request must change."""


class ImageRejected(BadRequest):
    """The image is broken, too large, too small, of an unsupported format or not to be fetched."""


class AuthenticationFailed(APIError):
    """401: no API key, or an unknown one."""


class NotFound(APIError):
    """404: no such route, model or image."""


class ImageNotFound(NotFound):
    """The image_id is unknown here or was evicted: send the bytes again."""


class RateLimited(APIError):
    """429: too many requests for this key."""


class Unavailable(APIError):
    """503: overloaded, starting, restarting or shutting down."""


class DeadlineExceeded(APIError):
    """504: the work did not finish before the request's deadline."""


class ServerFailed(APIError):
    """500: a fault of the server."""


@dataclass(frozen=True, slots=True)
class Code:
    """What one error code means: HTTP status, OpenAI-style type, exception class, whether trying again may help."""

    status: int
    type: str
    exception: type[APIError]
    meaning: str
    retry: bool = False


_INVALID = "invalid_request_error"

CODES: dict[str, Code] = {
    "malformed_request": Code(400, _INVALID, BadRequest, "The body is not the JSON or multipart it claims to be."),
    "invalid_base64": Code(400, _INVALID, ImageRejected, "The image is neither base64, a data URI nor a URL."),
    "invalid_api_key": Code(401, "authentication_error", AuthenticationFailed, "The API key is missing or unknown."),
    "not_found": Code(404, "not_found_error", NotFound, "No such route."),
    "model_not_found": Code(404, "not_found_error", NotFound, "This server does not serve that model."),
    "image_not_found": Code(404, "not_found_error", ImageNotFound, "That image_id is unknown here or was evicted."),
    "method_not_allowed": Code(405, _INVALID, BadRequest, "The route exists, but not with this method."),
    "body_too_large": Code(413, _INVALID, BadRequest, "The request body has more bytes than this server takes."),
    "image_too_large": Code(413, _INVALID, ImageRejected, "The image has more bytes or pixels than this server takes."),
    "unsupported_media_type": Code(415, _INVALID, BadRequest, "The Content-Type is neither JSON nor multipart."),
    "unsupported_image": Code(415, _INVALID, ImageRejected, "The bytes are no image of a supported format."),
    "invalid_request": Code(422, _INVALID, BadRequest, "A field is missing, unknown or out of range."),
    "image_broken": Code(422, _INVALID, ImageRejected, "The image is truncated or damaged."),
    "image_too_small": Code(422, _INVALID, ImageRejected, "The image is too small to look at."),
    "url_not_allowed": Code(422, _INVALID, ImageRejected, "Image URLs are switched off, or this address is refused."),
    "url_fetch_failed": Code(422, _INVALID, ImageRejected, "The image URL could not be fetched."),
    "question_empty": Code(422, _INVALID, BadRequest, "A question has no text."),
    "question_too_long": Code(422, _INVALID, BadRequest, "A question has more text than the model takes."),
    "question_not_understood": Code(422, _INVALID, BadRequest, "Most of the question is unknown to the model."),
    "too_many_questions": Code(422, _INVALID, BadRequest, "More questions than one request may hold."),
    "task_not_supported": Code(422, _INVALID, BadRequest, "This model lacks that task."),
    "map_not_supported": Code(422, _INVALID, BadRequest, "This model lacks that map kind or layer."),
    "rate_limited": Code(429, "rate_limit_error", RateLimited, "Too many requests for this key.", retry=True),
    "internal_error": Code(500, "server_error", ServerFailed, "A fault of the server; the request id finds its log."),
    "overloaded": Code(503, "server_error", Unavailable, "The queue is full.", retry=True),
    "not_ready": Code(503, "server_error", Unavailable, "The model is starting or restarting.", retry=True),
    "shutting_down": Code(503, "server_error", Unavailable, "This server is draining.", retry=True),
    "worker_failed": Code(503, "server_error", Unavailable, "The worker died while it held this request.", retry=True),
    "deadline_exceeded": Code(504, "server_error", DeadlineExceeded, "Not finished before the deadline.", retry=True),
}

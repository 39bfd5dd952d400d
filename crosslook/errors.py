"""Error codes of the wire, and the exceptions that the client raises for them.

The table `CODES` is the only place where a code meets its HTTP status and its exception: the server answers from it
and the client maps it back. Every code has a class of its own; the classes above them group what is handled alike.

The exception tree::

    CrosslookError                      everything this package raises of its own
    ├── ConnectionFailed                no response: refused, reset, name not found, broken in the middle
    ├── TimedOut                        no response in time
    ├── BadResponse                     a response that is not ours: wrong content type, cut short, unknown shape
    ├── BadEnvironment                  a variable of the environment (proxies, certificates) that cannot be followed
    └── APIError                        the server said no: .code .status .param .request_id .detail .retry_after
        ├── BadRequest                  the request must change
        │   ├── MalformedRequest            400 malformed_request
        │   ├── MethodNotAllowed            405 method_not_allowed
        │   ├── RequestIncomplete           408 request_incomplete
        │   ├── BodyTooLarge                413 body_too_large
        │   ├── URLTooLong                  414 url_too_long
        │   ├── HeadTooLarge                431 head_too_large
        │   ├── UnsupportedMediaType        415 unsupported_media_type
        │   ├── InvalidRequest              422 invalid_request
        │   ├── TaskNotSupported            422 task_not_supported
        │   ├── MapNotSupported             422 map_not_supported
        │   ├── QuestionRejected        ... because of its text
        │   │   ├── QuestionEmpty           422 question_empty
        │   │   ├── QuestionTooLong         422 question_too_long
        │   │   ├── QuestionNotUnderstood   422 question_not_understood
        │   │   └── TooManyQuestions        422 too_many_questions
        │   └── ImageRejected           ... because of its image
        │       ├── InvalidBase64           400 invalid_base64
        │       ├── ImageTooLarge           413 image_too_large
        │       ├── UnsupportedImage        415 unsupported_image
        │       ├── ImageBroken             422 image_broken
        │       ├── ImageTooSmall           422 image_too_small
        │       ├── URLNotAllowed           422 url_not_allowed
        │       └── URLFetchFailed          422 url_fetch_failed
        ├── AuthenticationFailed            401 invalid_api_key
        ├── NotFound                        404 not_found
        │   ├── ModelNotFound               404 model_not_found
        │   └── ImageNotFound               404 image_not_found: send the bytes again
        ├── RateLimited                     429 rate_limited
        ├── ServerFailed                    500 internal_error
        ├── Unavailable                 try again a little later
        │   ├── Overloaded                  503 overloaded
        │   ├── NotReady                    503 not_ready
        │   ├── ShuttingDown                503 shutting_down
        │   └── WorkerFailed                503 worker_failed
        └── DeadlineExceeded                504 deadline_exceeded
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from functools import partial
from typing import Any


class CrosslookError(Exception):
    """Everything that this package raises of its own."""


class ConnectionFailed(CrosslookError):
    """No response: connection refused, reset, name not found, or broken in the middle."""


class TimedOut(CrosslookError):
    """No response in time."""


class BadResponse(CrosslookError):
    """A response that no crosslook server sends: wrong content type, cut short, unknown shape."""


class BadEnvironment(CrosslookError):
    """A variable of the environment that cannot be followed: a proxy, or a file of certificates. Raised by the client's
    constructor; the message names the variable."""


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

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is copied, and sent to another process, by its positional arguments alone: these are not all.
        return partial(type(self), code=self.code, status=self.status), self.args, self.__dict__


class BadRequest(APIError):
    """The request must change."""


class MalformedRequest(BadRequest):
    """The body is not the JSON or multipart it claims to be."""


class MethodNotAllowed(BadRequest):
    """The route exists, but not with this method."""


class RequestIncomplete(BadRequest):
    """The request body did not arrive before the request's deadline."""


class BodyTooLarge(BadRequest):
    """The request body has more bytes than this server takes."""


class URLTooLong(BadRequest):
    """The request's URL is longer than this server takes."""


class HeadTooLarge(BadRequest):
    """The request has more headers, or larger ones, than this server takes."""


class UnsupportedMediaType(BadRequest):
    """The Content-Type is neither JSON nor multipart."""


class InvalidRequest(BadRequest):
    """A field is missing, unknown or out of range."""


class TaskNotSupported(BadRequest):
    """The model lacks that task."""


class MapNotSupported(BadRequest):
    """The model lacks that map kind or layer."""


class QuestionRejected(BadRequest):
    """A question cannot be put to the model."""


class QuestionEmpty(QuestionRejected):
    """A question has no text."""


class QuestionTooLong(QuestionRejected):
    """A question has more text than the model takes."""


class QuestionNotUnderstood(QuestionRejected):
    """Most of the question is unknown to the model."""


class TooManyQuestions(QuestionRejected):
    """More questions than one request may hold."""


class ImageRejected(BadRequest):
    """The image cannot be used."""


class InvalidBase64(ImageRejected):
    """The image is neither base64, a data URI nor a URL."""


class ImageTooLarge(ImageRejected):
    """The image has more bytes or pixels than this server takes."""


class UnsupportedImage(ImageRejected):
    """The bytes are no image of a supported format."""


class ImageBroken(ImageRejected):
    """The image is truncated or damaged."""


class ImageTooSmall(ImageRejected):
    """The image is too small to look at."""


class URLNotAllowed(ImageRejected):
    """Image URLs are switched off, or this address is refused."""


class URLFetchFailed(ImageRejected):
    """The server could not fetch the image URL."""


class AuthenticationFailed(APIError):
    """No API key, or an unknown one."""


class NotFound(APIError):
    """No such route, model or image."""


class ModelNotFound(NotFound):
    """This server does not serve that model."""


class ImageNotFound(NotFound):
    """The image_id is unknown here or was evicted: send the bytes again."""


class RateLimited(APIError):
    """Too many requests for this key."""


class ServerFailed(APIError):
    """A fault of the server."""


class Unavailable(APIError):
    """The server cannot take the request now; a little later it may."""


class Overloaded(Unavailable):
    """The server's queue is full."""


class NotReady(Unavailable):
    """The model is starting or restarting."""


class ShuttingDown(Unavailable):
    """The server is draining."""


class WorkerFailed(Unavailable):
    """The server's worker died while it held the request."""


class DeadlineExceeded(APIError):
    """The work did not finish before the request's deadline."""


@dataclass(frozen=True, slots=True)
class Code:
    """What one error code means: HTTP status, OpenAI-style type, exception class, whether trying again may help."""

    status: int
    type: str
    exception: builtins.type[APIError]
    meaning: str
    retry: bool = False


_INVALID = "invalid_request_error"

CODES: dict[str, Code] = {
    "malformed_request": Code(
        400, _INVALID, MalformedRequest, "The body is not the JSON or multipart it claims to be."
    ),
    "invalid_base64": Code(400, _INVALID, InvalidBase64, "The image is neither base64, a data URI nor a URL."),
    "invalid_api_key": Code(401, "authentication_error", AuthenticationFailed, "The API key is missing or unknown."),
    "not_found": Code(404, "not_found_error", NotFound, "No such route."),
    "model_not_found": Code(404, "not_found_error", ModelNotFound, "This server does not serve that model."),
    "image_not_found": Code(404, "not_found_error", ImageNotFound, "That image_id is unknown here or was evicted."),
    "method_not_allowed": Code(405, _INVALID, MethodNotAllowed, "The route exists, but not with this method."),
    "request_incomplete": Code(
        408, _INVALID, RequestIncomplete, "The request body did not arrive before the deadline."
    ),
    "body_too_large": Code(413, _INVALID, BodyTooLarge, "The request body has more bytes than this server takes."),
    "image_too_large": Code(413, _INVALID, ImageTooLarge, "The image has more bytes or pixels than this server takes."),
    "url_too_long": Code(414, _INVALID, URLTooLong, "The request's URL is longer than this server takes."),
    "unsupported_media_type": Code(
        415, _INVALID, UnsupportedMediaType, "The Content-Type is neither JSON nor multipart."
    ),
    "unsupported_image": Code(415, _INVALID, UnsupportedImage, "The bytes are no image of a supported format."),
    "invalid_request": Code(422, _INVALID, InvalidRequest, "A field is missing, unknown or out of range."),
    "image_broken": Code(422, _INVALID, ImageBroken, "The image is truncated or damaged."),
    "image_too_small": Code(422, _INVALID, ImageTooSmall, "The image is too small to look at."),
    "url_not_allowed": Code(422, _INVALID, URLNotAllowed, "Image URLs are switched off, or this address is refused."),
    "url_fetch_failed": Code(422, _INVALID, URLFetchFailed, "The image URL could not be fetched."),
    "question_empty": Code(422, _INVALID, QuestionEmpty, "A question has no text."),
    "question_too_long": Code(422, _INVALID, QuestionTooLong, "A question has more text than the model takes."),
    "question_not_understood": Code(
        422, _INVALID, QuestionNotUnderstood, "Most of the question is unknown to the model."
    ),
    "too_many_questions": Code(422, _INVALID, TooManyQuestions, "More questions than one request may hold."),
    "task_not_supported": Code(422, _INVALID, TaskNotSupported, "This model lacks that task."),
    "map_not_supported": Code(422, _INVALID, MapNotSupported, "This model lacks that map kind or layer."),
    "head_too_large": Code(431, _INVALID, HeadTooLarge, "The request has more headers, or larger ones, than allowed."),
    "rate_limited": Code(429, "rate_limit_error", RateLimited, "Too many requests for this key.", retry=True),
    "internal_error": Code(500, "server_error", ServerFailed, "A fault of the server; the request id finds its log."),
    "overloaded": Code(503, "server_error", Overloaded, "The queue is full.", retry=True),
    "not_ready": Code(503, "server_error", NotReady, "The model is starting or restarting.", retry=True),
    "shutting_down": Code(503, "server_error", ShuttingDown, "This server is draining.", retry=True),
    "worker_failed": Code(503, "server_error", WorkerFailed, "The worker died while it held this request.", retry=True),
    "deadline_exceeded": Code(504, "server_error", DeadlineExceeded, "Not finished before the deadline.", retry=True),
}

"""Errors of the service: one exception, and the handlers that give every error the one body shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from crosslook.errors import CODES
from crosslook.types import ErrorBody, ErrorInfo
from model.interface import ItemError

_LONGEST_NAME = 100  # characters of a client's own word in an error, which else would be as long as a body
_LONGEST_MESSAGE = 1000

TAG = "#"
"""What a pydantic ``Tag`` begins with, by which a field takes this or that type: it is in the location of an error, but
is no name of the request's."""

_IMAGE_CODES = {"unsupported_image", "image_broken", "image_too_large", "image_too_small"}


class RequestError(Exception):
    """A request cannot be answered. ``code`` is a key of `crosslook.errors.CODES`, which knows the status.

    ``param`` names the field at fault, with its index; ``detail`` holds figures of the case; ``retry_after`` is in
    seconds.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        detail: dict[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.detail = detail
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status of the response."""
        return CODES[self.code].status

    def copy(self) -> RequestError:
        """The same error as an exception of its own: one that several requests raise would mix their fields and
        tracebacks."""
        return RequestError(self.code, self.message, param=self.param, detail=self.detail, retry_after=self.retry_after)


def item_error(error: ItemError, field: str) -> RequestError:
    """What a model says of one item, as an error of the request: ``field`` is the list that holds its texts."""
    param = field if error.index is None else f"{field}[{error.index}]"
    if error.code == "map_not_supported":
        param = "map_kind"
    return RequestError(error.code, error.message, param=param, detail=error.detail)


@contextmanager
def image_at(place: str) -> Iterator[None]:
    """A context in which errors about the request's image name the field ``place``. The decoder cannot name it, since
    several requests may send the same image in different fields."""
    try:
        yield
    except RequestError as error:
        if error.param is None and error.code in _IMAGE_CODES:
            error.param = place
        raise


@contextmanager
def only_text(place: str) -> Iterator[None]:
    """A context for requests with a single text, in the field ``place``: errors about the first text name that
    field."""
    try:
        yield
    except RequestError as error:
        if error.param in ("questions", "questions[0]"):
            error.message = error.message.replace("questions[0]", place)
            error.param = place
        raise


def validation_error(problems: Sequence[object]) -> RequestError:
    """The first of pydantic's complaints, as an error of the request."""
    first = problems[0] if problems else {}
    problem: dict[str, object] = dict(first) if isinstance(first, dict) else {}
    kind, message = str(problem.get("type", "")), str(problem.get("msg", "invalid"))
    location = problem.get("loc", ())
    parts = list(location) if isinstance(location, tuple | list) else []
    unknown = [parts.pop()] if parts and kind == "extra_forbidden" else []  # the client's own word, whatever it is
    param = field_name([part for part in parts if not str(part).startswith(TAG)] + unknown)
    if kind == "too_long" and param == "questions":
        return RequestError("too_many_questions", f"{param}: {message}.", param=param)
    if kind == "json_invalid":
        return RequestError("malformed_request", f"The body is not valid JSON: {message}.")
    if kind == "extra_forbidden":
        return RequestError("invalid_request", f"Unknown field: {param}.", param=param)
    if kind == "missing":
        return RequestError("invalid_request", f"Field required: {param}.", param=param)
    return RequestError("invalid_request", f"{param or 'The body'}: {message}.", param=param)


def field_name(location: Sequence[object]) -> str | None:
    """A pydantic location as a path: ``("questions", 0)`` is ``questions[0]``."""
    name = ""
    for part in location:
        if part in ("body", "query", "path", "header") and not name:
            continue
        shown = str(part)[:_LONGEST_NAME]
        name += f"[{shown}]" if isinstance(part, int) else (f".{shown}" if name else shown)
    return name or None


def error_response(error: RequestError, request_id: str | None) -> Response:
    """The response for an error: its body, status and headers."""
    code = CODES[error.code]
    info = ErrorInfo(
        code=error.code,
        message=error.message[:_LONGEST_MESSAGE],
        type=code.type,
        param=error.param,
        request_id=request_id,
        detail=error.detail,
    )
    headers = {"X-Error-Code": error.code}
    if code.retry:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after if error.retry_after is not None else 1.0)))
    if code.status == 408:
        headers["Connection"] = "close"  # the rest of the body may still be on its way
    if code.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = ErrorBody(error=info).model_dump_json()
    return Response(body, code.status, headers, "application/json")


def _from_http(error: HTTPException, request: Request) -> RequestError:
    path = request.url.path
    if error.status_code == 404:
        return RequestError("not_found", f"No such route: {path[:200]}.")
    if error.status_code == 405:
        return RequestError("method_not_allowed", f"{request.method} is not a method of {path[:200]}.")
    if error.status_code == 413:
        return RequestError("body_too_large", str(error.detail))
    if error.status_code < 500:
        return RequestError("malformed_request", str(error.detail))
    return RequestError("internal_error", "A fault of the server.")


def request_id_of(request: Request) -> str | None:
    """The id that the telemetry middleware gave this request."""
    found = getattr(request.state, "request_id", None)
    return found if isinstance(found, str) else None


def install(app: FastAPI) -> None:
    """Register the handlers, so that every error leaves ``app`` as an `ErrorBody`. They are async: any other would be
    sent through a thread, and refusing must be cheap."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        return error_response(cast(RequestError, error), request_id_of(request))

    async def on_http(request: Request, error: Exception) -> Response:
        http = cast(HTTPException, error)
        response = error_response(_from_http(http, request), request_id_of(request))
        for name, value in (http.headers or {}).items():
            if name.lower() == "allow":
                response.headers["Allow"] = value
        return response

    async def on_validation(request: Request, error: Exception) -> Response:
        return error_response(validation_error(cast(RequestValidationError, error).errors()), request_id_of(request))

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)

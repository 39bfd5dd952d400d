"""The client without its sockets: builds requests, reads responses, decides what to try again.

Every call is a generator. It yields *steps* (send this request, wait so long, read that image) and is sent the result
of each. Its driver does the input and output, blocking or not. So `Client` and `AsyncClient` share all of this and
differ only in how they carry out a step.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from pydantic import ValidationError

from crosslook import errors, results
from crosslook.errors import CODES, APIError, BadResponse, ImageNotFound
from crosslook.images import ImageIds, ImageLike, ImageSource, keepable
from crosslook.retry import RetryPolicy, parse_retry_after
from crosslook.types import (
    AnswerResponse,
    CaptionResponse,
    ErrorBody,
    ImageRef,
    ImageUploadResponse,
    MapChoice,
    MapKind,
    MatchResponse,
    ModelCard,
    ModelList,
    WireModel,
)

SESSION_HEADER = "x-session-id"
"""The same for an image and for its id: a load balancer that routes by it (docs/scaling.md) sends all that is asked
about an image to the replica that has encoded it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send this request. Its result is a `Response`; ConnectionFailed or TimedOut is thrown in instead."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # the key is among them
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Step: wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """Step: read this image (it may lie on the disk). Its result is an `ImageSource`."""

    image: ImageLike


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


T = TypeVar("T")
Body = TypeVar("Body", bound=WireModel)
Step = Send | Wait | Read
Operation = Generator[Step, Any, T]


class MapOptions(TypedDict, total=False):
    """Options of every task.

    ``maps``: ``float`` (the default), ``u8`` (a quarter of the bytes, 8 bits a cell) or ``none`` (faster).
    ``map_kind`` and ``layers``: which maps; the model's default when absent. ``model``: refused with ModelNotFound when
    the server serves another.
    """

    maps: MapChoice
    map_kind: MapKind
    layers: Sequence[int]
    model: str


class AnswerOptions(MapOptions, total=False):
    """Options of answers. ``top_k``: how long the ranking is. ``candidates``: answer with one of these. ``language``:
    in which language (``en``, ``zh``); the question's own when absent. ``heads``: raw maps of these heads, not of all.
    The others are for models that write."""

    top_k: int
    candidates: Sequence[str]
    heads: Sequence[int]
    language: str
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: Sequence[str]


def chosen(**options: Any) -> dict[str, Any]:
    """The options that were given: a server has defaults of its own for the others."""
    return {name: value for name, value in options.items() if value is not None}


class Core:
    """One server, as a set of operations. Holds no connection; safe to share between threads and tasks.

    Raises ValueError for an API key that is not printable ASCII.
    """

    def __init__(
        self, *, api_key: str | None = None, retry: RetryPolicy | None = None, timeout: float | None = None
    ) -> None:
        self._headers = {"accept": "application/json"}
        if key := (api_key or "").strip():  # a file or a copied line ends in a line break
            if not (key.isascii() and key.isprintable()):  # httpx would quote the key
                raise ValueError("the API key has characters that no header can carry")
            self._headers["authorization"] = f"Bearer {key}"
        if timeout:  # the server need not work for longer than anybody waits
            self._headers["x-request-timeout"] = f"{timeout:g}"
        self._retry = retry or RetryPolicy()
        # Clients of one key send one image to the same replica; without a key, each client has an order of its own.
        self._ids = ImageIds(key.encode() if key else secrets.token_bytes(32))

    def answer(
        self, image: ImageLike, questions: str | Sequence[str], options: Mapping[str, Any]
    ) -> Operation[list[results.Answer]]:
        """Ask questions about one image."""
        body = {"questions": results.as_list(questions), **options}
        return self._about_image("/v1/answer", image, body, AnswerResponse, results.read_answers)

    def match(
        self, image: ImageLike, texts: str | Sequence[str], options: Mapping[str, Any]
    ) -> Operation[list[results.Match]]:
        """Compare texts with one image."""
        body = {"texts": results.as_list(texts), **options}
        return self._about_image("/v1/match", image, body, MatchResponse, results.read_matches)

    def caption(self, image: ImageLike, prompt: str, options: Mapping[str, Any]) -> Operation[results.Caption]:
        """Describe one image."""
        body = {"prompts": [prompt], **options}
        captions = yield from self._about_image("/v1/caption", image, body, CaptionResponse, results.read_captions)
        return captions[0]

    def upload(self, image: ImageLike) -> Operation[ImageRef]:
        """Leave an image with the server; its id stands for it in later requests."""
        source: ImageSource = yield Read(image)
        if isinstance(image, ImageRef):
            return image
        session = self._ids.session(source)
        response = yield from self._exchange(self._post("/v1/images", source.by_value(), session))
        uploaded = _parse(ImageUploadResponse, response).image
        self._ids.put(source.key, uploaded.id, session)
        return uploaded

    def models(self) -> Operation[list[ModelCard]]:
        """What the server serves."""
        response = yield from self._exchange(Send("GET", "/v1/models", self._headers))
        return _parse(ModelList, response).data

    def health(self) -> Operation[results.Health]:
        """Whether the server is ready. Asked once, without retries: a late answer would be of no use.

        Raises the error of the response (see `read_error`) where it is neither a 200 nor a 503 with a JSON object.
        """
        response: Response = yield Send("GET", "/health/ready", self._headers)
        detail = _json(response)
        if response.status not in (200, 503) or not isinstance(detail, dict):
            raise read_error(response)
        return results.Health(ready=response.status == 200, detail=detail)

    def _about_image(
        self,
        path: str,
        image: ImageLike,
        body: Mapping[str, Any],
        wire: type[Body],
        read: Callable[[Body, str | None, ImageLike | None], list[T]],
    ) -> Operation[list[T]]:
        source: ImageSource = yield Read(image)
        response: Response | None = None
        session = self._ids.session(source)
        known = self._ids.get(source.key)
        if known is not None:
            try:
                response = yield from self._exchange(self._post(path, {"image_id": known, **body}, session))
            except ImageNotFound:  # evicted meanwhile
                self._ids.forget(source.key)
        if response is None:
            response = yield from self._exchange(self._post(path, {**source.by_value(), **body}, session))
        parsed = _parse(wire, response)
        self._ids.put(source.key, parsed.image.id, session)  # type: ignore[attr-defined]
        try:
            found = read(parsed, response.headers.get("x-request-id"), keepable(image, source))
        except (ValueError, LookupError, ArithmeticError) as error:
            raise BadResponse(f"the maps of the response do not fit together: {error}") from error
        asked = next(len(body[name]) for name in ("questions", "texts", "prompts") if name in body)
        if len(found) < asked:
            raise BadResponse(f"the response has {len(found)} results for {asked} texts")
        return found

    def _post(self, path: str, body: Mapping[str, Any], session: str) -> Send:
        headers = self._headers | {"content-type": "application/json", SESSION_HEADER: session}
        return Send("POST", path, headers, _dumped(body))

    def _exchange(self, request: Send) -> Operation[Response]:
        attempt = 0
        while True:
            error: errors.CrosslookError
            try:
                response: Response = yield request
            except (errors.ConnectionFailed, errors.TimedOut) as failure:
                error = failure
            else:
                if 200 <= response.status < 300:
                    return response
                error = read_error(response)
            pause = self._retry.wait(error, attempt)
            if pause is None:
                raise error
            yield Wait(pause)
            attempt += 1


def read_error(response: Response) -> errors.CrosslookError:
    """The exception for a response that is no success.

    A body in the server's own shape decides by its code. Anything else comes from something in between (a proxy, a load
    balancer): the status decides, and the code is ``http_`` and the status. A redirect is a BadResponse.
    """
    request_id = response.headers.get("x-request-id")
    status, retry_after = response.status, parse_retry_after(response.headers)
    try:
        info = ErrorBody.model_validate_json(response.body).error
    except ValidationError:
        if status < 400:
            return BadResponse(f"HTTP {status} in place of an answer; is the URL that of a crosslook server?")
        return _exception_for(status)(
            f"HTTP {status} without an explanation in the server's shape",
            code=f"http_{status}",
            status=status,
            request_id=request_id,
            retry_after=retry_after,
        )
    known = CODES.get(info.code)
    return (known.exception if known else _exception_for(status))(
        info.message,
        code=info.code,
        status=status,
        param=info.param,
        request_id=info.request_id or request_id,
        detail=info.detail,
        retry_after=retry_after,
    )


def _dumped(body: Mapping[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        """NumPy's numbers and arrays, whatever brings them."""
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"a request cannot hold a {type(value).__name__}")

    return json.dumps(body, default=plain).encode()


def _exception_for(status: int) -> type[APIError]:
    by_status = {
        401: errors.AuthenticationFailed,
        404: errors.NotFound,
        405: errors.MethodNotAllowed,
        413: errors.BodyTooLarge,
        415: errors.UnsupportedMediaType,
        429: errors.RateLimited,
        502: errors.Unavailable,
        503: errors.Unavailable,
        504: errors.DeadlineExceeded,
    }
    if status in by_status:
        return by_status[status]
    return errors.BadRequest if status < 500 else errors.ServerFailed


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def _parse(wire: type[Body], response: Response) -> Body:
    content_type = response.headers.get("content-type", "none")
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise BadResponse(f"the response is {content_type}, not JSON; is the URL that of a crosslook server?")
    try:
        return wire.model_validate_json(response.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise BadResponse(f"the response is no {wire.__name__}: {where}: {first['msg']}") from error

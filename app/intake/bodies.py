"""Request bodies of the native routes: the same fields as JSON or as multipart."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from app.errors import RequestError, validation_error
from app.logs import log_fault
from app.offload import PIECE, by_size
from model.interface import ItemError

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

MOST_VALUES = 100_000
"""Values in a JSON body, counted by its commas (those of texts among them)."""
MOST_ESCAPES = 2_000_000
"""Backslashes in a JSON body: PHP escapes every slash of base64."""
MOST_NAMES = 1000
"""Names in an object of a JSON body."""
MOST_PARTS = 1000
"""Fields of a multipart body."""
MOST_PARAMETERS = 50
"""Parameters of a Content-Type, and of a Content-Disposition in a multipart body: each costs the parser a
microsecond."""
_PARSED = 1 << 15  # bytes that are parsed before others have their turn
_CHARSETS = ("utf-8", "ascii", "iso8859-1")  # of Python's others, UTF-7 makes lone surrogates and Punycode takes hours
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)
_IMAGE_TYPES = (b"image/", b"application/octet-stream")
_LONGEST_FIELD = 64 * 1024 * 1024  # an image may be a field, as base64; the body limit is the one that counts


class _InMemory(MultiPartParser):
    """Starlette's parser, but files stay in memory: bodies are bounded already, and a disk is slower.

    And a file need not have a plain ``filename``: old clients send ``filename*`` alone, others an image's type alone.
    """

    spool_max_size = 1 << 62

    def on_headers_finished(self) -> None:
        part = self._current_part
        if (part.content_disposition or b"").count(b";") > MOST_PARAMETERS:
            raise MultiPartException(f"A field's head has more than {MOST_PARAMETERS} parameters.")
        disposition, options = parse_options_header(part.content_disposition)
        if b"filename" not in options and disposition:
            kind = dict(part.item_headers).get(b"content-type", b"").strip().lower()
            image = options.get(b"name") == b"image" and kind.startswith(_IMAGE_TYPES)
            if image or _EXTENDED_NAME.search(part.content_disposition or b""):
                part.content_disposition = (part.content_disposition or b"") + b'; filename="file"'
        super().on_headers_finished()


async def read(
    request: Request, kind: type[M], *, repeated: Mapping[str, str], may_be_empty: Collection[str] = ()
) -> tuple[M, bytes | None]:
    """The body as ``kind`` and the bytes of the uploaded ``image`` file, if there is one.

    ``repeated`` maps the multipart names of list fields to theirs in JSON, such as ``question`` to ``questions``. Such
    a list may also come as JSON in one field. Empty fields of multipart are as if they were not there, for a form sends
    all that it has: except those of ``may_be_empty``, and of required ones the last.

    Raises: `RequestError` ``unsupported_media_type``, ``malformed_request``, ``invalid_request``.
    """
    content_type = media_type(request)
    if content_type == "application/json":
        return await _json(request, kind), None
    try:
        if content_type == "multipart/form-data":
            form = await _form(request)
            try:
                fields, file = await _fields(form, repeated)
            finally:
                await form.close()
            _leave_out_empty(fields, kind, may_be_empty)
            try:
                return kind.model_validate(fields), file
            except ValidationError as error:
                raise _as_sent(error, repeated) from None
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None
    message = "Content-Type must be application/json or multipart/form-data."
    raise RequestError("unsupported_media_type", message)


def _as_sent(error: ValidationError, repeated: Mapping[str, str]) -> RequestError:
    """The error of a multipart body: a list that is missing is called by the name of the field that it comes from."""
    names = {listed: field for field, listed in reversed([*repeated.items()])}
    problems = error.errors(include_url=False, include_input=False)
    for problem in problems:
        if problem["type"] == "missing":
            problem["loc"] = tuple(names.get(str(part), part) for part in problem["loc"])
    return validation_error(problems)


async def read_json(request: Request, kind: type[M]) -> M:
    """The body as ``kind``, for routes that take JSON alone.

    Raises: `RequestError` ``unsupported_media_type``, ``malformed_request``, ``invalid_request``.
    """
    if media_type(request) != "application/json":
        raise RequestError("unsupported_media_type", "Content-Type must be application/json.")
    return await _json(request, kind)


async def _json(request: Request, kind: type[M]) -> M:
    return await validated(await whole(request), kind)


async def whole(request: Request) -> bytes:
    """The body, which `Request.body` would keep for as long as the request lasts, beside what is made of it."""
    return b"".join([piece async for piece in request.stream()])


async def validated(data: bytes, kind: type[M]) -> M:
    """JSON as ``kind``, whatever its Content-Type.

    Raises: `RequestError` ``malformed_request``, ``invalid_request``.
    """
    return await by_size(len(data), _validated, data, kind)


def _validated(data: bytes, kind: type[M]) -> M:
    """JSON as ``kind``. What a body costs to read is bounded first: the parser builds all of it before any field's own
    bound counts, and of every unknown name and wrong item there would be an error."""
    data = _utf8(data)
    values = escapes = 0
    for start in range(0, len(data), PIECE):
        values += data.count(b",", start, start + PIECE)
        escapes += data.count(b"\\", start, start + PIECE)
    if values > MOST_VALUES or escapes > MOST_ESCAPES:
        of = f"{MOST_VALUES} commas" if values > MOST_VALUES else f"{MOST_ESCAPES} escapes"
        raise RequestError("invalid_request", f"The body has more than {of}.")
    if values > MOST_NAMES:
        _check_objects(data)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None


def _check_objects(data: bytes) -> None:
    """Raise `RequestError` for an object of more than `MOST_NAMES`."""
    try:
        found = [from_json(data)]
    except ValueError:
        return  # the validation says it better
    while found:
        value = found.pop()
        if isinstance(value, dict):
            if len(value) > MOST_NAMES:
                raise RequestError("invalid_request", f"An object of the body has more than {MOST_NAMES} names.")
            found.extend(value.values())
        elif isinstance(value, list):
            found.extend(value)


def _utf8(body: bytes) -> bytes:
    """JSON in UTF-8, without the byte order mark of editors and shells of Windows; those write UTF-16 too."""
    if not body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body
    try:
        return body.decode(json.detect_encoding(body)).encode()
    except UnicodeError:
        return body


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in lower case; empty without one."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request) -> FormData:
    if request.headers["content-type"].count(";") > MOST_PARAMETERS:
        raise RequestError("malformed_request", f"Content-Type has more than {MOST_PARAMETERS} parameters.")
    parser = _InMemory(
        request.headers, _in_pieces(request), max_files=1, max_fields=MOST_PARTS, max_part_size=_LONGEST_FIELD
    )
    try:
        _check_charset(request)
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "")
        raise RequestError("malformed_request", f"The multipart body cannot be read. {message}".strip()) from None


async def _in_pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body, as its parser is fed: what is made to be slow takes milliseconds a piece."""
    async for data in request.stream():
        for start in range(0, len(data), _PARSED):
            yield data[start : start + _PARSED]
            await asyncio.sleep(0)


def _check_charset(request: Request) -> None:
    """Raise `RequestError` for a charset that Starlette would decode by, and that no client needs."""
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(charset).name
    except LookupError:
        return  # Starlette takes it for Latin-1
    if known not in _CHARSETS:
        message = f"The charset of a multipart body must be utf-8, not {charset[:100]}."
        raise RequestError("unsupported_media_type", message)


async def _fields(form: FormData, repeated: Mapping[str, str]) -> tuple[dict[str, Any], bytes | None]:
    fields: dict[str, Any] = {}
    file: bytes | None = None
    values = 0
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if not value.filename and not value.size:  # a form in which none was chosen
                continue
            if name != "image":
                raise RequestError("invalid_request", f"Unknown file: {name[:100]}.", param=name[:100])
            file = await value.read()
            continue
        if name in repeated:
            values += value.count(",")
            if values > MOST_VALUES:
                raise RequestError("invalid_request", f"The body has more than {MOST_VALUES} commas.", param=name)
            fields.setdefault(repeated[name], []).extend(_listed(value))
        elif fields.get(name):
            if value:
                raise RequestError("invalid_request", f"Field given twice: {name[:100]}.", param=name[:100])
        else:
            fields[name] = value
    return fields, file


def _listed(value: str) -> list[Any]:
    """The elements of a list field: one, unless it is a list in JSON."""
    if value.startswith("[") and value.endswith("]"):
        with contextlib.suppress(ValueError):
            found = from_json(value)  # not Python's: that makes texts of halves of characters, which nothing can write
            if found and all(isinstance(element, str | int) for element in found):
                return list(found)
    return [value]


def _leave_out_empty(fields: dict[str, Any], kind: type[BaseModel], kept: Collection[str]) -> None:
    """Take the empty values out of the fields of a form."""
    for name, value in list(fields.items()):
        if name in kept:
            continue
        given = [one for one in value if one != ""] if isinstance(value, list) else value
        if given:
            fields[name] = given
        elif name not in kind.model_fields or not kind.model_fields[name].is_required():
            del fields[name]
        elif isinstance(value, list):
            fields[name] = [""]


def heed(task: asyncio.Task[Any]) -> None:
    """A callback for tasks that nobody may be left to wait for: asyncio logs an error that was never raised as a fault
    of the program, and those of requests are none."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, RequestError | ItemError | ClientDisconnect):
        log_fault(logger, error)


class ClientGone(ClientDisconnect):
    """The client closed the connection before its answer was ready."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await ``work``, but cancel it when the client leaves. The body must have been read.

    Raises: `ClientGone`, and what ``work`` raises.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def do() -> T:
        return await work

    working, leaving = asyncio.create_task(do()), asyncio.create_task(leave())
    for task in (working, leaving):
        task.add_done_callback(heed)
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))

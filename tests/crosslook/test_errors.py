"""Error codes and exceptions belong together one to one, and the docstring draws them as they are."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter
from collections.abc import Callable

import pytest

from crosslook import errors
from crosslook.core import Response, read_error
from crosslook.errors import CODES, APIError, BadResponse
from tests.crosslook.conftest import golden


def test_every_code_has_an_exception_of_its_own() -> None:
    shared = [cls for cls, n in Counter(code.exception for code in CODES.values()).items() if n > 1]
    assert not shared


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if re.match(r" {4}[│ ]*[├└]── |    \w", line)]
    drawn: dict[str, str | None] = {}
    above: dict[int, str] = {}
    for line in lines:
        match = re.match(r"    ([│ ]*)(?:[├└]── )?(\w+)\s+(.*)", line)
        assert match, line
        depth = 0 if "──" not in line else len(match[1]) // 4 + 1
        name, rest = match[2], match[3]
        drawn[name] = above.get(depth - 1)
        above[depth] = name
        found = re.match(r"(\d{3}) (\w+)", rest)
        if found:
            code = CODES[found[2]]
            assert (code.exception.__name__, code.status) == (name, int(found[1]))
    real = {
        cls.__name__: cls.__base__.__name__ if cls is not errors.CrosslookError else None  # type: ignore[union-attr]
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.CrosslookError)
    }
    assert drawn == real


@pytest.mark.parametrize("code", CODES)
def test_an_error_body_becomes_its_exception(code: str) -> None:
    expected = golden("errors")[code]
    body = errors_body(expected["body"])
    error = read_error(Response(expected["status"], {"retry-after": "3"}, body))
    assert type(error) is CODES[code].exception
    assert isinstance(error, APIError)
    info = expected["body"]["error"]
    assert (error.code, error.status, error.message) == (code, expected["status"], info["message"])
    assert (error.param, error.request_id, error.detail) == (info["param"], "req_1", info["detail"])
    assert error.retry_after == 3.0
    assert str(error) == info["message"]


def errors_body(body: object) -> bytes:
    import json

    return json.dumps(body).encode()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
@pytest.mark.parametrize("code", CODES)
def test_an_error_can_be_copied_and_sent_to_another_process(
    code: str, duplicate: Callable[[APIError], APIError]
) -> None:
    error = CODES[code].exception(
        "m", code=code, status=CODES[code].status, param="p", request_id="r", detail={"n": 1}, retry_after=2.0
    )
    error.add_note("asked by the third worker")
    same = duplicate(error)
    assert type(same) is type(error)
    assert (str(same), vars(same)) == ("m", vars(error))


@pytest.mark.parametrize(
    ("status", "exception"),
    [
        (400, errors.BadRequest),
        (401, errors.AuthenticationFailed),
        (403, errors.BadRequest),
        (404, errors.NotFound),
        (413, errors.BodyTooLarge),
        (429, errors.RateLimited),
        (500, errors.ServerFailed),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
    ],
)
def test_what_a_proxy_says_is_read_by_its_status(status: int, exception: type[APIError]) -> None:
    error = read_error(Response(status, {"x-request-id": "r1"}, b"<html>no</html>"))
    assert type(error) is exception
    assert isinstance(error, APIError)
    assert (error.code, error.request_id) == (f"http_{status}", "r1")


def test_an_unknown_code_of_a_newer_server_keeps_its_name() -> None:
    info = {"code": "too_wide", "message": "m", "type": "t", "param": None, "request_id": None, "detail": None}
    error = read_error(Response(422, {}, errors_body({"error": info})))
    assert type(error) is errors.BadRequest
    assert isinstance(error, APIError)
    assert error.code == "too_wide"


def test_a_redirect_is_no_answer() -> None:
    assert isinstance(read_error(Response(302, {"location": "/x"}, b"")), BadResponse)

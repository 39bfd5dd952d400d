from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslook.errors import CODES, APIError, BadResponse, ConnectionFailed, TimedOut
from crosslook.retry import RetryPolicy, parse_retry_after

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:05 GMT"}, 5.0),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:05 -0000"}, 5.0),
        ({"retry-after": "Monday, 30-Nov-26 12:00:09 GMT"}, 9.0),
        ({"retry-after": "Mon, 30 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, NOW) == seconds


@given(st.text(max_size=40))
def test_retry_after_of_any_text_is_seconds_or_nothing(text: str) -> None:
    seconds = parse_retry_after({"retry-after": text}, NOW)
    assert seconds is None or seconds >= 0.0


def api_error(code: str, status: int = 503, retry_after: float | None = None) -> APIError:
    return APIError("m", code=code, status=status, retry_after=retry_after)


def test_the_wait_doubles_up_to_its_ceiling_and_ends() -> None:
    policy = RetryPolicy(retries=6)
    waits = [policy.wait(ConnectionFailed(), attempt, lambda: 0.0) for attempt in range(7)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, None]


@given(st.floats(0, 1), st.integers(0, 5))
def test_jitter_only_shortens(unit: float, attempt: int) -> None:
    policy = RetryPolicy(retries=6)
    full = policy.wait(ConnectionFailed(), attempt, lambda: 0.0)
    wait = policy.wait(ConnectionFailed(), attempt, lambda: unit)
    assert full is not None
    assert wait is not None
    assert 0.75 * full <= wait <= full


@pytest.mark.parametrize("code", CODES)
def test_a_known_code_decides_whatever_the_status(code: str) -> None:
    assert (RetryPolicy().wait(api_error(code), 0) is not None) == CODES[code].retry


@pytest.mark.parametrize(
    ("status", "retried"),
    [(408, True), (429, True), (502, True), (503, True), (504, True), (500, True), (501, False), (403, False)],
)
def test_without_a_known_code_the_status_decides(status: int, retried: bool) -> None:
    assert (RetryPolicy().wait(api_error(f"http_{status}", status), 0) is not None) == retried


def test_what_cannot_get_better_is_not_repeated() -> None:
    assert RetryPolicy().wait(BadResponse(), 0) is None
    assert RetryPolicy().wait(TimedOut(), 0) is None
    assert RetryPolicy(retries=0).wait(ConnectionFailed(), 0) is None


def test_the_server_decides_the_wait_unless_it_is_too_long() -> None:
    assert RetryPolicy().wait(api_error("overloaded", retry_after=3.5), 0) == 3.5
    assert RetryPolicy().wait(api_error("overloaded", retry_after=0.0), 0) == 0.0
    assert RetryPolicy().wait(api_error("overloaded", retry_after=61.0), 0) is None
